"""Exact search for the threshold and the minimum area, over every float16 logit in one pass.

A float16 has 65,536 codes. A histogram over them, put in the order of their values, gives one
image's (inter, pred) at every threshold that changes its mask. Its score as a function of
the threshold is a step function: only the *steps* are added into a global array, whose running sum
is then the total score of the set at every float16 threshold. No loop over thresholds, and no
grid that could miss the best one.

Thresholds are on logits, and a mask is `logit > threshold`, strictly. Where an ensemble averages
probabilities or votes, pass their logit: the order, hence the search, is the same.

Sweeps add up (`+`), so tuning nested by fold is the sum of the other folds' sweeps.
`double_thresholds.py` has the search for a pair of thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distseg.functional.metrics import METRICS, get_metric, iou, tgs_tenths

NUM_CODES = 1 << 16
_SIGN = np.uint16(0x8000)
_NEGATIVE_ZERO = 0x7FFF  # its code before it joins the one of 0.0
_CODE_OF_INF = (0x03FF, 0xFC00)  # -inf and inf; NaN lies outside
_PROB_RANGE = 30.0  # logits beyond it are certain: a plateau out there counts as no wider


def ordered_code(values: NDArray[np.float16] | np.float16) -> NDArray[np.uint16]:
    """Map float16 to uint16 in the order of the values; -0.0 and 0.0 share a code.

    Raises:
        ValueError: another dtype (rounding it would move thresholds), or a NaN.
    """
    values = np.asarray(values)
    if values.dtype != np.float16:
        raise ValueError(f"a sweep takes float16 logits, not {values.dtype}")
    bits = values.view(np.uint16)
    # a negative number's bits run the other way: flip them all; otherwise set the sign
    codes = bits ^ ((bits >> 15) * np.uint16(0x7FFF) | _SIGN)
    codes += codes == _NEGATIVE_ZERO
    if codes.size and (codes.min() < _CODE_OF_INF[0] or codes.max() > _CODE_OF_INF[1]):
        raise ValueError("logits hold NaN")
    return np.asarray(codes, dtype=np.uint16)


def code_to_float(codes: ArrayLike) -> NDArray[np.float16]:
    """The inverse of `ordered_code`; codes outside -inf..inf give NaN."""
    ordered = np.asarray(codes, dtype=np.uint16)
    return np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered).view(np.float16)


_FIRST, _LAST = (int(c) for c in ordered_code(np.array([-65504, 65504], dtype=np.float16)))


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


class Sweep:
    """Scores of one class at every float16 threshold, for each candidate of a minimum area.

    Under the rule `min_area`, a mask of fewer pixels counts as empty. The rule sees all pixels,
    ignored ones too, as it does when a mask is made.

    Args:
        metric: a name of `metrics.METRICS`. For `miou` the curve is this class's IoU over the
            set; as each class has its own threshold, the best of each is the best of the mean.
        min_areas: candidates in pixels; 0 stands for no rule.
    """

    def __init__(self, metric: str, min_areas: Sequence[int] = (0,)) -> None:
        num_levels = 2 if get_metric(metric).set_level else 1
        if len(min_areas) == 0 or min(min_areas) < 0:
            raise ValueError(f"minimum areas must be some counts of pixels, not {min_areas!r}")
        self.metric = metric
        self.min_areas = tuple(int(area) for area in min_areas)
        self.num_images = 0
        self.truth = 0
        self._steps = np.zeros((num_levels, len(self.min_areas), NUM_CODES))

    def add(
        self,
        logits_HW: NDArray[np.float16],
        truth_HW: NDArray[np.bool_],
        valid_HW: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one image; infinite logits are fine, NaN is not, False pixels do not score."""
        check_image(logits_HW, truth_HW, valid_HW)
        codes, inter, pred, area = _counts_by_threshold(logits_HW, truth_HW, valid_HW)
        kept = area >= np.array(self.min_areas)[:, None]
        truth = inter[0]  # at the lowest threshold everything is predicted
        levels = score_levels(self.metric, inter * kept, pred * kept, truth)
        self._steps[:, :, 0] += levels[:, :, 0]
        self._steps[:, :, codes] += np.diff(levels, axis=-1)
        self.num_images += 1
        self.truth += int(truth)

    def __add__(self, other: "Sweep") -> "Sweep":
        if (self.metric, self.min_areas) != (other.metric, other.min_areas):
            raise ValueError("sweeps of different metrics or minimum areas do not add up")
        total = Sweep(self.metric, self.min_areas)
        total._steps = self._steps + other._steps
        total.num_images = self.num_images + other.num_images
        total.truth = self.truth + other.truth
        return total

    def curves(self) -> NDArray[np.float64]:
        """score * num_images at every code taken as the threshold, (len(min_areas), 65536)."""
        levels = np.cumsum(self._steps, axis=-1)
        return score_sums(self.metric, levels, self.truth, self.num_images)

    def best(self, default_threshold: float = 0.0) -> "Choice":
        """The best threshold and minimum area; see `best`."""
        return best(
            self.curves(),
            self.num_images,
            min_areas=self.min_areas,
            default_threshold=default_threshold,
        )


@dataclass(frozen=True)
class Choice:
    """A rule `logit > threshold, empty under min_area`, with its mean score on the sweep's set."""

    threshold: float
    min_area: int
    score: float


def best(
    curves: NDArray[np.float64],
    n: int,
    *,
    min_areas: Sequence[int] = (0,),
    default_threshold: float = 0.0,
) -> Choice:
    """Pick the best (threshold, min_area) of `curves`, sums over `n` images.

    Ties go to the simpler rule: the smallest minimum area; within it the default threshold if it
    ties, otherwise the middle of the widest run of thresholds that tie. Thresholds are finite
    float16 values, so a default that is none is rounded to the nearest.
    """
    if n < 1:
        raise ValueError("no image was added to the sweep: there is nothing to choose from")
    if curves.shape != (len(min_areas), NUM_CODES):
        raise ValueError(f"{len(min_areas)} minimum areas do not fit curves {curves.shape}")
    means = curves[:, _FIRST : _LAST + 1] / n
    top = means.max()
    ties = means >= top - 1e-9  # running sums of floats drift by far less
    row = min(np.flatnonzero(ties.any(axis=1)).tolist(), key=lambda i: min_areas[i])
    default = int(ordered_code(np.float16(default_threshold))) - _FIRST
    code = default if ties[row, default] else _middle_of_widest(ties[row])
    threshold = float(code_to_float(code + _FIRST))
    return Choice(threshold, int(min_areas[row]), float(means[row, code]))


def _middle_of_widest(tied: NDArray[np.bool_]) -> int:
    """Index into the finite codes; width and middle are of logits, since codes crowd around 0."""
    edges = np.flatnonzero(np.diff(tied, prepend=False, append=False))
    first, last = edges[0::2], edges[1::2] - 1
    # a threshold at code c acts the same up to the next code
    ends = np.stack([first, last + 1]) + _FIRST
    low, high = np.clip(code_to_float(ends).astype(np.float64), -_PROB_RANGE, _PROB_RANGE)
    widest = int(np.argmax(high - low))
    middle = int(ordered_code(np.float16((low[widest] + high[widest]) / 2))) - _FIRST
    return int(np.clip(middle, first[widest], last[widest]))


def check_image(logits_HW: NDArray, truth_HW: NDArray, valid_HW: NDArray | None) -> None:
    """Raise ValueError unless truth and valid are bool arrays of the logits' shape."""
    for name, mask in (("truth", truth_HW), ("valid", valid_HW)):
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != logits_HW.shape):
            raise ValueError(
                f"{name} must be bool {logits_HW.shape}, not {mask.dtype} {mask.shape}"
            )


def _counts_by_threshold(
    logits_HW: NDArray, truth_HW: NDArray, valid_HW: NDArray | None
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """One image's distinct codes (K,), and inter, pred and area (K + 1,) between them.

    Entry 0 is for thresholds under the first code, entry k + 1 for those from code k up.
    """
    kind = truth_HW.astype(np.intp)  # 0 background, 1 truth, 2 ignored
    if valid_HW is not None:
        kind = np.where(valid_HW, kind, 2)
    key = kind * NUM_CODES + ordered_code(logits_HW)
    hist = np.bincount(key.ravel(), minlength=3 * NUM_CODES).reshape(3, NUM_CODES)
    codes = np.flatnonzero(hist[0] + hist[1] + hist[2])
    at = np.concatenate([np.zeros((3, 1), dtype=np.int64), hist[:, codes]], axis=1)
    background, inter, ignored = at.sum(axis=1, keepdims=True) - np.cumsum(at, axis=1)
    return codes, inter, background + inter, background + inter + ignored
