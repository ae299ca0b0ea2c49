"""What the members of a round say of its rows, with members that are missing or damaged."""

from __future__ import annotations

import json
import logging
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from distseg.config.schema import PostprocessConfig
from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import LOWEST, SPACES, hard_masks
from distseg.functional.metrics import count_masks, count_planes
from distseg.functional.postprocess import to_masks
from distseg.records.errors import UserError
from tests.brute import defaults
from tests.made_run import made_config, made_run, write_data, write_two_classes


def test_failed_and_broken_members_are_left_out_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ensemble={"weights": "search"})
    run = made_run(tmp_path, config)
    failed, torn, unsure = (run.member(0, "a", 0), run.member(0, "b", 1), run.member(0, "b", 2))
    failed.done.unlink()
    failed.failure.write_text(json.dumps({"kind": "out_of_memory", "message": "no room"}))
    with (torn.oof / "logits.f16").open("ab") as file:
        file.write(b"x")
    next(unsure.snapshots.iterdir()).unlink()
    with caplog.at_level(logging.WARNING, logger="distseg"):
        record = fit_ensemble(config, run, 0)
    reasons = {(m["name"], m["fold"]): m["reason"] for m in record["left_out"]}
    assert reasons.keys() == {("a", 0), ("b", 1), ("b", 2)}
    assert reasons["a", 0] == "it failed (out_of_memory): no room"
    assert "bytes" in reasons["b", 1] and "missing" in reasons["b", 2]
    assert len(record["members"]) == 3 and record["scores"]["final"]["num_images"] == 24
    assert sum("left out" in r.message for r in caplog.records) == 3


def test_a_fold_without_members_is_not_scored_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ("a",))
    run = made_run(tmp_path, config)
    shutil.rmtree(run.member(0, "a", 2).folder)
    record = fit_ensemble(config, run, 0)
    assert record["scores"]["final"]["num_images"] == 16
    assert record["left_out"] == [{"name": "a", "fold": 2, "reason": "it has not finished"}]
    for fold in (0, 1):
        shutil.rmtree(run.member(0, "a", fold).folder)
    with pytest.raises(UserError, match="no member is usable: it has not finished"):
        fit_ensemble(config, run, 0)


def test_the_highest_class_alone_has_a_pixel_where_the_config_says_so(tmp_path: Path) -> None:
    """Before any threshold, in what is tuned, scored and combined in blocks alike."""
    root = tmp_path / "data"
    write_two_classes(root)
    rules = {"threshold": "search", "exclusive": True}
    config = made_config(root, ("a", "b"), task="multilabel", classes=["x", "y"], postprocess=rules)
    run = made_run(tmp_path, config, noise=3.0)
    record = fit_ensemble(config, run, 0)
    oof = OutOfFold(config, run, 0)
    free = OutOfFold(config.model_copy(update={"postprocess": PostprocessConfig()}), run, 0)
    overlap, shared = 0, 0
    for row in oof.rows[:6]:
        raw, logits = (one.combined(row, (1, 1), "logit") for one in (free, oof))
        highest = raw.argmax(0)
        for k in range(2):
            assert np.array_equal(logits[k][highest == k], raw[k][highest == k])
            assert (logits[k][highest != k] == LOWEST).all()
            assert np.array_equal(oof.combined(row, (1, 1), "logit", slice(k, k + 1))[0], logits[k])
        (mixture,) = oof.mixtures([row], [(1, 1)], "logit")[:, 0]
        assert np.allclose(mixture, logits, atol=1e-5)
        overlap += int(to_masks(logits, record["rule"], "multilabel").all(0).sum())
        shared += int((raw > 0).all(0).sum())
    assert overlap == 0 < shared, (overlap, shared, record["rule"])
    with pytest.raises(UserError, match="exclusive: for task: multilabel"):
        made_config(root, ("a",), postprocess={"exclusive": True})


def test_mixtures_are_combined_and_weigh_what_is_there(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ("a", "b", "c"))
    run = made_run(tmp_path, config)
    shutil.rmtree(run.member(0, "b", 0).folder)
    oof = OutOfFold(config, run, 0)
    trials = [(1, 1, 1), (3, 0, 1), (0, 1, 0)]
    blocks = list(oof.blocks(oof.rows))
    assert sorted(row for block in blocks for row in block) == sorted(oof.rows)
    assert [len(block) for block in blocks] == [8, 8, 8]  # one fold and one size each
    for block, space in product(blocks, SPACES):
        mixtures = oof.mixtures(block, trials, space)
        counts = count_planes(
            hard_masks(mixtures, "binary", [0.1]),
            np.stack([oof.target(row) for row in block]),
            "binary",
        )
        for (t, weights), (i, row) in product(enumerate(trials), enumerate(block)):
            logits = oof.combined(row, weights, space)
            assert np.allclose(mixtures[t, i], logits, atol=1e-5)
            masks = (logits > 0.1).astype(np.uint8)
            assert (counts[t, i] == count_masks(masks, oof.target(row), 1, "binary")).all()
    nesting = Nesting(config, oof)
    assert nesting.score(defaults(nesting)).shape == (24, 1, 3)
