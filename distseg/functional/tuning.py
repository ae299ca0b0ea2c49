"""Postprocessing rules from sweeps over parts: each part's rule is tuned on the other parts."""

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from distseg.functional.double_thresholds import DoubleSweep
from distseg.functional.thresholds import NUM_CODES, Sweep, best, ordered_code

Rule = dict[str, Any]  # as `components.apply_postprocess` takes it
Image = tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.bool_]]  # logits, truth, valid
AnySweep = TypeVar("AnySweep", Sweep, DoubleSweep)

# Candidates of a minimum area, as shares of the median image: 3,500 of Severstal's 409,600 pixels
# and 20 of TGS's 10,201 lie within.
AREA_SHARES = (0.0005, 0.001, 0.002, 0.004, 0.0085, 0.017, 0.034)
TOP_PROBS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BOTTOM_PROBS = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)


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


def logit(prob: float) -> float:
    """log(p / (1 - p)); 0 and 1 become the float16 range's ends, which every logit is within."""
    if prob <= 0 or prob >= 1:
        return -65504.0 if prob <= 0 else 65504.0
    return math.log(prob) - math.log1p(-prob)


def default_rule(options: Options, num_classes: int) -> Rule:
    """The config's values, with probability .5 and no minimum area where it says search."""
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


def area_candidates(pixels: int) -> tuple[int, ...]:
    """Minimum areas to try for images of so many pixels: 0, and from 2 pixels up."""
    return (0, *sorted({a for share in AREA_SHARES if (a := round(share * pixels)) > 1}))


def tune_single(
    parts: Mapping[str, Iterable[Image]],
    rules: Mapping[str, Rule],
    number: int,
    options: Options,
    metric: str,
    pixels: int,
) -> dict[str, Rule]:
    """Threshold and minimum area of class `number`, jointly, as far as `options` says search.

    Args:
        parts: images of each part; each is read once.
        rules: the rule so far by label. A label that names a part is tuned on the other parts,
            any other label on all of them.
        pixels: of the median image.
    """
    areas = area_candidates(pixels) if options.min_area == "search" else (options.min_area,)
    sweeps = {}
    for label, images in parts.items():
        sweeps[label] = Sweep(metric, areas)
        for image in images:
            sweeps[label].add(*image)
    tuned = {}
    for label, rule in rules.items():
        total = _others(sweeps, label)
        default = rule["threshold"][number]
        curves = total.curves()
        if options.threshold != "search":
            curves = np.where(np.arange(NUM_CODES) == _code(default), curves, -np.inf)
        found = best(curves, total.num_images, min_areas=areas, default_threshold=default)
        changes = {"threshold": found.threshold, "min_area": found.min_area}
        tuned[label] = _changed(rule, number, changes)
    return tuned


def tune_double(
    parts: Mapping[str, Iterable[Image]],
    rules: Mapping[str, Rule],
    number: int,
    options: Options,
    metric: str,
    pixels: int,
) -> dict[str, Rule]:
    """A double threshold of class `number`, arguments as for `tune_single`.

    It replaces a searched minimum area; where no gate is best the rule stays as it is.
    """
    fixed = rules[next(iter(rules))]["threshold"][number]
    bottoms = tuple(map(logit, BOTTOM_PROBS)) if options.threshold == "search" else (fixed,)
    grid = (tuple(map(logit, TOP_PROBS)), area_candidates(pixels), bottoms)
    sweeps = {}
    for label, images in parts.items():
        sweeps[label] = DoubleSweep(metric, *grid)
        for logits, truth, valid in images:
            # float32 holds each float16, and numpy sorts it many times faster
            sweeps[label].add_many([logits.astype(np.float32)], [truth], [valid])
    tuned = {}
    for label, rule in rules.items():
        found = _others(sweeps, label).best()
        gate = {"top": found.top, "area": found.area}
        area = 0 if options.min_area == "search" else rule["min_area"][number]
        changes = {"threshold": found.bottom, "double": gate, "min_area": area}
        tuned[label] = _changed(rule, number, changes) if found.area > 0 else rule
    return tuned


def _others(sweeps: Mapping[str, AnySweep], label: str) -> AnySweep:
    return reduce(add, [sweep for part, sweep in sweeps.items() if part != label])


def _code(threshold: float) -> int:
    return int(ordered_code(np.float16(threshold)))


def _changed(rule: Rule, number: int, changes: Mapping[str, Any]) -> Rule:
    """A copy of the rule with class `number`'s values replaced."""
    result = dict(rule)
    for key, value in changes.items():
        values = list(rule[key] or [None] * len(rule["threshold"]))
        values[number] = value
        result[key] = values
    return result
