"""The Manifest: the train set as an ordered, immutable table, one row a sample."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path

from distseg.records.errors import UserError
from distseg.records.tables import read_table, write_table

ORIGINS = ("labeled", "pseudo", "distilled", "unlabeled")
FROM_TEST = ("pseudo", "unlabeled")  # origins of rows that are test images
# What the id of a test image's row begins with, with a pseudo-label and without: train and test may
# share ids, and one train set may have both rows of an image.
PSEUDO, UNLABELED = "test:", "unlabeled:"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row.

    target: "" (none), "file:PATH" (mask image), "rle:R" (one RLE per class, joined by "|"; from 0
    or along the rows: functional/rle.py, TARGET_KINDS) or "shapes:S" (data/shapes.py).
    fold: 0..k-1, or -1: trained on in every fold, validated in none.
    weight: factor of the sample's loss, >= 0.
    origin: one of ORIGINS: who made the label. `unlabeled`: nobody, and the image trains without.
    teacher_folds: folds that the models behind a made label, or behind the choice of this row
    and its weight, had *trained on*, directly or through a teacher of theirs; empty where nobody
    but a person has judged.
    height, width: native size in pixels.
    soft: "" or "PATH", the folder of Predictions (raw logits, relative to the run folder) that
    hold this row's soft target.
    soft_weight: share of the soft target in the sample's loss, 0..1.
    """

    id: str
    image: str
    target: str = ""
    fold: int = -1
    weight: float = 1.0
    origin: str = "labeled"
    teacher_folds: tuple[int, ...] = ()
    height: int = 0
    width: int = 0
    soft: str = ""
    soft_weight: float = 0.0


def image_id(sample: Sample) -> str:
    """The id that a row's image has among the test images; of a train image its own."""
    if sample.origin not in FROM_TEST:
        return sample.id
    return sample.id.removeprefix(PSEUDO if sample.origin == "pseudo" else UNLABELED)


COLUMNS = tuple(field.name for field in fields(Sample))
_OPTIONAL = ("soft", "soft_weight")


class Manifest(Sequence[Sample]):
    """Rows in a fixed order; every change makes a new Manifest."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)
        twice = [name for name, n in Counter(s.id for s in self.samples).items() if n > 1]
        if twice:
            raise UserError(f"manifest: id {twice[0]!r} stands in several rows ({len(twice)} such)")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Sample:  # type: ignore[override]
        return self.samples[row]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def folds(self) -> list[int]:
        """The folds that are validated, ascending."""
        return sorted({s.fold for s in self.samples if s.fold >= 0})

    def val_rows(self, fold: int) -> list[int]:
        """Rows that fold `fold` validates: human labels only."""
        return [
            row
            for row, s in enumerate(self.samples)
            if s.fold == fold and s.origin == "labeled" and s.target
        ]

    def train_rows(self, fold: int, *, leaky: bool = False) -> list[int]:
        """Rows that fold `fold` trains on, with a label or as `unlabeled`. Refuses a leak (see
        `leaks`) unless `leaky`: the config asks for teachers that leak, and the score says so."""
        leaked = [] if leaky else self.leaks(fold)
        if leaked:
            sample = self.samples[leaked[0]]
            raise UserError(
                f"manifest: row {sample.id!r} may not train fold {fold}: its label was made or "
                f"judged by a model that trained on fold {fold} (teacher_folds "
                f"{list(sample.teacher_folds)}); {len(leaked)} such rows"
            )
        return [
            row
            for row, s in enumerate(self.samples)
            if s.fold != fold and s.weight > 0 and (s.target or s.origin == "unlabeled")
        ]

    def leaks(self, fold: int) -> list[int]:
        """Rows whose label, or whose weight, carries fold `fold`'s labels to its student through
        a teacher. A row that was dropped (weight 0) says as much as one that was kept."""
        return [
            row for row, s in enumerate(self.samples) if s.fold != fold and fold in s.teacher_folds
        ]

    def seen(self, fold: int) -> set[int]:
        """Folds whose labels reach the student of `fold`: its rows' own and their teachers'."""
        trained = [s for s in self.samples if s.fold != fold]
        own = {s.fold for s in trained if s.target and s.fold >= 0}
        return own.union(*(s.teacher_folds for s in trained))

    def replace_folds(self, folds: Sequence[int]) -> Manifest:
        return Manifest([replace(s, fold=int(f)) for s, f in zip(self.samples, folds, strict=True)])

    def write(self, path: Path) -> None:
        """CSV with the columns of `Sample`, written atomically."""
        write_table(path, COLUMNS, map(_cells, self.samples))

    @property
    def digest(self) -> str:
        """SHA-256 of the rows, which a record keeps to notice a change of the file."""
        text = json.dumps([list(map(str, _cells(sample))) for sample in self.samples])
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a CSV that `write` made, or that a person edited. UserError names the bad row."""
        needed = [name for name in COLUMNS if name not in _OPTIONAL]
        return cls([_sample(path, line, cells) for line, cells in read_table(path, needed)])


def is_manifest(path: Path) -> bool:
    """Whether a file can be read as a Manifest."""
    try:
        Manifest.read(path)
    except UserError:
        return False
    return True


def table_problem(path: Path, digest: str | None) -> str:
    """Why a Manifest on disk is not the one that was written; "" where it is. digest: that of the
    one that was written; None where it is not known."""
    if not path.is_file():
        return f"{path}: lost"
    try:
        found = Manifest.read(path).digest
    except UserError as error:
        return str(error)
    return "" if digest in (None, found) else f"{path}: other rows than when it was written"


def pair_folds(folds: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The two folds that each pair teacher leaves out, by the fold that it validates instead: a
    number of its own, above all others."""
    ordered = sorted(folds)
    return dict(enumerate(combinations(ordered, 2), start=max(ordered, default=-1) + 1))


def _cells(sample: Sample) -> list[object]:
    """The line of a sample, in the order of COLUMNS; _sample reads it back."""
    values = {name: getattr(sample, name) for name in COLUMNS}
    values["teacher_folds"] = " ".join(map(str, sample.teacher_folds))
    values["weight"], values["soft_weight"] = f"{sample.weight:g}", f"{sample.soft_weight:g}"
    return list(values.values())


def _sample(path: Path, line: int, cells: Mapping[str, str | None]) -> Sample:
    row = {name: cell or "" for name, cell in cells.items()}
    try:
        sample = Sample(
            id=row["id"],
            image=row["image"],
            target=row["target"],
            fold=int(row["fold"]),
            weight=float(row["weight"]),
            origin=row["origin"],
            teacher_folds=tuple(int(f) for f in row["teacher_folds"].split()),
            height=int(row["height"]),
            width=int(row["width"]),
            soft=row.get("soft", ""),
            soft_weight=float(row.get("soft_weight") or 0.0),
        )
    except ValueError as error:
        raise UserError(f"{path}, line {line}: {error}") from None
    if sample.origin not in ORIGINS:
        raise UserError(
            f"{path}, line {line}: origin {sample.origin!r}; valid: {', '.join(ORIGINS)}"
        )
    if not sample.weight >= 0:
        raise UserError(f"{path}, line {line}: weight {sample.weight} is below 0")
    if not 0 <= sample.soft_weight <= 1:
        raise UserError(f"{path}, line {line}: soft_weight {sample.soft_weight} is not in 0..1")
    return sample
