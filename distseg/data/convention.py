"""How the RLEs of a table count pixels, as far as they say it themselves.

The base: no run starts at 0 where pixels count from 1, and none ends behind the last pixel where
they count from 0. One run alone tells, unless it is a mistake; then the runs at the edges of the
images say something else. The order: an object crosses neighboring lines at about the same place,
so that one run starts about one line behind the run before it; how long a line is says which way it
goes. Square images do not say it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["column", "row"]
Base = Literal[0, 1]
Size = Callable[[int], tuple[int, int] | None]  # (height, width) of the image of a text; None: bad

LOOKED = 300  # images whose size is read to find out the base
LOOKED_ORDER = 60  # and the order
NEAR = 2  # pixels between where a run starts and where the one before it would on the next line
LEAST = 8  # such pairs of runs
SURE = 4  # times as many as for the other order


def find_base(texts: Sequence[str], size: Size, order: Order | None) -> Base | None:
    """The number of the first pixel; None where no run tells.

    size: of the image of texts[i]; asked of those alone that end last, and of the first ones.
    order: as it is known, for a second look: objects at the edge of the image begin and end with a
        line, which must not speak against the one run that tells.
    ValueError: some runs say 0 and others say 1; the message has one of them.
    """
    zero = next((text for text in texts if _first(text) == 0), None)
    beyond = None
    ends = np.array([_end(text) for text in texts], np.float64)
    for place in np.argsort(-ends, kind="stable")[:LOOKED]:
        found = size(int(place))
        if found is not None and ends[place] - 1 == found[0] * found[1]:
            beyond = texts[place]
            break
    if zero is not None and beyond is not None:
        raise ValueError(f"{zero[:30]!r} starts at 0, and {beyond[-30:]!r} ends at the last pixel")
    if zero is None and beyond is None:
        return None
    from_0, from_1 = _at_edges(texts, size, order)
    if zero is not None and from_1 > LEAST + 2 * from_0:
        raise ValueError(f"{zero[:30]!r} starts at 0, and the runs at the edges count from 1")
    if beyond is not None and from_0 > LEAST + 2 * from_1:
        raise ValueError(
            f"{beyond[-30:]!r} ends at the last pixel, and the runs at the edges count from 0"
        )
    return 0 if zero is not None else 1


def _at_edges(texts: Sequence[str], size: Size, order: Order | None) -> tuple[int, int]:
    """How many runs begin or end with a line, if pixels count from 0 and if they count from 1."""
    counts = [0, 0]
    for place, text in enumerate(texts[:LOOKED] if order is not None else ()):
        found, numbers = size(place), _numbers(text)
        if found is None or numbers is None:
            continue
        line = found[0] if order == "column" else found[1]
        edges = np.concatenate([numbers[::2], numbers[::2] + numbers[1::2]]) % line
        counts[0] += int((edges == 0).sum())
        counts[1] += int((edges == 1).sum())
    return counts[0], counts[1]


def find_order(texts: Sequence[str], size: Size) -> Order | None:
    """Whether runs go down the columns or along the rows; None where they do not tell."""
    pairs = {"column": 0, "row": 0}
    places = [i for i, text in enumerate(texts) if text.count(" ") >= 2 * LEAST]
    for place in places[:LOOKED_ORDER]:
        found, numbers = size(place), _numbers(texts[place])
        if found is None or numbers is None or abs(found[0] - found[1]) <= 3 * NEAR:
            continue
        steps = np.diff(numbers[::2])
        pairs["column"] += int((np.abs(steps - found[0]) <= NEAR).sum())
        pairs["row"] += int((np.abs(steps - found[1]) <= NEAR).sum())
    if max(pairs.values()) < LEAST:
        return None
    if pairs["column"] >= SURE * pairs["row"]:
        return "column"
    return "row" if pairs["row"] >= SURE * pairs["column"] else None


def _numbers(text: str) -> NDArray[np.int64] | None:
    """The numbers of an RLE; None where it is none."""
    parts = text.split()
    if len(parts) % 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    if any(len(part) > 15 for part in parts):
        return None
    return np.array(parts, np.int64)


def _first(text: str) -> int | None:
    """The lowest start."""
    part = text.split(maxsplit=1)[0]
    return int(part) if part.isascii() and part.isdigit() and len(part) <= 15 else None


def _end(text: str) -> float:
    """Start and length of the last run together: one more than its last pixel's number."""
    parts = text.rsplit(maxsplit=2)[-2:]
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return -1.0
    return float(parts[0]) + float(parts[1])
