"""Severstal Steel Defect Detection (2019): train_images, test_images, train.csv.

Two forms of a table are in use: `ImageId_ClassId,EncodedPixels` with a row for each of the four
classes, and `ImageId,ClassId,EncodedPixels`, for training with rows for defects alone; the columns
may be in any order. Class k of the table is `classes[k - 1]`. An image's id is its file name. A
submission is in the form of sample_submission.csv, with a row for each class of each image.
"""

from __future__ import annotations

from pathlib import Path

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import (
    Cell,
    Row,
    SubmissionSpec,
    by_name,
    image_files,
    joined_rles,
    locate,
    locate_plain,
    plain,
)
from distseg.records.errors import UserError
from distseg.records.tables import read_cells, read_table

READS = ("table", "overlap")  # keys of `data` that only some layouts read
# the two forms, and what a submission writes into each column
JOINED: dict[str, Cell] = {"ImageId_ClassId": "id", "EncodedPixels": "rle"}
APART: dict[str, Cell] = {"ImageId": "id", "ClassId": "class", "EncodedPixels": "rle"}


def detect(root: Path) -> Detected | None:
    """With as many classes as the table has numbers."""
    table = root / "train.csv"
    if not (root / "train_images").is_dir() or not table.is_file():
        return None
    header = set(_header(table))
    if not (header >= set(JOINED) or header >= set(APART)):
        return None
    joined = _is_joined(table)
    pairs = (
        _pair(cells, joined) for _, cells in read_table(table, [*(JOINED if joined else APART)])
    )
    found = {int(number) for _, number in pairs if number.isdecimal() and 1 <= int(number) <= 255}
    names = [f"defect_{number}" for number in range(1, max(found, default=0) + 1)]
    if not names:
        return None
    keys = {"data": {"format": "severstal"}, "task": "multilabel", "classes": names}
    why = f"train_images and train.csv ({len(names)} classes) are there"
    return Detected({**keys, "metric": "mean_dice"}, why)


def train(config: Config) -> list[Row]:
    """A row for each image of train_images, and a row with a problem for each image of which the
    table says something wrong."""
    root = Path(config.data.root)
    table = root / (config.data.table or "train.csv")
    images = by_name(image_files(root / "train_images", "train images"))
    joined = _is_joined(table)
    found, rows = _table(table, joined, len(config.classes), images)
    for name, path in images.items():
        codes, problem = found.get(name, {}), locate(path.parent, path.name)[1]
        if joined and len(codes) < len(config.classes):
            lacking = next(n for n in range(1, len(config.classes) + 1) if n not in codes)
            problem = problem or f"{table.name}: no row {name}_{lacking}; each class has one"
        cells = [joined_rles(codes.get(n, ())) for n in range(1, len(config.classes) + 1)]
        odd = next((odd for _, odd in cells if odd), "")
        problem = problem or (f"{table.name}: {odd}" if odd else "")
        text = "|".join(code for code, _ in cells)
        rows.append(Row(name, str(path), f"rle:{text}", problem=problem))
    rows.sort(key=lambda row: row.id)
    return rows[: config.data.limit]


def _table(
    table: Path, joined: bool, num_classes: int, images: dict[str, Path]
) -> tuple[dict[str, dict[int, list[str]]], list[Row]]:
    """RLEs by image and class number, several where several lines name both, and a row with a
    problem for each image that has a line which cannot be used. Takes these images out of `images`.
    """
    found: dict[str, dict[int, list[str]]] = {}
    bad: dict[str, Row] = {}
    for line, cells in read_table(table, [*(JOINED if joined else APART)]):
        name, number = _pair(cells, joined)
        name, problem = plain(name), ""
        if name not in images:
            problem = f"no image {name[:80]!r} in train_images"
        elif not number.isdecimal() or not 1 <= int(number) <= num_classes:
            problem = f"class {number!r}; valid: 1..{num_classes} (config: classes)"
        elif cells["EncodedPixels"] is None:
            problem = "the line ends before EncodedPixels"
        if problem:
            reason = f"{table.name}, line {line}: {problem}"
            bad.setdefault(name, Row(name or f"line {line}", str(table), problem=reason))
            images.pop(name, None)
            found.pop(name, None)
        else:
            own = found.setdefault(name, {})
            own.setdefault(int(number), []).append(cells["EncodedPixels"] or "")
    return found, list(bad.values())


def _pair(cells: dict[str, str | None], joined: bool) -> tuple[str, str]:
    """The image and the class number of a line."""
    if joined:
        name, _, number = (cells["ImageId_ClassId"] or "").rpartition("_")
        return name, number
    return cells["ImageId"] or "", cells["ClassId"] or ""


def _header(table: Path) -> list[str]:
    _, names = next(read_cells(table), (1, []))
    return names


def _is_joined(table: Path) -> bool:
    """Whether a table has the form with one id for image and class."""
    return "ImageId_ClassId" in _header(table)


def test(config: Config) -> list[Row]:
    """In sample_submission.csv's order; every image of test_images where there is no such file."""
    root = Path(config.data.root)
    folder, sample = root / "test_images", root / "sample_submission.csv"
    if not folder.is_dir():
        return []
    if not sample.is_file():
        found = image_files(folder, "test images of data.format: severstal")
        return [Row(path.name, str(path)) for path in found][: config.data.limit]
    rows, known = dict[str, Row](), by_name(folder.iterdir())
    joined = _is_joined(sample)
    for line, cells in read_table(sample, [*(JOINED if joined else APART)]):
        name = _pair(cells, joined)[0]
        path, problem = locate_plain(folder, name, known)
        if problem:
            raise UserError(f"{sample}, line {line}: {problem}")
        rows.setdefault(
            name, Row(name, str(path), problem="" if path.is_file() else "no such image")
        )
    return list(rows.values())[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    """A row for each class of each image, in the order of the classes and the sample's form."""
    rows, numbers = test(config), range(1, len(config.classes) + 1)
    sample = Path(config.data.root) / "sample_submission.csv"
    form, columns = JOINED, list(JOINED)
    if rows and sample.is_file():
        form = JOINED if _is_joined(sample) else APART
        columns = [name for name in _header(sample) if name in form]
    return SubmissionSpec(
        columns=tuple(columns), cells=tuple(form[name] for name in columns),
        ids=[row.id for row in rows], class_ids=tuple(map(str, numbers)),
    )  # fmt: skip


def test_truth(config: Config) -> list[Row] | None:
    return None
