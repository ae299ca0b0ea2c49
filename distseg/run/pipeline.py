"""The whole run, step by step. A step that is done is skipped: to resume, run it again."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.jobs.failure import Failure
from distseg.jobs.hardware import make_slots, num_cores, visible_gpus
from distseg.jobs.job import RUN_MARK, Job, end_leftovers, end_processes
from distseg.jobs.local import LocalExecutor
from distseg.jobs.scheduler import POLL_S, Executor, Scheduler
from distseg.records import log
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import (
    ALL_ROUNDS,
    RoundKey,
    Run,
    final_ensemble,
    is_teachers,
    member_id,
    round_number,
)
from distseg.run.folder import driver_lock, open_run, stop_on_signals
from distseg.run.members import MemberKey, known_members
from distseg.run.plan import make_jobs
from distseg.run.submission import (
    copy_of_round,
    prediction_jobs,
    prediction_record,
    score_test,
    submission_path,
    written_at,
)
from distseg.run.view import make_view

logger = logging.getLogger("distseg.run")


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
        left = end_leftovers(run, orphans=config.compute.executor == "ray")
        run.log_event("run_started", pid=os.getpid(), leftovers=left)
        began = time.monotonic()
        try:
            status = _steps(config, run)
        except BaseException as error:
            # A signal may have come between the start of a job and its entry in the schedule. On
            # Ray, what runs is found by the next driver.
            if config.compute.executor == "local":
                end_processes(RUN_MARK, str(run.folder.resolve()), 0.0)
            run.log_event("run_ended", status="stopped", reason=f"{type(error).__name__}: {error}")
            raise
        run.log_event("run_ended", status=status, seconds=round(time.monotonic() - began, 1))
        return status


@contextlib.contextmanager
def open_executor(config: Config, run: Run) -> Iterator[Executor]:
    """What starts the jobs, as `compute.executor` says. UserError: it is not there."""
    if config.compute.executor == "local":
        yield LocalExecutor(run, make_slots(config.compute, visible_gpus(), num_cores()))
        return
    if importlib.util.find_spec("ray") is None:
        raise UserError("compute.executor: ray is not installed: pip install 'distseg[ray]'")
    from distseg.jobs.ray import RayExecutor

    executor = RayExecutor(config, run)
    try:
        yield executor
    finally:
        executor.close()


def _steps(config: Config, run: Run) -> int:
    from distseg.data.prepare import open_cache, prepare

    prepare(config, run)
    open_cache(config, run)  # once, before the jobs would all want to build it
    with open_executor(config, run) as executor:
        return _rounds(config, run, executor)


def _rounds(config: Config, run: Run, executor: Executor) -> int:
    last, whole = None, True
    for number in range(len(config.rounds)):
        if not make_round(config, run, number, executor):
            whole = False
            break
        last = number
        if number and config.stop == "no_gain" and not gains(config, run, number):
            last -= read_score(run, number) < read_score(run, number - 1)
            break
    if last is None:
        logger.error("no member finished: there is nothing to ensemble")
        return 1
    choose_final(run, last)
    tested = predict_test(config, run, executor)
    extra = score_test(config, run) if tested else {}
    print(report(config, run, extra))
    return 0 if whole and tested is not False else 1


def make_round(config: Config, run: Run, number: int, executor: Executor) -> bool:
    """Teachers, train sets, students, ensemble of one round; False: it has failed, and the rounds
    before it are what there is."""
    entry = config.rounds[number]
    if len(config.rounds) > 1:
        logger.info("round %d: %s (%s)", number, entry.kind, config.flag(number))
    if number and not make_train_sets(config, run, number, executor):
        return False
    members = known_members(config, run, number)
    if not members:
        raise UserError("no member to train: data.folds.use and members.*.folds exclude all folds")
    _say_left_out(train_members(config, run, members, executor, number), run)
    done = [member for member in members if run.member(number, *member).done.is_file()]
    if not done:
        logger.error("round %d: no member finished", number)
        return False
    fit_ensemble(config, run, number, done)
    if config.predict.every_round and len(config.rounds) > 1:
        predict_test(config, run, executor, number)
    return True


def make_train_sets(config: Config, run: Run, number: int, executor: Executor) -> bool:
    """What a round learns from, made by the models of the round before; False: their job failed."""
    from distseg.rounds.predict_teachers import teacher_tasks
    from distseg.rounds.select import select, write_pair_sets
    from distseg.rounds.teachers import student_folds

    entry = config.rounds[number]
    folds = student_folds(config, run, number)
    if all(run.train_set(number, fold).is_file() for fold in folds):
        return True
    if entry.uses_unlabeled and not Manifest.read(run.data / "test.csv"):
        raise UserError(f"rounds.{number}.kind: {entry.kind}: the data has no test images")
    if entry.judges_labeled and entry.judge == "pair":
        write_pair_sets(run, number)
        key = run.teachers(number)
        pairs = known_members(config, run, key)
        _say_left_out(train_members(config, run, pairs, executor, key), run)
    if teacher_tasks(config, run, number, folds):
        label, log_path = f"teach-round-{number}", run.round(number) / "teach.log"
        job = Job(label, ("teach", str(run.folder), "--round", str(number)), log_path)
        if run_jobs(config, run, [], [job], executor, whole_machine=True):
            logger.error("round %d: the teachers' predictions failed: see %s", number, job.log)
            return False
    select(config, run, number)
    return True


def read_score(run: Run, number: int) -> float:
    return float(read_json(run.ensemble(number))["scores"]["final"]["score"])


def gains(config: Config, run: Run, number: int) -> bool:
    """Whether a round gains more than the standard error of its gain; says so either way."""
    from distseg.rounds.choose import gain

    value, error = gain(run, config, number)
    if value >= error:
        logger.info("round %d gains %.4f (standard error %.4f)", number, value, error)
        return True
    logger.info(
        "round %d gains %.4f, less than the standard error %.4f: no more rounds",
        number, value, error,
    )  # fmt: skip
    run.log_event("rounds_stopped", round=number, gain=value, standard_error=error)
    return False


# -- steps ----------------------------------------------------------------------------------------


def train_members(
    config: Config, run: Run, members: Sequence[MemberKey], executor: Executor, key: RoundKey = 0
) -> list[Failure]:
    """Train what is not done; returns what was given up."""
    jobs = make_jobs(config, run, members, len(executor.slots()), key)
    if not jobs:
        return []
    ready = len(members) - sum(len(job.members) for job in jobs)
    what = "members" if not is_teachers(key) else f"teachers of round {round_number(key)}"
    logger.info("%d %s to train, %d done", len(members) - ready, what, ready)
    return run_jobs(config, run, members, jobs, executor, key)


def run_jobs(
    config: Config, run: Run, members: Sequence[MemberKey], jobs: list[Job], executor: Executor,
    key: RoundKey = 0, *, whole_machine: bool = False,
) -> list[Failure]:  # fmt: skip
    with make_view(config, run, members, len(executor.slots(whole_machine)), key) as view:
        return Scheduler(config, run, executor, view).execute(jobs, whole_machine)


def fit_ensemble(config: Config, run: Run, number: int, done: Sequence[MemberKey]) -> None:
    """Fit a round's ensemble, and that of all rounds so far, unless they are on disk and younger
    than what they are made of."""
    from distseg.ensemble.fit import fit_ensemble

    youngest = max(written_at(run.member(number, *member).done) for member in done)
    if written_at(run.ensemble(number)) < youngest:
        text = "fitting the ensemble of %d members on out-of-fold predictions"
        logger.info(text, len(done))
        fit_ensemble(config, run, number)
    youngest = max(written_at(run.ensemble(before)) for before in range(number + 1))
    if number and written_at(run.ensemble(ALL_ROUNDS)) < youngest:
        logger.info("fitting the ensemble of the members of rounds 0 to %d", number)
        fit_ensemble(config, run, ALL_ROUNDS)


def choose_final(run: Run, number: int) -> None:
    from distseg.rounds.choose import choose_final

    chosen = choose_final(run, number)
    if number:
        which = "all rounds" if chosen["round"] == ALL_ROUNDS else f"round {number}"
        logger.info("the submission is made by the ensemble of %s", which)


def predict_test(
    config: Config, run: Run, executor: Executor, number: int | None = None
) -> bool | None:
    """The submission of the final ensemble, or of a round's, by a launched job. True: it is there;
    False: it failed; None: the data has no test images."""
    if not Manifest.read(run.data / "test.csv"):
        return None
    from distseg.data.formats import layout
    from distseg.submission.write import merge_parts

    spec = layout(config.data.format).submission(config)
    path = submission_path(run, spec.kind, number)
    source = run.final if number is None else run.ensemble(number)
    if path.exists() and path.stat().st_mtime_ns >= written_at(source):
        return True
    if number is None and copy_of_round(run, spec.kind, path):
        return True
    while not (slots := executor.slots(whole_machine=True)):
        time.sleep(POLL_S)  # a cluster whose nodes are all gone: others may come
    jobs, total = prediction_jobs(run, slots, number)
    logger.info("predicting the test images with %d processes", total)
    failures = run_jobs(config, run, [], jobs, executor, whole_machine=True)
    if failures:
        logger.error("the test prediction failed: see %s", failures[0].job.log)
        return False
    merge_parts(spec, path, total, task=config.task)
    run.log_event("submission", path=str(path))
    return True


def report(config: Config, run: Run, extra: dict[str, Any] | None = None) -> str:
    """Write report.html and report.json; returns the last lines that `distseg run` prints.

    extra: what is known beside the run's records; the score on the test images by default.
    """
    record = final_ensemble(run)
    extra = score_test(config, run) if extra is None else extra
    write_report(config, run, extra)
    lines = [f"{_round_label(n)}: {_score_text(config, one)}" for n, one in _records(config, run)]
    lines.append(f"out-of-fold {_score_text(config, record)}")
    if "test" in extra:
        lines.append(f"test {config.metric} against the truth: {extra['test']['score']:.4f}")
    for path in (run.submission, run.test_masks, run.report_html, run.folder):
        lines += [f"{_label(run, path)}: {path}"] if path.exists() else []
    return "\n".join(lines)


def write_report(config: Config, run: Run, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write report.html and report.json, with `extra` keys; returns what report.json holds.

    UserError: there is no ensemble yet.
    """
    from distseg.ensemble.choices import scored_masks
    from distseg.report.report import write_report

    masks_of = scored_masks(config, run, final_ensemble(run))
    return write_report(
        config, run, masks_of, {"prediction": prediction_record(run), **(extra or {})}
    )


def _records(config: Config, run: Run) -> list[tuple[RoundKey, dict[str, Any]]]:
    """The records of the rounds and of all of them together, where there are several."""
    keys = [*range(len(config.rounds)), ALL_ROUNDS] if len(config.rounds) > 1 else []
    return [(k, read_json(run.ensemble(k))) for k in keys if run.ensemble(k).is_file()]


def _round_label(key: RoundKey) -> str:
    return "all rounds" if key == ALL_ROUNDS else f"round {key}"


def _score_text(config: Config, record: dict[str, Any]) -> str:
    final = record["scores"]["final"]
    error = f" ± {final['standard_error']:.4f}" if final.get("standard_error") is not None else ""
    return f"{config.metric}: {final['score']:.4f}{error} (nested: {record['flag']})"


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
