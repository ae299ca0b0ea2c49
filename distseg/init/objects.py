"""Whether the values of masks are numbers of objects: the first, second, third cell of an image.

Both these and class numbers are small whole numbers from 0. Numbers of objects begin again in each
image and go as far as it has objects, and what has one number is one connected part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from distseg.data.mask_file import Channel, read_mask
from distseg.data.threads import in_threads
from distseg.records.errors import UserError

MANY = 10  # values of which an image has few: objects that are numbered over all images
LEAST = 4  # parts that were looked at
HIDDEN = 0.1  # share of the numbers that may be missing: an object that others cover
SPLIT = 0.1  # share of the objects that may be in several parts, as something lies before them
CRUMB = 3  # pixels of a part that counts for none

Held = tuple[int, ...]  # the values of a file, ascending, without 0


def may_number_objects(files: Mapping[Held, int], void: int | None = None) -> bool:
    """Whether the values alone could be numbers of objects. files: how many hold each set of
    values.

    Numbers go from 1 to another end in each file, or there are many of which each file has a few.
    Classes have gaps where one is not in an image, or all are in most images.
    """
    held = [(tuple(v for v in values if v != void), n) for values, n in files.items()]
    held = [(values, n) for values, n in held if values]
    if not held:
        return False
    ends = sorted({values[-1] for values, _ in held})
    gaps = sum(n * (values[-1] - len(values)) for values, n in held)
    allowed = HIDDEN * sum(n * values[-1] for values, n in held) if ends[-1] > LEAST else 0
    if gaps <= allowed:
        return len(ends) > 2 or (ends[-1] > LEAST and ends[-1] - ends[0] > 1)
    num, total = sum(n for _, n in held), sum(n * len(v) for v, n in held)
    every = {value for v, _ in held for value in v}
    return len(every) >= MANY and 2 * num <= total <= num * len(every) / 2


def one_part_each(
    paths: Sequence[str], channel: Channel, max_pixels: int, void: int | None = None
) -> bool:
    """Whether what has one value is one connected part, in nearly all of the mask files. void: a
    value that counts nowhere, as a border around objects."""

    def parts(path: str) -> list[int]:
        try:
            return _parts(path, channel, max_pixels, void)
        except (UserError, OSError, MemoryError):
            return []  # the check of the row says so

    found = [number for numbers in in_threads(parts, paths) for number in numbers]
    return len(found) >= LEAST and sum(n > 1 for n in found) <= SPLIT * len(found)


def _parts(path: str, channel: Channel, max_pixels: int, void: int | None) -> list[int]:
    """Connected parts (8 neighbors) of each value but 0 and `void`."""
    from scipy.ndimage import find_objects

    labels = read_mask(path, channel, max_pixels=max_pixels).labels
    found = []
    for value, box in enumerate(find_objects(labels.astype(np.int32)), start=1):
        if box is not None and value != void:
            mask = (labels[box] == value).astype(np.uint8)
            areas = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
            found.append(max(1, int((areas > CRUMB).sum())))
    return found
