"""Several models' logits to one: the formula that tuning (numpy) and prediction (torch) share.

Each model's logits are already the mean over its snapshots and views (TTA), as logits. With
weights w, of which only the ratios matter:

    logit   sum(w * logits) / sum(w)
    prob    logit(clip(sum(w * p) / sum(w), 1e-6, 1 - 1e-6)), p = sigmoid(logits); for multiclass
            p = softmax(logits) over the classes
    vote    the same with p = 1 where logits > 0, else 0; for multiclass 1 at the highest class

where logit(q) = log(q) - log(1 - q), so that a threshold on the result is a logit in every space
and probability .5 is 0. A running sum of `to_space(logits) * w` and of `w`, handed to `from_space`
at the end, needs the memory of one image: this is what prediction does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distseg.functional.components import apply_postprocess
from distseg.functional.metrics import confusion_matrix, pixel_counts
from distseg.functional.naming import unknown_name

Space = Literal["logit", "prob", "vote"]
SPACES: tuple[Space, ...] = ("logit", "prob", "vote")
PROB_LIMIT = 1e-6
VOID = 255  # a target's pixel that counts nowhere
LOWEST = -65504.0  # of float16, in which logits are kept: under every threshold
_EXP_LIMIT = 80.0  # exp stays finite in float32


def combine(
    logits: Sequence[NDArray] | NDArray, weights: Sequence[float], space: str, task: str
) -> NDArray[np.float32]:
    """Weighted ensemble of M models on one image.

    Args:
        logits: M arrays (C, H, W) of any float dtype.
        weights: M numbers >= 0, not all 0; they need not sum to 1.
        space: "logit", "prob" or "vote".
        task: "binary", "multilabel" or "multiclass".

    Returns:
        float32 (C, H, W) logits.
    """
    if len(logits) != len(weights):
        raise ValueError(f"{len(weights)} weights do not fit the logits of {len(logits)} models")
    total = float(sum(weights))
    if min(weights) < 0 or total <= 0:
        raise ValueError(f"weights must be 0 or more, and not all 0: {list(weights)}")
    summed = sum(w * to_space(x, space, task) for w, x in zip(weights, logits, strict=True) if w)
    return from_space(np.asarray(summed, dtype=np.float32) / np.float32(total), space)


def to_space(logits: NDArray, space: str, task: str) -> NDArray[np.float32]:
    """What is averaged: float32 of the shape (..., C, H, W) of `logits`."""
    values = np.asarray(logits, dtype=np.float32)
    if space == "logit":
        return values
    if space == "prob":
        return _softmax(values) if task == "multiclass" else _sigmoid(values)
    if space != "vote":
        raise unknown_name("ensemble space", space, SPACES)
    if task != "multiclass":
        return (values > 0).astype(np.float32)
    return is_highest(values).astype(np.float32)


def from_space(mean: NDArray[np.float32], space: str) -> NDArray[np.float32]:
    """The weighted mean of `to_space` values, as logits."""
    if space == "logit":
        return mean
    clipped = np.clip(mean, PROB_LIMIT, 1 - PROB_LIMIT, dtype=np.float32)
    return np.log(clipped) - np.log1p(-clipped)


def is_highest(logits: NDArray) -> NDArray[np.bool_]:
    """bool (..., C, H, W): each pixel's highest class, the first of equal ones."""
    classes = np.arange(logits.shape[-3])[:, None, None]
    return logits.argmax(axis=-3)[..., None, :, :] == classes


def highest_only(logits: NDArray) -> NDArray:
    """Logits (..., C, H, W) with LOWEST at a pixel's classes but its highest: multilabel masks that
    never overlap, whatever the thresholds are."""
    return np.where(is_highest(logits), logits, logits.dtype.type(LOWEST))


def to_masks(logits_CHW: NDArray, rule: Mapping[str, Any], task: str) -> NDArray[np.uint8]:
    """Combined logits to the predicted masks.

    Returns:
        uint8: (1, H, W) class index for multiclass (the rule has no say), else (C, H, W) of 0, 1.
    """
    if task == "multiclass":
        return logits_CHW.argmax(axis=0)[None].astype(np.uint8)
    return apply_postprocess(logits_CHW, rule)


def count_masks(
    masks_KHW: NDArray[np.uint8], target_KHW: NDArray[np.uint8], num_classes: int, task: str
) -> NDArray[np.int64]:
    """inter, pred and truth of one image, int64 (C, 3); pixels that are 255 in the target are out.

    Args:
        masks_KHW: as `to_masks` makes them.
        target_KHW: uint8, K as in the masks: 0, 1 or 255, or for multiclass an index or 255.
    """
    if task == "multiclass":
        matrix = confusion_matrix(masks_KHW[0], target_KHW[0], num_classes, void=VOID)
        return np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=-1)
    return pixel_counts(masks_KHW != 0, target_KHW == 1, target_KHW != VOID)


def count_many(
    logits_TNCHW: NDArray[np.float32],
    target_NKHW: NDArray[np.uint8],
    threshold: Sequence[float],
    task: str,
) -> NDArray[np.int64]:
    """`count_masks` of T variants of N images at once, at a threshold for each class only.

    Returns:
        int64 (T, N, C, 3).
    """
    if task == "multiclass":
        masks = is_highest(logits_TNCHW)
        truth = target_NKHW == np.arange(logits_TNCHW.shape[2])[:, None, None]
    else:
        masks = logits_TNCHW > np.array(threshold, dtype=np.float64)[:, None, None]
        truth = target_NKHW == 1
    valid = np.broadcast_to(target_NKHW != VOID, masks.shape)
    return pixel_counts(masks, np.broadcast_to(truth, masks.shape), valid)


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    limit = np.float32(_EXP_LIMIT)
    powers = np.exp(-np.clip(values, -limit, limit))
    return np.reciprocal(1 + powers, dtype=np.float32)


def _softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(values - values.max(axis=-3, keepdims=True))
    return powers / powers.sum(axis=-3, keepdims=True)
