"""Verdicts: what is adopted, and what is refused although the whole gains."""

import json
from typing import Any

import numpy as np
import pytest

from distseg.functional.verdict import verdict

PARTS = ["0", "0", "1", "1"]
GOOD, FAIR, POOR, NOTHING = (10, 10, 10), (9, 10, 10), (5, 10, 10), (0, 0, 0)  # inter, pred, truth


def counts(*classes: Any) -> np.ndarray:
    """Each class with the same counts in all rows, or with a list of the rows' own; (4, C, 3)."""
    rows = [one if isinstance(one, list) else [one] * 4 for one in classes]
    return np.array(rows).swapaxes(0, 1)


@pytest.mark.parametrize("metric", ["dice", "iou", "tgs", "miou"])
def test_a_class_does_not_pay_for_another(metric: str) -> None:
    before, after = counts(POOR, GOOD), counts(GOOD, FAIR)
    judged = verdict(before, after, PARTS, ["defect_1", "defect_2"], metric)
    assert judged["after"] > judged["before"]
    assert all(judged["folds_after"][part] > judged["folds_before"][part] for part in "01")
    assert not judged["adopted"]
    assert judged["reason"].startswith("class defect_2 loses")
    assert judged["classes_before"]["defect_2"] == 1.0 > judged["classes_after"]["defect_2"]


def test_what_gains_or_stays_in_every_class_is_adopted() -> None:
    judged = verdict(counts(POOR, FAIR), counts(FAIR, FAIR), PARTS, ["x", "y"], "dice")
    assert judged["adopted"] and "no fold and no class loses" in judged["reason"]
    assert judged["before"] == pytest.approx(0.7) and judged["after"] == pytest.approx(0.9)


def test_a_fold_that_loses_is_named() -> None:
    before, after = counts(POOR), counts([GOOD, GOOD, NOTHING, (4, 10, 10)])
    judged = verdict(before, after, PARTS, ["x"], "iou")
    assert judged["adopted"]  # an empty pair scores 1
    after = counts([GOOD, GOOD, POOR, (4, 10, 10)])
    judged = verdict(before, after, PARTS, ["x"], "iou")
    assert not judged["adopted"] and judged["reason"].startswith("fold 1 loses")


def test_of_one_class_the_whole_says_it() -> None:
    judged = verdict(counts(FAIR), counts(FAIR), PARTS, ["x"], "dice")
    assert not judged["adopted"] and judged["reason"] == "no gain: the simpler choice stays"


def test_a_class_without_pixels_has_no_say() -> None:
    """miou leaves out what neither side holds; JSON has no NaN, so that it is None."""
    before, after = counts(POOR, GOOD, NOTHING), counts(GOOD, GOOD, NOTHING)
    judged = verdict(before, after, PARTS, ["x", "y", "z"], "miou")
    assert judged["adopted"] and judged["classes_after"] == {"x": 1.0, "y": 1.0, "z": None}
    assert json.loads(json.dumps(judged)) == judged
    drawn = counts(POOR, GOOD, [NOTHING, NOTHING, NOTHING, (0, 1, 0)])
    judged = verdict(drawn, after, PARTS, ["x", "y", "z"], "miou")
    assert judged["adopted"]
