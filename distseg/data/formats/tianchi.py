"""Tianchi buildings (2021): train/*.jpg, train_mask.csv, test_a/*.jpg, test_a_samplesubmit.csv.

Tables are tab separated and have no header: file name and RLE (column-major, from 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import (
    Row,
    SubmissionSpec,
    by_name,
    image_files,
    is_image,
    joined_rles,
    locate,
    locate_plain,
    plain,
)
from distseg.records.errors import UserError
from distseg.records.tables import read_cells

READS = ("table",)  # keys of `data` that only some layouts read


def detect(root: Path) -> Detected | None:
    """By its table, too: others call a table with a header, or with commas, `train_mask.csv`."""
    table = root / "train_mask.csv"
    if not (root / "train").is_dir() or not table.is_file():
        return None
    try:
        _, cells = next(read_cells(table, "\t"), (1, []))
    except UserError:  # quotes of a CSV, or no text
        return None
    if len(cells) not in (1, 2) or "," in cells[0] or not is_image(Path(cells[0]).name):
        return None
    keys = {"data": {"format": "tianchi"}, "task": "binary", "classes": ["building"]}
    return Detected(keys, "train and train_mask.csv are there")


def train(config: Config) -> list[Row]:
    """A row for each name of train_mask.csv, whose lines are one mask together, and a row with a
    problem for each image that it does not name."""
    root = Path(config.data.root)
    table = root / (config.data.table or "train_mask.csv")
    left = by_name(image_files(root / "train", "train images of tianchi"))
    lines, codes = dict[str, int](), dict[str, list[str]]()
    for line, name, text in _lines(table):
        lines.setdefault(name, line)
        codes.setdefault(name, []).append(text)
    rows = []
    for name, line in lines.items():
        path = left.pop(plain(name), None)
        problem = locate(root.absolute() / "train", name if path is None else path.name)[1]
        if not problem and path is None:
            problem = f"no image {name} in {root.absolute() / 'train'}"
        text, odd = joined_rles(codes[name])
        problem = problem or odd
        problem = f"{table.name}, line {line}: {problem}" if problem else ""
        rows.append(Row(name, str(table if problem else path), f"rle:{text}", problem=problem))
    forgotten = f"an image that {table.name} does not name"
    rows += [Row(path.name, str(path), problem=forgotten) for path in left.values()]
    return rows[: config.data.limit]


def _lines(table: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, name, RLE); an empty RLE is an image without a building."""
    for line, cells in read_cells(table, "\t"):
        if len(cells) > 2 or (len(cells) == 2 and "," in cells[0]):
            raise UserError(
                f"{table}, line {line}: {len(cells)} cells; valid: name and RLE, separated by a tab"
            )
        yield line, cells[0], cells[1] if len(cells) == 2 else ""


def test(config: Config) -> list[Row]:
    """In the sample submission's order; every image of test_a where there is no such file."""
    root = Path(config.data.root)
    folder, sample = root.absolute() / "test_a", root / "test_a_samplesubmit.csv"
    if not folder.is_dir():
        return []
    if not sample.is_file():
        found = image_files(folder, "test images of data.format: tianchi")
        return [Row(path.name, str(path)) for path in found][: config.data.limit]
    rows, known = dict[str, Row](), by_name(folder.iterdir())
    for line, name, _ in _lines(sample):
        path, problem = locate_plain(folder, name, known)
        if problem or name in rows:
            raise UserError(f"{sample}, line {line}: {problem or f'{name!r} stands twice'}")
        rows[name] = Row(name, str(path), problem="" if path.is_file() else "no such image")
    return list(rows.values())[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    return SubmissionSpec(separator="\t", header=False, ids=[row.id for row in test(config)])


def test_truth(config: Config) -> list[Row] | None:
    return None
