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
BLOCK = 256  # images that are compared with all others at a time

Indices = NDArray[np.int64]


def near_groups(images: Sequence[Measured]) -> list[list[int]]:
    """Places of images that are nearly the same, a list a group, each in order: the connected
    components of the pairs that are alike, so that a video of n frames is one group and not n² / 2
    pairs. Groups whose images all hold the same pixels are left out: those are copies.
    """
    useful = [i for i, image in enumerate(images) if image.features[1] >= LEAST_CONTRAST]
    if len(useful) < 2:
        return []
    labels = alike(np.stack([_gray(images[i]) for i in useful]))
    groups: dict[int, list[int]] = defaultdict(list)
    for place, label in zip(useful, labels.tolist(), strict=True):
        groups[label].append(place)
    return sorted(own for own in groups.values() if len({images[i].image_sha for i in own}) > 1)


def alike(grays_NSS: NDArray[np.uint8]) -> Indices:
    """The group of each of the gray thumbnails (N, SIDE, SIDE), called by its first: the connected
    components of the pairs that are alike.

    Candidates differ in few bits of a difference hash (each of 8 x 8 cells brighter than the one
    to its right; N. Krawetz, "Kind of Like That", 2013); of them those count whose thumbnails
    correlate. Beyond ALL_PAIRS images only those are compared that share 16 of the 64 bits.
    """
    labels = np.arange(len(grays_NSS))
    if len(grays_NSS):
        for rows, columns in _near(grays_NSS, _hashes(grays_NSS)):
            labels = _joined(labels, rows, columns)
    return labels


def _joined(labels: Indices, rows: Indices, columns: Indices) -> Indices:
    """The group of each image, where more pairs are alike."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(labels)
    ends = np.concatenate([rows, np.arange(count)]), np.concatenate([columns, labels])
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(count, count))
    found = connected_components(graph, directed=False)[1]
    # a group is called by its first image, which is a node of the next graph
    return np.unique(found, return_index=True)[1][found]


def _gray(image: Measured) -> NDArray[np.uint8]:
    return cv2.cvtColor(image.thumb, cv2.COLOR_RGB2GRAY)


def _hashes(grays: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One 64-bit difference hash for each of the thumbnails (N, SIDE, SIDE)."""
    small = np.stack([cv2.resize(g, (9, 8), interpolation=cv2.INTER_AREA) for g in grays])
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(grays), HASH_BITS)
    weights = np.uint64(1) << np.arange(HASH_BITS, dtype=np.uint64)
    return (bits * weights).sum(axis=1, dtype=np.uint64)


def _near(
    grays: NDArray[np.uint8], hashes: NDArray[np.uint64]
) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of images that are alike, some at a time, as two arrays of places."""
    for members in _buckets(hashes):
        for start in range(0, len(members) - 1, BLOCK):
            rows, others = members[start : start + BLOCK], members[start : start + ALL_PAIRS]
            near = np.bitwise_count(hashes[rows][:, None] ^ hashes[others][None]) <= NEAR_BITS
            near &= np.arange(len(others)) > np.arange(len(rows))[:, None]
            used = np.flatnonzero(near.any(axis=0))
            if len(used):
                alike = _normed(grays[rows]) @ _normed(grays[others[used]]).T >= LEAST_CORRELATION
                a, b = np.nonzero(near[:, used] & alike)
                yield rows[a], others[used[b]]


def _buckets(hashes: NDArray[np.uint64]) -> Iterator[Indices]:
    """Places of images that are compared with each other."""
    if len(hashes) <= ALL_PAIRS:
        yield np.arange(len(hashes))
        return
    for band in range(4):
        parts = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(parts, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)


def _normed(grays: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that a product is a correlation."""
    flat = grays.reshape(len(grays), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
