"""How the models' logits become masks: what an ensemble has chosen, for each split and for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.agreement import ScoredImage
from distseg.functional.combine import to_probabilities
from distseg.functional.postprocess import Rule, to_masks
from distseg.functional.weights import Weights
from distseg.records.errors import UserError
from distseg.records.files import parsing
from distseg.records.paths import Run

ALL = "all"  # the label of what is tuned on every split: what predicts


@dataclass(frozen=True)
class EnsembleChoice:
    """How the models' logits become masks.

    Attributes:
        space: of `combine.SPACES`.
        weights: one for each of `OutOfFold.names`.
        rule: as `postprocess.apply_postprocess` takes it.
    """

    space: str
    weights: Weights
    rule: Rule


Choices = dict[str, EnsembleChoice]  # by the split that it was not tuned on, and for ALL


def choices_of(record: Mapping[str, Any], names: Sequence[str]) -> Choices:
    """The choices of an ensemble.json.

    Args:
        names: the models, in the order of the choices' weights.
    """
    folds = record["scores"]["nested"]["folds"]
    return {
        label: EnsembleChoice(
            # an ensemble that was tuned step by step has one space for all
            space=own.get("space", record["space"]),
            weights=tuple(own["weights"].get(name, 0) for name in names),
            rule=own["rule"],
        )
        for label, own in [*folds.items(), (ALL, record)]
    }


def masks_of_row(oof: OutOfFold, row: int, choice: EnsembleChoice) -> NDArray[np.uint8]:
    """The masks of one row under a choice, uint8 (K, H, W); see `postprocess.to_masks`."""
    logits = oof.combined(row, choice.weights, choice.space)
    return to_masks(logits, choice.rule, oof.config.task, oof.presence(row, choice.weights))


def scored_images(
    config: Config, run: Run, record: Mapping[str, Any]
) -> Callable[[Mapping[str, str]], ScoredImage]:
    """A function from a row of oof.csv to what its score is of: masks and probabilities under its
    split's nested choice, and the logits of each model.

    Args:
        record: of ensemble.json.

    The members are opened at the first call, which raises UserError where they are gone.
    """

    @cache
    def opened() -> tuple[OutOfFold, dict[str, int], Choices]:
        oof = OutOfFold(config, run, record["round"])
        places = {oof.manifest[row].id: row for row in oof.rows}
        with parsing(run.ensemble(record["round"])):
            return oof, places, choices_of(record, oof.names)

    def scored(line: Mapping[str, str]) -> ScoredImage:
        oof, places, choices = opened()
        if line["id"] not in places:
            raise UserError(
                f"{run.folder}: the out-of-fold logits of {line['id']!r} are gone; `distseg run` "
                "makes them again"
            )
        with parsing(run.oof_table(record["round"])):
            row, choice = places[line["id"]], choices[line["part"]]
        logits = oof.combined(row, choice.weights, choice.space)
        return ScoredImage(
            masks_of_row(oof, row, choice),
            to_probabilities(logits, choice.space, config.task),
            list(oof.logits(row).values()),
        )

    return scored
