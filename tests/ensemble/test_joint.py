"""The joint search over a run: against brute force over its files, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, Choices, choices_of
from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.joint import MAX_VALUES, mixtures, rule_grid, search_joint
from distseg.ensemble.mixtures import MixtureSearch
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import combine
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.postprocess import to_masks
from distseg.functional.tuning import CLEANING_KEYS
from distseg.records.files import read_json
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from tests.brute import every_rule
from tests.made_run import made_config, made_run, write_data, write_two_classes

pytestmark = pytest.mark.usefixtures("few_weightings")


def brute_force(search: MixtureSearch, rows: list[int]) -> float:
    """The best score of any mixture and rule on these rows, one at a time."""
    best = 0.0
    images = [(list(search.oof.logits(row).values()), search.oof.target(row)) for row in rows]
    for mixture in search.mixtures:
        mixed = [
            (combine(logits, mixture.weights, mixture.space, "binary").astype(np.float16), target)
            for logits, target in images
        ]
        for _, rule in every_rule(search.grid):
            counts = [
                count_masks(to_masks(one, rule, "binary"), target, 1, "binary")
                for one, target in mixed
            ]
            best = max(best, summarize(np.stack(counts), search.config.metric)["score"])
    return best


def test_it_equals_brute_force(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = finished
    monkeypatch.setattr("distseg.ensemble.joint.MAX_WEIGHTINGS", 4)
    monkeypatch.setattr("distseg.ensemble.joint.THRESHOLD_PROBS", (0.3, 0.5, 0.7, 0.8))
    monkeypatch.setattr("distseg.ensemble.joint.TOP_PROBS", (0.7, 0.9))
    nesting = Nesting(config, OutOfFold(config, run, 0))
    grid = rule_grid(config, nesting.pixels())
    search = MixtureSearch(nesting, mixtures(config, nesting.oof), grid, MAX_VALUES)
    search.tune(choices_of(read_json(run.final), nesting.oof.names))
    assert len(search.mixtures) == 3 + 2 * 1  # uniform, a and b alone; uniform in other spaces
    for label in nesting.labels:
        rows = [row for split, own in nesting.splits.items() if split != label for row in own]
        assert search.found[label][1] == pytest.approx(brute_force(search, rows), abs=1e-12), label


def test_what_is_adopted_is_used_and_honest(finished: tuple[Config, Run]) -> None:
    config, run = finished
    before = read_json(run.final)
    record = search_joint(config, run)
    final = read_json(run.final)
    assert record["adopted"], record["reason"]
    assert json.loads(json.dumps(record)) == read_json(run.ensemble(0).with_name("joint.json"))
    assert final == read_json(run.ensemble(0))
    assert final["scores"]["final"]["score"] == pytest.approx(record["after"])
    assert record["before"] == pytest.approx(before["scores"]["final"]["score"])
    assert record["after"] > record["before"]
    assert final["rule"] == record["found"][ALL]["rule"]
    weights = record["found"][ALL]["mixture"]["weights"]
    assert final["weights"] == weights
    assert weights["a"] > weights["b"]  # the one with less noise
    assert {member["name"] for member in final["members"]} == {n for n in "ab" if weights[n]}
    counts = np.stack(list(read_counts(run.oof_table(0)).values()))
    assert summarize(counts, config.metric)["score"] == pytest.approx(record["after"])
    assert choose_final(run, 0) == final  # as `distseg run` does when it goes on
    again = search_joint(config, run)
    assert not again["adopted"]
    assert read_json(run.final) == final


def test_counts_that_a_kill_left_behind_are_made_again(finished: tuple[Config, Run]) -> None:
    config, run = finished
    table = run.oof_table(0)
    old = table.read_bytes()
    assert search_joint(config, run)["adopted"]
    new = table.read_bytes()
    for left in (old, None):  # killed before the counts were written; or somebody removed them
        table.unlink() if left is None else table.write_bytes(left)
        again = search_joint(config, run)
        score = read_json(run.final)["scores"]["final"]["score"]
        assert again["before"] == pytest.approx(score)
        assert table.read_bytes() == new


def test_a_search_that_loses_keeps_the_ensemble(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = finished
    before = run.final.read_bytes()
    score = Nesting.score

    def all_is_worse(self: Nesting, choices: Choices) -> np.ndarray:
        counts = score(self, choices)
        if choices != choices_of(json.loads(before), self.oof.names):
            counts[:] = (0, 1, 1)
        return counts

    monkeypatch.setattr(Nesting, "score", all_is_worse)
    record = search_joint(config, run)
    assert not record["adopted"]
    assert record["reason"].startswith("no gain (-")
    assert run.final.read_bytes() == before


def test_a_class_that_loses_keeps_the_ensemble(tmp_path: Path) -> None:
    """Model a is much better than b at x and worse at y: together they gain by a's weight, for
    which y would pay. Neither the ensemble's own search nor the joint one takes it."""
    root = tmp_path / "data"
    write_two_classes(root)
    rules = {"threshold": "search", "min_area": "search"}
    config = made_config(
        root, task="multilabel", classes=["x", "y"], postprocess=rules,
        ensemble={"weights": "search"},
    )  # fmt: skip
    noise = {"a": np.array([0.2, 4.0]), "b": np.array([7.0, 1.5])}
    options = {name: {"noise": own.reshape(2, 1, 1)} for name, own in noise.items()}
    run = made_run(tmp_path, config, **options)
    step = fit_ensemble(config, run, 0)["scores"]["nested"]["steps"][0]
    assert step["step"] == "weights" and not step["adopted"] and step["after"] > step["before"]
    assert step["reason"].startswith("class y loses")
    final = choose_final(run, 0)
    assert final["weights"] == {"a": 1, "b": 1}
    record = search_joint(config, run)
    assert not record["adopted"] and record["after"] > record["before"]
    assert record["reason"].startswith("class y loses")
    assert read_json(run.final) == final


def test_components_of_the_run_survive_the_search(tmp_path: Path) -> None:
    """What the run searched and adopted beside threshold, area and gate is judged and kept."""
    write_data(tmp_path / "data", num=30)
    rules = {"threshold": 0.5, "min_component": "search", "fill_holes": "search"}
    config = made_config(tmp_path / "data", postprocess=rules)
    run = made_run(tmp_path, config, offset=0.4, noise=0.6)
    fit_ensemble(config, run, 0)
    before = choose_final(run, 0)
    assert before["rule"]["min_component"][0] > 0
    record = search_joint(config, run)
    assert record["adopted"], record["reason"]
    final = read_json(run.final)
    assert final["rule"]["threshold"] != before["rule"]["threshold"]
    oof = OutOfFold(config, run, 0)
    kept = [
        {label: choice.rule for label, choice in choices_of(one, oof.names).items()}
        for one in (before, final)
    ]
    for label, rule in kept[0].items():
        own = {key: rule[key] for key in CLEANING_KEYS if key in rule}
        assert own["min_component"][0] > 0
        assert own == {key: kept[1][label][key] for key in CLEANING_KEYS if key in kept[1][label]}
    counts = read_counts(run.oof_table(0))
    weights = tuple(final["scores"]["nested"]["folds"]["0"]["weights"].values())
    space = final["scores"]["nested"]["folds"]["0"]["space"]
    for row in oof.manifest.val_rows(0):
        masks = to_masks(oof.combined(row, weights, space), kept[1]["0"], "binary")
        counted = count_masks(masks, oof.target(row), 1, "binary")
        assert np.array_equal(counts[oof.manifest[row].id], counted)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_other_tasks(tmp_path: Path, task: str) -> None:
    write_data(tmp_path / "data", num_labels=3)
    classes = ["background", "x", "y"] if task == "multiclass" else ["x", "y"]
    stages = [{"loss": {"cross_entropy" if task == "multiclass" else "bce": 1.0}}]
    changes: dict[str, Any] = {"task": task, "classes": classes, "metric": "miou", "stages": stages}
    config = made_config(tmp_path / "data", **changes)
    run = made_run(tmp_path, config, a={"noise": 1.0}, b={"noise": 4.0})
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    record = search_joint(config, run)
    assert record["after"] >= record["before"] or not record["adopted"]
    assert record["found"][ALL]["mixture"]["weights"]["a"] > 0
