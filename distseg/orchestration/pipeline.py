"""The whole run, step by step. A step that is done is skipped: to resume, run it again."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from distseg import log
from distseg.config import Config, dump_config, load_config
from distseg.errors import UserError
from distseg.manifest import Manifest
from distseg.orchestration.hardware import Slot, make_slots, num_cores, visible_gpus
from distseg.orchestration.jobs import RUN_MARK, Job, die_with_parent, end_leftovers, end_processes
from distseg.orchestration.local import LocalExecutor
from distseg.orchestration.plan import MemberKey, amount, free_bytes, make_jobs
from distseg.orchestration.schedule import Failure, Scheduler
from distseg.orchestration.versions import environment_record
from distseg.orchestration.view import make_progress
from distseg.runs import Run, atomic_write, member_id, read_json, write_json

logger = logging.getLogger("distseg.run")

# What may change between two starts of one run: it does not change what is computed.
FREE_KEYS = ("compute.", "name", "data.cache_dir", "predict.batch_size")


class Stopped(BaseException):
    """SIGINT or SIGTERM reached the driver; `status` is the exit status to leave with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def run(config: Config, folder: Path) -> int:
    """Everything from data to report. Exit status: 0 done, 1 something needed is missing.

    Raises:
        UserError: a mistake in config or data, or another driver works on this folder.
        Stopped: a signal came; all jobs have saved and left.
    """
    run = Run(folder)
    with driver_lock(run), stop_on_signals():
        log.setup(run.log)
        open_run(config, run)
        left = end_leftovers(run)
        run.log_event("run_started", pid=os.getpid(), leftovers=left)
        began = time.monotonic()
        try:
            status = _steps(config, run)
        except BaseException as error:
            # A signal may have come between the start of a job and its entry in the schedule.
            end_processes(RUN_MARK, str(run.folder.resolve()), 0.0)
            run.log_event("run_ended", status="stopped", reason=f"{type(error).__name__}: {error}")
            raise
        run.log_event("run_ended", status=status, seconds=round(time.monotonic() - began, 1))
        return status


def _steps(config: Config, run: Run) -> int:
    from distseg.data.prepare import open_cache, prepare

    prepare(config, run)
    open_cache(config, run)  # once, before the jobs would all want to build it
    members = config.planned_members(Manifest.read(run.manifest(0)).folds)
    if not members:
        raise UserError("no member to train: data.folds.use and members.*.folds exclude all folds")
    slots = make_slots(config.compute, visible_gpus(), num_cores())
    failures = train_members(config, run, members, slots)
    done = [member for member in members if run.member(0, *member).done.is_file()]
    _say_left_out(failures, run)
    if not done:
        logger.error("no member finished: there is nothing to ensemble")
        return 1
    fit_ensemble(config, run, done)
    tested = predict_test(config, run, slots)
    extra = score_test(config, run) if tested else {}
    print(report(config, run, extra))
    return 0 if tested is not False else 1


# -- steps ----------------------------------------------------------------------------------------


def train_members(
    config: Config, run: Run, members: Sequence[MemberKey], slots: list[Slot]
) -> list[Failure]:
    """Train what is not done; returns what was given up."""
    jobs = make_jobs(config, run, members, len(slots))
    if not jobs:
        return []
    ready = len(members) - sum(len(job.members) for job in jobs)
    logger.info("%d members to train, %d done", len(members) - ready, ready)
    return run_jobs(config, run, members, jobs, slots)


def run_jobs(
    config: Config, run: Run, members: Sequence[MemberKey], jobs: list[Job], slots: list[Slot]
) -> list[Failure]:
    executor = LocalExecutor(run, slots)
    with make_progress(config, run, members, len(slots)) as view:
        return Scheduler(config, run, executor, view).execute(jobs)


def fit_ensemble(config: Config, run: Run, done: Sequence[MemberKey]) -> None:
    """Fit it, unless the ensemble on disk is younger than every member's DONE."""
    path = run.ensemble(0)
    youngest = max(run.member(0, *member).done.stat().st_mtime_ns for member in done)
    if path.is_file() and path.stat().st_mtime_ns >= youngest:
        return
    from distseg.ensemble import fit_ensemble

    logger.info("fitting the ensemble of %d members on out-of-fold predictions", len(done))
    fit_ensemble(config, run, 0)


def predict_test(config: Config, run: Run, slots: list[Slot]) -> bool | None:
    """The submission, by a launched job. True: it is there; False: it failed; None: the data has
    no test images."""
    if not Manifest.read(run.data / "test.csv"):
        return None
    from distseg.data.formats import layout
    from distseg.submit import merge_parts

    spec = layout(config.data.format).submission(config)
    path = submission_path(run, spec.kind)
    if path.exists() and path.stat().st_mtime_ns >= run.ensemble(0).stat().st_mtime_ns:
        return True
    slot = whole_machine(slots, num_cores())
    job = Job("predict-test", ("predict-test", str(run.folder)), run.predict_log)
    logger.info("predicting the test images with %d processes", slot.processes)
    if run_jobs(config, run, [], [job], [slot]):
        logger.error("the test prediction failed: see %s", job.log)
        return False
    merge_parts(spec, path, slot.processes, task=config.task)
    run.log_event("submission", path=str(path))
    return True


def whole_machine(slots: Sequence[Slot], cores: int) -> Slot:
    """One slot with all GPUs, a rank on each; on CPU one rank with all cores."""
    devices = tuple(dict.fromkeys(device for slot in slots for device in slot.devices))
    processes = max(1, len(devices))
    return Slot(0, devices, processes, max(1, cores // processes))


def submission_path(run: Run, kind: str) -> Path:
    return run.test_masks if kind == "masks" else run.submission


def score_test(config: Config, run: Run) -> dict[str, Any]:
    """The submission against the truth, where the data set has it; else nothing."""
    from distseg.data.formats import layout
    from distseg.score import score_rows

    form = layout(config.data.format)
    truth, spec = form.test_truth(config), form.submission(config)
    path = submission_path(run, spec.kind)
    if truth is None or not path.exists():
        return {}
    return {"test": score_rows(config, spec, path, truth)}


def report(config: Config, run: Run, extra: dict[str, Any] | None = None) -> str:
    """Write report.html and report.json; returns the last lines that `distseg run` prints.

    extra: what is known beside the run's records; the score on the test images by default.
    """
    if not run.ensemble(0).is_file():
        raise UserError(f"{run.folder}: no ensemble yet; `distseg run` makes it")
    from distseg.report import write_report

    extra = score_test(config, run) if extra is None else extra
    write_report(config, run, extra)
    final = read_json(run.ensemble(0))["scores"]["final"]
    error = f" ± {final['standard_error']:.4f}" if final.get("standard_error") is not None else ""
    lines = [f"out-of-fold {config.metric}: {final['score']:.4f}{error} (nested: honest)"]
    if "test" in extra:
        lines.append(f"test {config.metric} against the truth: {extra['test']['score']:.4f}")
    for path in (run.submission, run.test_masks, run.report_html, run.folder):
        lines += [f"{_label(run, path)}: {path}"] if path.exists() else []
    return "\n".join(lines)


def _label(run: Run, path: Path) -> str:
    names = {run.submission: "submission", run.test_masks: "test masks", run.report_html: "report"}
    return names.get(path, "run")


def _say_left_out(failures: Sequence[Failure], run: Run) -> None:
    for failure in failures:
        for member in failure.job.members:
            text = "LEFT OUT: %s: %s: %s; its log: %s"
            logger.error(
                text, member_id(*member), failure.kind, failure.message, failure.job.log
            )  # fmt: skip


# -- inside a launched job ------------------------------------------------------------------------


def train_here(config: Config, run: Run, round: int, members: Sequence[MemberKey]) -> None:
    """All ranks: train members in a row in this process group. UserError for unknown members."""
    from distseg.data.prepare import prepare
    from distseg.train import train_member

    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.open_lock):  # ranks come at the same time
        check_same(config, run)
        if not run.config.is_file():
            open_run(config, run)
    prepare(config, run)
    known = Manifest.read(run.manifest(round)).folds
    for name, fold in members:
        if fold not in known:
            raise UserError(f"--fold {fold}: no such fold; this run has {known}")
        train_member(config, run.folder, round, name, fold)


def predict_test_here(run: Run) -> None:
    """All ranks: this rank's share of the test images into its part of the submission."""
    from distseg.data.formats import layout
    from distseg.predict import predict_test
    from distseg.submit import PartWriter

    config = load_config(run.config)
    spec = layout(config.data.format).submission(config)
    rank = int(os.environ.get("RANK", "0"))
    writer = PartWriter(spec, submission_path(run, spec.kind), rank=rank, task=config.task)
    predict_test(run.folder, writer)
    writer.close()


# -- the run folder -------------------------------------------------------------------------------


def open_run(config: Config, run: Run) -> None:
    """Write config.yaml and env.json; UserError when the folder holds another config's run."""
    check_same(config, run)
    run.folder.mkdir(parents=True, exist_ok=True)
    atomic_write(run.config, dump_config(config))
    write_json(run.env, environment_record())
    logger.info("run %s, %s free", run.folder, amount(free_bytes(run.folder)))


def check_same(config: Config, run: Run) -> None:
    """UserError naming the first keys that differ from the run's own config.

    The accumulation is free in a launched job: after running out of memory it is doubled."""
    if not run.config.is_file():
        return
    free = (*FREE_KEYS, "train.accumulation") if "DISTSEG_JOB" in os.environ else FREE_KEYS
    old, new = _flat(load_config(run.config).model_dump()), _flat(config.model_dump())
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    changed = [key for key in keys if not key.startswith(free)]
    if changed:
        shown = "; ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed[:5])
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(
            f"{run.folder} holds a run of another config ({shown}{more}). "
            "Use another --out, or remove the folder"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b.0": value} of nested dicts and lists."""
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(number), value) for number, value in enumerate(tree)]
    else:
        return {prefix: tree}
    if not items:
        return {prefix: tree}
    dot = "." if prefix else ""
    return {k: v for key, value in items for k, v in _flat(value, f"{prefix}{dot}{key}").items()}


@contextlib.contextmanager
def driver_lock(run: Run) -> Iterator[None]:
    """One driver per run folder; the lock goes with the process that holds it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{run.folder}: another `distseg run` works on this folder; "
            f"see `distseg status {run.folder}`"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within: SIGINT and SIGTERM raise Stopped, and children that are forked die with us."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    _mark_forks()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _mark_forks() -> None:
    """Pools that read images are forked from the driver: killed, it must not leave them."""
    os.register_at_fork(after_in_child=_in_fork)


def _in_fork() -> None:
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
