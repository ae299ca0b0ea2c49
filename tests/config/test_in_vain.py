"""Keys that would silently do nothing are mistakes: snapshots of a stage that is not the last, a
patience that is never reached."""

from __future__ import annotations

from typing import Any

import pytest

from distseg.config.load import parse_config, read_tree
from distseg.records.errors import UserError
from tests.tiny import tiny_tree

LAST = {"schedule": {"epochs_per_cycle": 2}}
PLATEAU = {"kind": "plateau", "epochs_per_cycle": 12}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"keep": "best"}, "keep: best: only the last stage leaves snapshots"),
        ({"keep": "top_k", "top_k": 2}, "keep: top_k: only the last"),
        ({"keep": "best_of_cycles"}, "keep: best_of_cycles: only the last"),
        ({"swa": True}, "swa: true: only the last"),
    ],
)
def test_snapshots_are_asked_of_the_last_stage(stage: dict[str, Any], said: str) -> None:
    tree = tiny_tree(stages=[stage, LAST])
    with pytest.raises(UserError, match=rf"stages\.0\.{said}"):
        parse_config(tree, "t")
    parse_config(tiny_tree(stages=[LAST, stage]), "t")
    parse_config(tiny_tree(stages=[{"keep": "cycles"}, LAST]), "t")
    tree = tiny_tree()
    tree["members"]["a"]["stages"] = [LAST, stage, LAST]
    with pytest.raises(UserError, match=rf"members\.a\.stages\.1\.{said}"):
        parse_config(tree, "t")
    rounds = [{"kind": "supervised"}, {"kind": "supervised", "stages": [stage, LAST]}]
    with pytest.raises(UserError, match=rf"rounds\.1\.stages\.0\.{said}"):
        parse_config(tiny_tree(rounds=rounds), "t")


@pytest.mark.parametrize(
    ("stage", "every", "said"),
    [
        ({"early_stopping": {"patience": 40}}, 1, "40 evaluations of 40 epochs: .* at most 39"),
        ({"early_stopping": {"patience": 39}}, 1, None),
        ({"early_stopping": {"patience": 40}}, "auto", "40 evaluations of 40 epochs: .* 39"),
        ({"early_stopping": {"patience": 39}}, "auto", None),
        ({"early_stopping": {"patience": 10}}, 5, "10 evaluations of 40 epochs, of which 8 .* 7"),
        ({"early_stopping": {"patience": 8}}, 5, ".*of which 8 are evaluated .*at most 7"),
        ({"early_stopping": {"patience": 7}}, 5, None),
        ({"early_stopping": {"patience": 7, "metric": "loss"}}, 6, ".*of which 7 are .*at most 6"),
        ({"early_stopping": {"patience": 1}}, 50, ".*of which 1 are .*leave early_stopping out"),
        ({"schedule": {**PLATEAU, "patience": 11}}, 1, "11 evaluations of 12 epochs: the learning"),
        ({"schedule": {**PLATEAU, "patience": 10}}, 1, None),
        ({"schedule": {**PLATEAU, "patience": 3}}, 3, ".*of which 4 are evaluated .*at most 2"),
        ({"schedule": {**PLATEAU, "patience": 2}}, 3, None),
        ({"schedule": {**PLATEAU, "patience": 0}}, 12, ".*of which 1 are .*write kind: constant"),
        ({"schedule": {"kind": "constant", "epochs_per_cycle": 2, "patience": 9}}, 1, None),
    ],
)
def test_a_patience_is_one_that_the_stage_can_reach(
    stage: dict[str, Any], every: int | str, said: str | None
) -> None:
    stage = {"schedule": {"kind": "constant", "epochs_per_cycle": 40}, **stage}
    tree = tiny_tree(stages=[stage, LAST], train={"batch_size": 8, "evaluate_every": every})
    if said is None:
        parse_config(tree, "t")
        return
    key = "schedule" if stage["schedule"]["kind"] == "plateau" else "early_stopping"
    with pytest.raises(UserError, match=rf"stages\.0\.{key}\.patience: {said}"):
        parse_config(tree, "t")


def test_all_of_them_are_told_at_once() -> None:
    first = {"keep": "best", "swa": True, "schedule": {**PLATEAU, "patience": 20},
             "early_stopping": {"patience": 30}}  # fmt: skip
    tree = tiny_tree(stages=[first, LAST], postprocess={"gate": "search"})
    lines = read_tree(tree).lines
    for key in ("keep", "swa", "schedule.patience", "early_stopping.patience"):
        assert sum(line.startswith(f"stages.0.{key}: ") for line in lines) == 1
    assert sum(line.startswith("postprocess.gate: search: ") for line in lines) == 1
    assert len(lines) == 5
