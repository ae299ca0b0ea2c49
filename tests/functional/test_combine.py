"""One formula for numpy and torch: values by hand, and the same values from both kinds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from distseg.functional.combine import (
    LOWEST,
    PROB_LIMIT,
    SPACES,
    clip,
    combine,
    from_space,
    hard_masks,
    highest_only,
    is_highest,
    sigmoid,
    softmax,
    to_space,
)
from distseg.functional.metrics import count_masks, count_planes, pixel_counts

TASKS = ("binary", "multilabel", "multiclass")


def random_logits(seed: int, models: int = 3, classes: int = 4) -> np.ndarray:
    """float32 (models, classes, 9, 7) with many equal values, as float16 logits have."""
    logits = np.random.default_rng(seed).normal(0, 4, (models, classes, 9, 7))
    return (np.round(logits * 4) / 4).astype(np.float32)


def test_combine_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (3, 2, 4, 5)).astype(np.float16)
    weights = [2, 0, 1]
    x = logits.astype(np.float64)
    assert np.allclose(
        combine(logits, weights, "logit", "binary"), (2 * x[0] + x[2]) / 3, atol=1e-5
    )
    p = 1 / (1 + np.exp(-x))
    q = (2 * p[0] + p[2]) / 3
    prob = combine(logits, weights, "prob", "multilabel")
    assert np.allclose(prob, np.log(q / (1 - q)), atol=1e-4)
    votes = np.clip((2 * (x[0] > 0) + (x[2] > 0)) / 3, 1e-6, 1 - 1e-6)
    vote = combine(logits, weights, "vote", "binary")
    assert np.allclose(vote, np.log(votes / (1 - votes)), rtol=1e-2)
    assert prob.dtype == np.float32 and np.isfinite(vote).all()


def test_a_running_sum_of_what_prediction_does_is_the_same() -> None:
    logits = random_logits(1)
    for space, task in product(SPACES, TASKS):
        total = sum(w * to_space(x, space, task) for w, x in zip([1, 3, 2], logits, strict=True))
        running = from_space(np.asarray(total) / np.float32(6), space)
        assert np.array_equal(running, combine(logits, [1, 3, 2], space, task))


def test_a_tied_vote_is_no_object_and_multiclass_votes_for_one_class() -> None:
    tie = combine([np.ones((1, 1, 1)), -np.ones((1, 1, 1))], [1, 1], "vote", "binary")
    assert tie.item() == 0.0
    one = to_space(np.array([1.0, 3.0, 2.0]).reshape(3, 1, 1), "vote", "multiclass")
    assert one.ravel().tolist() == [0, 1, 0]
    soft = to_space(np.array([900.0, -900.0]).reshape(2, 1, 1), "prob", "multiclass")
    assert soft.ravel().tolist() == [1, 0]
    for weights in ([0, 0], [-1, 2], [1]):
        with pytest.raises(ValueError, match="weights"):
            combine([np.ones((1, 1, 1))] * 2, weights, "logit", "binary")


@pytest.mark.parametrize(("space", "task"), list(product(SPACES, TASKS)))
def test_numpy_and_torch_agree(space: str, task: str) -> None:
    """Logits and votes to the last bit; probabilities to what two `exp` may differ by."""
    logits, weights = random_logits(2), [1, 0, 5]
    ours = combine(logits, weights, space, task)
    theirs = combine(torch.from_numpy(logits), weights, space, task)
    assert isinstance(theirs, torch.Tensor) and theirs.dtype == torch.float32
    if space == "logit":
        assert np.array_equal(ours, theirs.numpy())
    else:
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
    values = [to_space(x, space, task) for x in (logits, torch.from_numpy(logits))]
    if space != "prob":
        assert np.array_equal(values[0], values[1].numpy())
    half = [to_space(x.astype(np.float16), space, task) for x in logits]
    assert np.array_equal(half[0], values[0][0]) and half[0].dtype == np.float32


@pytest.mark.parametrize("task", TASKS)
def test_masks_and_counts_of_numpy_and_torch_are_equal(task: str) -> None:
    logits = random_logits(3)
    tensors = torch.from_numpy(logits)
    assert np.array_equal(is_highest(logits), is_highest(tensors).numpy())
    assert (is_highest(logits).sum(axis=-3) == 1).all()  # of equal classes the first alone
    assert np.array_equal(highest_only(logits), highest_only(tensors).numpy())
    thresholds = [0.3, 0.0, -1.0, 2.25]
    masks = hard_masks(logits, task, thresholds)
    assert np.array_equal(masks, hard_masks(tensors, task, thresholds).numpy())
    rng = np.random.default_rng(4)
    labels = 4 if task == "multiclass" else 2
    target = rng.integers(0, labels, (3, 1 if task == "multiclass" else 4, 9, 7), dtype=np.uint8)
    target[rng.random(target.shape) < 0.1] = 255
    counts = count_planes(masks, target, task)
    both = count_planes(torch.from_numpy(masks), torch.from_numpy(target), task)
    assert both.dtype == torch.int64 and np.array_equal(counts, both.numpy())
    assert counts.dtype == np.int64 and counts.shape == (3, 4, 3)
    pair = masks[:2], masks[1:]
    theirs = pixel_counts(*map(torch.from_numpy, pair))
    assert np.array_equal(pixel_counts(*pair), theirs.numpy())
    for one, own, table in zip(masks, target, counts, strict=True):
        finished = one.argmax(0)[None].astype(np.uint8) if task == "multiclass" else one
        assert np.array_equal(count_masks(finished, own, 4, task), table)


def test_one_target_serves_several_masks() -> None:
    logits, target = random_logits(5)[:, None], np.full((1, 1, 9, 7), 2, np.uint8)
    counts = count_planes(hard_masks(logits, "multiclass"), target, "multiclass")
    assert counts.shape == (3, 1, 4, 3)
    assert counts[..., 2].tolist() == [[[0, 0, 63, 0]]] * 3


def test_extremes_are_finite() -> None:
    values = np.array([-np.inf, -100, 0, 100, np.inf], dtype=np.float32)
    assert sigmoid(values).tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-30)
    assert np.isfinite(from_space(np.array([0, 1], dtype=np.float32), "prob")).all()
    assert softmax(random_logits(6)).sum(axis=-3) == pytest.approx(1.0, abs=1e-6)
    assert highest_only(np.zeros((2, 1, 1), np.float16)).ravel().tolist() == [0, LOWEST]
    assert highest_only(np.zeros((2, 1, 1), np.float16)).dtype == np.float16


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_numpys_and_waits_for_no_value(dtype: type) -> None:
    special = [-np.inf, -81, -80, -0.0, 0.0, 1e-7, 1 - 1e-7, 80, 81, np.inf, np.nan]
    drawn = np.random.default_rng(0).normal(0, 60, 1000)
    values: np.ndarray = np.concatenate([special, drawn]).astype(dtype)
    for low, high in ((-80.0, 80.0), (PROB_LIMIT, 1 - PROB_LIMIT)):
        expected = np.clip(values, low, high)
        assert clip(values, low, high).tobytes() == expected.tobytes()
        assert clip(torch.from_numpy(values), low, high).numpy().tobytes() == expected.tobytes()
    # a tensor of the meta device holds no values: what looks at one fails
    unknown = torch.empty((2, 3, 4, 5), device="meta")
    for task, space in product(("binary", "multiclass"), SPACES):
        assert from_space(to_space(unknown, space, task), space).shape == unknown.shape
