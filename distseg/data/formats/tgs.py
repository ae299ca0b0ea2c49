"""TGS Salt Identification (2018): train/images, train/masks, train.csv, test/images.

The masks folder is the truth where there is one, else train.csv's RLE (column-major, from 1).
Half of the mask files are 16-bit (0 and 65535), half 8-bit.
"""

from __future__ import annotations

from pathlib import Path

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import (
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
from distseg.records.tables import read_table

# keys of `data` that only some layouts read
READS = (
    *("mask_values", "mask_channel", "colors"),
    *("folder.inverted", "folder.threshold", "folder.numbered"),
)


def detect(root: Path) -> Detected | None:
    """By its tables: others have folders of these names, too, and a validation part beside them."""
    folder = root / "train"
    if not (folder / "images").is_dir() or not (root / "test" / "images").is_dir():
        return None
    if not all((root / name).is_file() for name in ("train.csv", "depths.csv")):
        return None
    keys = {"data": {"format": "tgs"}, "task": "binary", "classes": ["salt"], "metric": "tgs"}
    labels = "train/masks" if (folder / "masks").is_dir() else "train.csv"
    return Detected(keys, f"train/images, {labels} and test/images are there")


def train(config: Config) -> list[Row]:
    root = Path(config.data.root)
    images = image_files(root / "train" / "images", "train images of data.format: tgs")
    masks = root / "train" / "masks"
    rows = _from_masks(images, masks) if masks.is_dir() else _from_table(images, root / "train.csv")
    return rows[: config.data.limit]


def _from_masks(images: list[Path], folder: Path) -> list[Row]:
    """A row for each image, and a row with a problem for each mask that has no image."""
    masks = by_name(image_files(folder, "masks of data.format: tgs"))
    rows = []
    for path in images:
        _, problem = locate(path.parent, path.name)
        mask = masks.pop(plain(path.name), None)
        if mask is None:
            problem = problem or f"no mask of this name in {folder}"
        else:
            problem = problem or locate(folder, mask.name)[1]
        rows.append(Row(path.stem, str(path), f"file:{mask}" if mask else "", problem=problem))
    orphans = [Row(p.stem, str(p), problem="a mask without an image") for p in masks.values()]
    return rows + orphans


def _from_table(images: list[Path], table: Path) -> list[Row]:
    """A row for each id of train.csv, whose lines are one mask together, and a row with a problem
    for each image that it does not name."""
    known, named = by_name(images), set[str]()
    folder, lines, codes = images[0].parent, dict[str, int](), dict[str, list[str | None]]()
    for line, cells in read_table(table, ("id", "rle_mask")):
        name = cells["id"] or ""
        lines.setdefault(name, line)
        codes.setdefault(name, []).append(cells["rle_mask"])
    rows = []
    for name, line in lines.items():
        path = known.get(plain(f"{name}.png"))
        problem = locate(folder, f"{name}.png" if path is None else path.name)[1]
        text, odd = joined_rles(code for code in codes[name] if code is not None)
        if not name:
            problem = "the id is empty"
        elif None in codes[name]:
            problem = problem or "the line ends before rle_mask"
        elif not problem and path is None:
            problem = f"no image {name}.png in {folder}"
        problem = problem or odd
        problem = f"{table.name}, line {line}: {problem}" if problem else ""
        named.add(plain(f"{name}.png"))
        rows.append(Row(name, str(table if problem else path), f"rle:{text}", problem=problem))
    forgotten = f"an image that {table.name} does not name"
    left = [path for name, path in known.items() if name not in named]
    return rows + [Row(p.stem, str(p), problem=forgotten) for p in left]


def test(config: Config) -> list[Row]:
    """In sample_submission.csv's order; every image of test/images where there is no such file."""
    root = Path(config.data.root)
    folder, sample = root / "test" / "images", root / "sample_submission.csv"
    if not sample.is_file():
        paths = image_files(folder, "test images of data.format: tgs")
        return [Row(path.stem, str(path)) for path in paths][: config.data.limit]
    rows, known = dict[str, Row](), by_name(folder.iterdir() if folder.is_dir() else ())
    for line, cells in read_table(sample, ("id",)):
        name = cells["id"] or ""
        path, problem = locate_plain(folder, f"{name}.png", known)
        if problem or not name or name in rows:
            raise UserError(f"{sample}, line {line}: {problem or f'id {name!r} is empty or twice'}")
        missing = "" if path.is_file() else "no such image"
        rows[name] = Row(name, str(path), problem=missing)
    if not rows:
        raise UserError(f"{sample}: it names no id")
    return list(rows.values())[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    return SubmissionSpec(ids=[row.id for row in test(config)])


def test_truth(config: Config) -> list[Row] | None:
    return None
