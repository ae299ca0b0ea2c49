"""The colors of mask files: how many pixels each has, and which of them are surely no class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distseg.data.mask_file import Color

MAX_COLORS = 1024  # of a file, that are counted
RARE = 0.001  # a class has a larger share of all pixels, or fills an area
ROUNDED = 1.5  # distance that a mixture of two colors may have from the line between them
BLACK: Color = (0, 0, 0)
NAMED: dict[Color, str] = {
    (255, 255, 255): "white", (255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue",
    (255, 255, 0): "yellow", (255, 0, 255): "magenta", (0, 255, 255): "cyan",
    (128, 0, 0): "maroon", (0, 128, 0): "dark_green", (0, 0, 128): "navy",
    (128, 128, 0): "olive", (128, 0, 128): "purple", (0, 128, 128): "teal",
    (128, 128, 128): "gray",
}  # fmt: skip


def color_name(color: Color) -> str:
    if color == BLACK:
        return "background"
    return NAMED.get(color, "color_{}_{}_{}".format(*color))


def ordered(colors: Counter[Color]) -> list[Color]:
    """Black first, which is the background, and then the most frequent."""
    return [BLACK] * (BLACK in colors) + [c for c, _ in colors.most_common() if c != BLACK]


def colors_of(array_HW3: NDArray[np.uint8]) -> tuple[Counter[Color], frozenset[Color]]:
    """(Pixels by color, of the most frequent ones; those of them that fill 3 x 3 pixels
    somewhere.)"""
    packed = (array_HW3.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    values, sizes = np.unique(packed, return_counts=True)
    order = np.argsort(-sizes)[:MAX_COLORS]
    counts = Counter(
        {_unpacked(v): int(n) for v, n in zip(values[order], sizes[order], strict=True)}
    )
    filling = {_unpacked(value) for value in filling_values(packed)}
    return counts, frozenset(filling & counts.keys())


def _unpacked(value: np.uint32) -> Color:
    return int(value) >> 16, int(value) >> 8 & 255, int(value) & 255


def filling_values(values_HW: NDArray) -> NDArray:
    """The values that fill 3 x 3 pixels somewhere."""
    middle = values_HW[:, 1:-1]
    rows = (middle == values_HW[:, :-2]) & (middle == values_HW[:, 2:])
    columns = (middle[1:-1] == middle[:-2]) & (middle[1:-1] == middle[2:])
    return np.unique(middle[1:-1][columns & rows[:-2] & rows[1:-1] & rows[2:]])


def no_classes(colors: Mapping[Color, int], filling: Collection[int | Color]) -> list[Color]:
    """Colors that are soft edges or stray pixels rather than classes: those that fill no area and
    are rare; and of these two, those that are a mixture of two others."""
    total = sum(colors.values())
    found = []
    for color, number in colors.items():
        is_rare, fills = number < RARE * total, color in filling
        if (is_rare and not fills) or ((is_rare or not fills) and _is_mixture(color, [*colors])):
            found.append(color)
    return found


def _is_mixture(color: Color, others: Sequence[Color]) -> bool:
    """Whether a color lies between two others, as at an edge that was smoothed."""
    ends = np.array([other for other in others if other != color], np.float64).reshape(-1, 3)
    first = ends - np.array(color)
    along = ends[None] - ends[:, None]  # from each color to each other
    length = np.maximum((along**2).sum(axis=2), 1e-9)
    place = -(first[:, None] * along).sum(axis=2) / length
    away = np.linalg.norm(first[:, None] + place[..., None] * along, axis=2)
    return bool(((place > 0) & (place < 1) & (away <= ROUNDED)).any())


def odd_text(odd: Collection[Color], found: Counter[Color]) -> str:
    """What is wrong with colors that are no classes, and the key for the others."""
    total, most = found.total(), 4
    shown = ", ".join(f"{list(color)} ({found[color] / total:.2%})" for color in [*odd][:most])
    more = f" and {len(odd) - most} more" if len(odd) > most else ""
    sure = [color for color in ordered(found) if color not in odd]
    is_binary = len(sure) == 2 and sure[0] == BLACK
    names = ["background", "object"] if is_binary else [color_name(color) for color in sure]
    pairs = ", ".join(f"{n}: {list(c)}" for n, c in zip(names, sure, strict=True))
    return (
        f"mask files hold {len(found)} colors, of which {shown}{more} fill no area: they are soft "
        "edges or stray pixels, it seems, and no classes. Save the masks without them, or say what "
        f'each color means, as "data.colors={{{pairs}}}"; a file with another color is left out'
    )
