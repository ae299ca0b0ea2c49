"""One round against the one before, and which ensemble makes the submission."""

from __future__ import annotations

from typing import Any

import numpy as np

from distseg.config.schema import Config
from distseg.functional.bootstrap import standard_error_of_gain
from distseg.functional.metrics import TIE, summarize
from distseg.records.ensemble_record import read_ensemble
from distseg.records.files import read_json_or, write_json
from distseg.records.oof_table import read_counts
from distseg.records.paths import ALL_ROUNDS, Run


def gain(run: Run, config: Config, round: int) -> tuple[float, float]:
    """(score of a round less that of the round before, standard error of the difference), on the
    images that both have; drawn together, so that what an image adds to both cancels."""
    now, before = (read_counts(run.oof_table(n)) for n in (round, round - 1))
    names = [name for name in now if name in before]
    tables = [np.stack([table[name] for name in names]) for table in (now, before)]
    scores = [summarize(table, config.metric)["score"] for table in tables]
    error = standard_error_of_gain(tables[0], tables[1], config.metric, seed=config.seed)
    return scores[0] - scores[1], error


def choose_final(run: Run, round: int, *, all_rounds: bool = True) -> dict[str, Any]:
    """The record of the ensemble that makes the submission, written to `run.final`: that of the
    last round, or, with `all_rounds`, of all rounds where that scores higher out of fold."""
    chosen = read_ensemble(run.ensemble(round))
    if all_rounds and round and run.ensemble(ALL_ROUNDS).is_file():
        together = read_ensemble(run.ensemble(ALL_ROUNDS))
        if together["scores"]["final"]["score"] > chosen["scores"]["final"]["score"] + TIE:
            chosen = together
    if read_json_or(run.final, {}) != chosen:
        write_json(run.final, chosen)
    return dict(chosen)
