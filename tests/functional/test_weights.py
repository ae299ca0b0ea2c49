"""Ensemble weights: which mixtures are listed, and which models the greedy selection picks."""

from itertools import product
from math import comb, gcd

import pytest

from distseg.functional.weights import greedy_weights, simplest, weightings


def test_weights_are_in_lowest_terms() -> None:
    assert simplest([2, 4, 0]) == (1, 2, 0)
    assert simplest([0, 3]) == (0, 1)


def test_greedy_picks_the_best_and_ties_stay_uniform() -> None:
    target = (3, 1, 0)

    def distance(weights: tuple[int, ...]) -> float:
        shares = [w / sum(weights) for w in weights]
        return -sum(abs(s - t / 4) for s, t in zip(shares, target, strict=True))

    assert greedy_weights((1, 1, 1), 8, lambda trials: [distance(t) for t in trials]) == target
    assert greedy_weights((1, 1, 1), 8, lambda trials: [0.5] * len(trials)) == (1, 1, 1)
    assert greedy_weights((1,), 8, lambda trials: [0.5] * len(trials)) == (1,)


@pytest.mark.parametrize("num, limit", [(1, 64), (2, 20), (3, 64), (5, 64), (12, 64)])
def test_weightings_are_all_mixtures_up_to_a_sum(num: int, limit: int) -> None:
    found = weightings(num, limit)
    assert found[0] == (1,) * num
    assert len(found) == len(set(found)) <= limit
    assert all(gcd(*one) == 1 for one in found)
    largest = max(sum(one) for one in found[1:]) if num > 1 else 1
    listed = {one for one in product(range(largest + 1), repeat=num) if 0 < sum(one) <= largest}
    lowest = {tuple(n // gcd(*one) for n in one) for one in listed}
    assert num == 1 or set(found) - {(1,) * num} == lowest - {(1,) * num}
    assert len(listed) == comb(num + largest, num) - 1
