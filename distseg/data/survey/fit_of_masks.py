"""How well each mask fits its image, by what the other masks of the set say of pixels.

A linear model of a pixel's color and surroundings, fitted over the whole set, draws a map of where
objects are likely. A mask that is inverted, mirrored or shifted fits that map worse than it would
the right way round. The model is crude, and only large differences count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.data.survey.measure import SIDE, Measured

MOST_FITTED = 2000  # images that the model is fitted to
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
    return {i: _fit(images[i], weights) for i in judged}


def _can_be_judged(image: Measured) -> bool:
    share = float(image.mask.mean()) / 255
    return bool(image.shapes) and LEAST_SHARE < share < 1 - LEAST_SHARE and not image.constant


def _cells(thumb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of each cell, float32 (SIDE * SIDE, 11): colors, their squares, what lies around.
    Each is relative to the image's own mean, so that brightness alone tells nothing."""
    color = thumb.astype(np.float32) / 255
    gray = color.mean(axis=2)
    near = cv2.GaussianBlur(gray, (0, 0), 1.5)
    far = cv2.GaussianBlur(gray, (0, 0), 5)
    rough = cv2.GaussianBlur(np.abs(gray - near), (0, 0), 1.5)
    maps = [*np.moveaxis(color, 2, 0), gray - near, near - far, near, far, rough]
    stack = np.stack([one - one.mean() for one in maps])
    squares = stack[[0, 5, 7]] ** 2
    full = np.concatenate([stack, squares - squares.mean(axis=(1, 2), keepdims=True)])
    return full.reshape(len(full), -1).T


def _fit_model(images: Sequence[Measured]) -> NDArray[np.float32]:
    """Least squares with a ridge, over cells drawn from each image. Deterministic."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(images))[:MOST_FITTED]
    features, labels = [], []
    for index in chosen:
        cells = rng.choice(SIDE * SIDE, CELLS, replace=False)
        mask = images[index].mask.reshape(-1)[cells].astype(np.float32) / 255
        features.append(_cells(images[index].thumb)[cells])
        labels.append(mask - mask.mean())
    x, y = np.concatenate(features), np.concatenate(labels)
    scale = x.std(axis=0) + 1e-6
    x = x / scale
    gram = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1], dtype=np.float32)
    return (np.linalg.solve(gram, x.T @ y / len(x)) / scale).astype(np.float32)


def _fit(image: Measured, weights: NDArray[np.float32]) -> MaskFit:
    score = _normed((_cells(image.thumb) @ weights).reshape(SIDE, SIDE))
    mask = _normed(image.mask.astype(np.float32))
    turns = (mask[:, ::-1], mask[::-1], mask[::-1, ::-1])
    surface = _correlate(score, mask)
    best = np.unravel_index(int(surface.argmax()), surface.shape)
    # how far the mask would have to move; the surface wraps around
    rows, columns = (int((p + SIDE) % (2 * SIDE) - SIDE) for p in best)
    return MaskFit(
        own=float((score * mask).sum()),
        mirrored=max(float((score * turn).sum()) for turn in turns),
        shifted=float(surface.max()),
        shift=(rows, columns),
    )


def _normed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1, so that a product summed is a correlation."""
    centered = values - values.mean()
    return centered / max(float(np.linalg.norm(centered)), 1e-6)


def _correlate(score: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation at each shift of the mask, (2 SIDE, 2 SIDE), by Fourier transforms."""
    shape = (2 * SIDE, 2 * SIDE)
    product = np.fft.rfft2(score, shape) * np.conj(np.fft.rfft2(mask, shape))
    return np.fft.irfft2(product, shape).astype(np.float32)
