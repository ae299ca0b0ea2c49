"""Whether a choice that was tuned on the other splits is better than the one before it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.functional.bootstrap import standard_error_of_gain
from distseg.functional.metrics import TIE, summarize


def split_scores(
    counts_NC3: NDArray[np.int64], labels: Sequence[str], metric: str
) -> dict[str, float]:
    """Score of each split's rows, by the split's label; `labels` are the rows' own."""
    own = np.array(labels)
    return {
        label: summarize(counts_NC3[own == label], metric)["score"]
        for label in dict.fromkeys(labels)
    }


def class_scores(
    counts_NC3: NDArray[np.int64], classes: Sequence[str], metric: str
) -> dict[str, float | None]:
    """Score of each class over all rows; None for a class that `miou` leaves out."""
    return dict(zip(classes, summarize(counts_NC3, metric)["per_class"], strict=True))


def verdict(
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    labels: Sequence[str],
    classes: Sequence[str],
    metric: str,
) -> dict[str, Any]:
    """Judge a new choice: adopted if the whole gains, and no class loses more than the standard
    error of its change, which is noise.

    A split may lose, and the gain may be small: on rows that are held back, benchmarks/adoption.py
    shows that refusing for either costs more than it saves (docs/scores.md).

    Args:
        before, after: counts (N, C, 3) of the same rows under both choices.
        labels: of each row, its split.
        classes: their names. One that has no score before or after has no say.

    Returns:
        adopted: bool. reason: a sentence for the report. before, after: scores of all rows.
        standard_error: of the gain, paired. folds_before, folds_after: by split. classes_before,
        classes_after: by class, or None.
    """
    folds = [split_scores(counts, labels, metric) for counts in (before, after)]
    kinds = [class_scores(counts, classes, metric) for counts in (before, after)]
    total = [summarize(counts, metric)["score"] for counts in (before, after)]
    gain = total[1] - total[0]
    error = standard_error_of_gain(after, before, metric)
    paying = _paying(before, after, kinds, metric)
    worst_fold, fold_change = _least(folds[0], folds[1])
    if gain <= TIE:
        reason = f"no gain ({gain:+.4f}): what was there stays"
    elif paying:
        reason = f"class {paying[0]} loses {-paying[1]:.4f} (in all {gain:+.4f})"
    else:
        reason = f"gains {gain:.4f} ± {error:.4f}"
        reason += f", though fold {worst_fold} loses {-fold_change:.4f}" * (fold_change < -TIE)
    return {"adopted": gain > TIE and not paying, "reason": reason, "before": total[0],
            "after": total[1], "standard_error": error, "folds_before": folds[0],
            "folds_after": folds[1], "classes_before": kinds[0],
            "classes_after": kinds[1]}  # fmt: skip


def _paying(
    before: NDArray[np.int64], after: NDArray[np.int64],
    kinds: Sequence[Mapping[str, float | None]], metric: str,
) -> tuple[str, float] | None:  # fmt: skip
    """The class that loses most, and its change; None where none loses more than its standard
    error. kinds: scores by class, before and after."""
    losses = {}
    for number, (name, old) in enumerate(kinds[0].items()):
        new, own = kinds[1][name], np.s_[:, number : number + 1]
        if old is None or new is None or new - old >= -TIE:
            continue
        if old - new > standard_error_of_gain(after[own], before[own], metric):
            losses[name] = new - old
    return min(losses.items(), key=lambda item: item[1]) if losses else None


def _least(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[str, float]:
    """Which split gains least, or loses most, and how much."""
    return min(
        ((name, after[name] - old) for name, old in before.items()), key=lambda item: item[1]
    )


def beaten_by(against: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What alone scores more than the ensemble does on the same images, the most first.

    against: of ensemble.json, by name: `gain`, the ensemble's score less the other's.
    """
    losses = {name: one for name, one in against.items() if one["gain"] < -TIE}
    return dict(sorted(losses.items(), key=lambda item: float(item[1]["gain"])))
