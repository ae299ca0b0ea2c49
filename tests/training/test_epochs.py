"""distseg.training.epochs: what is counted over an epoch, without a word from the device."""

from __future__ import annotations

import math

import torch

from distseg.training.epochs import EpochTotals
from distseg.training.stage import StepResult


def step(loss: float, skipped: int, row: int) -> StepResult:
    told = torch.tensor(skipped)
    return StepResult(torch.tensor(loss, dtype=torch.float64), told, told, [row])


def test_skipped_steps_are_counted_and_their_losses_are_not() -> None:
    totals = EpochTotals(torch.device("cpu"))
    totals.begin(0)
    seen = []
    for result in (step(2.0, 0, 1), step(math.nan, 1, 2), step(math.inf, 1, 3)):
        totals.add(result)
        seen.append(int(totals.bad_in_row))
    assert seen == [0, 1, 2]
    assert (float(totals.loss), int(totals.skipped), totals.rows) == (2.0, 2, [3])
    totals.begin(0)  # bad steps in a row may cross the border of two epochs
    totals.add(step(math.nan, 1, 4))
    assert (float(totals.loss), int(totals.skipped), int(totals.bad_in_row)) == (0.0, 1, 3)
    totals.add(step(1.0, 0, 5))
    assert (float(totals.loss), int(totals.bad_in_row)) == (1.0, 0)
