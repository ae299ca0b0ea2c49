"""Whether a choice that was tuned on other parts is better than the one before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.functional.greedy import TIE
from distseg.functional.metrics import summarize


def part_scores(
    counts_NC3: NDArray[np.int64], labels: Sequence[str], metric: str
) -> dict[str, float]:
    """Score of each part's rows, by the label of their part."""
    own = np.array(labels)
    return {
        label: summarize(counts_NC3[own == label], metric)["score"]
        for label in dict.fromkeys(labels)
    }


def verdict(
    before: NDArray[np.int64], after: NDArray[np.int64], labels: Sequence[str], metric: str
) -> dict[str, Any]:
    """Adopted if the whole gains and no part loses.

    Args:
        before, after: counts (N, C, 3) of the same rows under both choices.
        labels: of each row, its part.

    Returns:
        adopted, reason, before, after (scores of all rows), folds_before, folds_after.
    """
    old, new = (part_scores(counts, labels, metric) for counts in (before, after))
    total = [summarize(counts, metric)["score"] for counts in (before, after)]
    gain, change = total[1] - total[0], {part: new[part] - old[part] for part in old}
    worst = min(change, key=lambda part: change[part])
    if change[worst] < -TIE:
        reason = f"fold {worst} loses {-change[worst]:.4f} (in all {gain:+.4f})"
    elif gain <= TIE:
        reason = "no gain: the simpler choice stays"
    else:
        reason = f"gains {gain:.4f}, no fold loses (least: {worst}, {change[worst]:+.4f})"
    adopted = gain > TIE and change[worst] >= -TIE
    return {"adopted": adopted, "reason": reason, "before": total[0], "after": total[1],
            "folds_before": old, "folds_after": new}  # fmt: skip
