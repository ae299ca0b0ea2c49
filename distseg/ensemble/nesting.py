"""Nested tuning: what a split is scored with was tuned on the other splits.

The rows of an out-of-fold set are in splits: the folds, or two halves of the one fold of a
hold-out. A tuning strategy turns choices (one for each split, and one for ALL) into better ones; a
split's choice is found on the rows of the other splits, and ALL's, which predicts, on all rows.
`tune_in_steps` adopts what a strategy finds only if, scored so, the whole gains and no class pays
for it (`verdict.verdict`). The strategies are in `steps.py` (one step after another) and `joint.py`
(one search).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, Choices, EnsembleChoice, masks_of_row
from distseg.ensemble.out_of_fold_set import OutOfFold, hash_key
from distseg.functional.bootstrap import (
    paired_difference,
    standard_error,
    standard_error_of_gain,
)
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.verdict import split_scores, verdict

log = logging.getLogger(__name__)

NUM_HALVES = 2  # the splits of a single fold
WITHOUT_VALUES = 1 << 28  # logits that `without_record` reads for each model: some seconds

Step = tuple[str, Callable[[Choices], Choices]]  # its name in the record, and what tunes


class Nesting:
    """The rows in splits, and what is said of choices on them. Reads row by row: memory is that of
    a few images.

    Attributes:
        splits: rows of `oof.manifest` by the label of their split.
        rows: all of them, split by split.
        split_of: the label of each of `rows`.
    """

    def __init__(
        self, config: Config, oof: OutOfFold, splits: dict[str, list[int]] | None = None
    ) -> None:
        """splits: of some of the rows, where a benchmark holds the others back."""
        self.config, self.oof = config, oof
        self.splits = splits or split_rows(oof)
        self.rows = [row for rows in self.splits.values() for row in rows]
        self.split_of = [label for label, rows in self.splits.items() for _ in rows]
        self.labels = [*self.splits, ALL]

    def pixels(self) -> list[int]:
        """Height * width of each row's image."""
        samples = [self.oof.manifest[row] for row in self.rows]
        return [sample.height * sample.width for sample in samples]

    def thinned(self, step: int) -> dict[str, list[int]]:
        """Every `step`-th row of each split, in an order that has nothing to do with the data's."""
        samples = self.oof.manifest
        return {
            label: sorted(rows, key=lambda row: hash_key(samples[row]))[::step]
            for label, rows in self.splits.items()
        }

    def score(self, choices: Choices) -> NDArray[np.int64]:
        """Counts (N, C, 3) of each row under its split's choice, in the order of `rows`."""
        return np.stack(
            [
                self.count(row, choices[label])
                for label, row in zip(self.split_of, self.rows, strict=True)
            ]
        )

    def count(self, row: int, choice: EnsembleChoice) -> NDArray[np.int64]:
        """inter, pred and truth of a row's masks under a choice, (C, 3)."""
        masks = masks_of_row(self.oof, row, choice)
        return count_masks(masks, self.oof.target(row), self.config.num_outputs, self.config.task)

    def verdict(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> dict[str, Any]:
        """Whether a step is adopted: the whole gains, and no class pays for it."""
        return verdict(before, after, self.split_of, self.config.classes, self.config.metric)

    def folds_record(self, choices: Choices, counts: NDArray[np.int64]) -> dict[str, Any]:
        """By split: how many images, the score, and what it was scored with."""
        scores = split_scores(counts, self.split_of, self.config.metric)
        return {
            label: {
                "num_images": len(rows),
                "score": scores[label],
                "weights": self.oof.shown(choices[label].weights),
                "rule": choices[label].rule,
            }
            for label, rows in self.splits.items()
        }

    def final_record(self, counts: NDArray[np.int64]) -> dict[str, Any]:
        """The summary of all rows, with the standard error of the score."""
        metric = self.config.metric
        error = standard_error(counts, metric, seed=self.config.seed)
        return {**summarize(counts, metric), "standard_error": error}

    def against_record(self, counts: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
        """What the ensemble gains over each model and each snapshot alone, which are scored at
        probability .5: on the images that both have, with the gain's standard error."""
        metric, seed = self.config.metric, self.config.seed
        places = {self.oof.manifest[row].id: place for place, row in enumerate(self.rows)}
        record = {}
        for name, (ids, own) in self.oof.alone().items():
            ours = counts[[places[key] for key in ids]]
            scores = [summarize(one, metric)["score"] for one in (own, ours)]
            error = standard_error_of_gain(ours, own, metric, seed=seed)
            record[name] = {"score": scores[0], "ensemble": scores[1], "num_images": len(ids)}
            record[name] |= {"gain": scores[1] - scores[0], "standard_error": error}
        return record

    def without_record(self, choices: Choices) -> dict[str, dict[str, Any]]:
        """What each model that weighs brings to the ensemble: its score less that of the others
        with the same weights and rules, paired; of very many images, on evenly drawn ones."""
        names, record = self.oof.names, {}
        places = [i for i in range(len(names)) if any(c.weights[i] for c in choices.values())]
        values = sum(self.pixels()) * self.config.num_outputs * len(names)
        thinned = self.thinned(-(-values // WITHOUT_VALUES))
        rows = [(label, row) for label, own in thinned.items() for row in own]
        counts = np.stack([self.count(row, choices[label]) for label, row in rows])
        for place in places:
            others = {label: _without(choice, place) for label, choice in choices.items()}
            if not all(any(choice.weights) for choice in others.values()):
                continue  # it is all that a split has chosen
            left = np.stack([self.count(row, others[label]) for label, row in rows])
            found = paired_difference(counts, left, self.config.metric, seed=self.config.seed)
            record[names[place]] = {"num_images": len(rows), **found}
        return record


def _without(choice: EnsembleChoice, place: int) -> EnsembleChoice:
    """The choice with one model less."""
    weights = (*choice.weights[:place], 0, *choice.weights[place + 1 :])
    return replace(choice, weights=weights)


def tune_in_steps(
    nesting: Nesting, choices: Choices, counts: NDArray[np.int64], steps: Iterable[Step]
) -> tuple[Choices, NDArray[np.int64], list[dict[str, Any]]]:
    """Take the steps one after another, each from what the steps before it chose.

    Args:
        choices: where to start; counts: what `nesting.score` says of them.

    Returns:
        The choices with all that was adopted, their counts, and for each step its name and its
        verdict (`verdict.verdict`).
    """
    record: list[dict[str, Any]] = []
    for name, tune in steps:
        if len(nesting.splits) < 2:
            record.append({"step": name, "adopted": False, "reason": "one row: nothing to nest"})
            continue
        log.info("tuning step %r on %d out-of-fold images", name, len(nesting.rows))
        tuned = tune(choices)
        # the rows of a split are scored under its own choice, which they had no part in
        trial = counts if tuned == choices else nesting.score(tuned)
        record.append({"step": name, **nesting.verdict(counts, trial)})
        if record[-1]["adopted"]:
            choices, counts = tuned, trial
    return choices, counts, record


def split_rows(oof: OutOfFold) -> dict[str, list[int]]:
    """Rows by the label of their split: the fold's number, or `part0` and `part1` where there is
    one fold alone: halves by a hash of the ids, which no order of the files can make unlike."""
    if len(oof.folds) > 1:
        return {str(fold): oof.manifest.val_rows(fold) for fold in oof.folds}
    ordered = sorted(oof.rows, key=lambda row: hash_key(oof.manifest[row]))
    number = min(NUM_HALVES, len(ordered))
    return {f"part{i}": sorted(ordered[i::number]) for i in range(number)}
