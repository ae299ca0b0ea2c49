"""distseg.functional.consistency: mean teacher's formulas, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distseg.functional.consistency import consistency, ramp_up

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 2, 3, 4, 5)) * 2


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x)
    return raised / raised.sum(axis=1, keepdims=True)


def found(exclusive: bool, confidence: float = 0.0) -> list[float]:
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    loss_B = consistency(student, teacher, exclusive=exclusive, confidence=confidence)
    assert loss_B.dtype == torch.float32
    return loss_B.tolist()


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_mean_squared_difference_of_probabilities(exclusive: bool) -> None:
    probs = softmax if exclusive else sigmoid
    squared = (probs(STUDENT) - probs(TEACHER)) ** 2
    assert found(exclusive) == pytest.approx(squared.mean(axis=(1, 2, 3)), rel=1e-5)


def test_where_the_teacher_is_not_sure_nothing_counts() -> None:
    said = sigmoid(TEACHER)
    sure = np.maximum(said, 1 - said) >= 0.8
    assert 0 < sure.mean() < 1
    expected = ((sigmoid(STUDENT) - said) ** 2 * sure).mean(axis=(1, 2, 3))
    assert found(False, 0.8) == pytest.approx(expected, rel=1e-5)
    said = softmax(TEACHER)
    sure = said.max(axis=1, keepdims=True) >= 0.6  # of the pixel, for all of its classes
    assert 0 < sure.mean() < 1
    expected = ((softmax(STUDENT) - said) ** 2 * sure).mean(axis=(1, 2, 3))
    assert found(True, 0.6) == pytest.approx(expected, rel=1e-5)


def test_the_student_alone_is_moved() -> None:
    """By 2 (s - t) s (1 - s), divided by the number of values."""
    student = torch.tensor(STUDENT, dtype=torch.float32, requires_grad=True)
    teacher = torch.tensor(TEACHER, dtype=torch.float32, requires_grad=True)
    consistency(student, teacher, exclusive=False).sum().backward()
    s, t = sigmoid(STUDENT), sigmoid(TEACHER)
    assert student.grad is not None and teacher.grad is None
    np.testing.assert_allclose(student.grad, 2 * (s - t) * s * (1 - s) / s[0].size, rtol=1e-4)


@pytest.mark.parametrize(
    ("epoch", "epochs", "share"),
    [
        (0, 4, math.exp(-5)), (1, 4, math.exp(-5 * 0.5625)), (2, 4, math.exp(-1.25)), (4, 4, 1),
        (9.5, 4, 1), (0, 0, 1), (3, 0, 1),
    ],
)  # fmt: skip
def test_the_weight_grows_along_a_sigmoid(epoch: float, epochs: float, share: float) -> None:
    assert ramp_up(epoch, epochs) == pytest.approx(share)
