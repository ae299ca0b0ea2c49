"""Tuning step by step: the weights, then for each class the rules, one after another.

The order for a class: threshold and minimum area, a double threshold, a gate of the image heads,
small components, holes, full masks. Each step starts from what the steps before it chose. Before
the rules and after them a step asks whether something simpler than the ensemble is better: a model
or a snapshot alone, or the last snapshots of all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from distseg.data.threads import in_threads
from distseg.ensemble.choices import ALL, Choices, EnsembleChoice
from distseg.ensemble.mixtures import (
    SIMPLER_VALUES,
    MixtureSearch,
    searched_grid,
    simpler_mixtures,
    unsearched_grid,
)
from distseg.ensemble.nesting import Nesting, Step
from distseg.functional.combine import hard_masks
from distseg.functional.metrics import METRICS, count_planes, miou, per_image, target_planes
from distseg.functional.sweeps import RuleGrid
from distseg.functional.tuning import (
    CLEANING_KEYS,
    Images,
    RuleSearch,
    cleaning_search,
    double_search,
    gate_search,
    threshold_search,
    tune_class,
)
from distseg.functional.weights import Weights, greedy_weights

log = logging.getLogger(__name__)

SIMPLER = "simpler"  # the steps that ask for it are named so, or begin so
WEIGHT_SEARCH_VALUES = 1 << 26  # logits that the weight search reads, and holds as float32

# Names of the models, what they say (M, N, C, H, W), and the targets (N, K, H, W) of some rows.
Block = tuple[list[str], NDArray[np.float32], NDArray[np.uint8]]


def steps_of(nesting: Nesting) -> Iterator[Step]:
    """The steps that the config asks for, and the question whether something simpler is better:
    before the rules, by those in force, and after them, with the best that each can have."""
    config, oof = nesting.config, nesting.oof
    several = len(oof.names) > 1
    asked = several and config.ensemble.simpler == "search"
    if config.postprocess.gate == "search" and not oof.has_heads:
        log.warning("postprocess.gate: search: no model of this ensemble has an image head")
    if several and config.ensemble.weights == "search":
        yield "weights", WeightSearch(nesting).tune
    if asked:
        yield SIMPLER, simpler_search(nesting, unsearched_grid(config)).tune
    if config.task != "multiclass":
        yield from rule_steps(nesting)
        grid = searched_grid(config, nesting.pixels())
        if asked and grid.num > 1:
            yield f"{SIMPLER}, with its own rules", simpler_search(nesting, grid).tune


def simpler_search(nesting: Nesting, grid: RuleGrid) -> MixtureSearch:
    """Of what is simpler than the ensemble, each with the best rule of the grid."""
    simpler = simpler_mixtures(nesting.oof, nesting.config.ensemble.space)
    return MixtureSearch(nesting, simpler, grid, SIMPLER_VALUES)


def rule_steps(nesting: Nesting) -> Iterator[Step]:
    """The rules, for one class after another."""
    config = nesting.config
    # one class at a time: a step that helps one class must not carry another's loss
    for number, name in enumerate(config.classes):
        label = f" of {name}" if len(config.classes) > 1 else ""
        for kind, search in searches_of(nesting):
            yield f"{kind}{label}", partial(tune_rule, nesting, number=number, search=search)


def searches_of(nesting: Nesting) -> Iterator[tuple[str, RuleSearch]]:
    """The rules that the config says to search, by the names of their steps."""
    options, metric = nesting.config.postprocess, nesting.config.metric
    pixels = int(np.median(nesting.pixels()))
    if "search" in (options.threshold, options.min_area):
        yield "threshold", threshold_search(options, metric, pixels)
    if options.double == "search":
        yield "double", double_search(options, metric, pixels)
    if options.gate == "search" and nesting.oof.has_heads:
        yield "gate", gate_search(options, metric, pixels)
    for key in CLEANING_KEYS:
        if getattr(options, key) == "search":
            yield key, cleaning_search(key, metric, pixels)


def tune_rule(nesting: Nesting, choices: Choices, *, number: int, search: RuleSearch) -> Choices:
    """Better rules for class `number`: one pass over the rows for each mixture in use."""
    tuned = dict(choices)
    # splits may have chosen other weights: what one mixture's sweeps say holds for it alone
    for space, weights in sorted({(c.space, c.weights) for c in choices.values()}):
        splits = {
            label: _class_images(nesting, rows, space, weights, number)
            for label, rows in nesting.splits.items()
        }
        same = {k: c for k, c in choices.items() if (c.space, c.weights) == (space, weights)}
        rules = tune_class(splits, {k: c.rule for k, c in same.items()}, number, search)
        tuned |= {k: replace(same[k], rule=rule) for k, rule in rules.items()}
    return tuned


def _class_images(
    nesting: Nesting, rows: Sequence[int], space: str, weights: Weights, number: int
) -> Iterator[Images]:
    """logits, truth and valid pixels (1, H, W) of one class and its presence (1,), row by row."""
    for row in rows:
        logits = nesting.oof.combined(row, weights, space, slice(number, number + 1))
        planes = target_planes(
            nesting.oof.target(row), range(number, number + 1), nesting.config.task
        )
        # float16 has few enough values for an exact sweep over all of them
        said = nesting.oof.presence(row, weights)
        presence = np.full(1, np.nan if said is None else said[number], dtype=np.float64)
        yield logits.astype(np.float16), *planes, presence


class WeightSearch:
    """Greedy weights for each label.

    Mixtures are compared at the thresholds of ALL's rule alone: areas and components have their say
    when the step is scored. What a mixture scores on each split is kept, since the labels try many
    of the same mixtures.
    """

    def __init__(self, nesting: Nesting) -> None:
        self.nesting, self.config, self.oof = nesting, nesting.config, nesting.oof
        # by mixture and split what adds up to its score, (C, 5): inter, pred, truth, the scores of
        # the images, and how many images
        self.sums: dict[Weights, dict[str, NDArray]] = {}
        self.blocks: dict[str, list[Block]] = {}  # of each split, once they are read

    def tune(self, choices: Choices) -> Choices:
        """The same rules with better weights; each label's are found on the other splits."""
        values = sum(self.nesting.pixels()) * self.config.num_outputs * len(self.oof.names)
        rows = self.nesting.thinned(-(-values // WEIGHT_SEARCH_VALUES))
        space = choices[ALL].space
        for split, own in rows.items():
            read = partial(self._read, space=space)
            self.blocks[split] = list(in_threads(read, self.oof.blocks(own)))
        picks, tuned = self.config.ensemble.max_picks, {}
        for label, choice in choices.items():
            others = [split for split in self.nesting.splits if split != label]

            def evaluate(trials: list[Weights], others: list[str] = others) -> list[float]:
                new = [trial for trial in trials if trial not in self.sums]
                if new:
                    self._count(new, choices[ALL])
                return [self._score(self.sums[trial], others) for trial in trials]

            weights = greedy_weights(self.oof.uniform, picks, evaluate)
            tuned[label] = replace(choice, weights=weights)
        return tuned

    def _read(self, rows: list[int], space: str) -> Block:
        return *self.oof.values(rows, space), np.stack([self.oof.target(row) for row in rows])

    def _count(self, trials: list[Weights], choice: EnsembleChoice) -> None:
        """Fill `sums` for new mixtures, at the thresholds of a choice's rule."""

        def counts(block: Block) -> NDArray[np.int64]:
            here, values, target_NKHW = block
            logits_TNCHW = self.oof.mixed(here, values, trials, choice.space)
            masks = hard_masks(logits_TNCHW, self.config.task, choice.rule["threshold"])
            return count_planes(masks, target_NKHW, self.config.task)

        self.sums |= {trial: {} for trial in trials}
        for split, blocks in self.blocks.items():
            tables = np.concatenate(list(in_threads(counts, blocks)), axis=1)
            for trial, table in zip(trials, tables, strict=True):
                scores = per_image(table, self.config.metric)
                columns = [*np.moveaxis(table, -1, 0), scores, np.ones_like(scores)]
                self.sums[trial][split] = np.stack([c.sum(axis=0) for c in columns], axis=-1)

    def _score(self, sums: Mapping[str, NDArray], splits: Sequence[str]) -> float:
        total = np.sum([sums[split] for split in splits], axis=0)
        if METRICS[self.config.metric].set_level:
            return miou(*total[:, :3].T)
        return float((total[:, 3] / total[:, 4]).mean())
