"""Members to one ensemble: weights, thresholds and areas, tuned nested, and an honest score."""

from __future__ import annotations

import time
from typing import Any

from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, EnsembleChoice
from distseg.ensemble.nesting import Nesting, tune_in_steps
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.ensemble.steps import steps_of
from distseg.functional.combine import SPACES
from distseg.functional.metrics import summarize
from distseg.functional.postprocess import default_rule
from distseg.records.files import write_json
from distseg.records.oof_table import write_rows
from distseg.records.paths import ALL_ROUNDS, RoundKey, Run, rounds_on_disk


def fit_ensemble(config: Config, run: Run, round: RoundKey) -> dict[str, Any]:
    """Tune and score the ensemble of a round's finished members (of ALL_ROUNDS: of all rounds');
    write ensemble.json and oof.csv.

    Members that failed or have not finished are left out, with the reason, and logged. What is not
    searched, or not adopted, stays at its default: equal weights, and the config's rule.

    Returns:
        The record that ensemble.json holds.

    Raises:
        UserError: no member has finished.
    """
    began = time.monotonic()
    oof = OutOfFold(config, run, round)
    nesting = Nesting(config, oof)
    rule = default_rule(config.postprocess, config.num_outputs)
    start = dict.fromkeys(nesting.labels, EnsembleChoice(config.ensemble.space, oof.uniform, rule))
    default = nesting.score(start)
    choices, counts, steps = tune_in_steps(nesting, start, default, steps_of(nesting))
    final = nesting.final_record(counts)
    record: dict[str, Any] = {
        "round": round,
        "flag": flag_of(config, run, round),
        "space": choices[ALL].space,
        "tta": config.predict.tta,
        "task": config.task,
        "metric": config.metric,
        "classes": config.classes,
        "members": oof.weighted(choices[ALL].weights),
        "weights": oof.shown(choices[ALL].weights),
        "rule": choices[ALL].rule,
        "scores": {
            "members": {name: oof.member_scores(name) for name in oof.models},
            "spaces": space_scores(nesting),
            "nested": {
                "score": final["score"],
                "default": summarize(default, config.metric)["score"],
                "folds": nesting.folds_record(choices, counts),
                "steps": steps,
            },
            "final": final,
            "against": nesting.against_record(counts),
            "without": nesting.without_record(choices),
        },
        "left_out": oof.left_out,
    }
    table = run.oof_table(round)
    write_rows(table, oof.manifest, nesting.rows, nesting.split_of, counts, config.metric)
    write_json(run.ensemble(round), record)
    seconds = time.monotonic() - began
    run.log_event(
        "ensemble", round=round, score=final["score"], left_out=oof.left_out, seconds=seconds
    )
    return record


def flag_of(config: Config, run: Run, round: RoundKey) -> str:
    """honest, indirect or leaky: what the score of a round, or of all of them together, is."""
    if round != ALL_ROUNDS:
        return config.flag(round)
    return config.flag(max(n for n in rounds_on_disk(run) if run.ensemble(n).is_file()))


def space_scores(nesting: Nesting) -> dict[str, float]:
    """Score of all rows in each space, with equal weights at probability .5."""
    rule = {"threshold": [0.0] * nesting.config.num_outputs}
    scores = {}
    for space in SPACES:
        choices = dict.fromkeys(nesting.labels, EnsembleChoice(space, nesting.oof.uniform, rule))
        scores[str(space)] = summarize(nesting.score(choices), nesting.config.metric)["score"]
    return scores
