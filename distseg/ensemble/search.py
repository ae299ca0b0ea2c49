"""The ensemble of a finished run again: space, weights, threshold, area and gate in one search.

`ensemble.py` goes step by step, each step at what the steps before it chose. Here every mixture
(a space and weights) is judged by the best rule that it can have, over the out-of-fold logits on
disk. It is nested as there: what is scored on a part was found on the others, and the result takes
the place of the run's ensemble only where the whole gains and no part and no class loses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.out_of_fold_set import OutOfFold, hash_key, split
from distseg.functional.bootstrap import standard_error
from distseg.functional.combine import SPACES, is_highest
from distseg.functional.greedy import TIE, Weights
from distseg.functional.joint import JointChoice, JointSweep, RuleGrid, weightings
from distseg.functional.metrics import VOID, count_masks, summarize
from distseg.functional.nesting import part_scores, verdict
from distseg.functional.postprocess import to_masks
from distseg.functional.tuning import TOP_PROBS, Rule, area_candidates, logit
from distseg.records.errors import UserError
from distseg.records.files import write_json
from distseg.records.oof_table import read_counts, write_rows
from distseg.records.paths import Run, final_ensemble

log = logging.getLogger(__name__)

ALL = "all"  # the label of what is found on every part: what predict uses
THRESHOLD_PROBS = tuple(round(0.05 + 0.025 * i, 3) for i in range(37))
MAX_WEIGHTINGS = 64
MIXTURES_AT_ONCE = 8
MAX_VALUES = 1 << 32  # logits that a search reads, over all mixtures: a minute or two


@dataclass(frozen=True)
class Mixture:
    """How the models' logits become one. weights: one per `OutOfFold.names`."""

    space: str
    weights: Weights


@dataclass(frozen=True)
class Found:
    """The best of the search for one label, with its score on the rows it was found on."""

    mixture: Mixture
    rule: Rule
    score: float


def search_joint(config: Config, run: Run) -> dict[str, Any]:
    """Search the ensemble of the run's final round; write joint.json beside its ensemble.json and,
    where the result is adopted, ensemble.json, oof.csv and the run's final ensemble.

    Returns the record that joint.json holds.

    Raises:
        UserError: the run has no ensemble yet, or one row, of which nothing can be nested.
    """
    final = final_ensemble(run)
    oof, path = OutOfFold(config, run, final["round"]), run.ensemble(final["round"])
    search = JointSearch(config, oof, rules_of(final))
    if len(search.parts) < 2:
        raise UserError(f"{run.folder}: one out-of-fold row: there is nothing to nest")
    began = time.monotonic()
    found = search.run()
    seconds = time.monotonic() - began
    counts = search.score(found)
    before = read_counts(path.with_name("oof.csv"))
    known = np.stack([before[oof.manifest[row].id] for row in search.rows])
    judged = verdict(known, counts, search.part_of, config.classes, config.metric)
    record = {**judged, **search.cost(seconds), "found": {k: asdict(v) for k, v in found.items()}}
    if judged["adopted"]:
        adopted = _adopt(final, search, found, counts, judged)
        rows = search.rows, search.part_of
        write_json(path, adopted)
        write_json(run.final, adopted)
        # last: a search that was killed before it compares with the ensemble that was there
        write_rows(path.with_name("oof.csv"), oof.manifest, *rows, counts, config.metric)
    write_json(path.with_name("joint.json"), record)
    run.log_event("joint_search", **{k: record[k] for k in ("adopted", "reason", "seconds")})
    return record


def rules_of(final: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules of an ensemble.json: of each part, tuned on the others, and of ALL."""
    folds = final["scores"]["nested"]["folds"]
    return {**{label: own["rule"] for label, own in folds.items()}, ALL: final["rule"]}


class JointSearch:
    """All mixtures and rules on the rows of a round. Holds counts, and one block of images.

    rules: the run's, by label. Components, holes and full masks stay as they say.
    """

    def __init__(self, config: Config, oof: OutOfFold, rules: Mapping[str, Rule]) -> None:
        self.config, self.oof, self.rules, self.parts = config, oof, rules, split(oof)
        self.rows = [row for rows in self.parts.values() for row in rows]
        self.part_of = [label for label, rows in self.parts.items() for _ in rows]
        samples = [oof.manifest[row] for row in self.rows]
        self.grid = rule_grid(config, [s.height * s.width for s in samples])
        self.mixtures = mixtures(config, len(oof.names))
        values = sum(s.height * s.width for s in samples) * len(self.mixtures) * config.num_outputs
        self.step = -(-values // MAX_VALUES)  # every so manieth row is read

    def run(self) -> dict[str, Found]:
        """The best by label: of each part, found on the other parts; of ALL, found on all."""
        found: dict[str, Found] = {}
        for space in dict.fromkeys(mixture.space for mixture in self.mixtures):
            own = [mixture for mixture in self.mixtures if mixture.space == space]
            for start in range(0, len(own), MIXTURES_AT_ONCE):
                some = own[start : start + MIXTURES_AT_ONCE]
                for mixture, sweeps in zip(some, self.sweeps(space, some), strict=True):
                    self._compare(mixture, sweeps, found)
            log.info("joint search: %d mixtures in %s space", len(own), space)
        return found

    def _compare(
        self, mixture: Mixture, sweeps: Mapping[str, list[JointSweep]], found: dict[str, Found]
    ) -> None:
        """Take the mixture for every label where its best rules beat what was found."""
        for label in [*self.parts, ALL]:
            others = [own for part, own in sweeps.items() if part != label]
            best = [reduce(add, same).best() for same in zip(*others, strict=True)]
            score = float(np.mean([choice.score for choice in best]))
            if label not in found or score > found[label].score + TIE:
                found[label] = Found(mixture, self.rule(label, best), score)

    def sweeps(self, space: str, some: Sequence[Mixture]) -> list[dict[str, list[JointSweep]]]:
        """For each mixture, by part, the counts of every class."""
        classes, metric = range(self.config.num_outputs), self.config.metric
        weights = [mixture.weights for mixture in some]
        table: list[dict[str, list[JointSweep]]] = [
            {part: [JointSweep(metric, self.grid) for _ in classes] for part in self.parts}
            for _ in some
        ]
        for part, rows in self.parts.items():
            thin = sorted(rows, key=lambda row: hash_key(self.oof.manifest[row]))[:: self.step]
            for block in self.oof.blocks(thin):
                logits = self.decided(self.oof.mixtures(block, weights, space))
                target = np.stack([self.oof.target(row) for row in block])
                for number, (truth, valid) in enumerate(self.planes(target)):
                    for one, own in zip(logits, table, strict=True):
                        own[part][number].add(one[:, number], truth, valid)
        return table

    def decided(self, logits_TNCHW: NDArray[np.float32]) -> NDArray[np.float16]:
        """What thresholds cut: logits; for multiclass 1 at the highest class and -1 elsewhere."""
        if self.config.task != "multiclass":
            return logits_TNCHW.astype(np.float16)
        return np.where(is_highest(logits_TNCHW), np.float16(1), np.float16(-1))

    def planes(self, target_NKHW: NDArray[np.uint8]) -> Iterator[tuple[NDArray, NDArray]]:
        """Truth and valid pixels, bool (N, H, W), of each class."""
        for number in range(self.config.num_outputs):
            many = self.config.task == "multiclass"
            target = target_NKHW[:, 0 if many else number]
            yield target == (number if many else 1), target != VOID

    def rule(self, label: str, best: Sequence[JointChoice]) -> Rule:
        """The classes' choices as `components.apply_postprocess` takes them."""
        rule = self.rules[label]
        if self.config.task == "multiclass":
            return rule
        gates = [{"top": c.gate[0], "area": c.gate[1]} if c.gate else None for c in best]
        # the sweep counts pixels, not components: with what is kept the verdict judges the whole
        return rule | {
            "threshold": [choice.threshold for choice in best],
            "min_area": [choice.min_area for choice in best],
            "double": gates if any(gates) else None,
        }

    def score(self, found: Mapping[str, Found]) -> NDArray[np.int64]:
        """Counts (N, C, 3) of every row under what its part did not help to find."""
        return np.stack(
            [self.count(row, found[p]) for p, row in zip(self.part_of, self.rows, strict=True)]
        )

    def count(self, row: int, chosen: Found) -> NDArray[np.int64]:
        task, mixture = self.config.task, chosen.mixture
        logits = self.oof.combined(row, mixture.weights, mixture.space)
        masks = to_masks(logits, chosen.rule, task)
        return count_masks(masks, self.oof.target(row), self.config.num_outputs, task)

    def cost(self, seconds: float) -> dict[str, Any]:
        """What was searched, and what a candidate cost."""
        candidates = len(self.mixtures) * self.grid.num
        rows = sum(len(part[:: self.step]) for part in self.parts.values())
        return {
            "mixtures": len(self.mixtures),
            "rules_per_class": self.grid.num,
            "candidates_per_class": candidates,
            "rows": rows,
            "seconds": round(seconds, 3),
            "seconds_per_candidate": seconds / candidates,
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


def _adopt(
    final: Mapping[str, Any], search: JointSearch, found: Mapping[str, Found],
    counts: NDArray[np.int64], judged: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The record of ensemble.json with the result in it."""
    oof, metric, chosen = search.oof, search.config.metric, found[ALL]
    scores = part_scores(counts, search.part_of, metric)
    folds = {
        label: {
            "num_images": len(rows),
            "score": scores[label],
            "space": found[label].mixture.space,
            "weights": dict(zip(oof.names, found[label].mixture.weights, strict=True)),
            "rule": found[label].rule,
        }
        for label, rows in search.parts.items()
    }
    before = final["scores"]["nested"]
    steps = [*before["steps"], {"step": "joint", **judged}]
    nested = {**before, "score": judged["after"], "folds": folds, "steps": steps}
    error = standard_error(counts, metric, seed=search.config.seed)
    overall = {**summarize(counts, metric), "standard_error": error}
    return {
        **final,
        "space": chosen.mixture.space,
        "members": oof.weighted(chosen.mixture.weights),
        "weights": dict(zip(oof.names, chosen.mixture.weights, strict=True)),
        "rule": chosen.rule,
        "scores": {**final["scores"], "nested": nested, "final": overall},
    }
