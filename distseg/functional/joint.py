"""Threshold, minimum area and gate of one class, every combination at once, and mixtures to try.

A rule empties a mask when fewer than `gate area` pixels exceed `top` (the gate), or when fewer than
`min_area` pixels exceed the threshold; otherwise `logit > threshold` draws it. Whether the gate
shuts depends on (image, gate) only and all else on (image, area, threshold) only, so the scores of
G gates x A areas x B thresholds over N images are one matrix product of (G, N) and (N, A * B):
a candidate costs nanoseconds once the pixels are counted, and those are counted once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distseg.functional.greedy import TIE, Weights, simplest
from distseg.functional.metrics import get_metric
from distseg.functional.thresholds import NUM_CODES, score_levels, score_sums


@dataclass(frozen=True)
class RuleGrid:
    """Candidates of one class: logits, and counts of pixels.

    areas: 0 stands for no minimum area. A gate is a pair of `tops` and `gate_areas`; no gate at
    all is always a candidate, the first.
    """

    thresholds: tuple[float, ...]
    areas: tuple[int, ...] = (0,)
    tops: tuple[float, ...] = ()
    gate_areas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.thresholds or not self.areas:
            raise ValueError("a grid of rules needs some thresholds and some minimum areas")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of gates, areas and thresholds."""
        gates = 1 + len(self.tops) * len(self.gate_areas)
        return gates, len(self.areas), len(self.thresholds)

    @property
    def num(self) -> int:
        """Candidates in all."""
        return int(np.prod(self.shape))

    def gate(self, number: int) -> tuple[float, int] | None:
        """(top, area) of gate `number`; None for the first."""
        if number == 0:
            return None
        top, area = divmod(number - 1, len(self.gate_areas))
        return self.tops[top], self.gate_areas[area]


@dataclass(frozen=True)
class JointChoice:
    """The best rule of a grid; score: the mean over the images of the sweep."""

    threshold: float
    min_area: int
    gate: tuple[float, int] | None
    score: float


class JointSweep:
    """Scores of one class under every rule of a grid; sweeps of other images add up (`+`).

    Args:
        metric: a name of `metrics.METRICS`, handled as in `thresholds.Sweep`.
    """

    def __init__(self, metric: str, grid: RuleGrid) -> None:
        self.metric, self.grid = metric, grid
        self.num_images = 0
        self.truth = 0
        self.levels = np.zeros((2 if get_metric(metric).set_level else 1, *grid.shape))

    def add(
        self,
        logits_NHW: NDArray[np.float16],
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
    ) -> None:
        """Count images of one size; False pixels of `valid` do not score, but have an area.

        Raises:
            ValueError: another dtype than float16 (rounding would move thresholds), or a NaN.
        """
        edges = np.array([*self.grid.thresholds, *self.grid.tops], dtype=np.float64)
        inter, pred, area, truth = _counts(logits_NHW, truth_NHW, valid_NHW, edges)
        num, split = len(truth), len(self.grid.thresholds)
        drawn = score_levels(self.metric, inter[:, :split], pred[:, :split], truth[:, None])
        nothing = np.zeros_like(truth)
        empty_LN = score_levels(self.metric, nothing, nothing, truth)
        kept_NAB = area[:, None, :split] >= np.array(self.grid.areas)[:, None]
        gain = np.where(kept_NAB, (drawn - empty_LN[..., None])[:, :, None], 0.0)
        open_GN = self._open(area[:, split:])
        product = open_GN @ gain.reshape(len(gain), num, -1)
        self.levels += product.reshape(self.levels.shape)
        self.levels += empty_LN.sum(axis=1)[:, None, None, None]
        self.num_images += num
        self.truth += int(truth.sum())

    def _open(self, over_NT: NDArray[np.int64]) -> NDArray[np.float64]:
        """1.0 where a gate lets an image through, (G, N)."""
        through = over_NT[:, :, None] >= np.array(self.grid.gate_areas, dtype=np.int64)
        none = np.ones((len(over_NT), 1))
        return np.concatenate([none, through.reshape(len(over_NT), -1)], axis=1).T

    def __add__(self, other: "JointSweep") -> "JointSweep":
        if (self.metric, self.grid) != (other.metric, other.grid):
            raise ValueError("joint sweeps of different metrics or grids do not add up")
        total = JointSweep(self.metric, self.grid)
        total.levels = self.levels + other.levels
        total.num_images = self.num_images + other.num_images
        total.truth = self.truth + other.truth
        return total

    def scores(self) -> NDArray[np.float64]:
        """Mean score of every rule, (gates, areas, thresholds)."""
        if self.num_images == 0:
            raise ValueError("no image was added to the sweep: there is nothing to choose from")
        return score_sums(self.metric, self.levels, self.truth, self.num_images) / self.num_images

    def best(self) -> JointChoice:
        """The best rule; ties go to no gate, then the smallest area, then the threshold nearest
        probability .5, then the first."""
        scores, grid = self.scores(), self.grid
        tied = np.argwhere(scores >= scores.max() - TIE).tolist()
        g, a, b = min(
            tied, key=lambda i: (i[0] > 0, grid.areas[i[1]], abs(grid.thresholds[i[2]]), i)
        )
        return JointChoice(grid.thresholds[b], grid.areas[a], grid.gate(g), float(scores[g, a, b]))


def weightings(num_models: int, limit: int) -> list[Weights]:
    """Uniform weights, then every mixture of whole numbers that sum to 1, then to 2, and so on, in
    lowest terms and each once, for as long as all of a sum fit into `limit` mixtures."""
    found = {(1,) * num_models: None}
    total = 1
    while num_models > 1:
        new = {simplest(counts) for counts in _compositions(total, num_models)} - found.keys()
        if len(found) + len(new) > limit:
            break
        found |= dict.fromkeys(sorted(new, reverse=True))
        total += 1
    return list(found)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All tuples of `parts` whole numbers, 0 or more, that sum to `total`."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield first, *rest


def _counts(
    logits_NHW: NDArray[np.float16],
    truth_NHW: NDArray[np.bool_],
    valid_NHW: NDArray[np.bool_],
    edges: NDArray[np.float64],
) -> tuple[NDArray[np.int64], ...]:
    """inter, pred (valid pixels) and area (all pixels) over each edge, (N, E), and truth (N,)."""
    if logits_NHW.dtype != np.float16:
        raise ValueError(f"a joint sweep takes float16 logits, not {logits_NHW.dtype}")
    order = np.argsort(edges, kind="stable")
    bins = _bin_of_bits(edges[order])[np.ascontiguousarray(logits_NHW).view(np.uint16)]
    num, width = len(bins), len(edges) + 2
    kind = np.where(valid_NHW, truth_NHW, np.int64(2))  # 0 background, 1 truth, 2 ignored
    image = np.arange(num)[:, None, None]
    key = (image * 3 + kind) * width + bins
    hist = np.bincount(key.ravel(), minlength=num * 3 * width).reshape(num, 3, width)
    if hist[:, :, -1].any():
        raise ValueError("logits hold NaN")
    over = hist.sum(axis=2, keepdims=True) - np.cumsum(hist, axis=2)
    sorted_over = over[:, :, : len(edges)]
    result = np.empty_like(sorted_over)
    result[:, :, order] = sorted_over
    background, inter, ignored = np.moveaxis(result, 1, 0)
    pred = background + inter
    return inter, pred, pred + ignored, hist[:, 1].sum(axis=1)


def _bin_of_bits(edges: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """By the 16 bits of a float16: how many of the ascending edges it exceeds, strictly; one more
    than there are edges for NaN."""
    values = np.arange(NUM_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
    bins = np.searchsorted(edges, values, side="left")
    return np.where(np.isnan(values), len(edges) + 1, bins)
