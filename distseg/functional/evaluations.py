"""How often a model is evaluated while it trains: arithmetic of counts, so that a run that is
repeated, or goes on after a kill, is evaluated after the same epochs on any machine."""

from __future__ import annotations

import math

EVALUATED_SHARE = 0.25  # pixels that are evaluated, of those that are trained on


def num_evaluations(epochs: int, epochs_per_cycle: int, every: int) -> int:
    """How often a stage is evaluated: after every `every`-th epoch, and at the end of each
    cycle."""
    cycles, both = epochs // epochs_per_cycle, math.lcm(epochs_per_cycle, every)
    return epochs // every + cycles - epochs // both


def evaluate_every(trained: float, evaluated: float) -> int:
    """Epochs from one evaluation to the next, so that the network is shown at most EVALUATED_SHARE
    as much in them as in training. A pixel is evaluated in about a third of the time that it is
    trained on in: evaluations take about a twelfth of the training's time.

    trained: pixels that the network is shown in an epoch; evaluated: in one evaluation.
    """
    return max(1, math.ceil(evaluated / (EVALUATED_SHARE * trained)))
