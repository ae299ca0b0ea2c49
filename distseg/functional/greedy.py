"""Ensemble weights by greedy selection with replacement (Caruana et al., ICML 2004)."""

import math
from collections.abc import Callable, Sequence

Weights = tuple[int, ...]
TIE = 1e-9


def simplest(counts: Sequence[int]) -> Weights:
    """Whole-number weights in lowest terms: (2, 4, 0) is (1, 2, 0)."""
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def greedy_weights(
    num_models: int, max_picks: int, evaluate: Callable[[list[Weights]], Sequence[float]]
) -> Weights:
    """Add, `max_picks` times, the model that makes the ensemble best; keep the best on the way.

    Args:
        num_models: models to pick from.
        max_picks: picks in total; each adds 1 to one model's weight.
        evaluate: scores (higher is better) of several weightings, each in lowest terms.

    Returns:
        Whole-number weights in lowest terms. Deterministic. Ties: among models, the one with
        fewer picks, then the earlier; among sizes, the smaller; with uniform weights, uniform.
    """
    uniform: Weights = (1,) * num_models
    best, best_score = uniform, float(evaluate([uniform])[0])
    counts = [0] * num_models
    for _ in range(max_picks if num_models > 1 else 0):
        trials = [
            simplest([count + (i == pick) for i, count in enumerate(counts)])
            for pick in range(num_models)
        ]
        scores = [float(score) for score in evaluate(trials)]
        top = max(scores)
        tied = [i for i, score in enumerate(scores) if score >= top - TIE]
        pick = min(tied, key=lambda i: (counts[i], i))
        counts[pick] += 1
        if scores[pick] > best_score + TIE:
            best, best_score = trials[pick], scores[pick]
    return best
