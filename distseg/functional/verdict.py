"""Whether a choice that was tuned on the other splits is better than the one before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Judge a new choice: adopted if the whole gains, and no split and no class loses.

    Args:
        before, after: counts (N, C, 3) of the same rows under both choices.
        labels: of each row, its split.
        classes: their names. One that has no score before or after has no say.

    Returns:
        adopted: bool. reason: a sentence for the report. before, after: scores of all rows.
        folds_before, folds_after: by split. classes_before, classes_after: by class, or None.
    """
    folds = [split_scores(counts, labels, metric) for counts in (before, after)]
    kinds = [class_scores(counts, classes, metric) for counts in (before, after)]
    total = [summarize(counts, metric)["score"] for counts in (before, after)]
    gain = total[1] - total[0]
    change = {f"fold {split}": folds[1][split] - folds[0][split] for split in folds[0]}
    if len(classes) > 1:
        change |= {
            f"class {name}": new - old
            for (name, old), new in zip(kinds[0].items(), kinds[1].values(), strict=True)
            if old is not None and new is not None
        }
    worst = min(change, key=lambda name: change[name])
    if change[worst] < -TIE:
        reason = f"{worst} loses {-change[worst]:.4f} (in all {gain:+.4f})"
    elif gain <= TIE:
        reason = "no gain: the simpler choice stays"
    else:
        reason = f"gains {gain:.4f}, no fold and no class loses (least: {worst}, "
        reason += f"{change[worst]:+.4f})"
    adopted = gain > TIE and change[worst] >= -TIE
    return {"adopted": adopted, "reason": reason, "before": total[0], "after": total[1],
            "folds_before": folds[0], "folds_after": folds[1],
            "classes_before": kinds[0], "classes_after": kinds[1]}  # fmt: skip
