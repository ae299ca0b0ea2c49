"""Members to one ensemble: weights, thresholds and areas, tuned nested, and an honest score.

The rows are in parts: the folds, or two halves of the one fold of a hold-out. What is scored on
a part was tuned on the other parts, by members that did not train on it. Tuning goes in steps
(weights; then for each class threshold and min_area, a double threshold, small components, holes,
full masks); a step is adopted only if, scored so, no part and no class loses and the whole gains;
what is not adopted stays at its default. The values that `predict` uses are then tuned on all
parts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.out_of_fold_set import OutOfFold, hash_key, split
from distseg.functional.bootstrap import standard_error
from distseg.functional.cleaning import KEYS, tune_by_grid
from distseg.functional.combine import SPACES, hard_masks
from distseg.functional.greedy import Weights, greedy_weights
from distseg.functional.metrics import (
    METRICS,
    count_masks,
    count_planes,
    miou,
    per_image,
    summarize,
)
from distseg.functional.nesting import part_scores, verdict
from distseg.functional.postprocess import to_masks
from distseg.functional.tuning import Rule, default_rule, tune_double, tune_single
from distseg.records.files import write_json
from distseg.records.oof_table import write_rows
from distseg.records.paths import (
    ALL_ROUNDS,
    RoundKey,
    Run,
    rounds_on_disk,
)

log = logging.getLogger(__name__)

ALL = "all"  # the label of what is tuned on every part: what predict uses
WEIGHT_SEARCH_VALUES = 1 << 26  # logits that one step of the weight search reads


@dataclass(frozen=True)
class Choice:
    """weights: one per `OutOfFold.names`; rule: as `components.apply_postprocess` takes it."""

    weights: Weights
    rule: Rule


Choices = dict[str, Choice]  # by the part that it was not tuned on, and for ALL


def fit_ensemble(config: Config, run: Run, round: RoundKey) -> dict[str, Any]:
    """Tune and score the ensemble of a round's finished members (of ALL_ROUNDS: of all rounds');
    write ensemble.json and oof.csv.

    Members that failed or have not finished are left out, with the reason, and logged.

    Raises:
        UserError: no member has finished.
    """
    began = time.monotonic()
    oof = OutOfFold(config, run, round)
    fitting = Fitting(config, oof, split(oof))
    choices, counts, steps = fitting.climb()
    record: dict[str, Any] = {
        "round": round,
        "flag": flag_of(config, run, round),
        "space": config.ensemble.space,
        "tta": config.predict.tta,
        "task": config.task,
        "metric": config.metric,
        "classes": config.classes,
        "members": oof.weighted(choices[ALL].weights),
        "weights": dict(zip(oof.names, choices[ALL].weights, strict=True)),
        "rule": choices[ALL].rule,
        "scores": {
            "members": {name: oof.member_scores(name) for name in oof.names},
            "spaces": fitting.space_scores(),
            "nested": fitting.nested_record(choices, counts, steps),
            "final": {
                **summarize(counts, config.metric),
                "standard_error": standard_error(counts, config.metric, seed=config.seed),
            },
        },
        "left_out": oof.left_out,
    }
    path = run.ensemble(round).with_name("oof.csv")
    write_rows(path, oof.manifest, fitting.rows, fitting.part_of, counts, config.metric)
    write_json(run.ensemble(round), record)
    score = record["scores"]["final"]["score"]
    seconds = time.monotonic() - began
    run.log_event("ensemble", round=round, score=score, left_out=oof.left_out, seconds=seconds)
    return record


def flag_of(config: Config, run: Run, round: RoundKey) -> str:
    """honest, indirect or leaky: what the score of a round, or of all of them together, is."""
    if round != ALL_ROUNDS:
        return config.flag(round)
    return config.flag(max(n for n in rounds_on_disk(run) if run.ensemble(n).is_file()))


class Fitting:
    """Tunes and scores choices on the parts. Reads row by row: memory is that of a few images."""

    def __init__(self, config: Config, oof: OutOfFold, parts: Mapping[str, list[int]]) -> None:
        self.config, self.oof, self.parts = config, oof, dict(parts)
        self.space, self.metric, self.task = config.ensemble.space, config.metric, config.task
        self.rows = [row for rows in self.parts.values() for row in rows]
        self.part_of = [label for label, rows in self.parts.items() for _ in rows]
        self.sums: dict[Weights, dict[str, NDArray]] = {}  # the weight search's memory

    def climb(self) -> tuple[Choices, NDArray[np.int64], list[dict[str, Any]]]:
        """All steps from the default; returns the choices, their nested counts, the record."""
        uniform = (1,) * len(self.oof.names)
        default = Choice(uniform, default_rule(self.config.postprocess, self.config.num_outputs))
        choices = dict.fromkeys([*self.parts, ALL], default)
        counts, steps = self.score(choices), []
        for name, tune in self.steps():
            if len(self.parts) < 2:
                steps.append({"step": name, "adopted": False, "reason": "one row: nothing to nest"})
                continue
            log.info("tuning %s on %d out-of-fold images", name, len(self.rows))
            tuned = tune(choices)
            trial = counts if tuned == choices else self.score(tuned)
            steps.append({"step": name, **self.verdict(counts, trial)})
            if steps[-1]["adopted"]:
                choices, counts = tuned, trial
        return choices, counts, steps

    def steps(self) -> Iterator[tuple[str, Callable[[Choices], Choices]]]:
        """What the config says to search."""
        rules = self.config.postprocess
        if self.config.ensemble.weights == "search" and len(self.oof.names) > 1:
            yield "weights", self.tune_weights
        if self.task == "multiclass":
            return
        # one class at a time: a step that helps one class must not carry another's loss
        classes = list(enumerate(self.config.classes))
        for number, name in classes:
            label = f" of {name}" if len(classes) > 1 else ""
            if "search" in (rules.threshold, rules.min_area):
                yield f"threshold{label}", partial(self.tune_threshold, classes=[number])
            if rules.double == "search":
                yield f"double{label}", partial(self.tune_double, classes=[number])
            for key in KEYS:
                if getattr(rules, key) == "search":
                    tune = partial(tune_by_grid, key=key)
                    yield f"{key}{label}", partial(self.tune_rules, tune=tune, classes=[number])

    def score(self, choices: Choices) -> NDArray[np.int64]:
        """Counts (N, C, 3) of each row under its part's choice, in the order of `rows`."""
        return np.stack(
            [
                self.count(row, self.masks(row, choices[label]))
                for label, row in zip(self.part_of, self.rows, strict=True)
            ]
        )

    def masks(self, row: int, choice: Choice) -> NDArray[np.uint8]:
        logits = self.oof.combined(row, choice.weights, self.space)
        return to_masks(logits, choice.rule, self.task)

    def count(self, row: int, masks_KHW: NDArray[np.uint8]) -> NDArray[np.int64]:
        return count_masks(masks_KHW, self.oof.target(row), self.config.num_outputs, self.task)

    def part_scores(self, counts: NDArray[np.int64]) -> dict[str, float]:
        return part_scores(counts, self.part_of, self.metric)

    def verdict(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> dict[str, Any]:
        """Whether a step is adopted: the whole gains, and no part and no class loses."""
        return verdict(before, after, self.part_of, self.config.classes, self.metric)

    def space_scores(self) -> dict[str, float]:
        """Score of all rows in each space, with uniform weights at probability .5."""
        uniform, rule = (1,) * len(self.oof.names), {"threshold": [0.0] * self.config.num_outputs}
        scores = {}
        for space in SPACES:
            logits = (self.oof.combined(row, uniform, space) for row in self.rows)
            masks = (to_masks(one, rule, self.task) for one in logits)
            counts = [self.count(row, one) for row, one in zip(self.rows, masks, strict=True)]
            scores[str(space)] = summarize(np.stack(counts), self.metric)["score"]
        return scores

    def nested_record(
        self, choices: Choices, counts: NDArray[np.int64], steps: list[dict[str, Any]]
    ) -> dict[str, Any]:
        scores = self.part_scores(counts)
        folds = {
            label: {
                "num_images": len(rows),
                "score": scores[label],
                "weights": dict(zip(self.oof.names, choices[label].weights, strict=True)),
                "rule": choices[label].rule,
            }
            for label, rows in self.parts.items()
        }
        score = summarize(counts, self.metric)["score"]
        default = steps[0].get("before", score) if steps else score
        return {"score": score, "default": default, "folds": folds, "steps": steps}

    # Tuning: each takes the choices so far and returns better ones, part by part and for ALL.

    def tune_weights(self, choices: Choices) -> Choices:
        """At the rule's thresholds alone: areas and components have their say when it is scored."""
        rows, threshold = self.some_rows(), choices[ALL].rule["threshold"]
        tuned = {}
        for label, choice in choices.items():
            others = [part for part in self.parts if part != label]

            def evaluate(trials: list[Weights], others: list[str] = others) -> list[float]:
                self.add_sums([t for t in trials if t not in self.sums], rows, threshold)
                return [self.score_sums(self.sums[trial], others) for trial in trials]

            picks = self.config.ensemble.max_picks
            weights = greedy_weights(len(self.oof.names), picks, evaluate)
            tuned[label] = replace(choice, weights=weights)
        return tuned

    def some_rows(self) -> dict[str, list[int]]:
        """The parts' rows, thinned evenly where there is more than a search should read."""
        samples = self.oof.manifest
        pixels = sum(samples[row].height * samples[row].width for row in self.rows)
        values = pixels * self.config.num_outputs * len(self.oof.names)
        step = -(-values // WEIGHT_SEARCH_VALUES)
        by_hash = {
            label: sorted(rows, key=lambda row: hash_key(samples[row]))
            for label, rows in self.parts.items()
        }
        return {label: rows[::step] for label, rows in by_hash.items()}

    def add_sums(
        self, trials: list[Weights], rows: dict[str, list[int]], threshold: Sequence[float]
    ) -> None:
        """For each new weighting and part what adds up to its score, (C, 5): inter, pred, truth,
        the pairs' scores, and their number."""
        if not trials:
            return
        self.sums |= {trial: {} for trial in trials}
        for part, own in rows.items():
            counts = np.concatenate(
                [
                    count_planes(
                        hard_masks(
                            self.oof.mixtures(block, trials, self.space), self.task, threshold
                        ),
                        np.stack([self.oof.target(row) for row in block]),
                        self.task,
                    )
                    for block in self.oof.blocks(own)
                ],
                axis=1,
            )
            for trial, table in zip(trials, counts, strict=True):
                scores = per_image(table, self.metric)
                parts = [*np.moveaxis(table, -1, 0), scores, np.ones_like(scores)]
                self.sums[trial][part] = np.stack([p.sum(axis=0) for p in parts], axis=-1)

    def score_sums(self, sums: Mapping[str, NDArray], parts: Sequence[str]) -> float:
        total = np.sum([sums[part] for part in parts], axis=0)
        if METRICS[self.metric].set_level:
            return miou(*total[:, :3].T)
        return float((total[:, 3] / total[:, 4]).mean())

    def tune_threshold(self, choices: Choices, classes: Sequence[int] | None = None) -> Choices:
        return self.tune_rules(choices, tune_single, classes)

    def tune_double(self, choices: Choices, classes: Sequence[int] | None = None) -> Choices:
        return self.tune_rules(choices, tune_double, classes)

    def tune_rules(
        self,
        choices: Choices,
        tune: Callable[..., dict[str, Rule]],
        classes: Sequence[int] | None = None,
    ) -> Choices:
        """Class by class (None: all): one pass over the rows for each weighting in use."""
        tuned = dict(choices)
        samples = [self.oof.manifest[row] for row in self.rows]
        area = int(np.median([s.height * s.width for s in samples]))
        for weights in sorted({choice.weights for choice in choices.values()}):
            for number in range(self.config.num_outputs) if classes is None else classes:
                parts = {
                    label: self.class_images(rows, weights, number)
                    for label, rows in self.parts.items()
                }
                rules = {k: c.rule for k, c in tuned.items() if c.weights == weights}
                better = tune(parts, rules, number, self.config.postprocess, self.metric, area)
                tuned |= {k: replace(tuned[k], rule=rule) for k, rule in better.items()}
        return tuned

    def class_images(
        self, rows: Sequence[int], weights: Weights, number: int
    ) -> Iterator[tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.bool_]]]:
        """logits, truth and valid pixels (H, W) of one class, row by row."""
        for row in rows:
            logits = self.oof.combined(row, weights, self.space, slice(number, number + 1))[0]
            target = self.oof.target(row)[number]
            yield logits.astype(np.float16), target == 1, target != 255
