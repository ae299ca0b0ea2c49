"""Targets from mask files, or from the run-length codes (RLE) of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.schema import Config
from distseg.data.image_file import BadFile, decode, open_file
from distseg.functional import rle
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError


def read_target(target: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """A row's target as uint8 (K, H, W), VOID (255) in every K where a pixel counts nowhere.

    K is 1 for binary (0/1) and multiclass (class index), the number of classes for multilabel
    (0/1). A row without a target is VOID all over. Each mask file is opened and decoded once.

    Raises:
        UserError: a mask that cannot be read or has another size than the image, a value that is
            no class, or a bad RLE.
    """
    kind, _, value = target.partition(":")
    num = len(config.classes) if config.task == "multilabel" else 1
    if not target:
        return np.full((num, height, width), VOID, dtype=np.uint8)
    if kind == "rle":
        return _from_rle(value, config, height, width)
    assert kind == "file", target
    if "|" in value:
        return _from_files(value.split("|"), config, height, width)
    labels = _mapped(_sized_labels(value, height, width), config, value)
    if config.task == "binary":
        return _binary(labels, config, value)[None]
    return _indexed(labels, config, value)


def _sized_labels(path: str, height: int, width: int) -> NDArray:
    """The values of a mask file, (height, width); BadFile when the mask has another size."""
    labels = read_labels(path)
    if labels.shape != (height, width):
        found = f"{labels.shape[0]}x{labels.shape[1]}"
        raise BadFile(path, f"the mask is {found}, its image is {height}x{width}")
    return labels


def _mapped(labels: NDArray, config: Config, path: str) -> NDArray:
    """Values as `data.mask_values` translates them; BadFile for a value that it does not name."""
    meaning = config.data.value_map
    if meaning is None:
        return labels
    values, places = np.unique(labels, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in meaning]
    if unknown:
        raise BadFile(
            path,
            f"value {unknown[0]} has no meaning; known: {', '.join(map(str, sorted(meaning)))}",
        )
    return np.array([meaning[int(v)] for v in values], np.uint8)[places].reshape(labels.shape)


def _binary(labels: NDArray, config: Config, path: str) -> NDArray[np.uint8]:
    """A mask of two values as 0/1/VOID, (H, W).

    Values above `data.folder.threshold` are the object (up to it, where `inverted` is set). While
    the threshold is 0, a third value is a mistake: the file is a JPEG, or a mask of class indices.
    """
    options = config.data.folder
    void = _void(labels, config)
    known = labels[~void]
    if options.threshold == 0 and known.size:
        low, high = known.min(), known.max()
        odd = known[(known != low) & (known != high)]
        if odd.size:
            raise BadFile(
                path,
                f"a binary mask has two values, this has {low}, {high} and {odd[0]}: set "
                "data.folder.threshold (JPEG masks: 127), void, or task: multiclass",
            )
    mask = (labels > options.threshold) != options.inverted
    return np.where(void, VOID, mask).astype(np.uint8)


def _void(labels: NDArray, config: Config) -> NDArray[np.bool_]:
    """Whether each pixel counts nowhere: it has the config's void value, or 255 where
    `data.mask_values` translates the values."""
    value = VOID if config.data.value_map is not None else config.void
    return labels == value if value is not None else np.zeros(labels.shape, np.bool_)


def _indexed(labels: NDArray, config: Config, path: str) -> NDArray[np.uint8]:
    """A mask of class numbers as (K, H, W). Multiclass: one plane of class indices. Multilabel:
    one plane per class; the value v says class v - 1, and 0 says no class."""
    num = len(config.classes)
    highest = num if config.task == "multilabel" else num - 1
    void = _void(labels, config)
    wrong = labels[((labels > highest) | (labels < 0)) & ~void]
    if wrong.size:
        told = "no void value is set" if config.void is None else f"void is {config.void}"
        raise BadFile(path, f"value {wrong[0]} is no class of 0..{highest}, and {told}")
    if config.task == "multiclass":
        return np.where(void, VOID, labels).astype(np.uint8)[None]
    planes = labels[None] == np.arange(1, num + 1).reshape(-1, 1, 1)
    return np.where(void[None], VOID, planes).astype(np.uint8)


def _from_files(paths: list[str], config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """Multilabel, (K, H, W), from a binary mask file per class; an empty path is a class that the
    image does not hold."""
    assert len(paths) == len(config.classes)
    planes = [
        _binary(_sized_labels(path, height, width), config, path)
        if path
        else np.zeros((height, width), dtype=np.uint8)
        for path in paths
    ]
    stacked = np.stack(planes)
    stacked[:, (stacked == VOID).any(axis=0)] = VOID
    return stacked


def _from_rle(text: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """(K, H, W) from one RLE per class (column-major, from 1). Multiclass: a pixel that no RLE
    covers is class 0, and of several the last class counts."""
    codes = text.split("|")
    if len(codes) != len(config.classes):
        raise UserError(f"{len(codes)} RLEs for {len(config.classes)} classes")
    try:
        planes = np.stack([rle.decode(code, height, width) for code in codes])
    except ValueError as error:
        raise UserError(f"bad RLE: {error}") from None
    if config.task != "multiclass":
        return planes
    index = np.zeros((1, height, width), dtype=np.uint8)
    for number, plane in enumerate(planes):
        index[0][plane > 0] = number
    return index


def read_labels(path: str | Path) -> NDArray:
    """The raw values of a mask file, (H, W): palette indices, 1-bit as 0/1, 16-bit unscaled.

    BadFile: it cannot be decoded, or holds colors or real numbers.
    """
    with open_file(path) as file:
        pixels = decode(file, path).pixels
    array = np.asarray(_without_alpha(pixels) if isinstance(pixels, Image.Image) else pixels)
    if array.ndim == 3:
        if (array[:, :, :3] != array[:, :, :1]).any():
            raise BadFile(path, "is a color picture; a mask holds one value per pixel")
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        raise BadFile(path, "holds real numbers; a mask holds whole ones")
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _without_alpha(image: Image.Image) -> Image.Image:
    """Alpha says nothing about a label; the inks of CMYK are compared as colors."""
    if image.mode in ("LA", "PA"):
        return image.getchannel(0)
    return image.convert("RGB") if image.mode == "CMYK" else image
