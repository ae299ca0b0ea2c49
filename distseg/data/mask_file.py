"""What a mask file holds: a whole number per pixel, and how the file has coded it.

The number is a gray value; the index of a palette that holds colors; or what `data.colors` makes of
a color. A palette of grays is only a way to store gray values, so these count, not their places in
the palette.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.data import MAX_PIXELS
from distseg.data.image_file import BadFile, Decoded, decode, open_file

Color = tuple[int, int, int]
Channel = Literal["auto", "color", "alpha"]
MAX_VALUES = 256  # that are counted; a file with more values is no mask


@dataclass(frozen=True, slots=True)
class Coding:
    """How a mask file says its labels, for comparison with the other files of the set.

    bits: of a value: 1, 8, 16 or 32.
    counts: pixels by value, of at most MAX_VALUES values.
    palette: the color of each value that is an index of a palette; empty for other files.
    """

    path: str
    bits: int
    counts: Mapping[int, int]
    palette: Mapping[int, Color] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MaskFile:
    """labels: whole numbers, (H, W)."""

    labels: NDArray
    coding: Coding


class BadMask(BadFile):
    """A mask that cannot be used; what it holds still counts when the set is judged."""

    def __init__(self, coding: Coding, reason: str) -> None:
        super().__init__(coding.path, reason)
        self.coding = coding


def read_labels(path: str | Path) -> NDArray:
    """The labels of a mask file, (H, W); see `read_mask`."""
    return read_mask(path).labels


def read_mask(
    path: str | Path,
    channel: Channel = "auto",
    colors: Mapping[Color, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> MaskFile:
    """Read a mask file: 1-bit as 0/1, 16-bit unscaled.

    channel: where the label stands, see `data.mask_channel`.
    colors: what each color means; None: the file may hold no colors, but in a palette.

    BadFile: it cannot be decoded, has more than `max_pixels`, holds colors that are not named, or
    real numbers, or has an alpha channel that says something else than its colors.
    """
    with open_file(path) as file:
        return mask_of(decode(file, path, max_pixels), channel, colors)


def mask_of(
    decoded: Decoded, channel: Channel = "auto", colors: Mapping[Color, int] | None = None
) -> MaskFile:
    """The mask that a decoded file holds; see `read_mask`."""
    path = decoded.path
    if decoded.is_stack:
        pages = decoded.pixels.shape[-1]  # type: ignore[union-attr]
        raise BadFile(path, f"has {pages} pages; a mask is one: give each page a file of its own")
    palette: dict[int, Color] = {}
    if colors is not None:
        labels = _named(decoded, colors)
    else:
        array, alpha, palette = _planes(decoded)
        labels = _chosen(array, alpha, channel, path)
    bits = 1 if labels.dtype == np.bool_ else 8 * labels.dtype.itemsize
    labels = labels.astype(np.uint8) if labels.dtype == np.bool_ else labels
    counts = count_values(labels)
    used = {value: palette[value] for value in counts if value in palette}
    return MaskFile(labels, Coding(path, bits, counts, used))


def count_values(labels: NDArray) -> dict[int, int]:
    """Pixels by value, ascending; at most MAX_VALUES values."""
    if labels.dtype in (np.uint8, np.uint16):
        counts = np.bincount(labels.ravel())
        values = np.flatnonzero(counts)[:MAX_VALUES]
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, sizes = np.unique(labels, return_counts=True)
    return dict(zip(values[:MAX_VALUES].tolist(), sizes[:MAX_VALUES].tolist(), strict=True))


def _planes(decoded: Decoded) -> tuple[NDArray, NDArray | None, dict[int, Color]]:
    """(labels (H, W), alpha (H, W) or None, colors of a palette) of a file without named colors."""
    image, path = decoded.pixels, decoded.path
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        alpha = array[..., -1] if array.ndim == 3 and array.shape[2] in (2, 4) else None
        return _gray(array, path, has_alpha=alpha is not None), alpha, {}
    alpha = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if image.mode in ("P", "PA"):
        palette = _palette(image)
        if any(len(set(color)) > 1 for color in palette.values()):
            return np.asarray(image.getchannel(0)), alpha, palette
        return np.asarray(image.convert("RGB").getchannel(0)), alpha, {}
    if image.mode in ("CMYK", "RGBa", "RGBA"):  # inks are compared as colors
        image = image.convert("RGB")
    array = np.asarray(image.getchannel(0) if image.mode in ("LA", "La") else image)
    return _gray(array, path), alpha, {}


def _palette(image: Image.Image) -> dict[int, Color]:
    """The color of each index that the file's palette has."""
    flat = image.getpalette("RGB") or []
    colors = [tuple(flat[place : place + 3]) for place in range(0, len(flat), 3)]
    return dict(enumerate(colors))  # type: ignore[arg-type]


def _gray(array: NDArray, path: str, *, has_alpha: bool = False) -> NDArray:
    """(H, W) whole numbers of an array (H, W) or (H, W, C) whose channels are equal."""
    if array.ndim == 3:
        array = array[..., :-1] if has_alpha else array
        if (array != array[:, :, :1]).any():
            raise BadFile(
                path,
                "is a color picture; a mask holds one value per pixel: say with data.colors what "
                "each color means",
            )
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.round(array)).any():
            raise BadFile(path, "holds real numbers; a mask holds whole ones")
        if array.min() >= 0 and array.max() <= 255:
            return array.astype(np.uint8)
        array = array.astype(np.int64)
    return array


def _chosen(labels: NDArray, alpha: NDArray | None, channel: Channel, path: str) -> NDArray:
    """The plane that says the label."""
    if channel == "alpha":
        if alpha is None:
            raise BadFile(path, "has no alpha channel, which data.mask_channel asks for")
        return alpha
    if channel == "auto" and alpha is not None:
        is_constant = bool((alpha == alpha[0, 0]).all()) and alpha[0, 0] > 0
        if not is_constant and ((alpha > 0) != (labels > 0)).any():
            raise BadFile(
                path,
                "its alpha channel says something else than its colors: set data.mask_channel to "
                "alpha or color",
            )
    return labels


def _named(decoded: Decoded, colors: Mapping[Color, int]) -> NDArray[np.uint8]:
    """uint8 (H, W): what each pixel's color means. BadFile: a color without a name."""
    image, path = decoded.pixels, decoded.path
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise BadFile(path, f"holds numbers (mode {image.mode}), not the colors of data.colors")
        array = np.asarray(image.convert("RGB"))
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise BadFile(path, f"an array of {array.dtype} {array.shape} holds no colors")
    packed = (array.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    values, places, sizes = np.unique(packed, return_inverse=True, return_counts=True)
    named = {(r << 16) + (g << 8) + b: label for (r, g, b), label in colors.items()}
    unknown = [(int(n), int(v)) for v, n in zip(values, sizes, strict=True) if int(v) not in named]
    if unknown:
        pixels, value = max(unknown)
        color = [value >> 16, value >> 8 & 255, value & 255]
        raise BadFile(
            path,
            f"color {color} ({pixels} pixels) is not in data.colors; {len(unknown)} such colors",
        )
    labels = np.array([named[int(value)] for value in values], np.uint8)
    return labels[places].reshape(packed.shape)
