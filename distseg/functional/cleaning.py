"""Cleaning rules that no threshold sweep covers: components, holes and full masks, from grids."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.functional.postprocess import apply_postprocess
from distseg.functional.thresholds import score_levels, score_sums
from distseg.functional.tuning import Image, Options, Rule, area_candidates

FULL_SHARES = (0.9, 0.95, 0.98, 0.99)
KEYS = ("min_component", "fill_holes", "full_mask")
Sums = tuple[NDArray[np.float64], int, int]  # levels (L, candidates), truth pixels, images


def candidates_of(key: str, pixels: int) -> tuple[float, ...]:
    """Values to try for images of so many pixels; the first is no rule."""
    return (0, *FULL_SHARES) if key == "full_mask" else area_candidates(pixels)


def tune_by_grid(
    parts: Mapping[str, Iterable[Image]],
    rules: Mapping[str, Rule],
    number: int,
    options: Options,
    metric: str,
    pixels: int,
    *,
    key: str,
) -> dict[str, Rule]:
    """The best value of `key` for class `number`, with the rest of each rule as it is.

    Arguments as for `tuning.tune_single`, with `key` the rule that `options` says to search. Ties
    go to the value nearest to no rule.
    """
    candidates = candidates_of(key, pixels)
    sums: dict[str, dict[str, Sums]] = {}  # by the rule of this class, then by part
    ones = {label: _one_class(rule, number) for label, rule in rules.items()}
    distinct = {repr(one): one for one in ones.values()}
    for part, images in parts.items():
        for image in images:
            for name, one in distinct.items():
                table = sums.setdefault(name, {})
                added = _count(image, one, key, candidates, metric)
                table[part] = _add(table[part], added) if part in table else added
    tuned = {}
    for label, rule in rules.items():
        own = sums.get(repr(ones[label]), {})
        total = [value for part, value in own.items() if part != label]
        best = candidates[_best(total, metric)] if total else 0
        values = list(rule.get(key) or [0] * len(rule["threshold"]))
        values[number] = best
        tuned[label] = {**rule, key: values} if best or key in rule else rule
    return tuned


def _one_class(rule: Rule, number: int) -> Rule:
    return {key: None if value is None else [value[number]] for key, value in rule.items()}


def _count(image: Image, rule: Rule, key: str, candidates: tuple[float, ...], metric: str) -> Sums:
    """What one image adds for every candidate."""
    logits, truth, valid = image
    masks = [apply_postprocess(logits[None], {**rule, key: [value]})[0] for value in candidates]
    drawn = np.stack(masks).astype(np.bool_) & valid
    inter, pred = ((m).sum((1, 2)) for m in (drawn & truth, drawn))
    area = int((truth & valid).sum())
    return score_levels(metric, inter, pred, np.array([area])), area, 1


def _add(left: Sums, right: Sums) -> Sums:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def _best(parts: list[Sums], metric: str) -> int:
    levels: Any = sum(part[0] for part in parts)
    truth, images = (sum(part[i] for part in parts) for i in (1, 2))
    means = score_sums(metric, levels, int(truth), int(images)) / images
    return int(np.flatnonzero(means >= means.max() - 1e-9)[0])
