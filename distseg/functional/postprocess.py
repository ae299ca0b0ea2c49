"""From logits to masks: thresholds, connected components, holes and areas.

A *rule* says how, with a value for each class under each of its keys; see `apply_postprocess`.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.functional.naming import unknown_name

Mask = NDArray[np.uint8]
Rule = dict[str, Any]  # as `apply_postprocess` takes it

RULE_KEYS = (
    "threshold", "min_area", "min_component", "fill_holes", "full_mask", "double", "gate",
)  # fmt: skip


class Options(Protocol):
    """What of the config says how to tune: "search", or a value that stays."""

    @property
    def threshold(self) -> Any: ...
    @property
    def min_area(self) -> Any: ...
    @property
    def min_component(self) -> Any: ...
    @property
    def fill_holes(self) -> Any: ...
    @property
    def full_mask(self) -> Any: ...


def remove_small(mask_HW: Mask, min_area: int, connectivity: int = 8) -> Mask:
    """Drop connected components of fewer than `min_area` pixels.

    Args:
        mask_HW: uint8 (H, W); non-zero is foreground.
        connectivity: 8 joins pixels that touch at a corner, 4 only at a side.

    Returns:
        A new uint8 (H, W) of 0 and 1.
    """
    labels, stats = components(mask_HW != 0, connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False  # label 0 is the background
    return keep[labels].astype(np.uint8)


def fill_holes(mask_HW: Mask, max_area: int, connectivity: int = 8) -> Mask:
    """Fill holes of at most `max_area` pixels; background that reaches the border is no hole.

    `connectivity` is the foreground's: its diagonal contact closes a hole when it is 8.
    """
    labels, area, inside = holes(mask_HW, connectivity)
    fill = inside & (area <= max_area)
    return ((mask_HW != 0) | fill[labels]).astype(np.uint8)


def holes(mask_HW: Mask, connectivity: int) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    """Labels int32 (H, W) of the background's components; and by label its pixels, and whether it
    is a hole: label 0, the foreground, is none."""
    labels, stats = components(mask_HW == 0, 12 - connectivity)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0)
    inside &= (left + width < mask_HW.shape[1]) & (top + height < mask_HW.shape[0])
    inside[0] = False
    return labels, area, inside


def apply_postprocess(
    logits_CHW: NDArray, rule: Mapping[str, Any], presence_C: NDArray | None = None
) -> Mask:
    """Logits to masks, class by class, in the order of the steps below.

    Args:
        logits_CHW: float (C, H, W), raw logits at the image's native size.
        presence_C: float (C,), the probability that each class is in the image, as image heads say;
            None: nobody says it, and no gate shuts.
        rule: lists with one entry per class:
            gate: None, or a probability per class: a class of less presence is empty.
            threshold: a pixel is foreground where logit > threshold (strictly).
            double: None, or {"top": logit, "area": pixels} per class: with fewer than `area`
                pixels over `top` the class is empty, otherwise `threshold` draws it.
            min_component: connected components under so many pixels go. Default 0.
            min_area: a mask of fewer pixels in total becomes empty. Default 0.
            fill_holes: holes of at most so many pixels are filled. Default 0.
            full_mask: a mask of at least this share of all pixels becomes full. Default 0: never.

    Returns:
        uint8 (C, H, W) of 0 and 1.

    Raises:
        ValueError: an unknown key, no threshold, or a list that does not fit the classes.
    """
    num_classes = len(logits_CHW)
    check_rule(rule, num_classes)
    values = {key: rule.get(key) or [0] * num_classes for key in RULE_KEYS}
    masks = [
        _one_class(logits_CHW[c], {key: value[c] for key, value in values.items()}, presence)
        for c, presence in enumerate([None] * num_classes if presence_C is None else presence_C)
    ]
    return np.stack(masks)


def to_masks(
    logits_CHW: NDArray, rule: Mapping[str, Any], task: str, presence_C: NDArray | None = None
) -> Mask:
    """Combined logits to the predicted masks. presence_C: as of `apply_postprocess`.

    Returns:
        uint8: (1, H, W) class index for multiclass (the rule has no say), else (C, H, W) of 0, 1.
    """
    if task == "multiclass":
        return logits_CHW.argmax(axis=0)[None].astype(np.uint8)
    return apply_postprocess(logits_CHW, rule, presence_C)


def logit(prob: float) -> float:
    """log(p / (1 - p)); 0 and 1 become the float16 range's ends, which every logit is within."""
    if prob <= 0 or prob >= 1:
        return -65504.0 if prob <= 0 else 65504.0
    return math.log(prob) - math.log1p(-prob)


def default_rule(options: Options, num_classes: int) -> Rule:
    """The rule of the config's values, with probability .5 as the threshold and no other rule where
    it says search."""
    prob = 0.5 if options.threshold == "search" else float(options.threshold)
    area = 0 if options.min_area == "search" else int(options.min_area)
    component = 0 if options.min_component == "search" else int(options.min_component)
    rule: Rule = {
        "threshold": [logit(prob)] * num_classes,
        "min_area": [area] * num_classes,
        "min_component": [component] * num_classes,
        "double": None,
    }
    for key in ("fill_holes", "full_mask"):
        value = getattr(options, key)
        if value != "search" and value:
            rule[key] = [value] * num_classes
    return rule


def check_rule(rule: Mapping[str, Any], num_classes: int) -> None:
    """Raise ValueError unless the rule of `apply_postprocess` fits this many classes."""
    for key, values in rule.items():
        if key not in RULE_KEYS:
            raise unknown_name("postprocess rule", key, RULE_KEYS)
        if values is None and key != "threshold":
            continue
        if not isinstance(values, list | tuple) or len(values) != num_classes:
            raise ValueError(
                f"postprocess rule {key!r} must list one value for each of the {num_classes}"
                f" classes, not {values!r}"
            )
    if "threshold" not in rule:
        raise ValueError("a postprocess rule needs a 'threshold' (a logit) for each class")
    for gate in rule.get("double") or []:
        if gate is not None and set(gate) != {"top", "area"}:
            raise ValueError(f"a double threshold is {{'top': logit, 'area': pixels}}, not {gate}")


def _one_class(logits_HW: NDArray, rule: Mapping[str, Any], presence: float | None) -> Mask:
    """One class under its own values of every rule; 0 or None is no rule."""
    if not passes_gates(logits_HW, rule, presence):
        return np.zeros(logits_HW.shape, dtype=np.uint8)
    # np.float64, since numpy would round a Python float to the logits' float16 before comparing
    mask = cleaned((logits_HW > np.float64(rule["threshold"])).astype(np.uint8), rule)
    full = rule["full_mask"]
    return np.ones_like(mask) if full and np.count_nonzero(mask) >= full * mask.size else mask


def passes_gates(logits_HW: NDArray, rule: Mapping[str, Any], presence: float | None) -> bool:
    """Whether neither the image heads nor the double threshold of one class empty its mask."""
    if rule["gate"] and presence is not None and presence < rule["gate"]:
        return False
    double = rule["double"]
    if not double:
        return True
    return bool(np.count_nonzero(logits_HW > np.float64(double["top"])) >= double["area"])


def cleaned(mask_HW: Mask, rule: Mapping[str, Any]) -> Mask:
    """A mask of one class after `min_component`, `min_area` and `fill_holes`."""
    mask = mask_HW
    if rule["min_component"] > 1:
        mask = remove_small(mask, rule["min_component"])
    if np.count_nonzero(mask) < rule["min_area"]:
        return np.zeros_like(mask)
    return fill_holes(mask, rule["fill_holes"]) if rule["fill_holes"] else mask


def components(foreground_HW: NDArray[np.bool_], connectivity: int) -> tuple[NDArray, NDArray]:
    """Labels int32 (H, W), and rows of left, top, width, height, area per label."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, not {connectivity}")
    image = np.ascontiguousarray(foreground_HW, dtype=np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=connectivity)
    return labels, stats
