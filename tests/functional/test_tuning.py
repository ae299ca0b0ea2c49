"""distseg.functional.tuning: what a search finds, against every rule that it may choose."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distseg.functional import metrics as M
from distseg.functional.postprocess import apply_postprocess, logit
from distseg.functional.tuning import (
    BOTTOM_PROBS,
    PRESENCES,
    Images,
    area_candidates,
    gate_search,
    tune_class,
)

SHAPE = (8, 9)
ALL = {"threshold": "search", "min_area": "search"}
NONE = {"threshold": 0.5, "min_area": 0}


def images(seed: int, num: int = 9) -> Images:
    """Half of them without an object, where noise draws one; the heads are often right."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((num, *SHAPE), bool)
    truth[: num // 2, 2:6, 2:7] = True
    logits = (2.5 * truth - 1 + rng.normal(0, 1.3, truth.shape)).astype(np.float16)
    presence = np.clip(truth.any(axis=(1, 2)) * 0.2 + rng.uniform(0.05, 0.75, num), 0, 1)
    return logits, truth, np.ones_like(truth), presence


def score(splits: list[Images], rule: dict[str, Any]) -> float:
    """Without a sweep: every mask is drawn."""
    counts = []
    for logits, truth, _, presence in splits:
        pairs = zip(logits, presence, strict=True)
        masks = np.stack([apply_postprocess(one[None], rule, p[None]) for one, p in pairs]) != 0
        counts.append(M.pixel_counts(masks, truth[:, None]))
    return float(M.summarize(np.concatenate(counts), "dice")["score"])


@pytest.mark.parametrize("options", [ALL, NONE])
@pytest.mark.parametrize("double", [None, (1.0, 4), (2.0, 2), (1.5, 6)])
def test_a_gate_is_searched_behind_the_double_threshold_that_stays(
    options: dict[str, Any], double: tuple[float, int] | None
) -> None:
    """The last one shuts all that a gate would: the rule stays as it is."""
    splits = {str(seed): images(seed) for seed in range(3)}
    gate = double and [{"top": double[0], "area": double[1]}]
    before: dict[str, Any] = {
        "threshold": [0.3], "min_area": [0], "min_component": [0], "double": gate,
    }  # fmt: skip
    found = tune_class(
        {key: [own] for key, own in splits.items()}, dict.fromkeys([*splits, "all"], before), 0,
        gate_search(SimpleNamespace(**options), "dice", 72),
    )  # fmt: skip
    searched = options["threshold"] == "search"
    thresholds = [0.3, *(map(logit, BOTTOM_PROBS) if searched else ())]
    # a double threshold stands in the place of a minimum area that is searched
    areas = area_candidates(72) if searched and double is None else (0,)
    for label, rule in found.items():
        others = [own for key, own in splits.items() if key != label]
        scores = {
            presence: max(
                score(others, {**before, "threshold": [t], "min_area": [a], "gate": [presence]})
                for t, a in product(thresholds, areas)
            )
            for presence in (None, *PRESENCES)
        }
        best = max(scores.values())
        if scores[None] == pytest.approx(best, abs=1e-12):
            assert rule == before
        else:
            assert rule["gate"][0] is not None and rule["double"] == before["double"]
            assert score(others, rule) == pytest.approx(best, abs=1e-12)
    assert (found["all"] == before) == (double == (1.5, 6))
