"""Rounds that cannot work are refused when the config is read."""

from __future__ import annotations

import pytest

from distseg.config.load import parse_config
from distseg.records.errors import UserError
from tests.tiny import tiny_tree


@pytest.mark.parametrize(
    ("rounds", "changes", "said"),
    [
        ([{"kind": "pseudo_label", "teacher": "pair"}], {}, "valid: fold, all"),
        ([{"kind": "self_distill", "teacher": "fold"}], {}, "valid: pair, oof, all"),
        ([{"kind": "distill", "teacher": "folds"}], {}, "fold"),
        ([{"kind": "self_distill", "rules": {"min_io": 1}}], {}, "min_iou"),
        ([{"kind": "pseudo_label", "rules": {"min_iou": 0.4}}], {}, "pseudo_label cannot use it"),
        ([{"kind": "pseudo_label", "rank_by": "luck"}], {}, "decided"),
        ([{"kind": "pseudo_label", "mix": "ratio", "share": 0.3}], {}, "2.4 images"),
        ([{"kind": "pseudo_label", "mix": "pretrain_then_finetune"}], {}, "two stages"),
        ([{"kind": "pseudo_label", "members": ["b"]}], {}, "rounds.1.members"),
        ([{"kind": "pseudo_label", "rules": {"min_head_certainty": 0.5}}], {}, "image_head"),
        (
            [{"kind": "self_distill"}],
            {"data": {"format": "synthetic", "folds": {"kind": "stratified", "num": 2}}},
            "num of 3",
        ),
        (
            [{"kind": "self_distill"}],
            {"data": {"format": "synthetic", "folds": {"kind": "holdout"}}},
            "hold-out",
        ),
        ([{"kind": "pseudo_label"}], {"stages": [{"keep": "best"}]}, "keep: best"),
        (
            [{"kind": "pseudo_label"}],
            {"stages": [{"schedule": {"kind": "plateau"}}]},
            "schedule.kind: plateau",
        ),
        (
            [{"kind": "pseudo_label"}],
            {"stages": [{"early_stopping": {"patience": 2}}]},
            "rounds.1: early_stopping chooses by the validation fold",
        ),
        ([{"kind": "mean_teacher", "teacher": "fold"}], {}, "'fold' is not valid.*valid: none"),
        ([{"kind": "mean_teacher", "mix": "ratio"}], {}, "rounds.1.mix: ratio: mean_teacher takes"),
        ([{"kind": "mean_teacher", "share": 0.3}], {}, "rounds.1.share: 0.3 .* 2.4 images"),
        ([{"kind": "mean_teacher", "rules": {"thin": True}}], {}, "rules: mean_teacher does not"),
        ([{"kind": "mean_teacher", "consistency": 0}], {}, "rounds.1.consistency"),
        ([{"kind": "mean_teacher", "teacher_decay": 1}], {}, "rounds.1.teacher_decay"),
        ([{"kind": "mean_teacher", "confidence": 1.5}], {}, "rounds.1.confidence"),
        ([{"kind": "mean_teachr"}], {}, "mean_teacher"),
        (
            [{"kind": "supervised", "consistency": 2}],
            {},
            "supervised does .* mean_teacher does",
        ),
        (
            [{"kind": "pseudo_label", "rampup_epochs": 2}],
            {},
            "rampup_epochs: pseudo_label",
        ),
        (
            [{"kind": "mean_teacher"}],
            {"compute": {"zero": 2}},
            "compute.zero: 2: rounds.1.kind: mean_teacher",
        ),
    ],
)
def test_impossible_rounds_are_refused(rounds: list, changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config(tiny_tree(rounds=[{"kind": "supervised"}, *rounds], **changes), "test")


def test_teachers_may_be_chosen_by_rows_of_their_own() -> None:
    rounds = [{"kind": "supervised"}, {"kind": "pseudo_label"}]
    train = {"batch_size": 8, "inner_share": 0.2}
    tree = tiny_tree(rounds=rounds, stages=[{"keep": "best"}], train=train)
    assert parse_config(tree, "test").flag(1) == "honest"


def test_a_hold_out_can_be_distilled_by_the_models_that_validated_it() -> None:
    data = {"format": "synthetic", "folds": {"kind": "holdout"}}
    rounds = [{"kind": "supervised"}, {"kind": "distill", "teacher": "fold"}]
    config = parse_config(tiny_tree(rounds=rounds, data=data), "test")
    assert config.flag(1) == "honest"
    rounds[1]["teacher"] = "pair"
    with pytest.raises(UserError, match="hold-out"):
        parse_config(tiny_tree(rounds=rounds, data=data), "test")


def test_the_first_round_is_supervised() -> None:
    with pytest.raises(UserError, match="first round is supervised"):
        parse_config(tiny_tree(rounds=[{"kind": "pseudo_label"}]), "test")


def test_a_mean_teacher_needs_no_folds_and_no_honest_teachers() -> None:
    """It is the student's own average: a hold-out will do, and the score is as honest as that of
    the rounds before."""
    data = {"format": "synthetic", "folds": {"kind": "holdout"}}
    rounds = [{"kind": "supervised"}, {"kind": "mean_teacher"}]
    assert parse_config(tiny_tree(rounds=rounds, data=data), "test").flag(1) == "honest"
    rounds.insert(1, {"kind": "pseudo_label", "teacher": "all"})
    assert parse_config(tiny_tree(rounds=rounds), "test").flag(2) == "leaky"
    rounds = [{"kind": "supervised"}, {"kind": "mean_teacher"}, {"kind": "pseudo_label"}]
    assert parse_config(tiny_tree(rounds=rounds), "test").flag(2) == "honest"
