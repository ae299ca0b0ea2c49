"""Several models' logits to one: the one formula of tuning, evaluation and prediction.

Each model's logits are already the mean over its snapshots and views (TTA), as logits. With
weights w, of which only the ratios matter:

    logit   sum(w * logits) / sum(w)
    prob    logit(clip(sum(w * p) / sum(w), 1e-6, 1 - 1e-6)), p = sigmoid(logits); for multiclass
            p = softmax(logits) over the classes
    vote    the same with p = 1 where logits > 0, else 0; for multiclass 1 at the highest class

where logit(q) = log(q) - log(1 - q), so that a threshold on the result is a logit in every space
and probability .5 is 0. A running sum of `to_space(logits) * w` and of `w`, handed to `from_space`
at the end, needs the memory of one image: this is what prediction does.

The functions follow the array API standard (https://data-apis.org/array-api): they take numpy
arrays and torch tensors alike, return the same kind on the same device, and import neither.
"""

from collections.abc import Sequence
from typing import Any, Literal

from array_api_compat import array_namespace, device

from distseg.functional.naming import unknown_name

Array = Any  # a numpy array or a torch tensor; all arrays of one call are of one kind
Space = Literal["logit", "prob", "vote"]
SPACES: tuple[Space, ...] = ("logit", "prob", "vote")
PROB_LIMIT = 1e-6
LOWEST = -65504.0  # of float16, in which logits are kept: under every threshold
_EXP_LIMIT = 80.0  # exp stays finite in float32


def mean_presence(heads: Sequence[Array | None], weights: Sequence[float]) -> Array | None:
    """The weighted mean probability that each class is in an image, as the models' image heads say.

    heads: by model, logits (C,) of its head, or None without one. None: no model that weighs
    something has a head.
    """
    pairs = [(w, head) for head, w in zip(heads, weights, strict=True) if head is not None and w]
    if not pairs:
        return None
    total: Array = sum(float(w) * sigmoid(head) for w, head in pairs)
    return total / sum(float(w) for w, _ in pairs)


def combine(
    logits: Sequence[Array] | Array, weights: Sequence[float], space: str, task: str
) -> Array:
    """Weighted ensemble of M models on one image.

    Args:
        logits: M arrays (C, H, W) of any float dtype.
        weights: M numbers >= 0, not all 0; they need not sum to 1.
        space: "logit", "prob" or "vote".
        task: "binary", "multilabel" or "multiclass".

    Returns:
        float32 (C, H, W) logits.

    Raises:
        ValueError: weights that are negative, all 0 or of another number than the models.
    """
    if len(logits) != len(weights):
        raise ValueError(f"{len(weights)} weights do not fit the logits of {len(logits)} models")
    total = float(sum(weights))
    if min(weights) < 0 or total <= 0:
        raise ValueError(f"weights must be 0 or more, and not all 0: {list(weights)}")
    pairs = zip(weights, logits, strict=True)
    summed: Array = sum(float(w) * to_space(x, space, task) for w, x in pairs if w)
    return from_space(summed / total, space)


def to_space(logits_CHW: Array, space: str, task: str) -> Array:
    """What is averaged: float32 (..., C, H, W), as the logits are, of logits, probabilities 0..1
    or votes 0 and 1."""
    xp = array_namespace(logits_CHW)
    values = xp.astype(logits_CHW, xp.float32, copy=False)
    if space == "logit":
        return values
    if space == "prob":
        return softmax(values) if task == "multiclass" else sigmoid(values)
    if space != "vote":
        raise unknown_name("ensemble space", space, SPACES)
    return xp.astype(hard_masks(values, task), xp.float32)


def from_space(mean_CHW: Array, space: str) -> Array:
    """The weighted mean of `to_space` values, float32 (..., C, H, W), as logits."""
    if space == "logit":
        return mean_CHW
    xp = array_namespace(mean_CHW)
    clipped = clip(mean_CHW, PROB_LIMIT, 1 - PROB_LIMIT)
    return xp.log(clipped) - xp.log1p(-clipped)


def to_probabilities(logits_CHW: Array, space: str, task: str) -> Array:
    """Combined logits as probabilities 0..1, float32 (..., C, H, W): the way back of `from_space`,
    and in logit space the sigmoid, for multiclass the softmax over the classes.
    """
    xp = array_namespace(logits_CHW)
    values = xp.astype(logits_CHW, xp.float32, copy=False)
    return softmax(values) if task == "multiclass" and space == "logit" else sigmoid(values)


def hard_masks(logits_CHW: Array, task: str, thresholds: Sequence[float] | None = None) -> Array:
    """Masks without any other rule, bool (..., C, H, W).

    Args:
        logits_CHW: float (..., C, H, W).
        task: for "multiclass" a pixel is of its highest class; otherwise of each class whose logit
            is over its threshold, strictly.
        thresholds: a logit for each class; None: 0 for all. Multiclass has none.
    """
    if task == "multiclass":
        return is_highest(logits_CHW)
    if thresholds is None:
        return logits_CHW > 0
    xp = array_namespace(logits_CHW)
    # float64: rounded to the logits' dtype, a threshold would move across logits that are near it
    cuts = xp.asarray(thresholds, dtype=xp.float64, device=device(logits_CHW))
    return logits_CHW > cuts[:, None, None]


def is_highest(logits_CHW: Array) -> Array:
    """bool (..., C, H, W): each pixel's highest class, the first of equal ones."""
    xp = array_namespace(logits_CHW)
    classes = xp.arange(logits_CHW.shape[-3], device=device(logits_CHW))[:, None, None]
    return xp.argmax(logits_CHW, axis=-3, keepdims=True) == classes


def highest_only(logits_CHW: Array) -> Array:
    """Logits (..., C, H, W) with LOWEST at a pixel's classes but its highest: multilabel masks that
    never overlap, whatever the thresholds are."""
    xp = array_namespace(logits_CHW)
    return xp.where(is_highest(logits_CHW), logits_CHW, _constant(LOWEST, logits_CHW))


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-logits)) of float32, any shape; logits beyond 80 count as 80."""
    xp = array_namespace(logits)
    return 1.0 / (1.0 + xp.exp(-clip(logits, -_EXP_LIMIT, _EXP_LIMIT)))


def clip(values: Array, low: float, high: float) -> Array:
    """The values within low..high, any float dtype and shape; NaN stays NaN.

    The standard's own clip of a torch tensor waits for the device and copies the tensor several
    times, as its limits may be arrays.
    """
    xp = array_namespace(values)
    least, most = (_constant(value, values) for value in (low, high))
    return xp.where(values < least, least, xp.where(values > most, most, values))


def softmax(logits_CHW: Array) -> Array:
    """exp(logits) / sum over the classes, float32 (..., C, H, W)."""
    xp = array_namespace(logits_CHW)
    powers = xp.exp(logits_CHW - xp.max(logits_CHW, axis=-3, keepdims=True))
    return powers / xp.sum(powers, axis=-3, keepdims=True)


def _constant(value: float, like: Array) -> Array:
    """The value as an array of no axes, of the same dtype and on the same device; made there."""
    return array_namespace(like).full((), value, dtype=like.dtype, device=device(like))
