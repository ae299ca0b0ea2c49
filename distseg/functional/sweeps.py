"""Sweeps: the score of one class under every candidate of a rule, with each image counted once.

A sweep reads blocks of images of one size. For every candidate it keeps what adds up over images;
a ratio is taken at the end. Sweeps of other images add up (`+`), so that tuning nested by split is
the sum of the other splits' sweeps. There are two:

    GridSweep        a grid of thresholds, minimum areas and gates, every combination
    CleaningSweep    some values of one cleaning rule, by what they take from a mask or give it
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distseg.functional.cleaning import counts_by_value
from distseg.functional.metrics import METRICS, TIE, get_metric, iou, tgs_tenths
from distseg.functional.postprocess import RULE_KEYS

NUM_CODES = 1 << 16  # of float16


def score_levels(metric: str, inter: NDArray, pred: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """What adds up over images, (L, ...): one score, or inter and pred for a set-level metric.

    tgs comes in tenths: whole numbers, whose sums are exact, so that ties are ties.
    """
    if metric == "tgs":
        return tgs_tenths(inter, pred, truth)[None].astype(np.float64)
    info = get_metric(metric)
    if info.set_level:
        return np.stack([inter, pred]).astype(np.float64)
    return info.pair(inter, pred, truth)[None]


def score_sums(metric: str, levels: NDArray, truth: int, num_images: int) -> NDArray[np.float64]:
    """Summed `score_levels` -> score * num_images; `truth` is the set's count of truth pixels."""
    if METRICS[metric].set_level:
        return iou(levels[0], levels[1], np.full(levels[0].shape, truth)) * num_images
    return levels[0] / 10.0 if metric == "tgs" else levels[0]


class Sweep(ABC):
    """Sums over images for the candidates of a rule; what the sweeps have in common.

    Attributes:
        metric: a name of `metrics.METRICS`. For `miou` a score is this class's IoU over the set: as
            each class has its own rule, the best of each is the best of the mean.
        candidates: what is tried; sweeps of other candidates do not add up.
        levels: summed `score_levels`, float64 (L, ...), in an order that is the sweep's own.
        num_images, truth: images counted, and their truth pixels.
    """

    def __init__(self, metric: str, candidates: Hashable, shape: Sequence[int]) -> None:
        num_levels = 2 if get_metric(metric).set_level else 1
        self.metric, self.candidates = metric, candidates
        self.levels = np.zeros((num_levels, *shape))
        self.num_images = 0
        self.truth = 0

    def add(
        self,
        logits_NHW: NDArray[np.float16],
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_] | None = None,
        presence_N: NDArray[np.float64] | None = None,
    ) -> None:
        """Count images of one size.

        Args:
            logits_NHW: float16, as they are stored: rounding another dtype would move thresholds.
                Infinite logits are fine.
            truth_NHW: bool, the class's pixels.
            valid_NHW: bool; False pixels do not score, but count towards an area, as they do when a
                mask is made. None: all are valid.
            presence_N: float64, the probability that the class is in each image, NaN where nobody
                says it; None: of no image.

        Raises:
            ValueError: other dtypes or shapes, or a NaN among the logits.
        """
        valid = check_images(logits_NHW, truth_NHW, valid_NHW)
        unknown = np.full(len(truth_NHW), np.nan)
        self._count(logits_NHW, truth_NHW, valid, unknown if presence_N is None else presence_N)
        self.num_images += len(truth_NHW)
        self.truth += int(np.count_nonzero(truth_NHW & valid))

    @abstractmethod
    def _count(
        self,
        logits_NHW: NDArray,
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
        presence_N: NDArray[np.float64],
    ) -> None:
        """Add the images, which are checked, to `levels`."""

    def __add__(self, other: Self) -> Self:
        if (self.metric, self.candidates) != (other.metric, other.candidates):
            raise ValueError("sweeps of different metrics or candidates do not add up")
        total = copy(self)
        total.levels = self.levels + other.levels
        total.num_images = self.num_images + other.num_images
        total.truth = self.truth + other.truth
        return total

    def means(self, levels: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Mean score of every candidate, of the shape of `levels` (None: the sums) less its first
        axis. ValueError: no image was added."""
        if self.num_images == 0:
            raise ValueError("no image was added to the sweep: there is nothing to choose from")
        sums = self.levels if levels is None else levels
        return score_sums(self.metric, sums, self.truth, self.num_images) / self.num_images


@dataclass(frozen=True)
class RuleChoice:
    """A mask is `logit > threshold`, and empty if it has fewer than `min_area` pixels, if fewer
    than gate[1] pixels exceed gate[0], or if the class's presence is less than `presence`; with its
    mean score on the sweep's images."""

    threshold: float
    min_area: int
    score: float
    gate: tuple[float, int] | None = None
    presence: float | None = None


@dataclass(frozen=True)
class RuleGrid:
    """Candidates of one class: logits, and counts of pixels.

    areas: 0 stands for no minimum area. A gate is a pair of `tops` and `gate_areas`, or one of
    `presences`, the least probability of the class that lets an image through; no gate at all is
    always a candidate, the first.

    double: (top, area) of the rule so far, a gate in front of every candidate; None: it has none.
    """

    thresholds: tuple[float, ...]
    areas: tuple[int, ...] = (0,)
    tops: tuple[float, ...] = ()
    gate_areas: tuple[int, ...] = ()
    presences: tuple[float, ...] = ()
    double: tuple[float, int] | None = None

    def __post_init__(self) -> None:
        if not self.thresholds or not self.areas:
            raise ValueError("a grid of rules needs some thresholds and some minimum areas")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of gates, areas and thresholds."""
        gates = 1 + len(self.tops) * len(self.gate_areas) + len(self.presences)
        return gates, len(self.areas), len(self.thresholds)

    @property
    def num(self) -> int:
        """Candidates in all."""
        return int(np.prod(self.shape))

    def gate(self, number: int) -> tuple[float, int] | None:
        """(top, area) of gate `number`; None for the first, and for one of `presences`."""
        if number == 0 or self.presence(number) is not None:
            return None
        top, area = divmod(number - 1, len(self.gate_areas))
        return self.tops[top], self.gate_areas[area]

    def presence(self, number: int) -> float | None:
        """The least presence of gate `number`, which come last; None for the others."""
        place = number - (self.shape[0] - len(self.presences))
        return None if place < 0 else self.presences[place]


class GridSweep(Sweep):
    """Scores of one class under every rule of a grid, `levels` (L, gates, areas, thresholds).

    Whether the gate shuts depends on (image, gate) only and all else on (image, area, threshold)
    only, so the scores of G gates x A areas x B thresholds over N images are one matrix product of
    (G, N) and (N, A * B): a candidate costs nanoseconds once the pixels are counted.
    """

    def __init__(self, metric: str, grid: RuleGrid) -> None:
        super().__init__(metric, grid, grid.shape)
        self.grid = grid
        edges = (*grid.thresholds, *grid.tops, *(grid.double or ())[:1])
        self._order = np.argsort(edges, kind="stable")
        self._bins = _bin_of_bits(tuple(sorted(edges)))

    def _count(
        self,
        logits_NHW: NDArray,
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
        presence_N: NDArray[np.float64],
    ) -> None:
        inter, pred, area, truth = self._counts(logits_NHW, truth_NHW, valid_NHW)
        num, split = len(truth), len(self.grid.thresholds)
        drawn = score_levels(self.metric, inter[:, :split], pred[:, :split], truth[:, None])
        nothing = np.zeros_like(truth)
        empty_LN = score_levels(self.metric, nothing, nothing, truth)
        kept_NAB = area[:, None, :split] >= np.array(self.grid.areas)[:, None]
        gain = np.where(kept_NAB, (drawn - empty_LN[..., None])[:, :, None], 0.0)
        product = self._open(area[:, split:], presence_N) @ gain.reshape(len(gain), num, -1)
        self.levels += product.reshape(self.levels.shape)
        self.levels += empty_LN.sum(axis=1)[:, None, None, None]

    def best(self) -> RuleChoice:
        """The best rule; ties go to no gate, then the smallest area of a gate, the smallest minimum
        area, and the first gate (the least presence); of thresholds to probability .5, else to the
        middle of the widest range of those that tie."""
        means, grid = self.means(), self.grid
        tied = means >= means.max() - TIE

        def order(place: list[int]) -> tuple[Any, ...]:
            gate, area = place
            return gate > 0, (grid.gate(gate) or (0, 0))[1], grid.areas[area], gate

        g, a = min(np.argwhere(tied.any(axis=2)).tolist(), key=order)
        b = _middle_of_widest(np.array(grid.thresholds), tied[g, a])
        score = float(means[g, a, b])
        return RuleChoice(grid.thresholds[b], grid.areas[a], score, grid.gate(g), grid.presence(g))

    def _open(
        self, over_NT: NDArray[np.int64], presence_N: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """1.0 where a gate lets an image through, (G, N), of the pixels over each top, of which
        that of `grid.double` comes last."""
        grid = self.grid
        tops_NT = over_NT[:, : len(grid.tops)]
        through = tops_NT[:, :, None] >= np.array(grid.gate_areas, dtype=np.int64)
        none = np.ones((len(over_NT), 1))
        shut = presence_N[:, None] < np.array(grid.presences)  # NaN shuts nothing
        opened = np.concatenate([none, through.reshape(len(over_NT), -1), ~shut], axis=1).T
        return opened * (over_NT[:, -1] >= grid.double[1]) if grid.double else opened

    def _counts(
        self,
        logits_NHW: NDArray[np.float16],
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], ...]:
        """inter, pred (valid pixels) and area (all pixels) over each of the E thresholds and tops,
        (N, E), and truth (N,)."""
        num, num_edges, width = len(logits_NHW), len(self._order), len(self._order) + 2
        # one array of the pixels' number, changed in place: 0 background, 1 truth, 2 ignored
        key = self._bins[np.ascontiguousarray(logits_NHW).view(np.uint16)]
        np.add(key, width, out=key, where=truth_NHW & valid_NHW)
        if not valid_NHW.all():
            np.add(key, 2 * width, out=key, where=~valid_NHW)
        key += np.arange(0, 3 * width * num, 3 * width)[:, None, None]
        hist = np.bincount(key.ravel(), minlength=num * 3 * width).reshape(num, 3, width)
        if hist[:, :, -1].any():
            raise ValueError("logits hold NaN")
        over = hist.sum(axis=2, keepdims=True) - np.cumsum(hist, axis=2)
        sorted_over = over[:, :, :num_edges]
        result = np.empty_like(sorted_over)
        result[:, :, self._order] = sorted_over
        background, inter, ignored = np.moveaxis(result, 1, 0)
        pred = background + inter
        return inter, pred, pred + ignored, hist[:, 1].sum(axis=1)


def _middle_of_widest(thresholds: NDArray[np.float64], tied: NDArray[np.bool_]) -> int:
    """The place of the threshold, of those that tie, that the ties of `GridSweep.best` go to."""
    order = np.argsort(thresholds, kind="stable")
    values, tied = thresholds[order], tied[order]
    if tied[values == 0].any():
        return int(order[np.flatnonzero(tied & (values == 0))[0]])
    edges = np.flatnonzero(np.diff(tied, prepend=False, append=False))
    runs = [(values[first:end], first) for first, end in zip(edges[::2], edges[1::2], strict=True)]
    run, first = min(runs, key=lambda one: (one[0][0] - one[0][-1], np.abs(one[0]).min()))
    return int(order[first + np.abs(run - (run[0] + run[-1]) / 2).argmin()])


class CleaningSweep(Sweep):
    """Scores of one class for some values of one rule, with the rest of the rule as it is.

    `levels` are (L, values). What a value takes from a mask or gives it is counted (cleaning.py).

    Args:
        rule: of this class alone, a value for each key, as `tuning` has it.
        key: min_component, fill_holes or full_mask; values: its values.
    """

    def __init__(
        self, metric: str, rule: Mapping[str, Any], key: str, values: Sequence[float]
    ) -> None:
        super().__init__(metric, (repr(dict(rule)), key, tuple(values)), (len(values),))
        self.rule = {name: rule.get(name) or 0 for name in RULE_KEYS}
        self.key, self.values = key, tuple(values)

    def _count(
        self,
        logits_NHW: NDArray,
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
        presence_N: NDArray[np.float64],
    ) -> None:
        if np.isnan(logits_NHW).any():
            raise ValueError("logits hold NaN")
        images = zip(logits_NHW, truth_NHW, valid_NHW, presence_N, strict=True)
        counts_NV3 = np.stack(
            [counts_by_value(*image, self.rule, self.key, self.values) for image in images]
        )
        levels_LNV = score_levels(self.metric, *np.moveaxis(counts_NV3, -1, 0))
        self.levels += levels_LNV.sum(axis=1)

    def best(self) -> float:
        """The best value; ties go to the first."""
        means = self.means()
        return self.values[int(np.flatnonzero(means >= means.max() - TIE)[0])]


def check_images(
    logits_NHW: NDArray, truth_NHW: NDArray, valid_NHW: NDArray | None
) -> NDArray[np.bool_]:
    """The valid pixels, bool (N, H, W). ValueError: logits that are not float16 (N, H, W), or
    truth or valid pixels that are not bool of the same shape."""
    if logits_NHW.dtype != np.float16 or logits_NHW.ndim != 3:
        raise ValueError(
            f"a sweep takes float16 logits (N, H, W), not {logits_NHW.dtype} {logits_NHW.shape}"
        )
    valid = np.ones(logits_NHW.shape, dtype=np.bool_) if valid_NHW is None else valid_NHW
    for name, mask in (("truth", truth_NHW), ("valid", valid)):
        if mask.dtype != np.bool_ or mask.shape != logits_NHW.shape:
            raise ValueError(
                f"{name} must be bool {logits_NHW.shape}, not {mask.dtype} {mask.shape}"
            )
    return valid


@lru_cache(maxsize=8)  # half a megabyte each
def _bin_of_bits(edges: tuple[float, ...]) -> NDArray[np.int64]:
    """By the 16 bits of a float16: how many of the ascending edges it exceeds, strictly; one more
    than there are edges for NaN. Read-only: the sweeps of a search, of one grid, share it."""
    values = np.arange(NUM_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
    bins = np.searchsorted(edges, values, side="left")
    table = np.where(np.isnan(values), len(edges) + 1, bins)
    table.flags.writeable = False
    return table
