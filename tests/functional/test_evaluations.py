"""distseg.functional.evaluations: the share that evaluations take."""

from __future__ import annotations

import pytest

from distseg.functional.evaluations import EVALUATED_SHARE, evaluate_every, num_evaluations


@pytest.mark.parametrize(
    ("trained", "evaluated", "every"),
    [(1000, 0, 1), (1000, 250, 1), (1000, 251, 2), (800, 200, 1), (100, 1000, 40), (1000, 1, 1)],
)
def test_epochs_between_evaluations(trained: int, evaluated: int, every: int) -> None:
    assert evaluate_every(trained, evaluated) == every
    assert evaluated <= EVALUATED_SHARE * trained * every  # never more than its share
    if every > 1:  # and no less often than that needs
        assert evaluated > EVALUATED_SHARE * trained * (every - 1)


@pytest.mark.parametrize(
    ("cycles", "per_cycle", "every", "number"),
    [(1, 40, 5, 8), (1, 40, 1, 40), (1, 40, 7, 6), (1, 6, 9, 1), (3, 4, 3, 6), (2, 6, 4, 4)],
)
def test_evaluations_of_a_stage(cycles: int, per_cycle: int, every: int, number: int) -> None:
    epochs = range(1, cycles * per_cycle + 1)
    assert sum(e % every == 0 or e % per_cycle == 0 for e in epochs) == number
    assert num_evaluations(len(epochs), per_cycle, every) == number
