"""A run on disk: the one place that names its files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.records.ensemble_record import read_ensemble
from distseg.records.errors import UserError
from distseg.records.files import append_line

RUN_FOLDER, SWEEP_FOLDER = "runs/{name}", "runs/{name}-tune"  # without --out

# A round's number, or "NUMBER/teachers": the pair teachers that were trained for that round.
RoundKey = int | str


def is_teachers(key: RoundKey) -> bool:
    """Whether a key is that of a round's pair teachers."""
    return "/" in str(key)


@dataclass(frozen=True, slots=True)
class MemberPaths:
    """Files of one member: one model of the config on one fold of one round."""

    folder: Path

    @property
    def config(self) -> Path:
        """What the member was trained with."""
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch: loss, val_loss and score where it was evaluated, images per
        second."""
        return self.folder / "metrics.jsonl"

    def log(self, rank: int) -> Path:
        """What a rank has logged."""
        return self.folder / ("train.log" if rank == 0 else f"train.rank{rank}.log")

    @property
    def progress(self) -> Path:
        """How far the member's process has come, for people who watch; see records/progress.py."""
        return self.folder / "progress.json"

    @property
    def snapshots(self) -> Path:
        """Folder of the weights that are kept, safetensors."""
        return self.folder / "snapshots"

    @property
    def state(self) -> Path:
        """Folder of what resuming needs; gone once the member is done."""
        return self.folder / "state"

    @property
    def oof(self) -> Path:
        """Folder of the out-of-fold Predictions."""
        return self.folder / "oof"

    @property
    def oof_snapshots(self) -> Path:
        """A folder of the same Predictions of each snapshot by itself, by the stem of its file;
        only where there are several, and `ensemble.snapshots` is search."""
        return self.folder / "oof_snapshots"

    @property
    def oof_scores(self) -> Path:
        """Pixel counts of the out-of-fold predictions, of each snapshot and of their mean."""
        return self.folder / "oof_scores.json"

    @property
    def done(self) -> Path:
        """JSON, written last: what the member has come to."""
        return self.folder / "DONE"

    @property
    def lock(self) -> Path:
        """Held by the process group that trains the member."""
        return self.folder / ".lock"

    @property
    def failure(self) -> Path:
        """JSON that a job leaves when it stops for a reason of its own."""
        return self.folder / "failure.json"


ALL_ROUNDS = "all"


@dataclass(frozen=True, slots=True)
class Run:
    """Names of everything below a run folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """The config of the run, with every default."""
        return self.folder / "config.yaml"

    @property
    def env(self) -> Path:
        """JSON: versions, hardware and source that the run was made with."""
        return self.folder / "env.json"

    @property
    def ledger(self) -> Path:
        """JSON lines: every start, end, failure and decision, with its time."""
        return self.folder / "ledger.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the driver of the run."""
        return self.folder / ".lock"

    @property
    def changes(self) -> Path:
        """JSON, only where the config has changed: what has, when, and what was made again."""
        return self.folder / "changes.json"

    @property
    def partial(self) -> Path:
        """JSON, only where the run was told to end early: what its ensemble lacks."""
        return self.folder / "partial.json"

    @property
    def own_folds(self) -> Path:
        """JSON: the hash of the folds.csv that the run has written itself; a person's has none."""
        return self.data / "own_folds.json"

    @property
    def units(self) -> Path:
        """The table of ids and the rows that they belong to: see `data/units.py`."""
        return self.data / "units.csv"

    @property
    def report_json(self) -> Path:
        """The report for programs."""
        return self.folder / "report.json"

    @property
    def report_html(self) -> Path:
        """The report for people."""
        return self.folder / "report.html"

    @property
    def next_commands(self) -> Path:
        """Commands that may follow a finished run, ready to paste."""
        return self.folder / "next.txt"

    @property
    def submission(self) -> Path:
        """The table of RLEs that the competition wants."""
        return self.folder / "submission.csv"

    @property
    def test_masks(self) -> Path:
        """Folder of test masks, for data sets whose submission is masks."""
        return self.folder / "test_masks"

    @property
    def folds(self) -> Path:
        """The table of ids and folds that a person may change."""
        return self.folder / "folds.csv"

    @property
    def data(self) -> Path:
        """Where the run keeps what it found about the data: quarantine.csv, balance.csv,
        statistics.json, and test.csv (the Manifest of the test images)."""
        return self.folder / "data"

    @property
    def cache(self) -> Path:
        """Folder of the decoded images."""
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        """What the driver has logged."""
        return self.folder / "run.log"

    def predict_log(self, machine: int) -> Path:
        """Of the test prediction, which may run on several machines."""
        return self.folder / ("predict.log" if machine == 0 else f"predict.{machine}.log")

    def predict_progress(self, first_share: int) -> Path:
        """How far a job of the test prediction has come, by the first share that it makes."""
        return self.folder / f".predict.{first_share}.progress.json"

    def all_predict_progress(self) -> list[Path]:
        """Those of `predict_progress` that are there."""
        return sorted(self.folder.glob(".predict.*.progress.json"))

    @property
    def teach_progress(self) -> Path:
        """How far the job has come that lets a round's teachers predict."""
        return self.folder / ".teach.progress.json"

    @property
    def launch_config(self) -> Path:
        """The accelerate YAML of every job."""
        return self.folder / "accelerate.yaml"

    @property
    def open_lock(self) -> Path:
        """Held while ranks that came at the same time open the folder."""
        return self.folder / ".open.lock"

    def round(self, key: RoundKey) -> Path:
        """The folder of a round, or of the pair teachers of a round."""
        return self.folder / f"round_{key}"

    @property
    def truth(self) -> Path:
        """The Manifest of the human labels and their folds: what every round is scored on."""
        return self.round(0) / "train.csv"

    def train_set(self, key: RoundKey, fold: int) -> Path:
        """The Manifest that the student of `fold` learns from; round 0 has one for all folds."""
        return self.truth if key == 0 else self.round(key) / f"train_fold{fold}.csv"

    def teachers(self, round: int) -> str:
        """The key of the pair teachers of a round."""
        return f"{round}/teachers"

    def select(self, round: int) -> Path:
        """What a round's selection leaves: rule, rows kept and dropped, balance, pictures."""
        return self.round(round) / "select"

    def taught(self, round: int, what: str, who: str) -> Path:
        """What teachers say. what: labeled or unlabeled rows; who: the student, foldK, or all."""
        return self.select(round) / f"{what}_{who}"

    def ensemble(self, key: RoundKey) -> Path:
        """ensemble.json of a round; of `ALL_ROUNDS`: of the members of all rounds."""
        return self.round(key) / "ensemble" / "ensemble.json"

    def oof_table(self, key: RoundKey) -> Path:
        """oof.csv beside it: each out-of-fold image's score and pixel counts."""
        return self.ensemble(key).with_name("oof.csv")

    @property
    def final(self) -> Path:
        """The ensemble that makes the submission: that of the last round, or of all rounds."""
        return self.folder / "ensemble.json"

    @property
    def exported(self) -> Path:
        """JSON of a folder that `distseg export` made: an ensemble that predicts, and no more."""
        return self.folder / "export.json"

    @property
    def student(self) -> Path:
        """JSON of a student's run: the run and the members whose student it trains."""
        return self.folder / "student.json"

    @property
    def model(self) -> Path:
        """Folder of a student's run: the student alone, as `distseg export` writes an ensemble."""
        return self.folder / "model"

    @property
    def unlabeled(self) -> Path:
        """The Manifest of the test images that can be read."""
        return self.data / "unlabeled.csv"

    def member(self, number: RoundKey, name: str, fold: int) -> MemberPaths:
        """The files of the member of a round: the model `name` on `fold`."""
        return MemberPaths(self.round(number) / "members" / member_id(name, fold))

    def log_event(self, event: str, **details: Any) -> None:
        """One line of the ledger: what happened, when (seconds since the epoch), to whom."""
        append_line(self.ledger, {"time": round(time.time(), 3), "event": event, **details})


def member_id(name: str, fold: int) -> str:
    """The name of a member in files and messages: unet_fold0."""
    return f"{name}_fold{fold}"


def snapshot_id(name: str, place: int) -> str:
    """The name in an ensemble of one snapshot of a model, by its place in DONE's list."""
    return f"{name}#{place + 1}"


def split_snapshot_id(name: str) -> tuple[str, int | None]:
    """The model that a name in an ensemble is of, NAME or in all rounds together NAME@ROUND, and
    the place of its snapshot; None for the mean of all."""
    model, _, number = name.partition("#")
    return model, int(number) - 1 if number else None


def round_number(key: RoundKey) -> int:
    """The number of a round, or of the round that teachers are for."""
    return int(str(key).partition("/")[0])


def round_of(path: str) -> int | None:
    """The round that a path relative to the run's folder lies in; None: in none."""
    number = Path(path).parts[0].removeprefix("round_") if path.startswith("round_") else ""
    return int(number) if number.isdecimal() else None


def find_run(folder: Path) -> Run:
    """The run that a folder holds. UserError: it holds none."""
    run = Run(folder)
    if not run.config.is_file():
        raise UserError(f"{folder}: no run here (config.yaml is missing)")
    return run


def rounds_on_disk(run: Run) -> Iterator[int]:
    """Numbers of the rounds that a run holds, ascending."""
    numbers = [p.name.removeprefix("round_") for p in run.folder.glob("round_*") if p.is_dir()]
    yield from sorted(int(n) for n in numbers if n.isdigit())


def members_on_disk(run: Run) -> Iterator[tuple[RoundKey, MemberPaths]]:
    """Every member that a run holds, also those that its config has no more, and pair teachers."""
    for number in rounds_on_disk(run):
        for key in (number, run.teachers(number)):
            for folder in sorted((run.round(key) / "members").glob("*")):
                if folder.is_dir():
                    yield key, MemberPaths(folder)


def final_ensemble(run: Run) -> dict[str, Any]:
    """The record of the ensemble that makes the submission. UserError: there is none yet."""
    if not run.final.is_file():
        raise UserError(f"{run.final}: no ensemble yet; `distseg run` makes it")
    return read_ensemble(run.final)
