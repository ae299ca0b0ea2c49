"""The ensemble of a finished run again: space, weights, threshold, area and gate in one search.

`steps.py` goes step by step, each step at what the steps before it chose. Here every mixture (a
space and weights) is judged by the best rule that it can have, over the out-of-fold logits on disk.
It is one step more of the same nested tuning: the result takes the place of the run's ensemble only
where the whole gains and no class pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, Choices, choices_of
from distseg.ensemble.mixtures import THRESHOLD_PROBS, Mixture, MixtureSearch, simpler_mixtures
from distseg.ensemble.nesting import Nesting, tune_in_steps
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import SPACES
from distseg.functional.postprocess import logit
from distseg.functional.sweeps import RuleGrid
from distseg.functional.tuning import TOP_PROBS, area_candidates
from distseg.functional.weights import weightings
from distseg.records.errors import UserError
from distseg.records.files import write_json
from distseg.records.oof_table import write_rows
from distseg.records.paths import Run, final_ensemble

MAX_WEIGHTINGS = 64
MAX_VALUES = 1 << 32  # logits that a search reads, over all mixtures: a minute or two


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
    search = MixtureSearch(
        nesting, mixtures(config, oof), rule_grid(config, nesting.pixels()), MAX_VALUES
    )
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


def mixtures(config: Config, oof: OutOfFold) -> list[Mixture]:
    """Of the models, and the simpler ones. The config's space first; a single model is the same in
    every space."""
    spaces = dict.fromkeys([config.ensemble.space, *SPACES])
    own, rest = len(oof.models), len(oof.names) - len(oof.models)
    listed = [(*weights, *(0,) * rest) for weights in weightings(own, MAX_WEIGHTINGS)]
    listed += [mixture.weights for mixture in simpler_mixtures(oof, config.ensemble.space)]
    every = [Mixture(space, weights) for space in spaces for weights in dict.fromkeys(listed)]
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
        "weights": oof.shown(best.weights),
        "rule": best.rule,
        "scores": {
            **final["scores"],
            "nested": nested,
            "final": nesting.final_record(counts),
            "against": nesting.against_record(counts),
            "without": nesting.without_record(chosen),
        },
    }
