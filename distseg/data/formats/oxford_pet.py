"""Oxford-IIIT Pet (2012): images/*.jpg, annotations/trimaps/*.png, trainval.txt and test.txt.

A trimap holds 1 (pet), 2 (background) and 3 (border), which `data.border` counts as pet, as
background, or not at all. The truth of the test images, where it is there, is not trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import Row, SubmissionSpec, locate
from distseg.records.errors import UserError

# keys of `data` that only some layouts read
READS = ("border", "mask_values", "mask_channel")


def detect(root: Path) -> Detected | None:
    if not (root / "annotations" / "trimaps").is_dir() or not (root / "images").is_dir():
        return None
    if not (root / "annotations" / "trainval.txt").is_file():
        return None
    keys = {"data": {"format": "oxford_pet"}, "task": "binary", "classes": ["pet"]}
    return Detected(keys, "images and annotations/trimaps are there")


def train(config: Config) -> list[Row]:
    return _listed(config, "trainval.txt")


def test(config: Config) -> list[Row]:
    if not (Path(config.data.root) / "annotations" / "test.txt").is_file():
        return []
    return [Row(r.id, r.image, problem=r.problem) for r in _listed(config, "test.txt", masks=False)]


def submission(config: Config) -> SubmissionSpec:
    return SubmissionSpec("masks", ids=[row.id for row in test(config)])


def test_truth(config: Config) -> list[Row] | None:
    """Trimaps of the test images, where all of them are there."""
    rows = _listed(config, "test.txt") if test(config) else []
    return rows if rows and not any(row.problem for row in rows) else None


def _listed(config: Config, name: str, *, masks: bool = True) -> list[Row]:
    """The images that a list names, one `NAME CLASS SPECIES BREED` a line, with their trimaps."""
    root = Path(config.data.root).absolute()
    table = root / "annotations" / name
    rows: dict[str, Row] = {}
    for line, stem in _names(table):
        image, problem = locate(root / "images", f"{stem}.jpg")
        if problem and not masks:  # a submission has a file for each id
            raise UserError(f"{table}, line {line}: {problem}")
        mask = root / "annotations" / "trimaps" / f"{stem}.png"
        if stem in rows:
            raise UserError(f"{table}, line {line}: {stem!r} stands twice")
        if not problem and not image.is_file():
            problem = f"no image {image.name} in {image.parent}"
        if not problem and masks and not mask.is_file():
            problem = f"no trimap {mask.name} in {mask.parent}"
        problem = f"{table.name}, line {line}: {problem}" if problem else ""
        rows[stem] = Row(stem, str(image), f"file:{mask}" if masks else "", problem=problem)
    if not rows:
        raise UserError(f"{table}: it names no image")
    return list(rows.values())[: config.data.limit]


def _names(table: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read: {error}") from None
    for number, text in enumerate(lines, start=1):
        if text.strip() and not text.startswith("#"):
            yield number, text.split()[0]
