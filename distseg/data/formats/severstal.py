"""Severstal Steel Defect Detection (2019): train_images, test_images, train.csv.

Two forms of the table are in use: `ImageId_ClassId,EncodedPixels` with a row for each of the four
classes, and `ImageId,ClassId,EncodedPixels` with rows for defects alone. Class k of the table is
`classes[k - 1]`. An image's id is its file name, as the submission's rows begin with it.
"""

from __future__ import annotations

from pathlib import Path

from distseg.config import Config
from distseg.data.formats.row import Row, SubmissionSpec, image_files, locate, read_table
from distseg.errors import UserError

COLUMNS = ("ImageId_ClassId", "EncodedPixels")


def train(config: Config) -> list[Row]:
    """A row per image of train_images; what the table says wrongly is a row with its problem."""
    root = Path(config.data.root)
    table = root / (config.data.table or "train.csv")
    images = {path.name: path for path in image_files(root / "train_images", "train images")}
    joined = COLUMNS[0] in _header(table)
    found, rows = _table(table, joined, len(config.classes), images)
    for name, path in images.items():
        parts, problem = found.get(name, {}), locate(path.parent, name)[1]
        if joined and len(parts) < len(config.classes):
            lacking = next(n for n in range(1, len(config.classes) + 1) if n not in parts)
            problem = problem or f"{table.name}: no row {name}_{lacking}; each class has one"
        text = "|".join(parts.get(number, "") for number in range(1, len(config.classes) + 1))
        rows.append(Row(name, str(path), f"rle:{text}", problem=problem))
    rows.sort(key=lambda row: row.id)
    return rows[: config.data.limit]


def _table(
    table: Path, joined: bool, num_classes: int, images: dict[str, Path]
) -> tuple[dict[str, dict[int, str]], list[Row]]:
    """RLEs by image and class, and a row with a problem for each line that cannot be used."""
    columns = COLUMNS if joined else ("ImageId", "ClassId", "EncodedPixels")
    found: dict[str, dict[int, str]] = {}
    bad: dict[str, Row] = {}
    for line, cells in read_table(table, columns):
        if joined:
            name, _, number = (cells["ImageId_ClassId"] or "").rpartition("_")
        else:
            name, number = cells["ImageId"] or "", cells["ClassId"] or ""
        problem = ""
        if name not in images:
            problem = f"no image {name[:80]!r} in train_images"
        elif not number.isdecimal() or not 1 <= int(number) <= num_classes:
            problem = f"class {number!r}; valid: 1..{num_classes} (config: classes)"
        elif int(number) in found.get(name, {}):
            problem = f"class {number} of {name} stands twice"
        elif cells["EncodedPixels"] is None:
            problem = "the line ends before EncodedPixels"
        if problem:
            reason = f"{table.name}, line {line}: {problem}"
            bad.setdefault(name, Row(name or f"line {line}", str(table), problem=reason))
            images.pop(name, None)
            found.pop(name, None)
        else:
            found.setdefault(name, {})[int(number)] = cells["EncodedPixels"] or ""
    return found, list(bad.values())


def _header(table: Path) -> str:
    try:
        with table.open(encoding="utf-8-sig") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read: {error}") from None


def test(config: Config) -> list[Row]:
    """In sample_submission.csv's order; every image of test_images where there is no such file."""
    root = Path(config.data.root)
    folder, sample = root / "test_images", root / "sample_submission.csv"
    if not folder.is_dir():
        return []
    if not sample.is_file():
        found = image_files(folder, "test images of data.format: severstal")
        return [Row(path.name, str(path)) for path in found][: config.data.limit]
    rows: dict[str, Row] = {}
    for line, cells in read_table(sample, COLUMNS[:1]):
        name = (cells[COLUMNS[0]] or "").rpartition("_")[0]
        path, problem = locate(folder, name)
        if problem:
            raise UserError(f"{sample}, line {line}: {problem}")
        rows.setdefault(
            name, Row(name, str(path), problem="" if path.is_file() else "no such image")
        )
    return list(rows.values())[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    """Four rows an image, in the order of the classes."""
    numbers = tuple(str(number) for number in range(1, len(config.classes) + 1))
    return SubmissionSpec(columns=COLUMNS, ids=[row.id for row in test(config)], class_ids=numbers)


def test_truth(config: Config) -> list[Row] | None:
    return None
