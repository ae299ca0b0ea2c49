"""Ensemble weights: small whole numbers, of which only the ratios matter.

`greedy_weights` picks models one after another; `weightings` lists mixtures for a search that tries
them all.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from distseg.functional.metrics import TIE

Weights = tuple[int, ...]


def simplest(counts: Sequence[int]) -> Weights:
    """Whole-number weights in lowest terms: (2, 4, 0) is (1, 2, 0)."""
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def greedy_weights(
    start: Weights, max_picks: int, evaluate: Callable[[list[Weights]], Sequence[float]]
) -> Weights:
    """Greedy selection with replacement (Caruana et al., ICML 2004): add, `max_picks` times, the
    model that makes the ensemble best, and keep the best ensemble on the way.

    Args:
        start: the ensemble to beat, one weight for each model to pick from.
        max_picks: picks in total; each adds 1 to one model's weight.
        evaluate: scores (higher is better) of several weightings, each in lowest terms.

    Returns:
        Whole-number weights in lowest terms. Deterministic. Ties: among models, the one with
        fewer picks, then the earlier; among sizes, the smaller; with the start, the start.
    """
    num_models = len(start)
    best, best_score = start, float(evaluate([start])[0])
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


def weightings(num_models: int, limit: int) -> list[Weights]:
    """Mixtures of models to try: uniform weights, then all whole numbers that sum to 1, to 2, ...

    Each is in lowest terms and listed once. A sum whose mixtures do not all fit into `limit` ends
    the list.
    """
    found = {(1,) * num_models: None}
    total = 1
    while num_models > 1:
        new = {simplest(counts) for counts in _compositions(total, num_models)} - found.keys()
        if len(found) + len(new) > limit:
            break
        found |= dict.fromkeys(sorted(new, reverse=True))
        total += 1
    return list(found)


def _compositions(total: int, length: int) -> Iterator[tuple[int, ...]]:
    """All tuples of `length` whole numbers, 0 or more, that sum to `total`."""
    if length == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, length - 1):
            yield first, *rest
