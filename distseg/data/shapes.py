"""Objects of a target as polygons and run lengths, drawn at the size that they were made for.

A target `shapes:HEIGHTxWIDTH:A|B|VOID` has a text for each class and one for the pixels that count
nowhere. In it stand objects, joined by ";": an RLE (column-major, from 1) or `poly x y x y ...`, in
pixels from the upper left corner of the image. With `shares` for the size x and y are shares, 0..1,
of the width and the height that the image turns out to have. Polygons are drawn as COCO draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from distseg.functional import rle
from distseg.records.errors import shown

POLYGON = "poly "
SHARES = "shares"
OUTSIDE = 1.0  # pixels that a corner may lie outside of the image; it is moved to the edge
MAX_OUTLINE = 5_000_000  # pixels of all sides of a polygon together: drawing takes 80 bytes each
_MERGED = 64  # run lengths that are joined at once: each is gone through as often


def shapes_target(height: int, width: int, objects: Sequence[Sequence[str]]) -> str:
    """The target of an image; objects: those of each class, and last those that count nowhere."""
    return f"shapes:{height}x{width}:{_joined(objects)}"


def shares_target(objects: Sequence[Sequence[str]]) -> str:
    """The same of polygons in shares of the image."""
    return f"shapes:{SHARES}:{_joined(objects)}"


def _joined(objects: Sequence[Sequence[str]]) -> str:
    return "|".join(";".join(one) for one in objects)


def draw_shapes(value: str, height: int, width: int) -> list[NDArray[np.uint8]]:
    """A uint8 (H, W) of 0 and 1 for each class, and for the pixels that count nowhere.

    value: a target without its kind.
    ValueError: it was made for another size, or a shape is none.
    """
    size, _, texts = value.partition(":")
    if size not in (SHARES, f"{height}x{width}"):
        turned = size == f"{width}x{height}"
        hint = ": EXIF turns the picture, but not its labels" if turned else ""
        raise ValueError(f"the labels are for {size}, the image is {height}x{width}{hint}")
    unit = (width, height) if size == SHARES else (1, 1)
    return [_union(text, height, width, unit) for text in texts.split("|")]


def polygon(corners: Any, height: int, width: int) -> str:
    """The text of a polygon. corners: x and y of each, as a file of somebody else's has them.
    ValueError: they are none of an image of this size."""
    if not isinstance(corners, list) or len(corners) < 6 or len(corners) % 2:
        raise ValueError(f"polygon {shown(corners)}: valid: x and y of three corners or more")
    if not all(type(value) in (int, float) for value in corners):
        odd = next(value for value in corners if type(value) not in (int, float))
        raise ValueError(f"a polygon has the coordinate {shown(odd)}; valid: numbers")
    if any(abs(value) > 1e9 or not math.isfinite(value) for value in corners):
        odd = next(value for value in corners if abs(value) > 1e9 or not math.isfinite(value))
        raise ValueError(f"a polygon has the coordinate {shown(odd)}, outside of {height}x{width}")
    points = np.array(corners, np.float64).reshape(-1, 2)
    outside = (points < -OUTSIDE) | (points > np.array([width, height]) + OUTSIDE)
    if outside.any():
        x, y = points[outside.any(axis=1)][0].tolist()
        raise ValueError(f"a polygon has the corner {x:g}, {y:g}, outside of {height}x{width}")
    if (length := outline(points)) > MAX_OUTLINE:
        raise ValueError(f"a polygon has an outline of {length:,.0f} pixels")
    return POLYGON + " ".join(map(repr, corners))


def outline(points: NDArray[np.float64]) -> float:
    """Pixels of all sides of a polygon together; points: (N, 2)."""
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _union(text: str, height: int, width: int, unit: tuple[int, int]) -> NDArray[np.uint8]:
    polygons: list[Any] = []
    runs: list[str] = []
    for shape in text.split(";"):
        if shape.startswith(POLYGON):
            polygons += coco.frPyObjects([_corners(shape, height, width, unit)], height, width)
        else:
            runs.append(shape)
    plane = rle.decode_union(runs, height, width)
    while len(polygons) > 1:
        groups = [polygons[i : i + _MERGED] for i in range(0, len(polygons), _MERGED)]
        polygons = [coco.merge(group) for group in groups]
    return plane | coco.decode(polygons[0]) if polygons else plane


def _corners(shape: str, height: int, width: int, unit: tuple[int, int]) -> list[float]:
    """x and y of each corner, moved into the image: what draws them takes what it is given. unit:
    pixels that an x and a y of 1 stand for."""
    corners = np.array(shape.removeprefix(POLYGON).split(" "), np.float64)
    if len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"{shape[:40]!r} is no polygon")
    points = (corners.reshape(-1, 2) * unit).clip(0, (width, height))
    if (length := outline(points)) > MAX_OUTLINE:
        raise ValueError(f"a polygon has an outline of {length:,.0f} pixels")
    return points.ravel().tolist()
