"""Run-length encoding of binary masks: `start length start length ...`.

The field's usual form is column-major (top to bottom, then left to right), 1-indexed, ascending
and non-touching, with an empty string for an empty mask. Data sets differ in all three, so the
order, the base and the empty token are options: TGS, Severstal and Tianchi are
(column, 1, ""), Google contrails writes "-" and SIIM "-1" for empty, UW-Madison is row-major.
"""

import math
import re
from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.functional.naming import unknown_name

Order = Literal["column", "row"]

# what stands before the RLEs of a Manifest's target: how they count pixels
TARGET_KINDS: dict[str, tuple[Order, Literal[0, 1]]] = {
    "rle": ("column", 1),
    "rle_from_0": ("column", 0),
    "rle_rows": ("row", 1),
    "rle_rows_from_0": ("row", 0),
}
_NUMPY_ORDER: dict[str, Literal["F", "C"]] = {"column": "F", "row": "C"}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_TOKEN = re.compile(r"\S+")
_MAX_DIGITS = 18  # a longer number cannot be a pixel, and would overflow int64
_ONE = rf"[+-]?[0-9]{{1,{_MAX_DIGITS - 1}}}"
_INTEGERS = re.compile(rf"{_ONE}(?:\s+{_ONE})*+")


def target_kind(order: Order, base: Literal[0, 1]) -> str:
    """The kind of a Manifest's target whose RLEs count pixels so."""
    return next(kind for kind, value in TARGET_KINDS.items() if value == (order, base))


def encode(
    mask_HW: NDArray, *, order: Order = "column", base: Literal[0, 1] = 1, empty: str = ""
) -> str:
    """Encode a mask; any non-zero pixel is foreground.

    Args:
        mask_HW: bool or number, (H, W).
        order: "column" scans down the columns, "row" along the rows.
        base: the number of the first pixel, 0 or 1.
        empty: what an empty mask becomes.

    Returns:
        Ascending, non-touching runs as text: the only encoding of this mask.
    """
    _check_options(order, base)
    mask = np.asarray(mask_HW)
    if mask.ndim != 2:
        raise ValueError(f"a mask to encode must have the shape (H, W), not {mask.shape}")
    flat = np.zeros(mask.size + 2, dtype=np.bool_)  # a background pixel either side closes all runs
    flat[1:-1] = (mask != 0).ravel(order=_NUMPY_ORDER[order])
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # of bool, which numpy counts fast
    if edges.size == 0:
        return empty
    starts, ends = edges[0::2], edges[1::2]
    runs = np.stack([starts + base, ends - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def encode_labels(
    labels_HW: NDArray, *, order: Order = "column", base: Literal[0, 1] = 1
) -> list[str]:
    """Encode each object of an image of labels by itself: 0 is the background, every other number
    an object.

    Returns:
        One text for each number that the image holds, ascending; what `encode` gives for it.
    """
    _check_options(order, base)
    flat = np.zeros(labels_HW.size + 2, dtype=np.int64)
    flat[1:-1] = labels_HW.ravel(order=_NUMPY_ORDER[order])
    edges = np.flatnonzero(np.diff(flat))
    starts, lengths, numbers = edges[:-1], np.diff(edges), flat[edges[:-1] + 1]
    objects = np.flatnonzero(numbers)
    objects = objects[np.argsort(numbers[objects], kind="stable")]
    runs = np.stack([starts[objects] + base, lengths[objects]], axis=1)
    cuts = np.flatnonzero(np.diff(numbers[objects])) + 1
    return [" ".join(map(str, own.ravel().tolist())) for own in np.split(runs, cuts) if own.size]


def encode_rows(
    mask_HW: NDArray, *, per_object: bool, order: Order, base: Literal[0, 1], empty: str
) -> list[str]:
    """The cells of a mask in a table: one, or with `per_object` one for each connected object (8
    neighbors), where it has any. Arguments as of `encode`."""
    if not per_object or not mask_HW.any():
        return [encode(mask_HW, order=order, base=base, empty=empty)]
    _, labels = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    return encode_labels(labels, order=order, base=base)


def decode(
    rle: str | float | None,
    height: int,
    width: int,
    *,
    order: Order = "column",
    base: Literal[0, 1] = 1,
    empty: str = "",
) -> NDArray[np.uint8]:
    """Decode a run-length string into a mask.

    None, NaN (how a table reads a missing cell), blank text and the `empty` token are an empty
    mask. Runs that touch (`1 2 3 4`) are accepted, since some published files hold them; they
    encode back to one run.

    Returns:
        uint8 (height, width), 0 or 1, C-contiguous.

    Raises:
        ValueError: an odd count of numbers, a start under `base`, a length under 1, a run beyond
            height * width, runs that overlap or descend, or text that is no integer.
    """
    _check_options(order, base)
    _check_size(height, width)
    starts, ends = _parse_runs(rle, height * width, base, empty)
    steps = np.zeros(height * width + 1, dtype=np.int8)
    steps[starts] += 1  # starts are distinct, and so are ends: no += is lost
    steps[ends] -= 1
    flat = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)
    return np.ascontiguousarray(flat.reshape((height, width), order=_NUMPY_ORDER[order]))


def decode_union(
    rles: Iterable[str],
    height: int,
    width: int,
    *,
    order: Order = "column",
    base: Literal[0, 1] = 1,
    empty: str = "",
) -> NDArray[np.uint8]:
    """The union of several RLEs of one image, which may overlap each other, in one pass over its
    pixels however many there are. Otherwise as `decode`."""
    _check_options(order, base)
    _check_size(height, width)
    steps = np.zeros(height * width + 1, dtype=np.int32)
    for text in rles:
        starts, ends = _parse_runs(text, height * width, base, empty)
        steps[starts] += 1  # distinct within one RLE
        steps[ends] -= 1
    flat = (np.cumsum(steps[:-1]) > 0).view(np.uint8)
    return np.ascontiguousarray(flat.reshape((height, width), order=_NUMPY_ORDER[order]))


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"a mask needs a height and a width of at least 1, not {height}x{width}")


def _check_options(order: str, base: int) -> None:
    if order not in _NUMPY_ORDER:
        raise unknown_name("RLE order", order, _NUMPY_ORDER)
    if base not in (0, 1):
        raise ValueError(f"the base of an RLE must be 0 or 1, not {base!r}")


def _parse_runs(
    rle: str | float | None, num_pixels: int, base: int, empty: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Text -> checked 0-indexed (starts, ends), ends exclusive."""
    numbers = _parse_integers(rle, empty, num_pixels)
    if numbers.size % 2:
        raise ValueError(f"an RLE is pairs of start and length, but holds {numbers.size} numbers")
    starts, lengths = numbers[0::2] - base, numbers[1::2]
    ends = starts + lengths
    _reject(starts < 0, starts + base, lengths, f"starts under {base}")
    _reject(lengths < 1, starts + base, lengths, "has a length under 1")
    _reject(ends > num_pixels, starts + base, lengths, f"goes beyond the {num_pixels} pixels")
    descends, overlaps = np.zeros((2, starts.size), dtype=bool)
    descends[1:] = starts[1:] <= starts[:-1]
    overlaps[1:] = starts[1:] < ends[:-1]
    _reject(descends, starts + base, lengths, "does not start after the run before it")
    _reject(overlaps, starts + base, lengths, "overlaps the run before it")
    return starts, ends


def _parse_integers(rle: str | float | None, empty: str, num_pixels: int) -> NDArray[np.int64]:
    if rle is None or (isinstance(rle, float) and math.isnan(rle)):
        return np.zeros(0, np.int64)
    if not isinstance(rle, str):
        raise ValueError(f"an RLE must be text, not {type(rle).__name__} {rle!r:.40}")
    text = rle.strip()
    if text == empty.strip():
        return np.zeros(0, np.int64)
    # Before the text becomes objects, which take many times its memory: at most one run a pixel.
    if len(text) > 10_000 + 2 * num_pixels * (_MAX_DIGITS + 2):
        raise ValueError(
            f"an RLE of {len(text):,} characters holds more runs than the image pixels"
        )
    # int() alone would let '1_0' and non-ASCII digits through
    if not _INTEGERS.fullmatch(text):
        for token in _TOKEN.finditer(text):
            if not _INTEGER.fullmatch(token[0]):
                raise ValueError(f"an RLE holds whole numbers only, not {token[0][:40]!r}")
            if len(token[0]) > _MAX_DIGITS:
                raise ValueError(f"the number {token[0][:20]}... in an RLE goes beyond every image")
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    if numbers.size > 2 * num_pixels:
        raise ValueError(
            f"an RLE of {numbers.size // 2:,} runs for an image of {num_pixels} pixels"
        )
    return numbers


def _reject(bad: NDArray[np.bool_], starts: NDArray, lengths: NDArray, why: str) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"run {i + 1} of the RLE ({starts[i]} {lengths[i]}) {why}")
