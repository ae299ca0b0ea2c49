"""What the values of one cleaning rule leave of a mask, counted without drawing a mask for each.

Components and holes are labeled once; a value keeps or fills some of them, whose pixels add up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.functional.postprocess import Mask, cleaned, components, holes, passes_gates

Counts = NDArray[np.int64]  # (V, 3): of each value inter, pred (valid pixels) and area (all pixels)


def counts_by_value(
    logits_HW: NDArray,
    truth_HW: NDArray[np.bool_],
    valid_HW: NDArray[np.bool_],
    presence: float,
    rule: Mapping[str, Any],
    key: str,
    values: Sequence[float],
) -> NDArray[np.int64]:
    """inter, pred and truth of the mask of one class under each value of a rule, (V, 3).

    Args:
        logits_HW: float (H, W). truth_HW, valid_HW: bool; other pixels do not score.
        presence: the probability that the class is in the image; NaN: nobody says it.
        rule: as `apply_postprocess` takes it, but of this class alone: a value for each of its
            keys.
        key: min_component, fill_holes or full_mask. values: in its place in the rule.
    """
    pixels = Pixels(truth_HW & valid_HW, None if valid_HW.all() else ~valid_HW)
    full = pixels.of(np.ones(truth_HW.shape, np.bool_))
    count = {"min_component": _by_component, "fill_holes": _by_hole, "full_mask": _by_share}[key]
    found = np.zeros((len(values), 3), dtype=np.int64)
    if passes_gates(logits_HW, rule, presence):
        mask = (logits_HW > np.float64(rule["threshold"])).astype(np.uint8)
        found = count(mask, pixels, rule, np.array(values))
    shares = np.array(values if key == "full_mask" else [rule["full_mask"] or 0] * len(values))
    found[(shares > 0) & (found[:, 2] >= shares * truth_HW.size)] = full
    found[:, 2] = full[0]
    return found


class Pixels(NamedTuple):
    """The truth and the ignored pixels of an image, bool (H, W); ignored: None where none is."""

    truth: NDArray[np.bool_]
    ignored: NDArray[np.bool_] | None

    def of(self, mask_HW: NDArray[np.bool_]) -> NDArray[np.int64]:
        """inter, pred and area of a mask, (3,)."""
        area, inter = np.count_nonzero(mask_HW), np.count_nonzero(mask_HW & self.truth)
        ignored = 0 if self.ignored is None else np.count_nonzero(mask_HW & self.ignored)
        return np.array([inter, area - ignored, area])

    def by_label(self, labels_HW: NDArray[np.int32], area_L: NDArray[np.int32]) -> Counts:
        """inter, pred and area of the pixels of each label, (L, 3)."""
        num, area = len(area_L), area_L.astype(np.int64)
        inter = np.bincount(labels_HW[self.truth], minlength=num)
        if self.ignored is None:
            return np.stack([inter, area, area], axis=1)
        ignored = np.bincount(labels_HW[self.ignored], minlength=num)
        return np.stack([inter, area - ignored, area], axis=1)


def _by_component(mask_HW: Mask, pixels: Pixels, rule: Mapping[str, Any], values: Any) -> Counts:
    if rule["fill_holes"]:  # which holes there are depends on the components that stay
        masks = [cleaned(mask_HW, {**rule, "min_component": value}) for value in values]
        return np.stack([pixels.of(mask != 0) for mask in masks])
    labels, stats = components(mask_HW != 0, 8)
    area = stats[:, cv2.CC_STAT_AREA]
    kept_VL = (area >= values[:, None]) | (values[:, None] <= 1)
    kept_VL[:, 0] = False  # label 0 is the background
    found = kept_VL.astype(np.int64) @ pixels.by_label(labels, area)
    return np.where(found[:, 2:] < rule["min_area"], 0, found)


def _by_hole(mask_HW: Mask, pixels: Pixels, rule: Mapping[str, Any], values: Any) -> Counts:
    base = cleaned(mask_HW, {**rule, "fill_holes": 0})
    labels, area, inside = holes(base, 8)
    filled_VL = inside & (area <= values[:, None])
    # a mask that is empty by its area is all background, which has no holes
    return pixels.of(base != 0) + filled_VL.astype(np.int64) @ pixels.by_label(labels, area)


def _by_share(mask_HW: Mask, pixels: Pixels, rule: Mapping[str, Any], values: Any) -> Counts:
    return np.repeat(pixels.of(cleaned(mask_HW, rule) != 0)[None], len(values), axis=0)
