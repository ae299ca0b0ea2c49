"""Verdicts: what is adopted, and what is refused although the whole gains."""

import json
from typing import Any

import numpy as np
import pytest

from distseg.functional.verdict import beaten_by, verdict

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
    assert judged["adopted"] and judged["reason"] == "gains 0.2000 ± 0.0000"
    assert judged["before"] == pytest.approx(0.7) and judged["after"] == pytest.approx(0.9)


def test_a_class_that_loses_within_its_standard_error_has_no_say() -> None:
    """Class y gains on two images and loses a little more on two others: noise."""
    noisy = [(10, 10, 10), (10, 10, 10), (4, 10, 10), (4, 10, 10)]
    before, after = counts(POOR, (8, 10, 10)), counts(GOOD, noisy)
    judged = verdict(before, after, PARTS, ["x", "y"], "dice")
    assert judged["classes_after"]["y"] < judged["classes_before"]["y"]
    assert judged["adopted"]
    sure = verdict(before, counts(GOOD, (7, 10, 10)), PARTS, ["x", "y"], "dice")
    assert not sure["adopted"] and sure["reason"] == "class y loses 0.1000 (in all +0.2000)"


def test_a_fold_that_loses_is_named_and_keeps_nothing() -> None:
    after = counts([GOOD, GOOD, POOR, (4, 10, 10)])
    judged = verdict(counts(POOR), after, PARTS, ["x"], "iou")
    assert judged["adopted"]
    changes = np.array([2 / 3, 2 / 3, 0, 4 / 16 - 5 / 15])
    error = changes.std() / 2  # of the mean of four, as a bootstrap has it
    assert judged["standard_error"] == pytest.approx(error, rel=0.1)
    assert judged["reason"].startswith("gains 0.3125 ± ")
    assert judged["reason"].endswith("though fold 1 loses 0.0417")


def test_a_gain_of_twelve_that_one_fold_pays_for_is_taken_and_a_small_loss_costs_nothing() -> None:
    """Two cases that the rule "no fold loses" got wrong: +.12 in all was refused because one fold
    lost .13, and .004 in one fold kept .054 from being won."""
    for gain, loss in ((0.245, 0.13), (0.083, 0.004)):  # of three folds and of one
        labels = ["0", "1", "2", "3"]
        before = np.full((4, 1, 3), 10_000) // np.array([2, 1, 1])
        after = before.copy()
        change = np.array([gain, gain, gain, -loss])
        after[:, 0, 0] = np.round(5000 + change * 10_000)
        judged = verdict(before, after, labels, ["x"], "dice")
        assert judged["adopted"] and f"fold 3 loses {loss:.4f}" in judged["reason"]


def test_of_one_class_the_whole_says_it() -> None:
    judged = verdict(counts(FAIR), counts(FAIR), PARTS, ["x"], "dice")
    assert not judged["adopted"]
    assert judged["reason"] == "no gain (+0.0000): what was there stays"


def test_what_beats_the_ensemble_comes_with_the_worst_first() -> None:
    gains = {"a": 0.1, "b": -0.01, "c": -0.2, "d": -1e-12}
    against = {name: {"gain": gain} for name, gain in gains.items()}
    assert list(beaten_by(against)) == ["c", "b"]


def test_a_class_without_pixels_has_no_say() -> None:
    """miou leaves out what neither side holds; JSON has no NaN, so that it is None."""
    before, after = counts(POOR, GOOD, NOTHING), counts(GOOD, GOOD, NOTHING)
    judged = verdict(before, after, PARTS, ["x", "y", "z"], "miou")
    assert judged["adopted"] and judged["classes_after"] == {"x": 1.0, "y": 1.0, "z": None}
    assert json.loads(json.dumps(judged)) == judged
    drawn = counts(POOR, GOOD, [NOTHING, NOTHING, NOTHING, (0, 1, 0)])
    judged = verdict(drawn, after, PARTS, ["x", "y", "z"], "miou")
    assert judged["adopted"]
