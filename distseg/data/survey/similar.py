"""Images that are nearly the same: copies in another format, size, brightness or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.data.survey.measure import Measured

HASH_BITS = 64
NEAR_BITS = 10  # bits in which the hashes of two near images may differ
LEAST_CORRELATION = 0.985  # of the thumbnails' gray values
LEAST_CONTRAST = 3.0  # gray values: flat images are all alike
ALL_PAIRS = 20_000  # images up to which each is compared with each
BLOCK = 1024


def near_pairs(images: Sequence[Measured]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of images that are nearly the same and do not hold the same pixels.

    Candidates differ in few bits of a difference hash (each of 8 x 8 cells brighter than the one
    to its right; N. Krawetz, "Kind of Like That", 2013); of them those count whose thumbnails
    correlate. Beyond ALL_PAIRS images only those are compared that share 16 of the 64 bits.
    """
    useful = [i for i, image in enumerate(images) if image.features[1] >= LEAST_CONTRAST]
    if len(useful) < 2:
        return []
    grays = np.stack([_gray(images[i]) for i in useful])
    hashes = _hashes(grays)
    flat = grays.reshape(len(useful), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    pairs = []
    for a, b in _candidates(hashes):
        first, second = images[useful[a]], images[useful[b]]
        if float(flat[a] @ flat[b]) < LEAST_CORRELATION or first.image_sha == second.image_sha:
            continue
        pairs.append((useful[a], useful[b]))
    return sorted(pairs)


def _gray(image: Measured) -> NDArray[np.uint8]:
    return cv2.cvtColor(image.thumb, cv2.COLOR_RGB2GRAY)


def _hashes(grays: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One 64-bit difference hash for each of the thumbnails (N, SIDE, SIDE)."""
    small = np.stack([cv2.resize(g, (9, 8), interpolation=cv2.INTER_AREA) for g in grays])
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(grays), HASH_BITS)
    weights = np.uint64(1) << np.arange(HASH_BITS, dtype=np.uint64)
    return (bits * weights).sum(axis=1, dtype=np.uint64)


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    if len(hashes) <= ALL_PAIRS:
        for start in range(0, len(hashes), BLOCK):
            block = hashes[start : start + BLOCK]
            apart = np.bitwise_count(block[:, None] ^ hashes[None, start:])
            rows, columns = np.nonzero(apart <= NEAR_BITS)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                if column > row:
                    yield start + row, start + column
        return
    seen: set[tuple[int, int]] = set()
    for band in range(4):
        buckets: dict[int, list[int]] = defaultdict(list)
        parts = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        for index, part in enumerate(parts.tolist()):
            buckets[part].append(index)
        for members in buckets.values():
            own = hashes[members]
            for place, index in enumerate(members[:-1]):
                apart = np.bitwise_count(own[place + 1 :] ^ own[place])
                for offset in np.flatnonzero(apart <= NEAR_BITS).tolist():
                    pair = (index, members[place + 1 + offset])
                    if pair not in seen:
                        seen.add(pair)
                        yield pair
