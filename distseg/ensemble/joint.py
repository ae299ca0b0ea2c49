"""The ensemble of a finished run again: space, weights, threshold, area and gate in one search.

`steps.py` goes step by step, each step at what the steps before it chose. Here every mixture (a
space and weights) is judged by the best rule that it can have, over the out-of-fold logits on disk.
It is one step more of the same nested tuning: the result takes the place of the run's ensemble only
where the whole gains and no split and no class loses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, Choices, EnsembleChoice, choices_of
from distseg.ensemble.nesting import Nesting, tune_in_steps
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import SPACES, is_highest
from distseg.functional.metrics import TIE, target_planes
from distseg.functional.postprocess import Rule, logit
from distseg.functional.sweeps import GridSweep, RuleChoice, RuleGrid
from distseg.functional.tuning import TOP_PROBS, area_candidates, sum_of_others
from distseg.functional.weights import Weights, weightings
from distseg.records.errors import UserError
from distseg.records.files import write_json
from distseg.records.oof_table import write_rows
from distseg.records.paths import Run, final_ensemble

log = logging.getLogger(__name__)

THRESHOLD_PROBS = tuple(round(0.05 + 0.025 * i, 3) for i in range(37))
MAX_WEIGHTINGS = 64
MIXTURES_AT_ONCE = 8
MAX_VALUES = 1 << 32  # logits that a search reads, over all mixtures: a minute or two


@dataclass(frozen=True)
class Mixture:
    """How the models' logits become one. weights: one per `OutOfFold.names`."""

    space: str
    weights: Weights


def search_joint(config: Config, run: Run) -> dict[str, Any]:
    """Search the ensemble of the run's final round; write joint.json beside its ensemble.json and,
    where the result is adopted, ensemble.json and the run's final ensemble. oof.csv is written
    either way: it always has the counts of the ensemble that is in force.

    Returns the record that joint.json holds.

    Raises:
        UserError: the run has no ensemble yet, or one row, of which nothing can be nested.
    """
    final = final_ensemble(run)
    path, table = run.ensemble(final["round"]), run.oof_table(final["round"])
    oof = OutOfFold(config, run, final["round"])
    nesting = Nesting(config, oof)
    if len(nesting.splits) < 2:
        raise UserError(f"{run.folder}: one out-of-fold row: there is nothing to nest")
    before = choices_of(final, oof.names)
    search = JointSearch(nesting)
    steps = [("joint", search.tune)]
    chosen, counts, (step,) = tune_in_steps(nesting, before, nesting.score(before), steps)
    judged = {key: value for key, value in step.items() if key != "step"}
    record = {**judged, **search.cost(), "found": search.found_record()}
    if judged["adopted"]:
        adopted = _adopted(final, nesting, chosen, counts, step)
        write_json(path, adopted)
        write_json(run.final, adopted)
    # always: a search that was killed may have left a table of another ensemble
    write_rows(table, oof.manifest, nesting.rows, nesting.split_of, counts, config.metric)
    write_json(path.with_name("joint.json"), record)
    run.log_event("joint_search", **{k: record[k] for k in ("adopted", "reason", "seconds")})
    return record


class JointSearch:
    """All mixtures and rules on the rows of a round. Holds counts, and one block of images.

    Components, holes and full masks stay as the choices before have them: the sweep counts pixels,
    not components. The verdict judges the whole, with what is kept.

    Attributes:
        mixtures: what is tried, in the order in which ties go to the earlier one.
        grid: the rules that are tried with each mixture.
        step: one row of so many is read, where there is more than a search should read.
        found: by label the best, with its score on the rows that it was found on.
        seconds: of the search alone, without scoring what it found.
    """

    def __init__(self, nesting: Nesting) -> None:
        self.nesting, self.config, self.oof = nesting, nesting.config, nesting.oof
        pixels = nesting.pixels()
        self.grid = rule_grid(self.config, pixels)
        self.mixtures = mixtures(self.config, len(self.oof.names))
        values = sum(pixels) * len(self.mixtures) * self.config.num_outputs
        self.step = -(-values // MAX_VALUES)
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
            log.info("joint search: tried %d weightings in %s space", len(own), space)
        self.seconds = time.monotonic() - began
        return {label: choice for label, (choice, _) in self.found.items()}

    def _sweeps(self, space: str, some: Sequence[Mixture]) -> list[list[dict[str, GridSweep]]]:
        """For each mixture and class, by split, the counts under every rule."""
        classes, metric = range(self.config.num_outputs), self.config.metric
        weights = [mixture.weights for mixture in some]
        rows = self.nesting.thinned(self.step)
        table = [[{s: GridSweep(metric, self.grid) for s in rows} for _ in classes] for _ in some]
        for split, own in rows.items():
            for block in self.oof.blocks(own):
                logits = self._decided(self.oof.mixtures(block, weights, space))
                target_NKHW = np.stack([self.oof.target(row) for row in block])
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
                "mixture": {"space": choice.space, "weights": choice.weights},
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


def mixtures(config: Config, num_models: int) -> list[Mixture]:
    """The config's space first; a single model is the same in every space."""
    spaces = dict.fromkeys([config.ensemble.space, *SPACES])
    every = [Mixture(s, w) for s in spaces for w in weightings(num_models, MAX_WEIGHTINGS)]
    return [
        mixture
        for mixture in every
        if mixture.space == config.ensemble.space or np.count_nonzero(mixture.weights) > 1
    ]


def rule_grid(config: Config, pixels: Sequence[int]) -> RuleGrid:
    """Candidates for images of so many pixels; multiclass has no rules."""
    if config.task == "multiclass":
        return RuleGrid((0.0,))
    areas = area_candidates(int(np.median(pixels)))
    thresholds = tuple(logit(prob) for prob in THRESHOLD_PROBS)
    return RuleGrid(thresholds, areas, tuple(map(logit, TOP_PROBS)), areas[1:])


def _adopted(
    final: Mapping[str, Any], nesting: Nesting, chosen: Choices, counts: NDArray[np.int64],
    step: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The record of ensemble.json with the result in it."""
    oof, best, before = nesting.oof, chosen[ALL], final["scores"]["nested"]
    folds = {
        label: {**own, "space": chosen[label].space}
        for label, own in nesting.folds_record(chosen, counts).items()
    }
    steps = [*before["steps"], step]
    nested = {**before, "score": step["after"], "folds": folds, "steps": steps}
    return {
        **final,
        "space": best.space,
        "members": oof.weighted(best.weights),
        "weights": dict(zip(oof.names, best.weights, strict=True)),
        "rule": best.rule,
        "scores": {**final["scores"], "nested": nested, "final": nesting.final_record(counts)},
    }
