"""The sweep, against scoring every distinct threshold one at a time."""

from typing import Any

import numpy as np
import pytest

from distseg.functional import metrics as M
from distseg.functional.postprocess import apply_postprocess
from distseg.functional.sweeps import NUM_CODES
from distseg.functional.threshold_sweep import ThresholdSweep, code_to_float, ordered_code

METRIC_NAMES = ["tgs", "dice", "iou", "miou"]
ALL = code_to_float(np.arange(NUM_CODES))


def random_set(
    seed: int, num_images: int = 5, shape: tuple[int, ...] = (6, 7), steps: int = 8
) -> list[Any]:
    """Coarse logits (many ties), some empty truths, of images of different sizes."""
    rng = np.random.default_rng(seed)
    images = []
    for n in range(num_images):
        size = (shape[0] + n % 2, shape[1])
        truth = (rng.random(size) < 0.4) & (n % 3 != 2)
        noise = rng.normal(0, 1.5, size)
        logits = (np.round((truth * 2 - 1 + noise) * steps) / steps).astype(np.float16)
        images.append((logits, truth, rng.random(size) < 0.8))
    return images


def brute_score(
    images: list[Any], metric: str, threshold: float, min_area: int = 0, use_valid: bool = False
) -> float:
    """Postprocess, count and summarize, as the evaluation does."""
    counts = []
    for logits, truth, valid in images:
        rule = {"threshold": [threshold], "min_area": [min_area]}
        mask = apply_postprocess(logits[None], rule)[0].astype(bool)
        counts.append(M.pixel_counts(mask, truth, valid if use_valid else None)[None])
    return M.summarize(np.stack(counts), metric)["score"]


def swept(
    images: list[Any], metric: str, min_areas: tuple[int, ...] = (0,), use_valid: bool = False
) -> ThresholdSweep:
    sweep = ThresholdSweep(metric, min_areas)
    for logits, truth, valid in images:
        sweep.add(logits[None], truth[None], valid[None] if use_valid else None)
    return sweep


def test_codes_keep_the_order_of_all_float16() -> None:
    finite = ALL[~np.isnan(ALL)]
    assert finite[0] == -np.inf and finite[-1] == np.inf
    assert (np.diff(finite[1:-1].astype(np.float64)) >= 0).all()
    assert np.array_equal(code_to_float(ordered_code(finite)), finite)
    assert ordered_code(np.float16(-0.0)) == ordered_code(np.float16(0.0))
    assert len(finite) + 2 * 1023 == NUM_CODES  # the rest are NaN
    for nan in np.array([0x7C01, 0x7FFF, 0xFC01, 0xFFFF], np.uint16).view(np.float16):
        with pytest.raises(ValueError, match="hold NaN"):
            ordered_code(nan)


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("use_valid", [False, True])
def test_curves_equal_brute_force_at_every_distinct_threshold(metric: str, use_valid: bool) -> None:
    images = random_set(0)
    min_areas = (0, 3, 12, 20)
    sweep = swept(images, metric, min_areas, use_valid)
    means = sweep.curves()
    occurring = np.unique(np.concatenate([logits.ravel() for logits, _, _ in images]))
    between = np.array([-60000, -3.3, 0.01, 2.7, 60000], dtype=np.float16)
    for threshold in np.concatenate([occurring, between]):
        for row, area in enumerate(min_areas):
            expected = brute_score(images, metric, float(threshold), area, use_valid)
            assert means[row, ordered_code(threshold)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_best_is_the_brute_force_best_and_its_score_is_real(metric: str, seed: int) -> None:
    images = random_set(seed)
    choice = swept(images, metric, (0, 4, 10)).best()
    occurring = np.unique(np.concatenate([logits.ravel() for logits, _, _ in images])).tolist()
    scores = [brute_score(images, metric, t, a) for t in [*occurring, -60000.0] for a in (0, 4, 10)]
    assert choice.score == pytest.approx(max(scores), abs=1e-12)
    real = brute_score(images, metric, choice.threshold, choice.min_area)
    assert real == pytest.approx(choice.score, abs=1e-12)


def test_sums_of_sweeps_are_the_sweep_of_the_union() -> None:
    images = random_set(4, num_images=7)
    for metric in METRIC_NAMES:
        total = swept(images[:3], metric, (0, 5)) + swept(images[3:], metric, (0, 5))
        whole = swept(images, metric, (0, 5))
        assert total.num_images == 7
        assert np.allclose(total.curves(), whole.curves(), atol=1e-12)
    with pytest.raises(ValueError, match="do not add up"):
        swept(images, "tgs") + swept(images, "dice")


def test_tgs_sums_are_exact_tenths() -> None:
    sweep = swept(random_set(5, num_images=9), "tgs")
    assert np.array_equal(sweep.levels, np.round(sweep.levels))


def one_image(
    logits: Any, truth: Any, metric: str = "dice", min_areas: tuple[int, ...] = (0,)
) -> ThresholdSweep:
    sweep = ThresholdSweep(metric, min_areas)
    sweep.add(np.array([[logits]], dtype=np.float16), np.array([[truth]], dtype=bool))
    return sweep


def test_ties_go_to_the_default_then_to_the_middle_of_the_widest_plateau() -> None:
    assert one_image([-1, 1], [0, 1]).best().threshold == 0.0
    choice = one_image([2, 6], [0, 1]).best()  # perfect in [2, 6)
    assert choice.threshold == pytest.approx(4.0) and choice.score == 1.0
    # perfect in [1, 1.5) is narrower than [2, 6), and a default inside a plateau wins
    two = one_image([1, 1.5], [0, 1], "iou")
    assert two.best().threshold == pytest.approx(1.25)
    assert two.best(default_threshold=1.125).threshold == 1.125


def test_the_widest_of_several_plateaus() -> None:
    # IoU 2/4 under 1, 1/3 in [1, 2), 1/2 in [2, 6), 0 above; logits beyond 30 add no width
    tied = one_image([1, 2, 2, 6], [1, 0, 0, 1], "iou")
    assert tied.best().threshold == 0.0  # the default ties
    assert tied.best(default_threshold=1.5).threshold == pytest.approx((-30 + 1) / 2)


def test_a_fixed_threshold_stays_while_the_area_is_chosen() -> None:
    sweep = ThresholdSweep("dice", (0, 3))
    sweep.add(np.array([[[1, 1, 1, -1]], [[1, 1, -1, -1]]], np.float16),
              np.array([[[1, 1, 1, 0]], [[0, 0, 0, 0]]], bool))  # fmt: skip
    choice = sweep.best(default_threshold=0.25, fixed=True)
    assert (choice.threshold, choice.min_area, choice.score) == (0.25, 3, 1.0)
    worse = sweep.best(default_threshold=-2.0, fixed=True)
    assert worse.threshold == -2.0 and worse.score < 1


def test_min_area_ties_go_to_no_rule() -> None:
    sweep = one_image([-1, 1, 1], [0, 1, 1], min_areas=(2, 0, 1))
    choice = sweep.best()
    assert (choice.threshold, choice.min_area, choice.score) == (0.0, 0, 1.0)


def test_min_area_rescues_an_empty_image() -> None:
    sweep = ThresholdSweep("tgs", (0, 3))
    sweep.add(np.full((1, 1, 4), 5, np.float16), np.ones((1, 1, 4), bool))
    noise = np.array([[[5, 5, -5, -5]]], np.float16)
    sweep.add(noise, np.zeros((1, 1, 4), bool))
    choice = sweep.best()
    assert (choice.min_area, choice.score) == (3, 1.0)


def test_all_empty_truth_wants_an_empty_mask_and_a_finite_threshold() -> None:
    choice = one_image([5, 7], [0, 0]).best()
    assert choice.score == 1.0 and 7 <= choice.threshold < np.inf


def test_infinite_logits_count_and_the_threshold_stays_finite() -> None:
    choice = one_image([-np.inf, np.inf, 1], [0, 1, 0]).best()
    assert choice.score == 1.0 and 1 <= choice.threshold < 100
    lowest = one_image([-np.inf, -np.inf], [1, 1]).best()  # no finite threshold reaches -inf
    assert lowest.score == 0.0 and np.isfinite(lowest.threshold)


def test_void_pixels_do_not_score_but_fill_the_area() -> None:
    logits = np.array([[[5, 5, 5, -5]]], np.float16)
    truth = np.array([[[1, 0, 0, 0]]], bool)
    valid = np.array([[[1, 0, 0, 1]]], bool)
    sweep = ThresholdSweep("dice", (0, 3))
    sweep.add(logits, truth, valid)
    assert sweep.curves()[:, ordered_code(np.float16(0))].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("logits", "truth", "why"),
    [
        (np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), bool), "takes float16"),
        (np.zeros((2, 2), np.float16), np.ones((2, 2), bool), r"takes float16 logits \(N, H, W\)"),
        (np.full((1, 2, 2), np.nan, np.float16), np.ones((1, 2, 2), bool), "hold NaN"),
        (np.zeros((1, 2, 2), np.float16), np.ones((1, 2, 3), bool), "truth must be bool"),
        (np.zeros((1, 2, 2), np.float16), np.ones((1, 2, 2), np.uint8), "truth must be bool"),
    ],
)
def test_bad_images(logits: Any, truth: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ThresholdSweep("dice").add(logits, truth)


def test_bad_sweeps() -> None:
    with pytest.raises(ValueError, match="Did you mean 'dice'"):
        ThresholdSweep("dise")
    with pytest.raises(ValueError, match="minimum areas"):
        ThresholdSweep("dice", [])
    with pytest.raises(ValueError, match="no image"):
        ThresholdSweep("dice").best()
