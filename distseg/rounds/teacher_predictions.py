"""What teachers say about images: statistics, masks and, when asked, logits; one folder each.

A folder holds teachers.json (who they are and which folds they had seen), statistics.csv (a row an
image: the columns of `functional.statistics`, and the mask at probability .5 as RLE) and, for soft
targets, logits/ (Predictions).
"""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.config.training import RoundConfig
from distseg.data.prepare import open_cache
from distseg.functional.rle import encode
from distseg.functional.statistics import STATISTICS, image_statistics
from distseg.records.errors import UserError
from distseg.records.files import read_json, write_json
from distseg.records.manifest import Manifest, pair_folds
from distseg.records.paths import RoundKey, Run
from distseg.records.predictions import Predictions, PredictionsWriter, merge

logger = logging.getLogger("distseg.rounds.select")
SURE = 20.0  # the logit of a hard mask that is handed on as a soft target


@dataclass(frozen=True)
class Teacher:
    """A finished member that judges. trained_on: folds whose labels have reached it."""

    round: RoundKey
    name: str
    fold: int
    snapshots: tuple[Path, ...]
    oof: Path
    trained_on: frozenset[int]


def find_teacher(run: Run, round: RoundKey, name: str, fold: int) -> Teacher | None:
    """None: it has not finished."""
    paths = run.member(round, name, fold)
    if not paths.done.is_file():
        return None
    done = read_json(paths.done)
    files = tuple(paths.snapshots / file for file in done["snapshots"])
    return Teacher(round, name, fold, files, paths.oof, frozenset(done["trained_on"]))


class TeachingWriter:
    """Collects what teachers say; the folder appears, whole, when it closes."""

    def __init__(self, folder: Path, config: Config, logits: str) -> None:
        """logits: `none`, `soft` (the teachers' mean) or `hard` (their mask, as +-SURE)."""
        self.folder, self.config, self.logits = folder, config, logits
        self.temporary = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.file = (self.temporary / "statistics.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["id", "teacher_folds", *STATISTICS, "mask"])
        self.predictions = (
            PredictionsWriter(self.temporary / "logits") if logits != "none" else None
        )

    def add(
        self, name: str, logits_MCHW: NDArray, target_KHW: NDArray[np.uint8] | None,
        image_HWC: NDArray[np.uint8], teacher_folds: Iterable[int],
        head_logits: NDArray | None = None,
    ) -> None:  # fmt: skip
        """Arguments as of `functional.statistics.image_statistics`."""
        task = self.config.task
        found, mean, mask = image_statistics(
            logits_MCHW, target_KHW, image_HWC, task, head_logits
        )  # fmt: skip
        ground = [""] if task == "multiclass" else []
        text = "|".join([*ground, *(encode(plane.astype(np.uint8)) for plane in mask)])
        folds = " ".join(map(str, sorted(teacher_folds)))
        self.table.writerow([name, folds, *(f"{found[key]:.6g}" for key in STATISTICS), text])
        if self.predictions is not None:
            kept = mean if self.logits == "soft" else np.where(mean > 0, SURE, -SURE)
            self.predictions.add(name, kept)

    def close(self, record: dict[str, Any]) -> None:
        self.file.close()
        if self.predictions is not None:
            self.predictions.close()
        write_json(self.temporary / "teachers.json", record)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.temporary.rename(self.folder)


class Teaching:
    """A folder that a TeachingWriter left.

    Attributes:
        ids: in the order of the rows.
        table: columns of statistics, float64 (N,).
        masks: RLE of each row, one part per class joined by "|".
        teacher_folds: of each row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "statistics.csv"
        if not path.is_file():
            raise UserError(f"{folder}: no teachers' judgement here (statistics.csv is missing)")
        csv.field_size_limit(1 << 30)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.ids = [row["id"] for row in rows]
        self.masks = [row["mask"] for row in rows]
        self.teacher_folds = [tuple(int(f) for f in row["teacher_folds"].split()) for row in rows]
        self.table = {key: np.array([float(row[key]) for row in rows]) for key in STATISTICS}

    @property
    def logits(self) -> Path:
        return self.folder / "logits"


def merge_parts(parts: Sequence[Path], folder: Path, order: Sequence[str]) -> None:
    """Join what ranks wrote into one folder, in `order`; the parts are removed."""
    csv.field_size_limit(1 << 30)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    found: dict[str, list[str]] = {}
    header: list[str] = []
    for part in parts:
        with (part / "statistics.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        found |= {row[0]: row for row in rows}
    with (temporary / "statistics.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *(found[name] for name in order)])
    logits = [part / "logits" for part in parts]
    if logits and logits[0].is_dir():
        merge(logits, temporary / "logits", order)
    shutil.copy(parts[0] / "teachers.json", temporary / "teachers.json")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    for part in parts:
        shutil.rmtree(part)


def out_of_fold_logits(
    teachers: Sequence[Teacher], opened: dict[Path, Predictions], name: str
) -> NDArray[np.float16]:
    """float16 (M, C, H, W): what each teacher said about an image of its own fold."""
    for teacher in teachers:
        if teacher.oof not in opened:
            opened[teacher.oof] = Predictions(teacher.oof)
    return np.stack([opened[teacher.oof].of(name) for teacher in teachers])


def students(config: Config, run: Run, round: int) -> list[int]:
    """The folds that a round trains."""
    planned = config.planned_members(Manifest.read(run.truth).folds, round)
    return sorted({fold for _, fold in planned})


def kept_logits(entry: RoundConfig) -> str:
    """Which logits a round's teachers leave: none, soft or hard; see TeachingWriter."""
    if not entry.makes_soft:
        return "none"
    return "soft" if entry.kind == "distill" or entry.targets == "soft" else "hard"


def teachers_record(teachers: Sequence[Teacher]) -> dict[str, Any]:
    """Who judged, for a person to read."""
    return {
        "teachers": [
            {"round": t.round, "name": t.name, "fold": t.fold, "trained_on": sorted(t.trained_on)}
            for t in teachers
        ]
    }


def judge_out_of_fold(config: Config, run: Run, round: int, fold: int, truth: Manifest) -> Path:
    """The judgement of the train rows for the student of `fold`; made here from out-of-fold
    logits, unless a job has made it (teacher: all)."""
    entry = config.rounds[round]
    who = {"all": "all", "oof": "oof"}.get(entry.judge, f"fold{fold}")
    folder = run.taught(round, "labeled", who)
    if folder.is_dir():
        return folder
    cache, opened = open_cache(config, run), dict[Path, Predictions]()
    writer = TeachingWriter(folder, config, kept_logits(entry))
    asked: dict[int, list[Teacher]] = {}
    for sample in truth:
        if sample.fold == -1 or not sample.target or (who != "oof" and sample.fold == fold):
            continue
        if sample.fold not in asked:
            asked[sample.fold] = _judges(config, run, round, fold, sample.fold, truth)
        teachers = asked[sample.fold]
        if not teachers:
            continue
        seen = set().union(*(teacher.trained_on for teacher in teachers))
        found = out_of_fold_logits(teachers, opened, sample.id)
        writer.add(sample.id, found, cache.target(sample.id), cache.image(sample.id), seen)
    writer.close(teachers_record([t for teachers in asked.values() for t in teachers]))
    return folder


def _judges(
    config: Config, run: Run, round: int, student: int, fold: int, truth: Manifest
) -> list[Teacher]:
    """Who judges the rows of `fold` for the student of another fold. None finished: the rows stay
    as they are, and a warning says so."""
    if config.rounds[round].judge == "pair":
        numbers = {pair: number for number, pair in pair_folds(truth.folds).items()}
        number = numbers[min(student, fold), max(student, fold)]
        planned: list[tuple[RoundKey, str, int]] = [
            (run.teachers(round), name, number) for name in config.members
        ]
    else:
        planned = [
            (round - 1, name, own)
            for name, own in config.planned_members(truth.folds, round - 1)
            if own == fold
        ]
    found = [find_teacher(run, *key) for key in planned]
    teachers = [teacher for teacher in found if teacher is not None]
    if not teachers:
        logger.warning(
            "round %d: no teacher has finished that may judge fold %d for the student of fold %d: "
            "its rows stay as they are", round, fold, student,
        )  # fmt: skip
    return teachers
