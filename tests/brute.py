"""Slow references: what the tests of tuning compare with, one rule and one image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from distseg.config.schema import Config
from distseg.data.prepare import open_cache
from distseg.ensemble.choices import Choices, EnsembleChoice
from distseg.ensemble.nesting import Nesting
from distseg.functional.combine import combine
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.postprocess import default_rule
from distseg.functional.sweeps import RuleGrid
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import Predictions

Place = tuple[int, int, int]  # of gate, area, threshold


def every_rule(grid: RuleGrid) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The grid's rules, as `apply_postprocess` takes them, with their places."""
    gates, areas, thresholds = map(range, grid.shape)
    for place in product(gates, areas, thresholds):
        gate = grid.gate(place[0])
        yield (
            place,
            {
                "threshold": [grid.thresholds[place[2]]],
                "min_area": [grid.areas[place[1]]],
                "double": [gate and {"top": gate[0], "area": gate[1]}],
                "gate": [grid.presence(place[0])],
            },
        )


def load(config: Config, run: Run) -> dict[int, list[tuple[dict[str, np.ndarray], np.ndarray]]]:
    """All logits (float32) by member and the targets, by fold: what the product never holds."""
    manifest, cache = Manifest.read(run.truth), open_cache(config, run)
    rows: dict[int, list[Any]] = {}
    for fold in manifest.folds:
        found = {n: Predictions(run.member(0, n, fold).oof) for n in config.members}
        for sample in (manifest[row] for row in manifest.val_rows(fold)):
            logits = {n: p.of(sample.id).astype(np.float32) for n, p in found.items()}
            rows.setdefault(fold, []).append((logits, cache.target(sample.id)))
    return rows


def slow_score(config: Config, images: list[tuple[np.ndarray, np.ndarray]], threshold: float,
               min_area: int = 0, gate: tuple[float, int] | None = None) -> float:  # fmt: skip
    """Score of (logits (1, H, W), target) pairs under one rule, without any of our postprocess."""
    counts = []
    for logits, target in images:
        mask = (logits.astype(np.float64) > threshold).astype(np.uint8)
        if mask.sum() < min_area or (gate and (logits > gate[0]).sum() < gate[1]):
            mask[:] = 0
        counts.append(count_masks(mask, target, 1, "binary"))
    return summarize(np.stack(counts), config.metric)["score"]


def mixed(rows: list[Any], weights: dict[str, int], space: str = "logit") -> list[Any]:
    return [
        (combine([x[n] for n in weights], list(weights.values()), space, "binary"), target)
        for x, target in rows
    ]


def without(rows: dict[int, list[Any]], fold: int) -> list[Any]:
    return [row for other, own in rows.items() if other != fold for row in own]


def defaults(nesting: Nesting) -> Choices:
    """Where tuning starts: equal weights and the config's rule."""
    config = nesting.config
    rule = default_rule(config.postprocess, config.num_outputs)
    choice = EnsembleChoice(config.ensemble.space, (1,) * len(nesting.oof.names), rule)
    return dict.fromkeys(nesting.labels, choice)
