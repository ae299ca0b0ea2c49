"""The ensemble against slow references, on made-up members with real files."""

from __future__ import annotations

import json
import logging
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.config.schema import Config, PostprocessConfig
from distseg.data.prepare import open_cache
from distseg.ensemble.choices import ALL, Choices, EnsembleChoice, choices_of, scored_masks
from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.ensemble.steps import steps_of
from distseg.functional.bootstrap import standard_error
from distseg.functional.combine import (
    LOWEST,
    SPACES,
    combine,
    hard_masks,
)
from distseg.functional.metrics import count_masks, count_planes, per_image, summarize
from distseg.functional.postprocess import default_rule, logit, remove_small, to_masks
from distseg.functional.tuning import BOTTOM_PROBS, CLEANING_KEYS, TOP_PROBS, area_candidates
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.manifest import Manifest
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.records.predictions import Predictions
from distseg.records.tables import read_rows
from tests.made_run import made_config, made_run, write_data, write_member

FOLDS = [0, 1, 2]


def load(config: Config, run: Run) -> dict[int, list[tuple[dict[str, np.ndarray], np.ndarray]]]:
    """All logits (float32) by member and the targets, by fold: what the product never holds."""
    manifest, cache = Manifest.read(run.truth), open_cache(config, run)
    rows: dict[int, list[Any]] = {}
    for fold in manifest.folds:
        found = {n: Predictions(run.member(0, n, fold).oof) for n in config.members}
        for sample in (manifest[row] for row in manifest.val_rows(fold)):
            logits = {n: p.of(sample.id).astype(np.float32) for n, p in found.items()}
            rows.setdefault(fold, []).append((logits, cache.target(sample.id)))
    return rows


def slow_score(config: Config, images: list[tuple[np.ndarray, np.ndarray]], threshold: float,
               min_area: int = 0, gate: tuple[float, int] | None = None) -> float:  # fmt: skip
    """Score of (logits (1, H, W), target) pairs under one rule, without any of our postprocess."""
    counts = []
    for logits, target in images:
        mask = (logits.astype(np.float64) > threshold).astype(np.uint8)
        if mask.sum() < min_area or (gate and (logits > gate[0]).sum() < gate[1]):
            mask[:] = 0
        counts.append(count_masks(mask, target, 1, "binary"))
    return summarize(np.stack(counts), config.metric)["score"]


def mixed(rows: list[Any], weights: dict[str, int], space: str = "logit") -> list[Any]:
    return [
        (combine([x[n] for n in weights], list(weights.values()), space, "binary"), target)
        for x, target in rows
    ]


def without(rows: dict[int, list[Any]], fold: int) -> list[Any]:
    return [row for other, own in rows.items() if other != fold for row in own]


def defaults(nesting: Nesting) -> Choices:
    """Where tuning starts: equal weights and the config's rule."""
    config = nesting.config
    rule = default_rule(config.postprocess, config.num_outputs)
    choice = EnsembleChoice(config.ensemble.space, (1,) * len(nesting.oof.names), rule)
    return dict.fromkeys(nesting.labels, choice)


# -- formulas -------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_the_textbook_and_with_a_loop() -> None:
    rng = np.random.default_rng(2)
    truth, pred = rng.integers(0, 30, (2, 200, 2))
    counts = np.stack([rng.integers(0, np.minimum(pred, truth) + 1), pred, truth], axis=-1)
    images = per_image(counts, "dice").mean(axis=1)
    error = standard_error(counts, "dice")
    assert error == pytest.approx(images.std() / np.sqrt(200), rel=0.1)
    assert error == standard_error(counts, "dice")  # seeded
    drawn = np.random.default_rng(0).integers(200, size=(1000, 200))
    loop = np.std([summarize(counts[d], "miou")["score"] for d in drawn], ddof=1)
    assert standard_error(counts, "miou") == pytest.approx(loop, rel=1e-6)
    assert standard_error(counts[:1], "dice") == pytest.approx(0.0, abs=1e-12)


# -- the whole, against slow references -----------------------------------------------------------


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
    step = record["scores"]["nested"]["steps"][0]
    assert step["adopted"], step["reason"]
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


def test_a_useless_search_is_not_adopted(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    rules = {"threshold": "search", "min_area": "search", "double": "search"}
    search = {"weights": "search"}
    config = made_config(tmp_path / "data", ("a", "b", "c"), postprocess=rules, ensemble=search)
    run = made_run(tmp_path, config, noise=0.0)  # all members are right everywhere
    record = fit_ensemble(config, run, 0)
    assert [s["step"] for s in record["scores"]["nested"]["steps"]] == [
        "weights", "threshold", "double",
    ]  # fmt: skip
    assert not any(step["adopted"] for step in record["scores"]["nested"]["steps"])
    assert record["weights"] == {"a": 1, "b": 1, "c": 1}
    assert record["rule"] == {
        "threshold": [0.0], "min_area": [0], "min_component": [0], "double": None,
    }  # fmt: skip
    assert record["scores"]["final"]["score"] == 1.0


def test_a_choice_that_one_fold_loses_by_is_refused(tmp_path: Path) -> None:
    """Folds 0 and 1 want a threshold over 0, fold 2 one under 0: tuned elsewhere, each loses."""
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ("a",), postprocess={"threshold": "search"})
    run = made_run(tmp_path, config)
    for fold, offset in ((0, 0.9), (1, 0.9), (2, -0.9)):
        shutil.rmtree(run.member(0, "a", fold).folder)
        write_member(config, run, "a", fold, offset=offset, noise=0.3)
    record = fit_ensemble(config, run, 0)
    (step,) = record["scores"]["nested"]["steps"]
    assert not step["adopted"] and "fold 2 loses" in step["reason"]
    assert record["rule"]["threshold"] == [0.0]
    assert record["scores"]["final"]["score"] == pytest.approx(step["before"])


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

        best, best_score, now = (1, 1, 1), score((1, 1, 1)), [0, 0, 0]
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


# -- what can be missing or different -------------------------------------------------------------


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
    assert record["scores"]["nested"]["steps"][0]["adopted"]
    assert record["rule"]["threshold"][0] > 0.3
    assert fit_ensemble(config, run, 0)["scores"] == record["scores"]  # nothing random


def test_fixed_values_become_logits_and_components_pass_through(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    rules = {"threshold": 0.7, "min_area": 5, "min_component": 3}
    config = made_config(tmp_path / "data", postprocess=rules)
    record = fit_ensemble(config, made_run(tmp_path, config), 0)
    assert record["rule"]["threshold"] == [pytest.approx(np.log(0.7 / 0.3))]
    assert (record["rule"]["min_area"], record["rule"]["min_component"]) == ([5], [3])
    assert record["scores"]["nested"]["steps"] == []


@pytest.mark.parametrize("metric", ["miou", "mean_dice"])
def test_multiclass_takes_the_highest_class_without_void(tmp_path: Path, metric: str) -> None:
    write_data(tmp_path / "data", num_labels=4)
    changes = {
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


def write_two_classes(root: Path) -> None:
    """Classes x and y, with the same masks."""
    write_data(root)
    for name in ("x", "y"):
        shutil.copytree(root / "masks", root / "copies" / name)
    shutil.rmtree(root / "masks")
    (root / "copies").rename(root / "masks")


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


def test_an_ensembles_choices_and_scored_masks_are_read_back(tmp_path: Path) -> None:
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
    masks_of, counts = scored_masks(config, run, record), read_counts(run.oof_table(0))
    for line in read_rows(run.oof_table(0)):
        target = open_cache(config, run).target(line["id"])
        own = count_masks(masks_of(line), target, 1, "binary")
        assert np.array_equal(own, counts[line["id"]])
