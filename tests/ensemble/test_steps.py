"""Each step of the tuning against a slow reference, on made-up members with real files."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.ensemble.steps import steps_of
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.postprocess import logit, remove_small
from distseg.functional.tuning import BOTTOM_PROBS, CLEANING_KEYS, TOP_PROBS, area_candidates
from tests.brute import defaults, load, mixed, slow_score, without
from tests.made_run import made_config, made_run, write_data, write_member, write_two_classes

FOLDS = [0, 1, 2]


@pytest.mark.parametrize("metric", ["iou", "tgs", "miou"])
def test_nested_threshold_and_area_equal_a_slow_reference(tmp_path: Path, metric: str) -> None:
    write_data(tmp_path / "data")
    rules = {"threshold": "search", "min_area": "search"}
    config = made_config(tmp_path / "data", metric=metric, postprocess=rules)
    run = made_run(tmp_path, config, offset=0.8, noise=0.7)
    record = fit_ensemble(config, run, 0)
    rows = {f: mixed(own, {"a": 1, "b": 1}) for f, own in load(config, run).items()}
    areas = area_candidates(120)
    grid = np.linspace(-0.5, 2.5, 21)
    step = record["scores"]["nested"]["steps"][1]
    assert step["step"] == "threshold" and step["adopted"], step["reason"]
    for fold in FOLDS:
        choice = record["scores"]["nested"]["folds"][str(fold)]
        rule = choice["rule"]
        others = [(x.astype(np.float16), t) for x, t in without(rows, fold)]
        tuned = slow_score(config, others, rule["threshold"][0], rule["min_area"][0])
        best = max(slow_score(config, others, t, a) for t, a in product(grid, areas))
        assert tuned >= best - 1e-9  # the exact sweep is at least as good as any grid
        scored = slow_score(config, rows[fold], rule["threshold"][0], rule["min_area"][0])
        assert choice["score"] == pytest.approx(scored)
        assert step["folds_before"][str(fold)] == pytest.approx(slow_score(config, rows[fold], 0.0))
    final = record["rule"]  # tuned on all folds
    everything = [(x.astype(np.float16), t) for own in rows.values() for x, t in own]
    tuned = slow_score(config, everything, final["threshold"][0], final["min_area"][0])
    best = max(slow_score(config, everything, t, a) for t, a in product(grid, areas))
    assert tuned >= best - 1e-9 and final["threshold"][0] > 0.2


def test_greedy_weights_equal_a_slow_reference(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    names = ("a", "b", "c")
    search = {"weights": "search", "max_picks": 6}
    config = made_config(tmp_path / "data", names, ensemble=search)
    noise = {"a": {"noise": 0.6}, "b": {"noise": 0.9}, "c": {"noise": 4.0}}
    run = made_run(tmp_path, config, **noise)
    record = fit_ensemble(config, run, 0)
    rows = load(config, run)

    def slow_greedy(images: list[Any]) -> tuple[int, ...]:
        def score(counts: tuple[int, ...]) -> float:
            weights = dict(zip(names, counts, strict=True))
            return slow_score(config, mixed(images, weights), 0.0)

        best: tuple[int, ...] = (1, 1, 1)
        best_score, now = score(best), [0, 0, 0]
        for _ in range(6):
            trials = [tuple(c + (i == j) for i, c in enumerate(now)) for j in range(3)]
            scores = [score(trial) for trial in trials]
            tied = [j for j in range(3) if scores[j] >= max(scores) - 1e-9]
            pick = min(tied, key=lambda j: (now[j], j))
            now[pick] += 1
            if scores[pick] > best_score + 1e-9:
                best, best_score = trials[pick], scores[pick]
        return tuple(np.array(best) // np.gcd.reduce(best))

    step = record["scores"]["nested"]["steps"][0]
    assert step["step"] == "weights" and step["adopted"], step["reason"]
    assert tuple(record["weights"].values()) == slow_greedy(
        [r for own in rows.values() for r in own]
    )
    for fold in FOLDS:
        choice = record["scores"]["nested"]["folds"][str(fold)]
        assert tuple(choice["weights"].values()) == slow_greedy(without(rows, fold))
        scored = slow_score(config, mixed(rows[fold], choice["weights"]), 0.0)
        assert choice["score"] == pytest.approx(scored)
    assert record["weights"]["c"] == 0
    assert {m["name"] for m in record["members"]} == {"a", "b"}


def test_double_threshold_equals_a_slow_reference(tmp_path: Path) -> None:
    write_data(tmp_path / "data", num=30)
    config = made_config(tmp_path / "data", ("a",), postprocess={"double": "search"})
    run = made_run(tmp_path, config, noise=0.9)
    nesting = Nesting(config, OutOfFold(config, run, 0))
    ((name, tune),) = steps_of(nesting)
    assert name == "double"
    tuned = tune(defaults(nesting))
    rows = {f: mixed(own, {"a": 1}) for f, own in load(config, run).items()}
    for fold in FOLDS:
        rule = tuned[str(fold)].rule
        others = [(x.astype(np.float16), t) for x, t in without(rows, fold)]
        gates = [(logit(p), a) for p in TOP_PROBS for a in area_candidates(120)]
        best = max(slow_score(config, others, 0.0, gate=gate) for gate in gates)
        (gate,) = rule["double"] or [None]
        own = (gate["top"], gate["area"]) if gate else None
        assert slow_score(config, others, rule["threshold"][0], gate=own) == pytest.approx(best)
        assert rule["threshold"] == [0.0]  # the config's, which it does not say to search
    scored = nesting.folds_record(tuned, nesting.score(tuned))
    (gate,) = tuned["0"].rule["double"]
    slow = slow_score(config, rows[0], 0.0, gate=(gate["top"], gate["area"]))
    assert scored["0"]["score"] == pytest.approx(slow)
    assert max(BOTTOM_PROBS) < max(TOP_PROBS)


def test_cleaning_equals_a_slow_reference_and_is_adopted_where_it_helps(tmp_path: Path) -> None:
    """Noise leaves specks and holes: each value is the best of its grid on the other folds."""
    write_data(tmp_path / "data", num=30)
    rules = {"min_component": "search", "fill_holes": "search", "full_mask": "search"}
    config = made_config(tmp_path / "data", ("a",), postprocess=rules)
    run = made_run(tmp_path, config, noise=0.5)
    record = fit_ensemble(config, run, 0)
    steps = record["scores"]["nested"]["steps"]
    assert [step["step"] for step in steps] == list(CLEANING_KEYS)
    assert steps[0]["adopted"] and steps[0]["after"] > steps[0]["before"]
    assert record["rule"]["min_component"][0] > 0
    nesting = Nesting(config, OutOfFold(config, run, 0))
    name, tune = next(steps_of(nesting))
    tuned = tune(defaults(nesting))
    rows = {f: mixed(own, {"a": 1}) for f, own in load(config, run).items()}
    for fold in FOLDS:
        scores = [
            summarize(
                np.stack(
                    [
                        count_masks(remove_small(x[0] > 0, size)[None], t, 1, "binary")
                        for x, t in without(rows, fold)
                    ]
                ),
                "iou",
            )["score"]
            for size in area_candidates(120)
        ]
        best = area_candidates(120)[int(np.argmax(scores))]
        assert tuned[str(fold)].rule[name] == [best] and best > 0


def test_multilabel_tunes_each_class_by_itself(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_two_classes(root)
    changes = {"task": "multilabel", "classes": ["x", "y"], "postprocess": {"threshold": "search"}}
    config = made_config(root, ("a",), **changes)
    run = made_run(tmp_path, config, noise=0.3)
    for fold in FOLDS:  # class y alone is off by .9
        shutil.rmtree(run.member(0, "a", fold).folder)
        offset = np.array([0.0, 0.9]).reshape(2, 1, 1)
        write_member(config, run, "a", fold, offset=offset, noise=0.3)  # type: ignore[arg-type]
    record = fit_ensemble(config, run, 0)
    steps = {s["step"]: s["adopted"] for s in record["scores"]["nested"]["steps"]}
    assert steps["threshold of y"] and set(steps) == {"threshold of x", "threshold of y"}
    low, high = record["rule"]["threshold"]
    assert abs(low) < 0.5 < high
