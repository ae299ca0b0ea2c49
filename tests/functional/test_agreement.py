"""Where models disagree, and where all of them contradict a label: values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distseg.functional.agreement import ScoredImage, disagreement, label_doubt

YES, NO = 5.0, -5.0


def image(members: list[list[float]], probs: list[float]) -> ScoredImage:
    """A row of four pixels of one class."""
    p = np.array(probs, np.float32).reshape(1, 1, 4)
    logits = [np.array(one, np.float32).reshape(1, 1, 4) for one in members]
    return ScoredImage((p > 0.5).astype(np.uint8), p, logits)


def test_disagreement_is_what_the_masks_do_not_share() -> None:
    a, b = [YES, YES, NO, NO], [YES, NO, NO, NO]
    both = image([a, b], [1, 0.5, 0, 0]).members
    assert disagreement(both, "binary") == pytest.approx(0.25)  # of the mean: IoU 1/2 and 1
    assert disagreement(both[:1], "binary") == 0.0
    assert disagreement(image([a, a], [1, 1, 0, 0]).members, "binary") == 0.0
    nothing = [NO] * 4
    assert disagreement(image([nothing, nothing], [0] * 4).members, "binary") == 0.0


def test_a_label_is_doubted_where_all_models_and_the_ensemble_say_otherwise() -> None:
    a = [YES, YES, NO, NO]
    target = np.array([1, 0, 0, 1], np.uint8).reshape(1, 1, 4)
    sure = image([a, a], [0.99, 0.99, 0.01, 0.01])
    assert label_doubt(sure, target, "binary") == pytest.approx(2 / 3)  # of pixels 0, 1 and 3
    unsure = image([a, a], [0.99, 0.7, 0.3, 0.3])
    assert label_doubt(unsure, target, "binary") == 0.0
    one_agrees = image([a, [YES, NO, NO, YES]], [0.99, 0.99, 0.01, 0.01])
    assert label_doubt(one_agrees, target, "binary") == 0.0
    void = np.array([1, 255, 0, 255], np.uint8).reshape(1, 1, 4)
    assert label_doubt(sure, void, "binary") == 0.0
    assert (
        label_doubt(image([[NO] * 4], [0.01] * 4), np.zeros((1, 1, 4), np.uint8), "binary") == 0.0
    )


def test_of_several_classes_every_other_class_is_another_answer() -> None:
    logits = np.array([[9, 0], [0, 9], [0, 0]], np.float32)[:, None, :]  # classes 0 and 1
    probs = np.array([[0.98, 0.01], [0.01, 0.98], [0.01, 0.01]], np.float32)[:, None, :]
    one = ScoredImage(logits.argmax(0)[None].astype(np.uint8), probs, [logits, logits])
    label = np.array([[[0, 2]]], np.uint8)
    assert label_doubt(one, label, "multiclass") == pytest.approx(0.5)
    assert label_doubt(one, np.array([[[0, 255]]], np.uint8), "multiclass") == 0.0
    assert label_doubt(one, np.array([[[255, 255]]], np.uint8), "multiclass") == 0.0
