"""distseg.functional.evaluations: the share that evaluations take."""

from __future__ import annotations

import pytest

from distseg.functional.evaluations import EVALUATED_SHARE, evaluate_every


@pytest.mark.parametrize(
    ("trained", "evaluated", "every"),
    [(1000, 0, 1), (1000, 250, 1), (1000, 251, 2), (800, 200, 1), (100, 1000, 40), (1000, 1, 1)],
)
def test_epochs_between_evaluations(trained: int, evaluated: int, every: int) -> None:
    assert evaluate_every(trained, evaluated) == every
    assert evaluated <= EVALUATED_SHARE * trained * every  # never more than its share
    if every > 1:  # and no less often than that needs
        assert evaluated > EVALUATED_SHARE * trained * (every - 1)
