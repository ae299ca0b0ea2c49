"""The joint sweep, against applying every rule to every image."""

from itertools import product
from math import comb, gcd

import numpy as np
import pytest

from distseg.functional import metrics as M
from distseg.functional.joint import JointSweep, RuleGrid, weightings
from distseg.functional.postprocess import apply_postprocess
from tests.brute import every_rule

GRID = RuleGrid((-0.5, 0.0, 0.25, 1.0), (0, 6, 12), (0.5, 1.5), (2, 8))
METRIC_NAMES = ["tgs", "dice", "iou", "miou"]


def random_set(seed, num=7, shape=(6, 7)):
    """Coarse logits, of which many lie exactly on a threshold; some truths are empty."""
    rng = np.random.default_rng(seed)
    truth = rng.random((num, *shape)) < 0.4
    truth[::3] = False
    logits = np.round((truth * 2 - 1 + rng.normal(0, 1.5, truth.shape)) * 8) / 8
    return logits.astype(np.float16), truth, rng.random(truth.shape) < 0.8


def brute_force(metric, logits, truth, valid, grid=GRID):
    """Postprocess, count and summarize, rule by rule."""
    scores = np.empty(grid.shape)
    for place, rule in every_rule(grid):
        masks = np.stack([apply_postprocess(one[None], rule)[0] for one in logits]) != 0
        counts = M.pixel_counts(masks[:, None], truth[:, None], valid)
        scores[place] = M.summarize(counts, metric)["score"]
    return scores


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_every_rule_scores_as_brute_force(metric, seed):
    images = random_set(seed)
    sweep = JointSweep(metric, GRID)
    sweep.add(*images)
    expected = brute_force(metric, *images)
    np.testing.assert_allclose(sweep.scores(), expected, rtol=0, atol=1e-12)
    choice = sweep.best()
    assert choice.score == pytest.approx(expected.max(), abs=1e-12)
    g = next(g for g in range(GRID.shape[0]) if GRID.gate(g) == choice.gate)
    place = g, GRID.areas.index(choice.min_area), GRID.thresholds.index(choice.threshold)
    assert expected[place] == pytest.approx(expected.max(), abs=1e-12)


def test_sweeps_add_up():
    sets = [random_set(seed, shape=(5 + seed, 6)) for seed in range(3)]
    parts = []
    whole = JointSweep("tgs", GRID)
    for images in sets:
        parts.append(JointSweep("tgs", GRID))
        parts[-1].add(*images)
        whole.add(*images)
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_array_equal(total.scores(), whole.scores())
    assert total.num_images == 21


def test_ties_go_to_the_simpler_rule():
    logits = np.where(np.eye(6, dtype=bool), 3, -3).astype(np.float16)[None]
    truth = np.eye(6, dtype=bool)[None]
    sweep = JointSweep("dice", GRID)
    sweep.add(logits, truth, np.ones_like(truth))
    choice = sweep.best()
    assert (choice.threshold, choice.min_area, choice.gate, choice.score) == (0.0, 0, None, 1.0)


def test_wrong_input_is_refused():
    logits, truth, valid = random_set(0)
    with pytest.raises(ValueError, match="float16"):
        JointSweep("dice", GRID).add(logits.astype(np.float32), truth, valid)
    logits[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        JointSweep("dice", GRID).add(logits, truth, valid)
    with pytest.raises(ValueError, match="no image"):
        JointSweep("dice", GRID).best()
    with pytest.raises(ValueError, match="do not add up"):
        JointSweep("dice", GRID) + JointSweep("tgs", GRID)


@pytest.mark.parametrize("num, limit", [(1, 64), (2, 20), (3, 64), (5, 64), (12, 64)])
def test_weightings_are_all_mixtures_up_to_a_sum(num, limit):
    found = weightings(num, limit)
    assert found[0] == (1,) * num
    assert len(found) == len(set(found)) <= limit
    assert all(gcd(*one) == 1 for one in found)
    largest = max(sum(one) for one in found[1:]) if num > 1 else 1
    listed = {one for one in product(range(largest + 1), repeat=num) if 0 < sum(one) <= largest}
    lowest = {tuple(n // gcd(*one) for n in one) for one in listed}
    assert num == 1 or set(found) - {(1,) * num} == lowest - {(1,) * num}
    assert len(listed) == comb(num + largest, num) - 1
