"""The table of keys that may change."""

from __future__ import annotations

from typing import Any

import pytest

from distseg.config.changes import (
    READ_BY_SUBMISSION,
    REPORT,
    RULES,
    STEPS,
    SUBMISSION,
    Change,
    changes,
    config_changes,
    is_below,
    table,
)
from distseg.config.keys import key_paths
from distseg.config.load import parse_config
from distseg.config.schema import Config
from tests.tiny import ROOT, tiny_tree


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "changes.md").read_text().splitlines()
    start = page.index(table()[0])
    assert page[start : start + len(table())] == table()
    assert not page[start + len(table())].startswith("|")


def test_every_rule_is_of_a_key() -> None:
    known = {*key_paths(Config), "rounds.0", "members.NAME"}
    for rule in RULES:
        for key in rule.keys:
            name = key.rstrip(".")
            assert name in known, key
        assert set(rule.again) <= set(STEPS)
        assert not rule.again or rule.again[-1] == REPORT


# What decides weights, and so has no rule, section by section.
LOCKED = (
    "seed", "task", "classes.0", "void", "metric", "augment", "data.format", "data.root",
    "data.folds.num", "data.folds.seed", "data.folds.kind", "data.folder.masks", "data.levels",
    "input.height", "members.a.encoder", "members.a.decoder.folds", "members.a.input.height",
    "stages.0.loss.bce.weight", "stages.0.schedule.kind", "stages.0.schedule.warmup_epochs",
    "stages.0.keep", "train.batch_size", "train.accumulation", "train.ema_decay", "rounds.1.kind",
    "rounds.1.rules.worst", "compute.precision", "compute.zero", "compute.compile",
    "compute.offload", "compute.channels_last", "compute.augment_on",
)  # fmt: skip


@pytest.mark.parametrize("key", LOCKED)
def test_what_decides_weights_has_no_rule(key: str) -> None:
    assert Change(tuple(key.split(".")), 1, 2).rule is None


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 -> 2"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a: [1, 2] -> [1]"]),
        ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 3}]}, ["a.0.b: 1 -> 3", "a.1: taken away"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"c": 2}]}, ["a.1: added"]),
        ({"a": {"x": {"y": 1}}}, {"a": {"z": {"y": 1}}}, ["a.x: taken away", "a.z: added"]),
        ({"a": None}, {"a": "text"}, ["a: None -> 'text'"]),
        ({"a": "x" * 200}, {"a": 1}, [f"a: '{'x' * 79}... -> 1"]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_differences(old: Any, new: Any, texts: list[str]) -> None:
    assert [str(change) for change in changes(old, new)] == texts


def test_a_round_may_come_at_the_end_and_not_leave() -> None:
    one = parse_config(tiny_tree(), "t")
    two = parse_config(tiny_tree(rounds=[{"kind": "supervised"}, {"kind": "pseudo_label"}]), "t")
    (added,), (left,) = config_changes(one, two), config_changes(two, one)
    assert added.key == left.key == "rounds.1"
    assert added.rule is not None and left.rule is None


def test_a_name_with_dots_is_one_name() -> None:
    assert Change(("members", "unet.v2"), None, {"arch": "Unet"}).rule is not None
    assert Change(("members", "unet.v2", "folds"), None, [0]).rule is not None
    assert Change(("members", "unet.v2", "seed"), 0, 1).rule is None


def test_what_the_masks_are_made_with_beside_the_ensemble() -> None:
    """ensemble.json does not hold it: the submission is made again even where that is the same."""
    change = Change(("postprocess", "exclusive"), False, True)
    assert is_below(change.keys, "postprocess.exclusive") and SUBMISSION in change.again
    assert "postprocess.exclusive" in READ_BY_SUBMISSION
