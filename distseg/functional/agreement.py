"""What several models say about one labeled image: where they disagree, and where all of them
contradict the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distseg.functional.metrics import VOID
from distseg.functional.statistics import planes_of_logits

SURE = 0.8  # a pixel contradicts its label where another answer is likelier than this


class ScoredImage(NamedTuple):
    """An out-of-fold image under the ensemble that scored it.

    masks_KHW: uint8, as `postprocess.to_masks` makes them. probabilities_CHW: float32, 0..1, of the
    ensemble. members: the logits (C, H, W) of each of its models that did not train on the image.
    """

    masks_KHW: NDArray[np.uint8]
    probabilities_CHW: NDArray[np.float32]
    members: Sequence[NDArray]


def disagreement(members: Sequence[NDArray], task: str) -> float:
    """1 less the mean IoU of each model's mask with that of the models' mean, at probability .5:
    0 where all agree (or there is one model), towards 1 where they share nothing."""
    if len(members) < 2:
        return 0.0
    mean = planes_of_logits(np.mean([np.asarray(m, np.float32) for m in members], axis=0), task)
    ious = []
    for one in members:
        own = planes_of_logits(np.asarray(one), task)
        union = np.count_nonzero(own | mean)
        ious.append(np.count_nonzero(own & mean) / union if union else 1.0)
    return 1.0 - float(np.mean(ious))


def label_doubt(image: ScoredImage, target_KHW: NDArray[np.uint8], task: str) -> float:
    """How much of an image its models contradict its label together, 0..1.

    A pixel counts where every model, and the ensemble with a probability over SURE, gives another
    answer than the label. The share is that of the pixels of truth and prediction together; of all
    pixels for multiclass. Pixels that count nowhere are left out.
    """
    members = [np.asarray(one) for one in image.members]
    probs = image.probabilities_CHW
    if task == "multiclass":
        label, valid = target_KHW[0], target_KHW[0] != VOID
        own = np.where(valid, label, 0)
        wrong = np.all([one.argmax(axis=0) != own for one in members], axis=0)
        of_label = np.take_along_axis(probs, own[None].astype(np.int64), axis=0)[0]
        total = np.count_nonzero(valid)
    else:
        truth, valid = target_KHW == 1, target_KHW != VOID
        wrong = np.all([(one > 0) != truth for one in members], axis=0)
        of_label = np.where(truth, probs, 1 - probs)
        total = np.count_nonzero((truth | (image.masks_KHW == 1)) & valid)
    against = np.count_nonzero(wrong & valid & (of_label < 1 - SURE))
    return min(1.0, against / total) if total else 0.0
