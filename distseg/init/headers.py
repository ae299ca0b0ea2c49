"""Sizes of images, from their headers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from distseg.config.schema import Config
from distseg.data.formats.row import Row
from distseg.data.image_file import image_size
from distseg.data.read_input import image_channels
from distseg.records.errors import UserError

MAX_HEADERS = 4000
APART, FEW = 1.5, 0.05  # see `apart`


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, evenly over all of them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def sizes_of(rows: Sequence[Row], config: Config) -> list[tuple[int, int]]:
    """(height, width) of the images whose headers can be read."""
    found: list[tuple[int, int]] = []
    for row in spread(rows, MAX_HEADERS):
        with contextlib.suppress(UserError, OSError):
            found.append(image_size(row.image, config.data.max_pixels, image_channels(config)))
    return found


def apart(train: Sequence[tuple[int, int]], test: Sequence[tuple[int, int]]) -> float:
    """The share of the test images with a side that is over APART times as long as that of nearly
    all train images, or as much shorter; 0 where it is under FEW. Long sides are compared with long
    ones: a picture that stands is no other size."""
    limits = []
    for side in (min, max):
        lengths = sorted(map(side, train))
        few = len(lengths) // 20
        limits.append((lengths[few] / APART, lengths[-1 - few] * APART))
    (short, short_most), (long, long_most) = limits
    out = sum(
        not (short <= min(size) <= short_most and long <= max(size) <= long_most) for size in test
    )
    share = out / max(1, len(test))
    return share if share >= FEW else 0.0


def middle_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The median height and width."""
    if not sizes:
        return None
    heights, widths = sorted(h for h, _ in sizes), sorted(w for _, w in sizes)
    return heights[len(sizes) // 2], widths[len(sizes) // 2]


def middle_pixels(sizes: Sequence[tuple[int, int]]) -> int:
    """Pixels of the middle one of the images."""
    return sorted(height * width for height, width in sizes)[len(sizes) // 2]
