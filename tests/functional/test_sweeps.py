"""The grid and the cleaning sweep, against applying every rule to every image."""

from typing import Any

import numpy as np
import pytest

from distseg.functional import metrics as M
from distseg.functional.postprocess import apply_postprocess
from distseg.functional.sweeps import CleaningSweep, GridSweep, RuleGrid
from tests.brute import every_rule

GRID = RuleGrid((-0.5, 0.0, 0.25, 1.0), (0, 6, 12), (0.5, 1.5), (2, 8))
METRIC_NAMES = ["tgs", "dice", "iou", "miou"]


def random_set(
    seed: int, num: int = 7, shape: tuple[int, ...] = (6, 7)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse logits, of which many lie exactly on a threshold; some truths are empty."""
    rng = np.random.default_rng(seed)
    truth = rng.random((num, *shape)) < 0.4
    truth[::3] = False
    logits = np.round((truth * 2 - 1 + rng.normal(0, 1.5, truth.shape)) * 8) / 8
    return logits.astype(np.float16), truth, rng.random(truth.shape) < 0.8


def brute_force(
    metric: str,
    logits: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray | None,
    grid: RuleGrid = GRID,
) -> np.ndarray:
    """Postprocess, count and summarize, rule by rule."""
    scores = np.empty(grid.shape)
    for place, rule in every_rule(grid):
        masks = np.stack([apply_postprocess(one[None], rule)[0] for one in logits]) != 0
        counts = M.pixel_counts(masks[:, None], truth[:, None], valid)
        scores[place] = M.summarize(counts, metric)["score"]
    return scores


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_every_rule_scores_as_brute_force(metric: str, seed: int) -> None:
    images = random_set(seed)
    sweep = GridSweep(metric, GRID)
    sweep.add(*images)
    expected = brute_force(metric, *images)
    np.testing.assert_allclose(sweep.means(), expected, rtol=0, atol=1e-12)
    choice = sweep.best()
    assert choice.score == pytest.approx(expected.max(), abs=1e-12)
    g = next(g for g in range(GRID.shape[0]) if GRID.gate(g) == choice.gate)
    place = g, GRID.areas.index(choice.min_area), GRID.thresholds.index(choice.threshold)
    assert expected[place] == pytest.approx(expected.max(), abs=1e-12)


def test_sweeps_add_up() -> None:
    sets = [random_set(seed, shape=(5 + seed, 6)) for seed in range(3)]
    parts = []
    whole = GridSweep("tgs", GRID)
    for images in sets:
        parts.append(GridSweep("tgs", GRID))
        parts[-1].add(*images)
        whole.add(*images)
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_array_equal(total.means(), whole.means())
    assert total.num_images == 21


def test_ties_go_to_the_simpler_rule() -> None:
    logits = np.where(np.eye(6, dtype=bool), 3, -3).astype(np.float16)[None]
    truth = np.eye(6, dtype=bool)[None]
    sweep = GridSweep("dice", GRID)
    sweep.add(logits, truth, np.ones_like(truth))
    choice = sweep.best()
    assert (choice.threshold, choice.min_area, choice.gate, choice.score) == (0.0, 0, None, 1.0)


def test_wrong_input_is_refused() -> None:
    logits, truth, valid = random_set(0)
    with pytest.raises(ValueError, match="float16"):
        GridSweep("dice", GRID).add(logits.astype(np.float32), truth, valid)
    logits[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        GridSweep("dice", GRID).add(logits, truth, valid)
    with pytest.raises(ValueError, match="no image"):
        GridSweep("dice", GRID).best()
    with pytest.raises(ValueError, match="do not add up"):
        GridSweep("dice", GRID) + GridSweep("tgs", GRID)
    with pytest.raises(ValueError, match="some thresholds"):
        RuleGrid(())


def test_a_gate_helps_where_one_threshold_cannot() -> None:
    # threshold 0 draws the object; faint noise of the empty image never reaches the top
    logits = np.array([[[1, 1, 9, -9]], [[1, 1, -9, -9]]], np.float16)
    truth = np.array([[[1, 1, 1, 0]], [[0, 0, 0, 0]]], bool)

    def best(grid: RuleGrid) -> Any:
        sweep = GridSweep("tgs", grid)
        sweep.add(logits, truth)
        return sweep.best()

    assert best(RuleGrid((0.0,))).score == 0.5
    choice = best(RuleGrid((0.0,), tops=(5.0,), gate_areas=(1,)))
    assert (choice.gate, choice.threshold, choice.score) == ((5.0, 1), 0.0, 1.0)


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("double", [None, (0.75, 12), (0.25, 30)])
def test_gates_of_presence_score_as_brute_force(
    metric: str, double: tuple[float, int] | None
) -> None:
    """Beside double thresholds, and behind one that stays; an image whose presence nobody says goes
    through every gate."""
    grid = RuleGrid((-0.5, 0.25), (0, 6), (0.5,), (2,), (0.2, 0.5, 0.9), double)
    logits, truth, valid = random_set(3, num=9)
    presence = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.95, np.nan, 0.9, 0.0])
    sweep = GridSweep(metric, grid)
    for some in (slice(0, 4), slice(4, 9)):
        sweep.add(logits[some], truth[some], valid[some], presence[some])
    expected = np.empty(grid.shape)
    for place, rule in every_rule(grid):
        said = [None if np.isnan(p) else np.array([p]) for p in presence]
        pairs = zip(logits, said, strict=True)
        masks = np.stack([apply_postprocess(one[None], rule, p)[0] for one, p in pairs]) != 0
        if double is not None:  # counted by hand
            masks &= (logits > double[0]).sum(axis=(1, 2), keepdims=True) >= double[1]
        counts = M.pixel_counts(masks[:, None], truth[:, None], valid)
        expected[place] = M.summarize(counts, metric)["score"]
    assert grid.shape == (1 + 1 + 3, 2, 2)
    np.testing.assert_allclose(sweep.means(), expected, rtol=0, atol=1e-12)
    assert sweep.best().score == pytest.approx(expected.max(), abs=1e-12)


def test_cleaning_is_judged_behind_the_gate() -> None:
    """The only image in which components matter is shut: their size makes no difference."""
    logits = np.full((2, 3, 5), -1, np.float16)
    logits[0, 1, 1], logits[1] = 1, 1
    truth = np.zeros(logits.shape, bool)
    truth[1] = True
    presence = np.array([0.1, 0.9])
    for gate, scores in ((None, [0.5, 1.0]), ([0.5], [1.0, 1.0])):
        sweep = CleaningSweep(
            "tgs", {**RULE, "min_area": [0], "gate": gate}, "min_component", (0, 2)
        )
        sweep.add(logits, truth, None, presence)
        assert sweep.means().tolist() == scores


def test_of_gates_that_tie_the_nearest_threshold_then_the_first() -> None:
    # the object is over every top, the noise of the empty image under; every threshold cuts alike
    logits = np.array([[[8, 8, -4]], [[2, 2, -4]]], np.float16)
    truth = np.array([[[1, 1, 0]], [[0, 0, 0]]], bool)
    sweep = GridSweep("dice", RuleGrid((-2.0, 0.5, 1.0), (0,), (3.0, 4.0), (1, 2)))
    sweep.add(logits, truth)
    choice = sweep.best()
    assert (choice.gate, choice.threshold, choice.score) == ((3.0, 1), 0.5, 1.0)


def test_of_gates_that_tie_the_smallest_area_before_the_nearest_threshold() -> None:
    # an area of 1 opens for the second image, which only 2.0 cuts well, and wrongly for the third;
    # an area of 2 does neither, and then both thresholds cut alike
    rows = [[8, 8, -4, -4], [8, 1, -4, -4], [8, -4, -4, -4], [3, 3, -4, -4]]
    logits = np.array(rows, np.float16)[:, None]
    truth = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)[:, None]
    sweep = GridSweep("dice", RuleGrid((0.5, 2.0), (0,), (4.0,), (1, 2)))
    sweep.add(logits, truth)
    choice = sweep.best()
    assert (choice.gate, choice.threshold, choice.score) == ((4.0, 1), 2.0, 0.75)


RULE = {"threshold": 0.0, "min_area": 2, "min_component": 0, "double": None}
OTHERS: list[dict[str, Any]] = [
    {},
    {"min_component": 3, "fill_holes": 2},
    {"full_mask": 0.45, "min_area": 12},
    {"double": {"top": 1.0, "area": 3}, "gate": 0.5},
]


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize(
    ("key", "values"),
    [("min_component", (0, 2, 5, 9)), ("fill_holes", (0, 1, 3)), ("full_mask", (0, 0.4, 0.6))],
)
def test_cleaning_scores_as_brute_force(
    metric: str, others: dict[str, Any], key: str, values: tuple[float, ...]
) -> None:
    logits, truth, valid = random_set(1, shape=(9, 11))
    presence, own = np.linspace(0.2, 0.9, len(logits)), RULE | others
    presence[2] = np.nan
    parts = [CleaningSweep(metric, own, key, values) for _ in range(2)]
    for part, some in zip(parts, (slice(3), slice(3, None)), strict=True):
        part.add(logits[some], truth[some], valid[some], presence[some])
    total = parts[0] + parts[1]
    expected = []
    for value in values:
        rule = {name: [v] for name, v in (own | {key: value}).items()}
        pairs = zip(logits, presence, strict=True)
        masks = np.stack([apply_postprocess(one[None], rule, p[None])[0] for one, p in pairs]) != 0
        counts = M.pixel_counts(masks[:, None], truth[:, None], valid)
        expected.append(M.summarize(counts, metric)["score"])
    np.testing.assert_allclose(total.means(), expected, rtol=0, atol=1e-12)
    assert total.best() == values[int(np.argmax(np.array(expected) >= max(expected) - 1e-9))]


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        (9.0, -9.0, 0.0),  # every threshold between them ties, .5 too
        (9.0, 0.5, 4.0),  # 1, 2, 4, 5, 6 and 8 tie: the middle of 1 and 8
        (-0.5, -9.0, -2.0),  # -3, -2 and -1 tie
        (1.5, 0.5, 1.0),  # one alone
    ],
)
def test_ties_go_to_a_half_or_to_the_middle(inside: float, outside: float, expected: float) -> None:
    """The thresholds of a grid stand in any order."""
    grid = RuleGrid((8.0, -3.0, 0.0, 5.0, 1.0, -1.0, 4.0, 2.0, -2.0, 6.0))
    sweep = GridSweep("dice", grid)
    truth = np.arange(12).reshape(1, 3, 4) < 5
    sweep.add(np.where(truth, inside, outside).astype(np.float16), truth)
    assert (sweep.best().threshold, sweep.best().score) == (expected, 1.0)


def test_cleaning_refuses_what_the_grid_refuses() -> None:
    logits, truth, valid = random_set(0)
    sweep = CleaningSweep("dice", RULE, "fill_holes", (0, 1))
    with pytest.raises(ValueError, match="no image"):
        sweep.best()
    with pytest.raises(ValueError, match="do not add up"):
        sweep + CleaningSweep("dice", {**RULE, "min_area": [3]}, "fill_holes", (0, 1))
    logits[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        sweep.add(logits, truth, valid)
