"""Mixtures of models, each judged by the best rule that it can have."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.threads import in_threads
from distseg.ensemble.choices import Choices, EnsembleChoice
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import is_highest
from distseg.functional.metrics import TIE, target_planes
from distseg.functional.postprocess import Rule, default_rule, logit
from distseg.functional.sweeps import GridSweep, RuleChoice, RuleGrid
from distseg.functional.tuning import TOP_PROBS, area_candidates, sum_of_others
from distseg.functional.weights import Weights
from distseg.records.paths import split_snapshot_id

log = logging.getLogger(__name__)

THRESHOLD_PROBS = tuple(round(0.05 + 0.025 * i, 3) for i in range(37))
MIXTURES_AT_ONCE = 8
SIMPLER_VALUES = 1 << 29  # logits that the search for a simpler ensemble reads: some seconds


@dataclass(frozen=True)
class Mixture:
    """How the models' logits become one. weights: one per `OutOfFold.names`."""

    space: str
    weights: Weights


class MixtureSearch:
    """Mixtures and rules on the rows of a round. Holds counts, and one block of images.

    Components, holes, full masks and a gate of the image heads stay as the choices before have
    them: the sweep counts pixels, not components, and looks at no head. The verdict judges the
    whole, with what is kept.

    Attributes:
        mixtures: what is tried, in the order in which ties go to the earlier one.
        grid: the rules that are tried with each mixture.
        step: one row of so many is read, where there is more than a search should read.
        found: by label the best, with its score on the rows that it was found on.
        seconds: of the search alone, without scoring what it found.
    """

    def __init__(
        self, nesting: Nesting, mixtures: Sequence[Mixture], grid: RuleGrid, max_values: int
    ) -> None:
        """max_values: logits that may be read, over all mixtures."""
        self.nesting, self.config, self.oof = nesting, nesting.config, nesting.oof
        self.mixtures, self.grid = mixtures, grid
        values = sum(nesting.pixels()) * len(mixtures) * self.config.num_outputs
        self.step = -(-values // max_values)
        self.found: dict[str, tuple[EnsembleChoice, float]] = {}
        self.seconds = 0.0

    def tune(self, choices: Choices) -> Choices:
        """The best by label: of each split, found on the other splits; of ALL, found on all."""
        began = time.monotonic()
        for space in dict.fromkeys(mixture.space for mixture in self.mixtures):
            own = [mixture for mixture in self.mixtures if mixture.space == space]
            for start in range(0, len(own), MIXTURES_AT_ONCE):
                some = own[start : start + MIXTURES_AT_ONCE]
                for mixture, sweeps in zip(some, self._sweeps(space, some), strict=True):
                    self._compare(mixture, sweeps, choices)
            log.info("tried %d mixtures in %s space", len(own), space)
        self.seconds = time.monotonic() - began
        return {label: choice for label, (choice, _) in self.found.items()}

    def _sweeps(self, space: str, some: Sequence[Mixture]) -> list[list[dict[str, GridSweep]]]:
        """For each mixture and class, by split, the counts under every rule."""
        classes, metric = range(self.config.num_outputs), self.config.metric
        weights = [mixture.weights for mixture in some]
        rows = self.nesting.thinned(self.step)
        table = [[{s: GridSweep(metric, self.grid) for s in rows} for _ in classes] for _ in some]

        def read(block: list[int]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
            logits = self._decided(self.oof.mixtures(block, weights, space))
            return logits, np.stack([self.oof.target(row) for row in block])

        for split, own in rows.items():
            for logits, target_NKHW in in_threads(read, self.oof.blocks(own)):
                for number in classes:
                    own_class = range(number, number + 1)
                    truth, valid = target_planes(target_NKHW, own_class, self.config.task)
                    for one, sweeps in zip(logits, table, strict=True):
                        sweeps[number][split].add(one[:, number], truth[:, 0], valid[:, 0])
        return table

    def _compare(
        self, mixture: Mixture, sweeps: Sequence[Mapping[str, GridSweep]], before: Choices
    ) -> None:
        """Take the mixture for every label where its best rules beat what was found."""
        for label in self.nesting.labels:
            best = [sum_of_others(own, label).best() for own in sweeps]
            score = float(np.mean([choice.score for choice in best]))
            if label not in self.found or score > self.found[label][1] + TIE:
                rule = self._rule(before[label].rule, best)
                self.found[label] = EnsembleChoice(mixture.space, mixture.weights, rule), score

    def _decided(self, logits_TNCHW: NDArray[np.float32]) -> NDArray[np.float16]:
        """What thresholds cut: logits; for multiclass 1 at the highest class and -1 elsewhere."""
        if self.config.task != "multiclass":
            return logits_TNCHW.astype(np.float16)
        return np.where(is_highest(logits_TNCHW), np.float16(1), np.float16(-1))

    def _rule(self, before: Rule, best: Sequence[RuleChoice]) -> Rule:
        """The rule before with the classes' choices in it; multiclass has no rules."""
        if self.config.task == "multiclass":
            return before
        gates = [{"top": c.gate[0], "area": c.gate[1]} if c.gate else None for c in best]
        return before | {
            "threshold": [choice.threshold for choice in best],
            "min_area": [choice.min_area for choice in best],
            "double": gates if any(gates) else None,
        }

    def found_record(self) -> dict[str, Any]:
        """What was found, by label, as joint.json has it."""
        return {
            label: {
                "mixture": {"space": choice.space, "weights": self.oof.shown(choice.weights)},
                "rule": choice.rule,
                "score": score,
            }
            for label, (choice, score) in self.found.items()
        }

    def cost(self) -> dict[str, Any]:
        """What was searched, and what a candidate cost."""
        candidates = len(self.mixtures) * self.grid.num
        return {
            "mixtures": len(self.mixtures),
            "rules_per_class": self.grid.num,
            "candidates_per_class": candidates,
            "rows": sum(map(len, self.nesting.thinned(self.step).values())),
            "seconds": round(self.seconds, 3),
            "seconds_per_candidate": self.seconds / candidates,
        }


def simpler_mixtures(oof: OutOfFold, space: str) -> list[Mixture]:
    """The models as they are, and what is simpler: each model alone, each snapshot alone, and all
    models with only their last snapshots (of a model that has no such snapshot, the model)."""
    names = oof.names
    every = [oof.uniform, *(tuple(int(name == one) for name in names) for one in names)]
    snapshots = [(name, *split_snapshot_id(name)) for name in names]
    depth = max(place or 0 for _, _, place in snapshots)
    for first in range(1, depth + 1):
        late = {name: model for name, model, place in snapshots if place and place >= first}
        whole = set(oof.models) - set(late.values())
        every.append(tuple(int(name in late or name in whole) for name in names))
    return [Mixture(space, weights) for weights in dict.fromkeys(every)]


def unsearched_grid(config: Config) -> RuleGrid:
    """The one rule that masks are made by before any is searched."""
    rule = default_rule(config.postprocess, 1)
    return RuleGrid(tuple(rule["threshold"]), tuple(rule["min_area"]))


def searched_grid(config: Config, pixels: Sequence[int]) -> RuleGrid:
    """The rules that the config says to search, for images of so many pixels; what it fixes is the
    only candidate. Not for multiclass, which has no rules."""
    options, fixed = config.postprocess, unsearched_grid(config)
    areas = area_candidates(int(np.median(pixels)))
    searched, gated = options.threshold == "search", options.double == "search"
    return RuleGrid(
        tuple(map(logit, THRESHOLD_PROBS)) if searched else fixed.thresholds,
        areas if options.min_area == "search" else fixed.areas,
        tuple(map(logit, TOP_PROBS)) if gated else (),
        areas[1:] if gated else (),
    )
