"""The submission of a run: where it lies, which jobs make it, what it scores."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.data.formats.row import SubmissionSpec
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job
from distseg.jobs.scheduler import POLL_S, Executor
from distseg.records.ensemble_record import read_ensemble
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_json_or, read_lines, whole_folder
from distseg.records.log import counted
from distseg.records.manifest import Manifest
from distseg.records.paths import ALL_ROUNDS, Run
from distseg.run.execute import run_jobs

logger = logging.getLogger("distseg.run")


def predict_test(
    config: Config, run: Run, executor: Executor, number: int | None = None
) -> bool | None:
    """Make the submission of the final ensemble, or of a round's, by launched jobs.

    True: it is there; False: a job failed; None: the data has no test images.
    """
    if not Manifest.read(run.data / "test.csv"):
        return None
    from distseg.data.layouts import submission_of
    from distseg.submission.write import merge_shares

    spec = submission_of(config)
    path = submission_path(run, spec.kind, number)
    source = run.final if number is None else run.ensemble(number)
    if path.exists() and path.stat().st_mtime_ns >= made_from(run, source):
        if not (problem := submission_problem(spec, path)):
            return True
        logger.warning("%s is made again: %s", path, problem)
    if number is None and copy_of_round(run, spec.kind, path):
        return True
    while not (slots := executor.slots(whole_machine=True)):
        time.sleep(POLL_S)  # a cluster whose nodes are all gone: others may come
    jobs, total = prediction_jobs(run, slots, number)
    logger.info("predicting the test images with %s", counted(total, "rank"))
    failures = run_jobs(config, run, [], jobs, executor, whole_machine=True)
    if failures:
        logger.error("the test prediction failed: see %s", failures[0].job.log)
        return False
    merge_shares(spec, path, total, task=config.task)
    tell_unreadable(run, spec.kind)
    run.log_event("submission", path=str(path))
    return True


def tell_unreadable(run: Run, kind: str) -> None:
    """Name the test images that the last prediction could not read, and what the submission holds
    for them. Before the line of the ledger that says that it is made."""
    sizes = {sample.id: sample.height for sample in Manifest.read(run.data / "test.csv")}
    reasons: dict[str, str] = {}
    for line in read_lines(run.ledger):
        if line["event"] == "submission":
            reasons = {}
        elif line["event"] == "broken_image" and line["id"] in sizes:
            reasons[line["id"]] = line["reason"]
    absent = [name for name in reasons if kind == "masks" and not sizes[name]]
    empty = [name for name in reasons if name not in absent]
    for names, what in (
        (empty, "an empty mask"), (absent, "no mask in the submission: their size is not known"),
    ):  # fmt: skip
        if names:
            more = ", ..." if len(names) > 3 else ""
            logger.warning(
                "%d of %d test images cannot be read and get %s: %s%s. The first: %s",
                len(names), len(sizes), what, ", ".join(names[:3]), more, reasons[names[0]],
            )  # fmt: skip


def set_aside_other(config: Config, run: Run) -> None:
    """A submission of the other kind, which an earlier config has made, gets a name by which nobody
    takes it for this one's: old_submission.csv, old_test_masks."""
    from distseg.data.layouts import layout

    kind = layout(config.data.format).submission(config).kind
    other = run.submission if kind == "masks" else run.test_masks
    if other.exists():
        old = other.with_name(f"old_{other.name}")
        shutil.rmtree(old, ignore_errors=True)
        other.replace(old)


def made_from(run: Run, source: Path) -> int:
    """When the younger of an ensemble and the list of the test images was written: a submission
    that is older is made again."""
    return max(written_at(source), written_at(run.data / "test.csv"))


def submission_problem(spec: SubmissionSpec, path: Path) -> str:
    """Why a submission on disk is not the one that was written, as far as its rows or its files'
    names tell; "" where it is."""
    from distseg.submission.read import open_masks

    try:
        found = set(open_masks(path, per_object=spec.per_object).keys)
    except UserError as error:
        return str(error)
    if spec.kind == "masks":
        return ""
    classes = [f"_{one}" for one in spec.class_ids if one] if spec.class_ids else [""]
    missing = [n for name in spec.ids for c in classes if (n := f"{name}{c}") not in found]
    return f"it has no {missing[0]!r}; {len(missing)} such" if missing else ""


def written_at(path: Path) -> int:
    """When a file was written, in nanoseconds; of a file that is not there -1, which is earlier
    than all others."""
    return path.stat().st_mtime_ns if path.is_file() else -1


def copy_of_round(run: Run, kind: str, path: Path) -> bool:
    """Whether the final ensemble is a round's whose submission is there (`every_round`): it is
    then copied to `path`, since predicting again would give the same."""
    chosen = read_ensemble(run.final)
    number = chosen["round"]
    if number == ALL_ROUNDS or chosen != read_json_or(run.ensemble(number), {}):
        return False
    made = submission_path(run, kind, number)
    if not made.exists() or made.stat().st_mtime_ns < made_from(run, run.ensemble(number)):
        return False
    if made.is_file():
        atomic_write(path, made.read_bytes())
    else:
        with whole_folder(path) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
            os.utime(temporary)  # the copy is younger than the ensemble that it stands for
    run.log_event("submission", path=str(path), round=number)
    return True


def prediction_jobs(run: Run, slots: Sequence[Slot], number: int | None) -> tuple[list[Job], int]:
    """(jobs, ranks of all jobs) of the test prediction.

    One job a machine, whose ranks each predict one of as many shares as there are ranks.
    """
    which = () if number is None else ("--round", str(number))
    label = "predict-test" if number is None else f"predict-test-round-{number}"
    total, jobs, first = sum(slot.processes for slot in slots), [], 0
    for index, slot in enumerate(slots):
        share = (str(number) for number in (first, slot.processes, total))
        arguments = ("predict-test", str(run.folder), *which, "--share", *share)
        log, progress = run.predict_log(index), run.predict_progress(first)
        jobs.append(Job(f"{label}-{index}", arguments, log, progress=progress))
        first += slot.processes
    return jobs, total


def submission_path(run: Run, kind: str, number: int | None = None) -> Path:
    """The table of RLEs or, of `kind` masks, the folder of masks. number: a round, whose own
    ensemble makes it; None: the final ensemble."""
    path = run.test_masks if kind == "masks" else run.submission
    return path if number is None else run.round(number) / path.name


def score_test(config: Config, run: Run) -> dict[str, Any]:
    """The submission against the truth, where the data set has it; else nothing."""
    from distseg.data.layouts import layout, submission_of
    from distseg.submission.score import score_rows

    truth, spec = layout(config.data.format).test_truth(config), submission_of(config)
    path = submission_path(run, spec.kind)
    if truth is None or not path.exists():
        return {}
    return {"test": score_rows(config, spec, path, truth)}


def prediction_record(run: Run) -> dict[str, Any] | None:
    """The submission's rows, and how many have no object; None where there is none yet."""
    from distseg.submission.read import MaskFolder, open_masks

    path = next((p for p in (run.submission, run.test_masks) if p.exists()), None)
    if path is None:
        return None
    try:
        source = open_masks(path, per_object=True)
    except UserError as error:
        return {"path": path.name, "rows": 0, "problem": str(error)}
    record: dict[str, Any] = {"path": path.name, "rows": len(source.keys)}
    if not isinstance(source, MaskFolder):
        record["empty"] = sum(not text.strip() for _, text in source.rows.values())
    return record
