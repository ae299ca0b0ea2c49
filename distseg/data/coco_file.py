"""A COCO JSON: images, categories and objects, read with limits and checked as a whole.

What is wrong with the file (no JSON, an id that stands twice, an object of an unknown image or
category) is a UserError; what is wrong with one object is a problem of its image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.data.categories import Id
from distseg.data.json_file import read_tree
from distseg.data.shapes import polygon
from distseg.records.errors import UserError, shown

MAX_BYTES = 512 << 20  # COCO's own train part has 450 MB
# Each takes 50 to 100 bytes once it is read. COCO's own train part has 45 million.
MAX_VALUES = 80_000_000


@dataclass(slots=True)
class Picture:
    """An image of the JSON. shapes: its objects by category, as texts of data/shapes.py; those that
    count nowhere (iscrowd) apart. problem: why one of them cannot be used."""

    file_name: str
    height: int
    width: int
    shapes: dict[Id, list[str]] = field(default_factory=dict)
    crowd: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class CocoFile:
    """categories: names by id, in the file's order. used: the ids that an object has.
    has_objects: whether it has a list of objects at all."""

    path: Path
    pictures: list[Picture]
    categories: dict[Id, str]
    used: set[Id]
    has_objects: bool


def read_coco(path: Path, max_pixels: int) -> CocoFile:
    """Read a COCO JSON. UserError: see above; each message is a line."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, stat.st_mtime_ns, stat.st_size, max_pixels)


@functools.lru_cache(maxsize=3)  # a command lists a data set several times
def _read(path: Path, time: int, size: int, max_pixels: int) -> CocoFile:
    tree = read_tree(path, MAX_BYTES, MAX_VALUES)
    if not isinstance(tree, dict) or "images" not in tree:
        raise UserError(f"{path}: is no COCO file: it has no list `images`")
    pictures = _pictures(path, _list(path, tree, "images"), max_pixels)
    categories = _categories(path, _list(path, tree, "categories"))
    used: set[Id] = set()
    seen: set[Id] = set()
    for number, one in enumerate(_list(path, tree, "annotations")):
        where = f"{path}: annotations[{number}]"
        _mapping(where, one)
        if one.get("id") is not None:
            if (own := _id(where, one, "id")) in seen:
                raise UserError(f"{where}: id {shown(own)} stands twice")
            seen.add(own)
        image, category = _id(where, one, "image_id"), _id(where, one, "category_id")
        if image not in pictures:
            raise UserError(f"{where}: image_id {shown(image)} is that of no image")
        if category not in categories:
            raise UserError(f"{where}: category_id {shown(category)} is that of no category")
        used.add(category)
        _add(pictures[image], one, category, f"annotations[{number}]")
    has_objects = "annotations" in tree
    return CocoFile(path, list(pictures.values()), categories, used, has_objects)


def _list(path: Path, tree: Mapping[str, Any], key: str) -> list[Any]:
    found = tree.get(key, [])
    if not isinstance(found, list):
        raise UserError(f"{path}: {key} is {shown(found)}; valid: a list")
    return found


def _mapping(where: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {shown(value)}; valid: a mapping")


def _id(where: str, record: Mapping[str, Any], key: str) -> Id:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{where}: {key} is {shown(value)}; valid: a whole number or a text")
    return value


def _pictures(path: Path, records: Sequence[Any], max_pixels: int) -> dict[Id, Picture]:
    found: dict[Id, Picture] = {}
    names: set[str] = set()
    for number, one in enumerate(records):
        where = f"{path}: images[{number}]"
        _mapping(where, one)
        own, name = _id(where, one, "id"), one.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: file_name is {shown(name)}; valid: a text")
        if own in found:
            raise UserError(f"{where}: id {shown(own)} stands twice")
        if name in names:
            raise UserError(f"{where}: file_name {shown(name)} stands twice")
        names.add(name)
        height, width = (_side(where, one, key) for key in ("height", "width"))
        found[own] = Picture(name, height, width)
        if height * width > max_pixels:
            found[
                own
            ].problem = (
                f"images[{number}]: {height}x{width} is more than data.max_pixels, {max_pixels:,}"
            )
    return found


def _side(where: str, record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 31:
        raise UserError(f"{where}: {key} is {shown(value)}; valid: a whole number of pixels")
    return value


def _categories(path: Path, records: Sequence[Any]) -> dict[Id, str]:
    found: dict[Id, str] = {}
    for number, one in enumerate(records):
        where = f"{path}: categories[{number}]"
        _mapping(where, one)
        own, name = _id(where, one, "id"), one.get("name")
        if not isinstance(name, str):
            raise UserError(f"{where}: name is {shown(name)}; valid: a text")
        if own in found or name in found.values():
            raise UserError(f"{where}: {shown(own)}, {shown(name)} stands twice")
        found[own] = name
    return found


def _add(picture: Picture, record: Mapping[str, Any], category: Id, where: str) -> None:
    """The shapes of an object; a problem of its image where they cannot be used."""
    if picture.problem:
        return
    try:
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"iscrowd is {shown(crowd)}; valid: 0 or 1")
        shapes = list(_shapes(record.get("segmentation"), picture.height, picture.width))
    except ValueError as error:
        picture.problem = f"{where}: {error}"
        return
    target = picture.crowd if crowd else picture.shapes.setdefault(category, [])
    target += shapes


def _shapes(segmentation: Any, height: int, width: int) -> Iterator[str]:
    if isinstance(segmentation, dict):
        yield _run_lengths(segmentation, height, width)
        return
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"segmentation is {shown(segmentation)}; valid: polygons or an RLE")
    for corners in segmentation:
        yield polygon(corners, height, width)


def _run_lengths(record: Mapping[str, Any], height: int, width: int) -> str:
    """The RLE (column-major, from 1) of COCO's run lengths, of which every second is an object's.
    Source of the compressed form: pycocotools, common/maskApi.c, rleFrString."""
    size, counts = record.get("size"), record.get("counts")
    if size != [height, width]:
        raise ValueError(f"an RLE of the size {shown(size)}, its image has {[height, width]}")
    if isinstance(counts, str):
        lengths = _decompressed(counts, height * width)
    elif isinstance(counts, list) and all(type(value) is int for value in counts):
        if len(counts) > height * width + 1 or any(not 0 <= n <= height * width for n in counts):
            raise ValueError("an RLE has a length below 0, or lengths beyond its image")
        lengths = np.array(counts, np.int64)
    else:
        raise ValueError(f"an RLE has counts {shown(counts)}; valid: whole numbers, or a text")
    if (total := int(lengths.sum())) != height * width:
        raise ValueError(f"an RLE of {total} pixels, its image has {height * width}")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[1::2]
    runs = np.stack([starts + 1, lengths[1::2]], axis=1)
    return " ".join(map(str, runs[runs[:, 1] > 0].ravel().tolist()))


def _decompressed(text: str, num_pixels: int) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed text: six bits a character, the lowest first, of which one
    says that more follow; from the third on a number is the difference to the one two before."""
    if len(text) > 7 * (num_pixels + 1):
        raise ValueError(
            f"an RLE of {len(text):,} characters holds more runs than the image pixels"
        )
    lengths: list[int] = []
    number = shift = 0
    for mark in text.encode("utf-8", "replace"):
        bits = mark - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError(f"{text[:40]!r} is no compressed RLE")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        value = number + (lengths[-2] if len(lengths) > 2 else 0)
        if not 0 <= value <= num_pixels:
            raise ValueError("a compressed RLE has a length below 0, or beyond its image")
        lengths.append(value)
        number = shift = 0
    if shift:
        raise ValueError(f"{text[-40:]!r} ends within a number of a compressed RLE")
    return np.array(lengths, np.int64)
