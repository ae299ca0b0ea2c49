"""What the teachers' logits say about one image, as numbers that selection rules read."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.functional.combine import combine, sigmoid, softmax
from distseg.functional.metrics import VOID, target_planes

DECIDED = 0.8  # a pixel with an answer likelier than this is decided
BOUNDARY_SHARE = 0.02  # of the diagonal: the width of the boundary (Cheng et al., CVPR 2021)
FULL_SHARE = 0.995  # of the image: a mask that covers this much covers it wholly
LEAST_PROB = 1e-12  # a probability's logarithm stays finite
STATISTICS = (
    "iou", "dice", "boundary", "confidence", "decided", "entropy", "agreement", "area",
    "target_area", "rectangle", "thin", "full", "constant", "head_certainty",
)  # fmt: skip


def image_statistics(
    logits_MCHW: NDArray, target_KHW: NDArray[np.uint8] | None, image_HWC: NDArray[np.uint8],
    task: str, head_logits: NDArray | None = None,
) -> tuple[dict[str, float], NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """Statistics of one image under M members. All weigh the same, and the threshold is
    probability .5: one that was tuned would carry the labels it was tuned on.

    Args:
        logits_MCHW: any float dtype, native size.
        target_KHW: uint8 as the cache holds it (255: counts nowhere), or None: unlabeled.
        image_HWC: uint8, native size.
        task: "binary", "multilabel" or "multiclass" (class 0 is the background).
        head_logits: (C,) of the image-level head, mean over members; None without a head.

    Returns:
        (statistics by the names of STATISTICS, all floats, NaN where they do not apply: iou, dice
        and boundary in 0..1 with two empty masks 1; areas as shares of the image; entropy in bits;
        rectangle, thin, full, constant 0 or 1, of the target where there is one, else of the
        prediction), the mean logits float32 (C, H, W), and the mask bool (P, H, W) at probability
        .5: P = C planes, for multiclass those of classes 1...
    """
    members = np.asarray(logits_MCHW)
    mean = combine(list(members), [1.0] * len(members), "logit", task)
    mask = planes_of_logits(mean, task)
    surest, entropy = _certainty(mean, task)
    planes = [planes_of_logits(one, task) for one in members]
    valid = np.ones(mask.shape[1:], dtype=np.bool_)
    truth = None
    if target_KHW is not None:
        valid = (target_KHW != VOID).all(axis=0)
        truth = planes_of_target(target_KHW, len(mean), task) & valid
    seen = mask & valid
    shape = np.logical_or.reduce(truth if truth is not None else mask, axis=0)
    found = {
        **(_overlaps(seen, truth) if truth is not None else dict.fromkeys(STATISTICS[:3], np.nan)),
        "confidence": float(surest.mean()),
        "decided": float((surest > DECIDED).mean()),
        "entropy": float(entropy.mean()),
        "agreement": float(np.mean([_iou(one, mask) for one in planes])),
        "area": float(mask.any(axis=0).mean()),
        "target_area": float(shape.mean()),
        "rectangle": float(_rectangle(shape)),
        "thin": float(_thin(shape)),
        "full": float(shape.mean() >= FULL_SHARE),
        "constant": float((image_HWC == image_HWC[0, 0]).all()),
        "head_certainty": np.nan if head_logits is None else _head(head_logits, mask, task),
    }
    return found, mean, mask


def planes_of_logits(logits_CHW: NDArray, task: str) -> NDArray[np.bool_]:
    """bool (P, H, W) at probability .5; multiclass: the highest class, without class 0."""
    if task != "multiclass":
        return np.asarray(logits_CHW) > 0
    return logits_CHW.argmax(axis=0)[None] == np.arange(1, len(logits_CHW))[:, None, None]


def planes_of_target(target_KHW: NDArray[np.uint8], classes: int, task: str) -> NDArray[np.bool_]:
    """bool (P, H, W) of a target as the cache holds it; multiclass: without class 0."""
    planes: NDArray[np.bool_] = target_planes(
        target_KHW, range(1 if task == "multiclass" else 0, classes), task
    )[0]
    return planes


def _certainty(
    logits_CHW: NDArray[np.float32], task: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probability of the likeliest answer and entropy in bits of each pixel, both float32: (H, W)
    over the classes of "multiclass", else (C, H, W) of yes and no for each class."""
    if task == "multiclass":
        p = softmax(logits_CHW)
        return p.max(axis=0), -(p * np.log2(np.maximum(p, LEAST_PROB))).sum(axis=0)
    p = sigmoid(logits_CHW)
    surest = np.maximum(p, 1 - p)
    other = np.maximum(1 - surest, LEAST_PROB)
    return surest, -(surest * np.log2(surest) + other * np.log2(other))


def _overlaps(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """IoU, Dice and boundary IoU over all planes together; two empty masks have 1."""
    inter, both = int((mask & truth).sum()), int(mask.sum()) + int(truth.sum())
    return {
        "iou": inter / (both - inter) if both else 1.0,
        "dice": 2 * inter / both if both else 1.0,
        "boundary": _boundary_iou(mask, truth),
    }


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Over all planes together; two empty masks have 1."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _boundary_iou(a_PHW: NDArray[np.bool_], b_PHW: NDArray[np.bool_]) -> float:
    """IoU of the two masks' inner boundaries (Cheng et al. 2021, "Boundary IoU")."""
    width = max(1, round(BOUNDARY_SHARE * float(np.hypot(*a_PHW.shape[1:]))))
    a, b = (np.stack([_boundary(plane, width) for plane in x]) for x in (a_PHW, b_PHW))
    return _iou(a, b)


def _boundary(mask_HW: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of the mask that lie within `width` of its edge."""
    padded = np.pad(mask_HW.astype(np.uint8), 1)  # the image's edge is a boundary
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask_HW & (eroded == 0)


def _rectangle(mask_HW: NDArray[np.bool_]) -> bool:
    """Whether the mask is one filled rectangle, and not the whole image."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows) or mask_HW.all():
        return False
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return int(mask_HW.sum()) == int(box)


def _thin(mask_HW: NDArray[np.bool_]) -> bool:
    """Whether nothing is left of an object when its outermost pixels go: it is nowhere wider than
    two pixels."""
    if not mask_HW.any():
        return False
    return not cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)).any()


def _head(head_logits: NDArray, mask_PHW: NDArray[np.bool_], task: str) -> float:
    """The lowest probability, over the classes, that the image head gives to what the mask shows:
    the class is in the image, or it is not."""
    logits = np.asarray(head_logits, dtype=np.float64)[1 if task == "multiclass" else 0 :]
    present = mask_PHW.any(axis=(1, 2))
    p = sigmoid(logits)
    return float(np.where(present, p, 1 - p).min())
