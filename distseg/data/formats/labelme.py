"""labelme: a JSON of polygons, rectangles, circles and masks for each image.

Labels are the classes of the config; a JSON without shapes is an empty mask; `__ignore__` counts
nowhere. What lies in a folder called like a validation part validates. An image's id is its stem;
where stems are not all different its path, with `_` for `/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from distseg.config.data import MAX_PIXELS
from distseg.config.schema import Config
from distseg.data.categories import Id, class_places, detected_labels, objects_of
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import (
    IMAGE_SUFFIXES,
    Row,
    SubmissionSpec,
    parts_together,
    usual_submission,
)
from distseg.data.formats.words import said_by
from distseg.data.labelme_file import Labeled, read_labeled
from distseg.data.places import (
    given_folders,
    images_in,
    is_there,
    json_files,
    locate_inside,
    names_of,
    test_folders,
)
from distseg.data.shapes import shapes_target, shares_target
from distseg.records.errors import UserError
from distseg.records.log import counted

READS = ("labelme", "overlap")  # keys of `data` that only some layouts read
LOOKED_AT = 20  # JSON files that tell whether a folder has labelme's


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image and what its JSON says. problem: why it may not be used."""

    image: Path
    json: Path
    labeled: Labeled
    problem: str = ""


def detect(root: Path) -> Detected | None:
    """JSON files with shapes and the path of an image. UserError: no shape can be used."""
    some = (read_labeled(path, MAX_PIXELS) for path in islice(_json_files(root), LOOKED_AT))
    if not any(one is not None and one.image for one in some):
        return None
    parts = _parts(root, MAX_PIXELS)
    entries = [one for part in parts.values() for one in part]
    if not (used := _used(entries)):
        first = next((f"{one.json}: {one.labeled.problem}" for one in entries
                      if one.labeled.problem), "they are empty")  # fmt: skip
        raise UserError(f"{root}: no JSON of labelme has a shape that can be used: {first}")
    data: dict[str, Any] = {"format": "labelme"}
    if "val" in parts:
        data["folds"] = {"kind": "split"}
    labels = detected_labels({own: str(own) for own in used}, used)
    return Detected({"data": data, **labels}, f"{entries[0].json.name} has shapes of labelme")


def has_split(config: Config) -> bool:
    """Whether the data set has a validation part of its own."""
    return "val" in _read(config)


def said(config: Config) -> list[str]:
    """The parts with the number of their images and shapes."""
    lines = []
    for part, entries in _read(config).items():
        shapes = sum(len(own) for one in entries for own in one.labeled.shapes.values())
        lines.append(f"{part}: {counted(len(entries), 'JSON file')}, {counted(shapes, 'shape')}")
    return lines


def train(config: Config) -> list[Row]:
    """The rows of train, and of val where it is there; those validate with `kind: split`.
    `data.limit` cuts each of them."""
    parts, limit = _read(config), config.data.limit
    if "train" not in parts:
        raise UserError(f"{config.data.root}: no JSON of labelme here, but for a test part")
    rows = _rows(config, parts["train"], parts)[:limit]
    if "val" in parts:
        more = _rows(config, parts["val"], parts)[:limit]
        rows = parts_together(rows, more)
    return rows


def test(config: Config) -> list[Row]:
    """The images of the test folder."""
    paths = _test_images(config)
    names = names_of(config.data.root, paths)
    rows = [Row(name, str(path)) for name, path in zip(names, paths, strict=True)]
    return rows[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    ids = [row.id for row in test(config)]
    return usual_submission(config.data.labelme.submission, config.classes, ids)


def test_truth(config: Config) -> list[Row] | None:
    """The rows of the test images, where each has a JSON."""
    parts, paths = _read(config), _test_images(config)
    known = {one.image: one for one in parts.get("test", [])}
    if not paths or not known.keys() >= set(paths):
        return None
    entries = [known[path] for path in paths]
    return _rows(config, entries, parts, unlisted=False)[: config.data.limit]


# -- files ----------------------------------------------------------------------------------------


def _read(config: Config) -> dict[str, list[_Entry]]:
    return _parts(Path(config.data.root), config.data.max_pixels)


def _parts(root: Path, max_pixels: int) -> dict[str, list[_Entry]]:
    """The images that have a JSON, by the part that the JSON's folder is called: train, val, test;
    train where it is called none."""
    found: dict[str, dict[Path, _Entry]] = {}
    for path in _json_files(root):
        if (labeled := read_labeled(path, max_pixels)) is None:
            continue
        part = said_by(path.parent.relative_to(root.absolute()).parts).part or "train"
        own, (image, problem) = found.setdefault(part, {}), _image(root, path, labeled)
        entry = _Entry(image, path, labeled, problem)
        if (other := own.get(entry.image)) is not None:
            entry = replace(entry, problem=f"{other.json.name} and {path.name} are both its labels")
        own[entry.image] = entry
    return {part: list(own.values()) for part, own in found.items()}


def _json_files(root: Path) -> Iterator[Path]:
    """The JSON files of a folder; links that lead out of it are left out."""
    top = root.absolute()
    for path in json_files(top):
        if not locate_inside(top, path.relative_to(top).as_posix())[1]:
            yield path


def _image(root: Path, path: Path, labeled: Labeled) -> tuple[Path, str]:
    """The image of a JSON, and why it may not be used: where its `imagePath` leads to; else beside
    it, by that name, or by the JSON's own. The JSON itself where there is none."""
    top, name = root.absolute(), labeled.image.rpartition("/")[2]
    beside = [path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES]
    led = Path(os.path.normpath(path.parent / labeled.image))
    for one in (led, path.parent / name, *beside):
        if one.suffix.lower() in IMAGE_SUFFIXES and one.is_relative_to(top) and is_there(one):
            return one, locate_inside(top, one.relative_to(top).as_posix())[1]
    lost = f"imagePath is {labeled.image[-80:]!r}: no such image, nor beside it"
    return path, labeled.problem or lost


def _test_images(config: Config) -> list[Path]:
    root, given = Path(config.data.root), config.data.labelme.test_images
    key = "data.labelme.test_images"
    folders = given_folders(root, given, key) if given else test_folders(root, [])
    return [path for folder in folders for path in images_in(folder)]


# -- rows -----------------------------------------------------------------------------------------


def _used(entries: Sequence[_Entry]) -> list[Id]:
    return sorted({own for one in entries for own in one.labeled.shapes}, key=str)


def _rows(
    config: Config, entries: Sequence[_Entry], parts: dict[str, list[_Entry]], *,
    unlisted: bool = True,
) -> list[Row]:  # fmt: skip
    """unlisted: images of the same folders that have no JSON count, too."""
    used = _used([one for part in parts.values() for one in part])
    names = {own: str(own) for own in used}
    places = class_places(config, Path(config.data.root), names, used, "labelme")
    found = {one.image: _row(config, one, places) for one in entries}
    if unlisted:
        found |= _unlisted(config, found)
    ids = names_of(config.data.root, sorted(found))
    return [replace(found[path], id=own) for path, own in zip(sorted(found), ids, strict=True)]


def _row(config: Config, one: _Entry, places: dict[Id, int]) -> Row:
    labeled = one.labeled
    objects = objects_of(config, labeled.shapes, places)
    objects[-1] += labeled.ignored
    problem = one.problem or labeled.problem
    return Row("", str(one.image), shapes_target(labeled.height, labeled.width, objects),
               problem=problem and f"{one.json.name}: {problem}")  # fmt: skip


def _unlisted(config: Config, found: dict[Path, Row]) -> dict[Path, Row]:
    """Rows of the images in the same folders that have no JSON, as `unlisted` says."""
    folders = sorted({path.parent for path in found if path.suffix.lower() in IMAGE_SUFFIXES})
    others = [path for folder in folders for path in images_in(folder) if path not in found]
    meaning = config.data.labelme.unlisted
    if others and meaning is None:
        raise UserError(
            f"data.labelme.unlisted: {counted(len(others), 'image')} of {len(found) + len(others)} "
            f"without a JSON, as {others[0]}: write empty where they have no object, or leave_out"
        )
    nothing = shares_target([[]] * (len(config.classes) + 1))
    return {path: Row("", str(path), nothing) for path in others if meaning == "empty"}
