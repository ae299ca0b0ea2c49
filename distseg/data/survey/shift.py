"""Whether train and test images look as if they came from one place: how well a simple classifier
tells one from the other by statistics of the images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distseg.data.survey.measure import FEATURES, Measured

LEAST = 10  # images on each side
PARTS = 5
RIDGE = 1e-2
STANDING_OUT = 8  # images that are named


@dataclass(frozen=True, slots=True)
class Shift:
    """auc: .5, nobody can tell them apart, to 1; standard_error of it. features: (name, mean of
    train, mean of test), those that differ most first. outliers: places of the test images that
    look least like the train images, the worst first."""

    auc: float
    standard_error: float
    features: tuple[tuple[str, float, float], ...]
    outliers: tuple[int, ...]


def find_shift(train: Sequence[Measured], test: Sequence[Measured]) -> Shift | None:
    """None for fewer than LEAST images on a side. The AUC is cross-validated, in PARTS parts; the
    classifier is Fisher's linear discriminant with a ridge."""
    if min(len(train), len(test)) < LEAST:
        return None
    x = np.stack([_vector(image) for image in (*train, *test)])
    y = np.repeat([False, True], [len(train), len(test)])
    center, scale = np.median(x, axis=0), x.std(axis=0) + 1e-6
    x = (x - center) / scale
    parts = np.random.default_rng(0).permutation(len(x)) % PARTS
    scores = np.zeros(len(x))
    for part in range(PARTS):
        own = parts == part
        scores[own] = x[own] @ _discriminant(x[~own], y[~own])
    auc = area_under_curve(scores[y], scores[~y])
    gap = x[y].mean(axis=0) - x[~y].mean(axis=0)
    order = np.argsort(-np.abs(gap))[:3]
    names = (*FEATURES, "height", "width")
    raw = x * scale + center
    features = tuple(
        (names[i], float(raw[~y][:, i].mean()), float(raw[y][:, i].mean())) for i in order
    )
    away = np.abs(x[y] - x[~y].mean(axis=0)) / (x[~y].std(axis=0) + 1e-6)
    worst = np.argsort(-away.max(axis=1), kind="stable")[:STANDING_OUT]
    error = hanley_error(auc, len(train), len(test))
    return Shift(auc, error, features, tuple(int(i) for i in worst))


def _vector(image: Measured) -> NDArray[np.float64]:
    return np.array([*image.features, image.height, image.width], dtype=np.float64)


def _discriminant(x: NDArray[np.float64], y: NDArray[np.bool_]) -> NDArray[np.float64]:
    if y.all() or not y.any():
        return np.zeros(x.shape[1])
    within = np.cov(x[y], rowvar=False, bias=True) + np.cov(x[~y], rowvar=False, bias=True)
    gap = x[y].mean(axis=0) - x[~y].mean(axis=0)
    return np.asarray(np.linalg.solve(within + RIDGE * np.eye(x.shape[1]), gap))


def area_under_curve(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Probability that a positive scores above a negative, ties as a half (Mann-Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positives, negatives]))[: len(positives)]
    least = len(positives) * (len(positives) + 1) / 2
    return float((ranks.sum() - least) / (len(positives) * len(negatives)))


def hanley_error(auc: float, num_positives: int, num_negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, Radiology 143:29-36)."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc)
    spread += (num_positives - 1) * (q1 - auc * auc) + (num_negatives - 1) * (q2 - auc * auc)
    return float(np.sqrt(max(0.0, spread) / (num_positives * num_negatives)))
