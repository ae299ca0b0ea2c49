"""Search for a double threshold: a high one says whether there is an object, a low one draws it.

A mask is empty when fewer than `area` pixels exceed `top`, and `logit > bottom` otherwise. Whether
an image is emptied depends on (top, area) only, and its score otherwise on the bottom only, so all
T * A * B candidates over N images are one matrix product of (T * A, N) and (N, B).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distseg.functional.thresholds import check_image, score_levels, score_sums


@dataclass(frozen=True)
class DoubleChoice:
    """The best candidate, with its mean score on the set that it was searched on."""

    top: float
    area: int
    bottom: float
    score: float


class DoubleSweep:
    """Scores of one class for every (top, area, bottom); sweeps of other images add up (`+`).

    Args:
        metric: a name of `metrics.METRICS`, handled as in `thresholds.Sweep`.
        tops, bottoms: candidate logits; areas: candidate pixel counts, 0 being no gate.
    """

    def __init__(
        self, metric: str, tops: Sequence[float], areas: Sequence[int], bottoms: Sequence[float]
    ) -> None:
        if min(len(tops), len(areas), len(bottoms)) == 0:
            raise ValueError("a double threshold search needs some tops, areas and bottoms")
        self.metric = metric
        self.grid = (tuple(tops), tuple(areas), tuple(bottoms))
        self.num_images = 0
        self.truth = 0
        self._levels: NDArray[np.float64] | float = 0.0  # (L, T, A, B), summed over images

    def add_many(
        self,
        logits: Sequence[NDArray],
        truths: Sequence[NDArray[np.bool_]],
        valids: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> None:
        """Count images: float (H, W) logits of any size, bool truth, bool valid or None."""
        if len(logits) == 0:
            return
        masks = valids if valids is not None else [None] * len(logits)
        tops, areas, bottoms = (np.array(g, dtype=np.float64) for g in self.grid)
        rows = [
            _count_image(image, truth, valid, tops, bottoms)
            for image, truth, valid in zip(logits, truths, masks, strict=True)
        ]
        inter_NB, pred_NB, truth_N1, over_NT = (np.stack(c) for c in zip(*rows, strict=True))
        drawn_LNB = score_levels(self.metric, inter_NB, pred_NB, truth_N1)
        nothing = np.zeros_like(truth_N1)
        empty_LN1 = score_levels(self.metric, nothing, nothing, truth_N1)
        gates = (over_NT[:, :, None] < areas).reshape(len(rows), -1).astype(np.float64)
        change = gates.T @ (empty_LN1 - drawn_LNB)
        levels = drawn_LNB.sum(axis=1, keepdims=True) + change
        self._levels = self._levels + levels.reshape(len(levels), *map(len, self.grid))
        self.num_images += len(rows)
        self.truth += int(truth_N1.sum())

    def __add__(self, other: "DoubleSweep") -> "DoubleSweep":
        if (self.metric, self.grid) != (other.metric, other.grid):
            raise ValueError("double sweeps of different metrics or grids do not add up")
        total = DoubleSweep(self.metric, *self.grid)
        total._levels = self._levels + other._levels
        total.num_images = self.num_images + other.num_images
        total.truth = self.truth + other.truth
        return total

    def totals(self) -> NDArray[np.float64]:
        """score * num_images of every candidate, (T, A, B)."""
        if self.num_images == 0:
            raise ValueError("no image was added to the sweep: there is nothing to choose from")
        return score_sums(self.metric, np.asarray(self._levels), self.truth, self.num_images)

    def best(self, default_threshold: float = 0.0) -> DoubleChoice:
        """The best candidate; ties go to the smallest area, then the bottom nearest the default,
        then the lowest top."""
        means = self.totals() / self.num_images
        tops, areas, bottoms = self.grid
        tied = np.argwhere(means >= means.max() - 1e-9)
        t, a, b = min(
            tied.tolist(),
            key=lambda i: (areas[i[1]], abs(bottoms[i[2]] - default_threshold), tops[i[0]]),
        )
        return DoubleChoice(tops[t], areas[a], bottoms[b], float(means[t, a, b]))


def _count_image(
    logits_HW: NDArray,
    truth_HW: NDArray[np.bool_],
    valid_HW: NDArray[np.bool_] | None,
    tops: NDArray[np.float64],
    bottoms: NDArray[np.float64],
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """inter (B,), pred (B,), truth (1,) of valid pixels, and all pixels over each top (T,)."""
    check_image(logits_HW, truth_HW, valid_HW)
    if np.isnan(logits_HW).any():
        raise ValueError("logits hold NaN")
    valid = np.ones_like(truth_HW) if valid_HW is None else valid_HW
    positives = logits_HW[valid & truth_HW]
    inter = _count_over(positives, bottoms)
    pred = _count_over(logits_HW[valid], bottoms)
    return inter, pred, np.array([positives.size]), _count_over(logits_HW, tops)


def _count_over(values: NDArray, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values exceed each threshold, strictly."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    return ordered.size - np.searchsorted(ordered, thresholds, side="right")
