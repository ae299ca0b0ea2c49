"""Segmentation metrics, all from integer pixel counts per image, at the image's native size.

A *pair* is one (image, class). Counts are `inter` = |P & Y|, `pred` = |P|, `truth` = |Y|, in this
order along the last axis of `counts_NC3`. Sums of counts may cross ranks and folds; ratios never.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import ArrayLike, NDArray

from distseg.functional.naming import unknown_name

Array = Any  # a numpy array or a torch tensor; all arrays of one call are of one kind
Scores = NDArray[np.float64]
PairMetric = Callable[[ArrayLike, ArrayLike, ArrayLike], Scores]
VOID = 255  # a target's pixel that counts nowhere
TIE = 1e-9  # scores that differ by no more are equal


def pixel_counts(pred: Array, truth: Array, valid: Array | None = None) -> Array:
    """Count pixels over the last two axes; numpy arrays and torch tensors alike.

    Args:
        pred: bool, (..., C, H, W) or (H, W).
        truth: bool, of the same shape.
        valid: bool, of that shape or without the class axis; False pixels count nowhere.

    Returns:
        int64 (..., 3): inter, pred, truth; on the masks' device.

    Raises:
        ValueError: another dtype than bool, or shapes that do not fit.
    """
    xp = array_namespace(pred, truth)
    if pred.dtype != xp.bool or truth.dtype != xp.bool:
        raise ValueError(f"masks to count must be bool, not {pred.dtype} and {truth.dtype}")
    if pred.shape != truth.shape:
        raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
    if valid is not None:
        if valid.ndim == pred.ndim - 1:
            valid = valid[..., None, :, :]
        if valid.dtype != xp.bool or valid.shape[-2:] != pred.shape[-2:]:
            raise ValueError(f"valid ({valid.dtype}, {valid.shape}) does not fit {pred.shape}")
        pred, truth = pred & valid, truth & valid
    counts = [xp.sum(m, axis=(-2, -1), dtype=xp.int64) for m in (pred & truth, pred, truth)]
    return xp.stack(counts, axis=-1)


def count_planes(masks_CHW: Array, target_KHW: Array, task: str) -> Array:
    """`pixel_counts` of masks against a target as the data cache holds it, int64 (..., C, 3).

    Args:
        masks_CHW: bool (..., C, H, W), a plane for each class, for multiclass too.
        target_KHW: uint8 (..., K, H, W), of fewer leading axes than the masks where one target is
            for several of them. Values 0, 1 or VOID with K = C; for multiclass a class's number or
            VOID with K = 1.
    """
    xp = array_namespace(masks_CHW, target_KHW)
    planes = target_planes(target_KHW, range(masks_CHW.shape[-3]), task)
    truth, valid = (xp.broadcast_to(plane, masks_CHW.shape) for plane in planes)
    return pixel_counts(masks_CHW, truth, valid)


def target_planes(target_KHW: Array, classes: range, task: str) -> tuple[Array, Array]:
    """Truth and valid pixels of some classes, of a target as the data cache holds it.

    Args:
        target_KHW: uint8 (..., K, H, W), as for `count_planes`.
        classes: consecutive numbers.

    Returns:
        bool (..., C, H, W), C = len(classes), and bool of the same shape, for multiclass with one
        plane for all classes: (..., 1, H, W).
    """
    if task != "multiclass":
        own = target_KHW[..., classes.start : classes.stop, :, :]
        return own == 1, own != VOID
    numbers = array_namespace(target_KHW).arange(
        classes.start, classes.stop, device=device(target_KHW)
    )
    return target_KHW == numbers[:, None, None], target_KHW != VOID


def count_masks(
    masks_KHW: NDArray[np.uint8], target_KHW: NDArray[np.uint8], num_classes: int, task: str
) -> NDArray[np.int64]:
    """inter, pred and truth of one image's finished masks, int64 (C, 3); VOID pixels are out.

    Args:
        masks_KHW: as `postprocess.to_masks` makes them.
        target_KHW: uint8, K as in the masks: 0, 1 or VOID, or for multiclass an index or VOID.
    """
    if task == "multiclass":
        matrix = confusion_matrix(masks_KHW[0], target_KHW[0], num_classes, void=VOID)
        return np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=-1)
    return count_planes(masks_KHW != 0, target_KHW, task)


def tgs_tenths(inter: ArrayLike, pred: ArrayLike, truth: ArrayLike) -> NDArray[np.int64]:
    """Ten times the TGS score, as exact integers 0..10.

    The score counts the t in {50, 55, ..., 95} with 100 * inter > t * union. With t = 50 + 5k that
    is 20 * inter / union > 10 + k, so the count is ceil(20 * inter / union) - 10, in 0..10.
    """
    inter, pred, truth = _as_counts(inter, pred, truth)
    union = pred + truth - inter
    tenths = np.clip(-(-20 * inter // np.maximum(union, 1)) - 10, 0, 10)
    return np.where(union == 0, 10, tenths)


def tgs(inter: ArrayLike, pred: ArrayLike, truth: ArrayLike) -> Scores:
    """TGS Salt's score of a pair: the share of IoU thresholds .50:.05:.95 strictly exceeded.

    Both empty 1, one empty 0. The competition's score is the mean over images.
    """
    return tgs_tenths(inter, pred, truth) / 10.0


def dice(inter: ArrayLike, pred: ArrayLike, truth: ArrayLike) -> Scores:
    """2 |P & Y| / (|P| + |Y|) of a pair; both empty 1, one empty 0."""
    inter, pred, truth = _as_counts(inter, pred, truth)
    return _ratio(2 * inter, pred + truth)


def iou(inter: ArrayLike, pred: ArrayLike, truth: ArrayLike) -> Scores:
    """|P & Y| / |P | Y| of a pair; both empty 1, one empty 0."""
    inter, pred, truth = _as_counts(inter, pred, truth)
    return _ratio(inter, pred + truth - inter)


def miou(inter_K: ArrayLike, pred_K: ArrayLike, truth_K: ArrayLike) -> float:
    """Mean IoU over classes, from counts summed over the whole set.

    A class that neither the truth nor the prediction holds is left out (its IoU is 0 / 0);
    with no class left, everything is rightly empty: 1.
    """
    inter, pred, truth = _as_counts(inter_K, pred_K, truth_K)
    present = pred + truth > 0
    return float(iou(inter, pred, truth)[present].mean()) if present.any() else 1.0


def confusion_matrix(
    pred_HW: NDArray, truth_HW: NDArray, num_classes: int, void: int | None = None
) -> NDArray[np.int64]:
    """Pixel counts of (truth class, predicted class), int64 (K, K); void truth is left out.

    Its diagonal, column sums and row sums are `inter`, `pred` and `truth` per class.
    """
    if pred_HW.shape != truth_HW.shape:
        raise ValueError(f"prediction {pred_HW.shape} and truth {truth_HW.shape} differ in shape")
    keep = np.ones(truth_HW.shape, dtype=bool) if void is None else truth_HW != void
    pred, truth = pred_HW[keep].astype(np.int64), truth_HW[keep].astype(np.int64)
    for name, labels in (("prediction", pred), ("truth", truth)):
        outside = labels[(labels < 0) | (labels >= num_classes)]
        if outside.size:
            raise ValueError(f"the {name} holds class {outside[0]}, not in 0..{num_classes - 1}")
    hist = np.bincount(truth * num_classes + pred, minlength=num_classes**2)
    return hist.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Metric:
    """`pair` scores each (image, class); a set-level metric is a ratio of sums over the set."""

    pair: PairMetric
    set_level: bool = False


METRICS: dict[str, Metric] = {
    "tgs": Metric(tgs),
    "mean_dice": Metric(dice),  # Severstal's and Tianchi's name: the mean over every pair
    "dice": Metric(dice),
    "iou": Metric(iou),
    "miou": Metric(iou, set_level=True),
}


def get_metric(name: str) -> Metric:
    """The metric of this name; ValueError with the nearest one when there is none."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def per_image(counts_NC3: NDArray[np.int64], metric: str) -> Scores:
    """Scores of every pair, float64 (N, C). For the set-level `miou`: the IoU of each pair."""
    inter, pred, truth = np.moveaxis(np.asarray(counts_NC3), -1, 0)
    return get_metric(metric).pair(inter, pred, truth)


def summarize(counts_NC3: NDArray[np.int64], metric: str) -> dict[str, Any]:
    """Everything a report says about a set, as plain JSON values.

    Returns:
        score: the mean over all pairs, or for `miou` the mean over classes of set-level IoU.
        per_class: the same for each class (None: a class absent from both sides under `miou`).
        positives, negatives: the mean over pairs whose truth is non-empty / empty, or None.
        dice_pos, dice_neg: the same, of dice. iou: mean IoU over pairs. num_images: N.
    """
    counts = np.asarray(counts_NC3)
    if counts.ndim != 3 or counts.shape[-1] != 3 or counts.size == 0:
        raise ValueError(f"counts must be (N, C, 3) with at least one image, not {counts.shape}")
    scores, dices = per_image(counts, metric), per_image(counts, "dice")
    positive = counts[..., 2] > 0
    score, per_class = _overall(counts, scores, get_metric(metric).set_level)
    return {
        "score": score,
        "per_class": per_class,
        "positives": _mean(scores[positive]),
        "negatives": _mean(scores[~positive]),
        "dice_pos": _mean(dices[positive]),
        "dice_neg": _mean(dices[~positive]),
        "iou": float(per_image(counts, "iou").mean()),
        "num_images": counts.shape[0],
    }


def _overall(
    counts_NC3: NDArray[np.int64], scores_NC: Scores, set_level: bool
) -> tuple[float, list[float | None]]:
    if not set_level:
        return float(scores_NC.mean()), scores_NC.mean(axis=0).tolist()
    inter, pred, truth = counts_NC3.sum(axis=0).T
    ious = iou(inter, pred, truth)
    present = pred + truth > 0
    per_class = [float(v) if p else None for v, p in zip(ious, present, strict=True)]
    return miou(inter, pred, truth), per_class


def _mean(scores: Scores) -> float | None:
    return float(scores.mean()) if scores.size else None


def _as_counts(*counts: ArrayLike) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.asarray(c, dtype=np.int64) for c in counts)


def _ratio(top: NDArray[np.int64], bottom: NDArray[np.int64]) -> Scores:
    """top / bottom, and 1 where both masks are empty (bottom 0)."""
    return np.where(bottom == 0, 1.0, top / np.maximum(bottom, 1))
