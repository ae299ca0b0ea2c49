"""The JSON that labelme writes for an image: shapes in pixels, each with a label.

What is no such file is None; what is wrong with one is a problem of its image.
"""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distseg.data.categories import Id
from distseg.data.json_file import read_tree
from distseg.data.shapes import polygon
from distseg.functional import rle
from distseg.records.errors import UserError, shown

MAX_BYTES, MAX_VALUES = 256 << 20, 5_000_000  # the image itself may be in it, as a text
KNOWN = 20_000  # files that are remembered: a command lists a data set several times
IGNORED = "__ignore__"  # labelme's own label of what counts nowhere
CORNERS = 128  # of a circle
READ = ("polygon", "rectangle", "circle", "mask")


@dataclass(slots=True)
class Labeled:
    """An image by its JSON. image: its path, from the JSON's folder. shapes: its objects by label,
    as texts of data/shapes.py; those that count nowhere apart. problem: why it cannot be used."""

    image: str
    height: int = 0
    width: int = 0
    shapes: dict[Id, list[str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    problem: str = ""


def read_labeled(path: Path, max_pixels: int) -> Labeled | None:
    """What a JSON says of its image; None where it is none of labelme's."""
    try:
        stat = path.stat()
    except OSError as error:
        return Labeled("", problem=f"cannot be read: {error.strerror}")
    return _read(path, stat.st_mtime_ns, stat.st_size, max_pixels)


@functools.lru_cache(maxsize=KNOWN)
def _read(path: Path, time: int, size: int, max_pixels: int) -> Labeled | None:
    try:
        tree = read_tree(path, MAX_BYTES, MAX_VALUES)
    except UserError as error:
        return Labeled("", problem=str(error).removeprefix(f"{path}: "))
    if not isinstance(tree, dict) or not tree.keys() >= {"shapes", "imagePath"}:
        return None
    found = Labeled(str(tree["imagePath"] or "").replace("\\", "/"))
    try:
        found.height, found.width = _side(tree, "imageHeight"), _side(tree, "imageWidth")
        if found.height * found.width > max_pixels:
            size_text = f"{found.height}x{found.width}"
            raise ValueError(f"{size_text} is more than data.max_pixels, {max_pixels:,}")
        if not isinstance(tree["shapes"], list):
            raise ValueError(f"shapes is {shown(tree['shapes'])}; valid: a list")
        for number, one in enumerate(tree["shapes"]):
            _add(found, one, f"shapes[{number}]")
    except ValueError as error:
        found.problem = str(error)
    return found


def _side(tree: Mapping[str, Any], key: str) -> int:
    value = tree.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 31:
        raise ValueError(f"{key} is {shown(value)}; valid: a whole number of pixels")
    return value


def _add(found: Labeled, shape: Any, where: str) -> None:
    try:
        if not isinstance(shape, dict):
            raise ValueError(f"is {shown(shape)}; valid: a mapping")
        label = shape.get("label")
        if not isinstance(label, str) or not label:
            raise ValueError(f"label is {shown(label)}; valid: a text")
        text = _text(shape, found.height, found.width)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    (found.ignored if label == IGNORED else found.shapes.setdefault(label, [])).append(text)


def _text(shape: Mapping[str, Any], height: int, width: int) -> str:
    """The shape as a text of data/shapes.py. ValueError: it has no area, or cannot be."""
    kind, points = shape.get("shape_type") or "polygon", _points(shape.get("points"))
    if kind == "polygon":
        return polygon([value for point in points for value in point], height, width)
    if kind not in READ:
        raise ValueError(f"shape_type {shown(kind)} has no area; valid: {', '.join(READ)}")
    if len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points; valid: 2")
    (left, top), (right, bottom) = points
    if kind == "circle":
        return _circle(points[0], math.dist(*points), height, width)
    if kind == "mask":
        return _mask(shape.get("mask"), points, height, width)
    corners = [left, top, right, top, right, bottom, left, bottom]
    return polygon(corners, height, width)


def _points(value: Any) -> list[list[float]]:
    if not isinstance(value, list):
        raise ValueError(f"points is {shown(value)}; valid: a list of x and y")
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"the point {shown(point)}; valid: x and y")
        for one in point:
            if type(one) not in (int, float) or not abs(one) <= 1e9:
                raise ValueError(f"the coordinate {shown(one)}; valid: pixels")
    return value


def _circle(center: Sequence[float], radius: float, height: int, width: int) -> str:
    """A circle, cut off at the edges of the image, in which its center lies."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    points = np.array(center) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = points.clip(0, (width, height)).round(3)
    polygon([*center] * 3, height, width)  # its message, where the center lies outside
    return polygon(points.ravel().tolist(), height, width)


def _mask(value: Any, points: list[list[float]], height: int, width: int) -> str:
    """A mask in a box of the image, whose corners belong to it: a PNG, as base64."""
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise ValueError(f"a mask at {points}, outside of {height}x{width}")
    size = (right - left + 1, bottom - top + 1)
    try:
        data = io.BytesIO(base64.b64decode(value, validate=True))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a mask that is no PNG: {error}") from None
    try:
        with Image.open(data, formats=["PNG"]) as png:
            if png.size != size:
                raise ValueError(f"a mask of {png.size}, its box has {size}")
            pixels = np.asarray(png.convert("L")) > 0
    except (OSError, SyntaxError) as error:  # Pillow's words of what is no PNG
        raise ValueError(f"a mask that is no PNG: {error}") from None
    if not pixels.any():
        raise ValueError("a mask without a pixel")
    plane = np.zeros((height, width), np.uint8)
    plane[top : bottom + 1, left : right + 1] = pixels
    return rle.encode(plane)
