"""The ensemble as a whole: scores, what is adopted and what is not, on made-up members."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.data.prepare import open_cache
from distseg.ensemble.choices import ALL, choices_of, scored_images
from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import SPACES
from distseg.functional.metrics import count_masks, summarize
from distseg.records.files import read_json, read_lines
from distseg.records.oof_table import read_counts
from distseg.records.tables import read_rows
from tests.brute import load, mixed, slow_score
from tests.made_run import made_config, made_run, write_data, write_member

FOLDS = [0, 1, 2]


def test_scores_of_members_spaces_and_snapshots(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data")
    run = made_run(tmp_path, config)
    record = fit_ensemble(config, run, 0)
    assert record == read_json(run.ensemble(0)) == json.loads(json.dumps(record))
    rows = load(config, run)
    everything = [row for own in rows.values() for row in own]
    for name in config.members:
        member = record["scores"]["members"][name]
        slow = slow_score(config, [(x[name], t) for x, t in everything], 0.0)
        assert member["tta"] == pytest.approx(slow)
        for fold in FOLDS:
            slow = slow_score(config, [(x[name], t) for x, t in rows[fold]], 0.0)
            assert member["folds"][str(fold)] == pytest.approx(slow)
        counts = [
            np.array(read_json(run.member(0, name, f).folder / "oof_scores.json")["variants"][key])
            for key in ("snapshot_1_plain",)
            for f in FOLDS
        ]
        assert [s["name"] for s in member["snapshots"]] == ["snapshot_0", "snapshot_1"]
        expected = summarize(np.concatenate(counts), config.metric)["score"]
        assert member["snapshots"][1]["plain"] == pytest.approx(expected)
    for space in SPACES:
        slow = slow_score(config, mixed(everything, {"a": 1, "b": 1}, space), 0.0)
        assert record["scores"]["spaces"][space] == pytest.approx(slow)
    final = record["scores"]["final"]
    assert final["score"] == record["scores"]["nested"]["default"]  # nothing is searched
    assert final["score"] == record["scores"]["spaces"]["logit"]
    assert 0 < final["standard_error"] < 0.2 and final["num_images"] == 24
    assert [m["weight"] for m in record["members"]] == [1] * 6
    for path in record["members"][0]["snapshots"]:
        assert (run.folder / path).is_file()
    assert read_lines(run.ledger)[-1]["event"] == "ensemble"


def test_a_useless_search_is_not_adopted(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    rules = {"threshold": "search", "min_area": "search", "double": "search"}
    search = {"weights": "search"}
    config = made_config(tmp_path / "data", ("a", "b", "c"), postprocess=rules, ensemble=search)
    run = made_run(tmp_path, config, noise=0.0)  # all members are right everywhere
    record = fit_ensemble(config, run, 0)
    assert [s["step"] for s in record["scores"]["nested"]["steps"]] == [
        "weights", "simpler", "threshold", "double", "simpler, with its own rules",
    ]  # fmt: skip
    assert not any(step["adopted"] for step in record["scores"]["nested"]["steps"])
    assert record["weights"] == {"a": 1, "b": 1, "c": 1}
    assert record["rule"] == {
        "threshold": [0.0], "min_area": [0], "min_component": [0], "double": None,
    }  # fmt: skip
    assert record["scores"]["final"]["score"] == 1.0


def test_a_model_that_is_better_alone_makes_the_submission(tmp_path: Path) -> None:
    """Its threshold is its own: at .5 both models are useless, and the mean of them too."""
    write_data(tmp_path / "data", num=36)
    config = made_config(tmp_path / "data", postprocess={"threshold": "search"})
    noisy, clean = {"offset": 2.0, "noise": 5.0}, {"offset": 2.0, "noise": 0.4}
    run = made_run(tmp_path, config, a=noisy, b=clean)
    record = fit_ensemble(config, run, 0)
    steps = {step["step"]: step for step in record["scores"]["nested"]["steps"]}
    own = steps["simpler, with its own rules"]
    assert steps["threshold"]["adopted"] and own["adopted"], (own["reason"], steps["simpler"])
    assert record["weights"] == {"a": 0, "b": 1}
    assert {member["name"] for member in record["members"]} == {"b"}
    rows = [row for own in load(config, run).values() for row in own]
    best = max(
        slow_score(config, [(x["b"].astype(np.float16), t) for x, t in rows], cut)
        for cut in np.linspace(1, 3, 21)
    )
    assert best - 0.1 < record["scores"]["final"]["score"] <= best


def test_a_snapshot_may_weigh_by_itself(tmp_path: Path) -> None:
    """The first snapshot spoils the mean: without it the model is better, and only the second
    predicts. What ensemble.json lists is what was scored."""
    write_data(tmp_path / "data", num=36)
    config = made_config(tmp_path / "data", ("a",))
    run = made_run(tmp_path, config, snapshot_noise=[6.0, 0.8])
    record = fit_ensemble(config, run, 0)
    assert record["weights"] == {"a": 0, "a#2": 1}
    files = [Path(m["snapshots"][0]).name for m in record["members"] if len(m["snapshots"]) == 1]
    assert files == ["snapshot_1.safetensors"] * 3 and len(record["members"]) == 3
    alone = record["scores"]["against"]
    assert alone["a#2"]["score"] == record["scores"]["final"]["score"] > alone["a"]["score"]
    assert alone["a#2"]["gain"] == 0 < alone["a"]["gain"]
    choices = choices_of(record, (oof := OutOfFold(config, run, 0)).names)
    counts = Nesting(config, oof).score(choices)
    assert summarize(counts, config.metric)["score"] == alone["a#2"]["score"]


def test_all_models_without_their_first_snapshots(tmp_path: Path) -> None:
    write_data(tmp_path / "data", num=36)
    config = made_config(tmp_path / "data")
    run = made_run(tmp_path, config, snapshot_noise=[8.0, 2.0, 2.0])
    record = fit_ensemble(config, run, 0)
    chosen = {name for name, weight in record["weights"].items() if weight}
    assert chosen == {"a#2", "a#3", "b#2", "b#3"}
    searched = config.model_copy(
        update={"ensemble": config.ensemble.model_copy(update={"weights": "search"})}
    )
    steps = fit_ensemble(searched, run, 0)["scores"]["nested"]["steps"]
    assert steps[0]["step"] == "weights" and steps[0]["adopted"]


def test_a_fold_that_loses_does_not_keep_the_gain_of_all(tmp_path: Path) -> None:
    """Folds 0 and 1 want a threshold over 0, fold 2 one under 0, for which it pays."""
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ("a",), postprocess={"threshold": "search"})
    run = made_run(tmp_path, config)
    for fold, offset in ((0, 0.9), (1, 0.9), (2, -0.9)):
        shutil.rmtree(run.member(0, "a", fold).folder)
        write_member(config, run, "a", fold, offset=offset, noise=0.3)
    record = fit_ensemble(config, run, 0)
    (step,) = record["scores"]["nested"]["steps"]
    assert step["adopted"] and "though fold 2 loses" in step["reason"]
    assert step["folds_after"]["2"] < step["folds_before"]["2"]
    assert record["rule"]["threshold"][0] > 0.3
    assert record["scores"]["final"]["score"] == pytest.approx(step["after"])


def test_a_holdout_nests_over_two_halves_of_its_rows(tmp_path: Path) -> None:
    write_data(tmp_path / "data", num=40)
    folds = {"kind": "holdout", "fraction": 0.6}
    data = {"format": "folder", "root": str(tmp_path / "data"), "folds": folds}
    config = made_config(tmp_path / "data", data=data, postprocess={"threshold": "search"})
    run = made_run(tmp_path, config, offset=0.8, noise=0.5)
    record = fit_ensemble(config, run, 0)
    parts = record["scores"]["nested"]["folds"]
    assert list(parts) == ["part0", "part1"]
    assert {part["num_images"] for part in parts.values()} == {12}
    assert record["scores"]["nested"]["steps"][1]["adopted"]
    assert record["rule"]["threshold"][0] > 0.3
    assert fit_ensemble(config, run, 0)["scores"] == record["scores"]  # nothing random


def test_fixed_values_become_logits_and_components_pass_through(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    rules = {"threshold": 0.7, "min_area": 5, "min_component": 3}
    config = made_config(tmp_path / "data", postprocess=rules)
    record = fit_ensemble(config, made_run(tmp_path, config), 0)
    assert record["rule"]["threshold"] == [pytest.approx(np.log(0.7 / 0.3))]
    assert (record["rule"]["min_area"], record["rule"]["min_component"]) == ([5], [3])
    (step,) = record["scores"]["nested"]["steps"]
    assert step["step"] == "simpler" and not step["adopted"]


@pytest.mark.parametrize("metric", ["miou", "mean_dice"])
def test_multiclass_takes_the_highest_class_without_void(tmp_path: Path, metric: str) -> None:
    write_data(tmp_path / "data", num_labels=4)
    changes: dict[str, Any] = {
        "task": "multiclass",
        "classes": ["background", "x", "y"],
        "void": 3,
        "metric": metric,
    }
    search = {"space": "prob", "weights": "search"}
    loss = [{"loss": {"cross_entropy": 1.0}}]
    config = made_config(tmp_path / "data", stages=loss, ensemble=search, **changes)
    run = made_run(tmp_path, config, a={"noise": 1.0}, b={"noise": 3.0})
    record = fit_ensemble(config, run, 0)
    everything = [row for own in load(config, run).values() for row in own]
    counts = []
    for logits, target in everything:
        parts = [np.exp(x) / np.exp(x).sum(0) for x in logits.values()]
        pred, valid = sum(parts).argmax(0), target[0] != 255
        for k in range(3):
            p, t = (pred == k) & valid, (target[0] == k) & valid
            counts.append([(p & t).sum(), p.sum(), t.sum()])
    table = np.array(counts).reshape(len(everything), 3, 3)
    assert any((target == 255).any() for _, target in everything)
    expected = summarize(table, metric)["score"]
    assert record["scores"]["spaces"]["prob"] == pytest.approx(expected)
    assert record["scores"]["nested"]["steps"][0]["adopted"]
    assert record["weights"]["a"] > record["weights"]["b"]


def test_an_ensembles_choices_and_scored_images_are_read_back(tmp_path: Path) -> None:
    """What ensemble.json and oof.csv say of each row is what the masks give, split by split."""
    write_data(tmp_path / "data")
    rules = {"threshold": "search", "min_area": "search"}
    config = made_config(
        tmp_path / "data", postprocess=rules, ensemble={"weights": "search", "space": "prob"}
    )
    run = made_run(tmp_path, config, offset=0.8, a={"noise": 0.7}, b={"noise": 3.0})
    record = fit_ensemble(config, run, 0)
    oof = OutOfFold(config, run, 0)
    nesting = Nesting(config, oof)
    choices = choices_of(read_json(run.ensemble(0)), oof.names)
    assert list(choices) == nesting.labels and choices[ALL].space == "prob"
    assert summarize(nesting.score(choices), config.metric)["score"] == pytest.approx(
        record["scores"]["final"]["score"]
    )
    scored_of, counts = scored_images(config, run, record), read_counts(run.oof_table(0))
    for line in read_rows(run.oof_table(0)):
        target = open_cache(config, run).target(line["id"])
        own = count_masks(scored_of(line).masks_KHW, target, 1, "binary")
        assert np.array_equal(own, counts[line["id"]])
