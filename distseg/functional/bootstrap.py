"""How far a score could be off, had other images been drawn: the bootstrap's standard error."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distseg.functional.metrics import get_metric, iou, per_image, summarize

_BLOCK = 1 << 22  # drawn numbers held at a time


def standard_error(
    counts_NC3: NDArray[np.int64], metric: str, *, draws: int = 1000, seed: int = 0
) -> float:
    """Standard deviation of the set's score over `draws` sets of N images, drawn with replacement.

    Args:
        counts_NC3: int64 (N, C, 3), inter, pred and truth of each pair.
        metric: a name of `metrics.METRICS`.

    Returns:
        In the score's own unit; 0 for a single image, of which nothing is known.
    """
    return float(_drawn_scores(counts_NC3, metric, draws, seed).std(ddof=1))


def standard_error_of_gain(
    now_NC3: NDArray[np.int64], before_NC3: NDArray[np.int64], metric: str, *,
    draws: int = 1000, seed: int = 0,
) -> float:  # fmt: skip
    """Standard deviation of the difference of two scores of the same N images, in the same order.

    Each drawn set counts for both, so that what an image adds to both cancels. Arguments and unit
    as for `standard_error`.
    """
    now, before = (_drawn_scores(c, metric, draws, seed) for c in (now_NC3, before_NC3))
    return float((now - before).std(ddof=1))


def paired_difference(
    now_NC3: NDArray[np.int64], before_NC3: NDArray[np.int64], metric: str, *,
    draws: int = 1000, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """The difference of two scores of the same N images, in the same order, drawn in pairs.

    Returns:
        difference: now less before. standard_error: as `standard_error_of_gain`. low, high: the
        ends of the 95 % percentile interval (Efron & Tibshirani 1993, chapter 13).
    """
    scores = [summarize(counts, metric)["score"] for counts in (now_NC3, before_NC3)]
    now, before = (_drawn_scores(c, metric, draws, seed) for c in (now_NC3, before_NC3))
    low, high = np.quantile(now - before, (0.025, 0.975))
    return {
        "difference": scores[0] - scores[1],
        "standard_error": float((now - before).std(ddof=1)),
        "low": float(low),
        "high": float(high),
    }


def _drawn_scores(
    counts_NC3: NDArray[np.int64], metric: str, draws: int, seed: int
) -> NDArray[np.float64]:
    """The set's score in each draw, float64 (D,)."""
    counts = np.asarray(counts_NC3)
    if get_metric(metric).set_level:
        values = counts.reshape(len(counts), -1).astype(np.float64)
    else:
        values = per_image(counts, metric).mean(axis=1, keepdims=True)
    sums = np.concatenate([times @ values for times in _times_drawn(len(values), draws, seed)])
    if get_metric(metric).set_level:
        return _mean_ious(sums.reshape(draws, *counts.shape[1:]))
    return sums[:, 0] / len(values)


def _times_drawn(num_images: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is in each draw, float64 (D, N), in blocks that bound the memory."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // num_images)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = rng.integers(num_images, size=(size, num_images))
        drawn += np.arange(size)[:, None] * num_images
        times = np.bincount(drawn.ravel(), minlength=size * num_images)
        yield times.reshape(size, num_images).astype(np.float64)


def _mean_ious(sums_DC3: NDArray[np.float64]) -> NDArray[np.float64]:
    """miou of each draw: the mean over classes that the draw holds, 1 where it holds none."""
    inter, pred, truth = np.moveaxis(sums_DC3, -1, 0)
    present = pred + truth > 0
    total = np.where(present, iou(inter, pred, truth), 0.0).sum(axis=1)
    return np.where(present.any(axis=1), total / np.maximum(present.sum(axis=1), 1), 1.0)
