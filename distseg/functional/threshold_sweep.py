"""Exact search for the threshold and the minimum area, over every float16 logit in one pass.

A float16 has 65,536 codes. A histogram over them, put in the order of their values, gives one
image's (inter, pred) at every threshold that changes its mask. Its score as a function of
the threshold is a step function: only the *steps* are added into a global array, whose running sum
is then the total score of the set at every float16 threshold. No loop over thresholds, and no
grid that could miss the best one.

Thresholds are on logits, and a mask is `logit > threshold`, strictly. Where an ensemble averages
probabilities or votes, pass their logit: the order, hence the search, is the same.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distseg.functional.metrics import TIE
from distseg.functional.sweeps import NUM_CODES, RuleChoice, Sweep, score_levels

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


class ThresholdSweep(Sweep):
    """Scores of one class at every float16 threshold, for each candidate of a minimum area.

    Under the rule `min_area`, a mask of fewer pixels counts as empty. The rule sees all pixels,
    ignored ones too, as it does when a mask is made. `levels` (L, areas, 65536) are the steps of
    the score at each code: their running sum is the score.

    Args:
        metric: a name of `metrics.METRICS`.
        min_areas: candidates in pixels; 0 stands for no rule.
    """

    def __init__(self, metric: str, min_areas: Sequence[int] = (0,)) -> None:
        if len(min_areas) == 0 or min(min_areas) < 0:
            raise ValueError(f"minimum areas must be some counts of pixels, not {min_areas!r}")
        self.min_areas = tuple(int(area) for area in min_areas)
        super().__init__(metric, self.min_areas, (len(self.min_areas), NUM_CODES))

    def _count(
        self,
        logits_NHW: NDArray,
        truth_NHW: NDArray[np.bool_],
        valid_NHW: NDArray[np.bool_],
        presence_N: NDArray[np.float64],
    ) -> None:
        for image in zip(logits_NHW, truth_NHW, valid_NHW, strict=True):
            self._count_image(*image)

    def _count_image(self, logits_HW: NDArray, truth_HW: NDArray, valid_HW: NDArray) -> None:
        codes, inter, pred, area = _counts_by_threshold(logits_HW, truth_HW, valid_HW)
        kept = area >= np.array(self.min_areas)[:, None]
        truth = inter[0]  # at the lowest threshold everything is predicted
        levels = score_levels(self.metric, inter * kept, pred * kept, truth)
        self.levels[:, :, 0] += levels[:, :, 0]
        self.levels[:, :, codes] += np.diff(levels, axis=-1)

    def curves(self) -> NDArray[np.float64]:
        """Mean score at every code taken as the threshold, (areas, 65536)."""
        return self.means(np.cumsum(self.levels, axis=-1))

    def best(self, default_threshold: float = 0.0, *, fixed: bool = False) -> RuleChoice:
        """The best threshold and minimum area.

        Ties go to the simpler rule: the smallest minimum area; within it the default threshold if
        it ties, otherwise the middle of the widest run of thresholds that tie. Thresholds are
        finite float16 values, so a default that is none is rounded to the nearest.

        Args:
            default_threshold: a logit.
            fixed: the default threshold stays, and only the minimum area is chosen.
        """
        means = self.curves()[:, _FIRST : _LAST + 1]
        default = int(ordered_code(np.float16(default_threshold))) - _FIRST
        if fixed:
            means = np.where(np.arange(means.shape[1]) == default, means, -np.inf)
        ties = means >= means.max() - TIE  # running sums of floats drift by far less
        row = min(np.flatnonzero(ties.any(axis=1)).tolist(), key=lambda i: self.min_areas[i])
        code = default if ties[row, default] else _middle_of_widest(ties[row])
        threshold = float(code_to_float(code + _FIRST))
        return RuleChoice(threshold, self.min_areas[row], float(means[row, code]))


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


def _counts_by_threshold(
    logits_HW: NDArray, truth_HW: NDArray, valid_HW: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """One image's distinct codes (K,), and inter, pred and area (K + 1,) between them.

    Entry 0 is for thresholds under the first code, entry k + 1 for those from code k up.
    """
    kind = np.where(valid_HW, truth_HW, np.intp(2))  # 0 background, 1 truth, 2 ignored
    key = kind * NUM_CODES + ordered_code(logits_HW)
    hist = np.bincount(key.ravel(), minlength=3 * NUM_CODES).reshape(3, NUM_CODES)
    codes = np.flatnonzero(hist[0] + hist[1] + hist[2])
    at = np.concatenate([np.zeros((3, 1), dtype=np.int64), hist[:, codes]], axis=1)
    background, inter, ignored = at.sum(axis=1, keepdims=True) - np.cumsum(at, axis=1)
    return codes, inter, background + inter, background + inter + ignored
