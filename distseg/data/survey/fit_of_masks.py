"""How well each mask fits its image, by what the other masks of the set say of pixels.

A linear model of a pixel's color and surroundings, fitted over the whole set, draws a map of where
objects are likely. A mask that is inverted, mirrored or shifted fits that map worse than it would
the right way round. The model is crude, and only large differences count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from distseg.data.survey.measure import SIDE, Measured
from distseg.data.threads import in_threads

MOST_FITTED = 2000  # images that the model is fitted to
AT_ONCE = 32  # images, which then fit into a core's cache; cv2 has at most 128 channels
CELLS = 256  # cells of each that it sees
RIDGE = 1e-3
LEAST_SHARE = 0.002  # of the thumbnail that a mask must cover, and leave free, to be judged


@dataclass(frozen=True, slots=True)
class MaskFit:
    """Correlation (-1..1) of a mask with the map of its image.

    own: as it is. mirrored: the best of its mirror images and its half turn. shifted: at the best
    shift, which is `shift` thumbnail cells (rows, columns) long.
    """

    own: float
    mirrored: float
    shifted: float
    shift: tuple[int, int]

    @property
    def distance(self) -> float:
        """Length of the shift as a share of the image's side."""
        return float(np.hypot(*self.shift)) / SIDE


def mask_fits(images: Sequence[Measured]) -> dict[int, MaskFit]:
    """By the place in `images`; without those whose mask covers next to nothing or all."""
    judged = [i for i, image in enumerate(images) if _can_be_judged(image)]
    if len(judged) < 8:
        return {}
    weights = _fit_model([images[i] for i in judged])
    groups = [judged[start : start + AT_ONCE] for start in range(0, len(judged), AT_ONCE)]
    found = in_threads(lambda group: _fit([images[i] for i in group], weights), groups)
    return dict(zip(judged, chain.from_iterable(found), strict=True))


def _can_be_judged(image: Measured) -> bool:
    share = float(image.mask.mean()) / 255
    return bool(image.shapes) and LEAST_SHARE < share < 1 - LEAST_SHARE and not image.constant


def _features(images: Sequence[Measured]) -> NDArray[np.float32]:
    """Of each cell, float32 (11, SIDE, SIDE, N): colors, their squares, what lies around. Each is
    relative to the image's own mean, so that brightness alone tells nothing."""
    color = np.stack([image.thumb for image in images], axis=3).astype(np.float32) / 255
    gray = color.mean(axis=2)
    near, far = _blurred(gray, 1.5), _blurred(gray, 5)
    rough = _blurred(np.abs(gray - near), 1.5)
    stack = np.stack([*np.moveaxis(color, 2, 0), gray - near, near - far, near, far, rough])
    stack -= stack.mean(axis=(1, 2), keepdims=True)
    squares = stack[[0, 5, 7]] ** 2
    return np.concatenate([stack, squares - squares.mean(axis=(1, 2), keepdims=True)])


def _blurred(maps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """maps: (SIDE, SIDE, N), which cv2 takes for channels."""
    return cv2.GaussianBlur(maps, (0, 0), sigma).reshape(maps.shape)  # of one it drops the last


def _fit_model(images: Sequence[Measured]) -> NDArray[np.float32]:
    """Least squares with a ridge, over cells drawn from each image. Deterministic."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(images))[:MOST_FITTED]
    features, labels = [], []
    for start in range(0, len(chosen), AT_ONCE):
        these = [images[index] for index in chosen[start : start + AT_ONCE]]
        own = _features(these).reshape(-1, SIDE * SIDE, len(these))
        for place, image in enumerate(these):
            cells = rng.choice(SIDE * SIDE, CELLS, replace=False)
            mask = image.mask.reshape(-1)[cells].astype(np.float32) / 255
            features.append(own[:, cells, place].T)
            labels.append(mask - mask.mean())
    x, y = np.concatenate(features), np.concatenate(labels)
    scale = x.std(axis=0) + 1e-6
    x = x / scale
    gram = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1], dtype=np.float32)
    return (np.linalg.solve(gram, x.T @ y / len(x)) / scale).astype(np.float32)


def _fit(images: Sequence[Measured], weights: NDArray[np.float32]) -> list[MaskFit]:
    scores = _normed(np.moveaxis(np.tensordot(weights, _features(images), 1), 2, 0))
    masks = _normed(np.stack([image.mask for image in images]).astype(np.float32))
    turns = (masks[:, :, ::-1], masks[:, ::-1], masks[:, ::-1, ::-1])
    own, *turned = ((scores * one).sum(axis=(1, 2)) for one in (masks, *turns))
    surfaces = _correlate(scores, masks)
    flat = surfaces.reshape(len(images), -1)
    best = np.unravel_index(flat.argmax(axis=1), surfaces.shape[1:])
    # how far the mask would have to move; the surface wraps around
    shifts = (np.stack(best, axis=1) + SIDE) % (2 * SIDE) - SIDE
    values = np.stack([own, np.max(turned, axis=0), flat.max(axis=1)], axis=1)
    pairs = zip(values.tolist(), shifts.tolist(), strict=True)
    return [MaskFit(a, b, c, (rows, columns)) for (a, b, c), (rows, columns) in pairs]


def _normed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, SIDE, SIDE), each of mean 0 and length 1, so that a product summed is a correlation."""
    centered = values - values.mean(axis=(1, 2), keepdims=True)
    return centered / np.maximum(np.linalg.norm(centered, axis=(1, 2), keepdims=True), 1e-6)


def _correlate(scores: NDArray[np.float32], masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation at each shift of the mask, (N, 2 SIDE, 2 SIDE), by Fourier transforms."""
    shape = (2 * SIDE, 2 * SIDE)
    product = fft.rfft2(scores, shape) * np.conj(fft.rfft2(masks, shape))
    return fft.irfft2(product, shape)
