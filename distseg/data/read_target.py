"""Targets from mask files, or from the run-length codes (RLE) of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.mask_file import BadMask, Coding, MaskFile, read_mask
from distseg.data.shapes import draw_shapes
from distseg.functional import rle
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError

ALL = -1  # of a mask file that holds every class


@dataclass(frozen=True, slots=True)
class Target:
    """planes: uint8 (K, H, W), see `read_target`. codings: how each of its mask files says its
    labels, with the number of the class that the file is for, or `ALL`."""

    planes: NDArray[np.uint8]
    codings: tuple[tuple[int, Coding], ...] = ()


def read_target(target: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """A row's target as uint8 (K, H, W), VOID (255) in every K where a pixel counts nowhere.

    K is 1 for binary (0/1) and multiclass (class index), the number of classes for multilabel
    (0/1). A row without a target is VOID all over. Each mask file is opened and decoded once.

    Raises:
        UserError: a mask that cannot be read or has another size than the image, a value that is
            no class, or a bad RLE.
    """
    return open_target(target, config, height, width).planes


def open_target(target: str, config: Config, height: int, width: int) -> Target:
    """`read_target`, with what its mask files hold. BadMask: a file whose values mean nothing."""
    kind, _, value = target.partition(":")
    num = len(config.classes) if config.task == "multilabel" else 1
    if not target:
        return Target(np.full((num, height, width), VOID, dtype=np.uint8))
    if kind == "shapes" or kind in rle.TARGET_KINDS:
        return Target(_from_text(kind, value, config, height, width))
    assert kind == "file", target
    if "|" in value:
        return _from_files(value.split("|"), config, height, width)
    planes, codings = _from_parts(value, config, height, width, config.task != "binary")
    return Target(planes, tuple((ALL, coding) for coding in codings))


def _from_parts(
    value: str, config: Config, height: int, width: int, is_indexed: bool
) -> tuple[NDArray[np.uint8], list[Coding]]:
    """(K, H, W) of one mask file, or of several that are joined by ";": one per object, of which
    the highest label counts. is_indexed: the values are class numbers."""
    highest, void, codings = np.zeros((), np.uint8), np.zeros((), np.bool_), []
    for path in value.split(";"):
        mask = _sized_mask(path, config, height, width)
        labels = _mapped(mask, config)
        planes = (
            _indexed(labels, config, mask.coding)
            if is_indexed
            else _binary(labels, config, mask.coding)[None]
        )
        void = void | (planes == VOID)
        highest = np.maximum(highest, np.where(planes == VOID, 0, planes))
        codings.append(mask.coding)
    return np.where(void & (highest == 0), VOID, highest).astype(np.uint8), codings


def _sized_mask(path: str, config: Config, height: int, width: int) -> MaskFile:
    """A mask file; BadMask when it has another size than the image."""
    data = config.data
    colors = data.color_map(config.task, config.classes)
    mask = read_mask(path, data.mask_channel, colors, data.max_pixels)
    if mask.labels.shape != (height, width):
        found = f"{mask.labels.shape[0]}x{mask.labels.shape[1]}"
        turned = mask.labels.shape == (width, height)
        hint = ": an EXIF orientation turns a picture that has one" if turned else ""
        raise BadMask(mask.coding, f"the mask is {found}, its image is {height}x{width}{hint}")
    return mask


def _mapped(mask: MaskFile, config: Config) -> NDArray:
    """Values as `data.mask_values` translates them; BadMask for a value that it does not name."""
    meaning, labels = config.data.value_map, mask.labels
    if meaning is None:
        return labels
    values, places = np.unique(labels, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in meaning]
    if unknown:
        known = ", ".join(map(str, sorted(meaning)))
        raise BadMask(mask.coding, f"value {unknown[0]} has no meaning; known: {known}")
    return np.array([meaning[int(v)] for v in values], np.uint8)[places].reshape(labels.shape)


def _binary(labels: NDArray, config: Config, coding: Coding) -> NDArray[np.uint8]:
    """A mask of two values as 0/1/VOID, (H, W).

    Values above `data.folder.threshold` are the object (up to it, where `inverted` is set). While
    the threshold is 0, a third value is a mistake: the file is a JPEG, or a mask of class indices;
    but where the objects are `numbered`.
    """
    options = config.data.folder
    void = _void(labels, config)
    known = labels[~void]
    if options.threshold == 0 and not options.numbered and known.size:
        low, high = known.min(), known.max()
        odd = known[(known != low) & (known != high)]
        if odd.size:
            raise BadMask(
                coding,
                f"a binary mask has two values, this has {low}, {high} and {odd[0]}: set "
                "data.folder.threshold (JPEG masks: 127), void, task: multiclass, or "
                "data.folder.numbered where each object has a number of its own",
            )
    is_object = labels != 0 if options.numbered else labels > options.threshold
    mask = is_object != options.inverted
    return np.where(void, VOID, mask).astype(np.uint8)


def _void(labels: NDArray, config: Config) -> NDArray[np.bool_]:
    """Whether each pixel counts nowhere: it has the config's void value, or 255 where
    `data.mask_values` or `data.colors` translate the values."""
    translated = config.data.value_map is not None or config.data.colors is not None
    value = VOID if translated else config.void
    return labels == value if value is not None else np.zeros(labels.shape, np.bool_)


def _indexed(labels: NDArray, config: Config, coding: Coding) -> NDArray[np.uint8]:
    """A mask of class numbers as (K, H, W). Multiclass: one plane of class indices. Multilabel:
    one plane per class; the value v says class v - 1, and 0 says no class."""
    num = len(config.classes)
    highest = num if config.task == "multilabel" else num - 1
    void = _void(labels, config)
    wrong = labels[((labels > highest) | (labels < 0)) & ~void]
    if wrong.size:
        told = "no void value is set" if config.void is None else f"void is {config.void}"
        raise BadMask(coding, f"value {wrong[0]} is no class of 0..{highest}, and {told}")
    if config.task == "multiclass":
        return np.where(void, VOID, labels).astype(np.uint8)[None]
    planes = labels[None] == np.arange(1, num + 1).reshape(-1, 1, 1)
    return np.where(void[None], VOID, planes).astype(np.uint8)


def _from_files(paths: list[str], config: Config, height: int, width: int) -> Target:
    """Multilabel, (K, H, W), from a binary mask file per class; an empty path is a class that the
    image does not hold, or what `files_per_class` writes behind that of one class."""
    paths = paths[:1] if len(config.classes) == 1 else paths
    assert len(paths) == len(config.classes)
    planes, codings = [], []
    for number, path in enumerate(paths):
        if not path:
            planes.append(np.zeros((height, width), dtype=np.uint8))
            continue
        plane, own = _from_parts(path, config, height, width, is_indexed=False)
        planes.append(plane[0])
        codings += [(number, coding) for coding in own]
    stacked = np.stack(planes)
    stacked[:, (stacked == VOID).any(axis=0)] = VOID
    return Target(stacked, tuple(codings))


def _from_text(kind: str, value: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """(K, H, W) from one RLE per class, or several that are joined by ";", whose union counts; or
    from shapes, which have pixels that count nowhere, too. UserError: what is no RLE, or a pixel of
    a multiclass set that is of two classes."""
    num = len(config.classes) + (kind == "shapes")
    codes = value.split("|")
    if len(codes) != num:
        raise UserError(f"{len(codes)} RLEs for {num} classes")
    try:
        if kind == "shapes":
            *planes, void = draw_shapes(value, height, width)
        else:
            planes = [_union(code.split(";"), kind, height, width) for code in codes]
            void = np.zeros((height, width), np.uint8)
    except ValueError as error:
        raise UserError(f"bad {'labels' if kind == 'shapes' else 'RLE'}: {error}") from None
    labels = _highest(planes, config)[None] if config.task == "multiclass" else np.stack(planes)
    return np.where(void > 0, VOID, labels).astype(np.uint8)


def _highest(planes: Sequence[NDArray[np.uint8]], config: Config) -> NDArray[np.uint8]:
    """Class indices (H, W): a pixel that no plane covers is class 0, and of several the last class
    counts where the config says so."""
    index, taken = np.zeros(planes[0].shape, np.uint8), np.zeros(planes[0].shape, np.bool_)
    for number, plane in enumerate(planes):
        twice = taken & (plane > 0)
        if config.data.overlap == "refuse" and twice.any():
            other = config.classes[index[twice][0]]
            raise UserError(
                f"{int(twice.sum())} pixels are of {other} and of {config.classes[number]}, and "
                "task: multiclass has one class a pixel; data.overlap: class lets the one that "
                "stands later in classes cover the other"
            )
        index[plane > 0] = number
        taken |= plane > 0
    return index


def _union(codes: Sequence[str], kind: str, height: int, width: int) -> NDArray[np.uint8]:
    order, base = rle.TARGET_KINDS[kind]
    return rle.decode_union(codes, height, width, order=order, base=base)
