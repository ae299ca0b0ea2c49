"""Selection rules on tables that were written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distseg.functional.rules import (
    RULES,
    balanced,
    objections,
    ranking,
    rules_for,
    strata,
    top,
)
from distseg.functional.statistics import STATISTICS

NAN = float("nan")


def table(**columns: list[float]) -> dict[str, np.ndarray]:
    num = len(next(iter(columns.values())))
    quiet = {"iou": 1.0, "dice": 1.0, "boundary": 1.0, "confidence": 1.0, "decided": 1.0,
             "agreement": 1.0, "head_certainty": NAN, "area": 0.3, "target_area": 0.3}  # fmt: skip
    full = {name: np.full(num, quiet.get(name, 0.0)) for name in STATISTICS}
    return full | {name: np.array(values, dtype=float) for name, values in columns.items()}


def test_the_published_rule_drops_at_its_threshold_too() -> None:
    t = table(iou=[0.39, 0.4, 0.41, 0.0], target_area=[0.1, 0.1, 0.1, 0.0])
    assert objections(t, {"min_iou": 0.4}, "keep") == ["min_iou", "min_iou", "", ""]
    assert objections(t, {"min_iou": 0.4}, "judge")[3] == "min_iou"
    assert objections(t, {"min_iou": 0.4}, "drop")[3] == "empty"


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_objects_to_something_and_not_to_everything(name: str) -> None:
    bad = table(iou=[0.1, 1], dice=[0.1, 1], boundary=[0.1, 1], confidence=[0.4, 1],
                decided=[0.1, 1], entropy=[0.9, 0], agreement=[0.1, 1], head_certainty=[0.1, 0.9],
                area=[0.6, 0], target_area=[0, 0] if name == "max_false_area" else [0.3, 0.3],
                rectangle=[1, 0], thin=[1, 0], full=[1, 0], constant=[1, 0])  # fmt: skip
    value = True if name in ("rectangle", "thin", "full", "constant") else 0.5
    assert objections(bad, {name: value}, "judge") == [name, ""]


def test_reasons_are_joined_and_nan_is_no_reason() -> None:
    t = table(iou=[0.1, NAN], boundary=[0.1, NAN], head_certainty=[NAN, NAN])
    rules = {"min_iou": 0.5, "min_boundary": 0.5, "min_head_certainty": 0.5, "worst": 1.0}
    assert objections(t, rules, "keep") == ["min_iou+min_boundary+worst", ""]


def test_empty_masks_have_a_rule_of_their_own() -> None:
    t = table(target_area=[0, 0, 0.2], area=[0.3, 0.01, 0.9], iou=[0, 0, 0])
    assert objections(t, {"max_false_area": 0.1}, "keep") == ["max_false_area", "", ""]


def test_quantiles_in_all_and_per_stratum() -> None:
    iou, area = [0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6], [0.01] * 4 + [0.4] * 4
    t = table(iou=iou, target_area=area)
    worst = objections(t, {"worst": 0.25}, "keep")
    assert [bool(r) for r in worst] == [True, True] + [False] * 6
    each = objections(t, {"worst_per_stratum": 0.25}, "keep")
    assert [bool(r) for r in each] == [True] + [False] * 6 + [True]


def test_strata_by_area() -> None:
    assert strata(np.array([0, 0.001, 0.05, 0.06, 0.2, 0.5, 0.51, 1])).tolist() == [
        0, 1, 1, 2, 2, 3, 4, 4,
    ]  # fmt: skip


def test_balanced_keeps_the_shares_and_takes_the_surest() -> None:
    groups = np.array([0] * 10 + [1] * 10)
    rank = np.arange(20) / 20
    passed = np.ones(20, dtype=bool)
    passed[:6] = False  # 4 empties are left: with a share of .4 they allow 10 in all
    taken = balanced(passed, rank, groups, {0: 0.4, 1: 0.6}, None)
    assert np.flatnonzero(taken).tolist() == [6, 7, 8, 9, 14, 15, 16, 17, 18, 19]
    assert balanced(passed, rank, groups, {0: 0.4, 1: 0.6}, 5).sum() == 5
    rare = balanced(passed, rank, groups, {0: 0.4, 1: 0.56, 2: 0.04}, None)
    assert rare.sum() == 10  # a stratum that the test images lack, and that is rare, does not limit
    assert balanced(~passed & False, rank, groups, {0: 1.0}, None).sum() == 0
    assert np.flatnonzero(top(passed, rank, 3)).tolist() == [17, 18, 19]


def test_ranking() -> None:
    t = table(entropy=[0.1, 0.5], decided=[0.2, NAN])
    assert ranking(t, "entropy").argmax() == 0
    assert ranking(t, "decided").tolist() == [0.2, 0.0]
    with pytest.raises(ValueError, match="decided"):
        ranking(t, "decide")


def test_rules_that_need_a_label_judge_labeled_rows_alone() -> None:
    assert "min_iou" in rules_for(labeled=True) and "min_iou" not in rules_for(labeled=False)
    assert "min_head_certainty" not in rules_for(labeled=True)
    assert "constant" in rules_for(labeled=True) and "constant" in rules_for(labeled=False)
