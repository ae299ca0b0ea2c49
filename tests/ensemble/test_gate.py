"""A gate of image heads in front of the masks: searched nested, adopted where it helps, applied
wherever masks are made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distseg
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.dataset import ImagePixels
from distseg.data.prepare import open_cache, prepare
from distseg.distributed import one_process
from distseg.ensemble.fit import fit_ensemble
from distseg.ensemble.nesting import Nesting
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.ensemble.steps import steps_of
from distseg.functional.combine import mean_presence, sigmoid
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.postprocess import apply_postprocess
from distseg.functional.tuning import PRESENCES
from distseg.inference.load import load_snapshot_model
from distseg.inference.predict import LoadedEnsemble, logit_batches, open_ensemble
from distseg.records.errors import UserError
from distseg.records.files import read_json, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import Predictions
from distseg.rounds.choose import choose_final
from distseg.run.changes import find_changes
from distseg.run.folder import open_run
from distseg.training.train import train_member
from tests.brute import defaults
from tests.made_run import made_config, made_run, write_data
from tests.run.in_process import small_tree, start

HEAD = {"image_head": 0.1}


def made(tmp_path: Path, **options: Any) -> tuple[Config, Run]:
    """Model a has a head, b has none. Their noise leaves specks on images without an object."""
    write_data(tmp_path / "data", num=36)
    rules = {"gate": "search"}
    config = made_config(tmp_path / "data", own={"a": HEAD}, postprocess=rules,
                         ensemble={"simpler": "never"})  # fmt: skip
    shared = {"noise": 0.8, "offset": -0.3}
    return config, made_run(tmp_path, config, a={**shared, **options}, b=shared)


def test_the_mean_of_those_that_have_a_head() -> None:
    one, other = np.array([0.0, 2.0]), np.array([1.0, -1.0])
    found = mean_presence([one, None, other], [3, 5, 1])
    assert found == pytest.approx((3 * sigmoid(one) + sigmoid(other)) / 4)
    assert mean_presence([one, None], [0, 1]) is None and mean_presence([], []) is None


def test_a_gate_empties_its_class_alone() -> None:
    logits = np.ones((2, 3, 3), np.float32)
    rule = {"threshold": [0.0, 0.0], "gate": [None, 0.4]}
    shut = apply_postprocess(logits, rule, np.array([0.1, 0.3]))
    assert (shut[0].all(), shut[1].any()) == (True, False)
    assert apply_postprocess(logits, rule, np.array([0.1, 0.4])).all()
    assert apply_postprocess(logits, rule).all(), "nobody says it"


def test_a_gate_that_helps_is_adopted_as_found_on_the_other_folds(tmp_path: Path) -> None:
    config, run = made(tmp_path, head_noise=0.5)
    record = fit_ensemble(config, run, 0)
    (step,) = record["scores"]["nested"]["steps"]
    assert step["step"] == "gate" and step["adopted"] and step["after"] > step["before"] + 0.05
    (gate,) = record["rule"]["gate"]
    assert gate in PRESENCES and record["rule"]["threshold"] == [0.0]  # not said to search

    oof = OutOfFold(config, run, 0)
    cache, manifest = open_cache(config, run), Manifest.read(run.truth)
    logits = {n: {f: Predictions(run.member(0, n, f).oof) for f in oof.folds} for n in "ab"}
    said: dict[str, float] = {}
    for fold in oof.folds:
        heads = read_json(run.member(0, "a", fold).oof_scores)
        both = np.mean([heads["heads"][f"snapshot_{i}"] for i in (0, 1)], axis=0)
        said |= dict(zip(heads["ids"], (1 / (1 + np.exp(-both)))[:, 0], strict=True))

    def score(rows: list[int], gate: float) -> float:
        """Without any of our combination and postprocess."""
        counts = []
        for sample in (manifest[row] for row in rows):
            mean = np.mean([logits[n][sample.fold].of(sample.id) for n in "ab"], axis=0)
            mask = ((mean > 0) & (said[sample.id] >= gate)).astype(np.uint8)
            counts.append(count_masks(mask, cache.target(sample.id), 1, "binary"))
        return summarize(np.stack(counts), config.metric)["score"]

    for fold, own in record["scores"]["nested"]["folds"].items():
        mine = manifest.val_rows(int(fold))
        others = [row for row in oof.rows if row not in mine]
        best = max((0.0, *PRESENCES), key=lambda gate: score(others, gate))
        (chosen,) = own["rule"]["gate"]
        assert score(others, chosen) == pytest.approx(score(others, best))
        assert own["score"] == pytest.approx(score(mine, chosen), abs=1e-6)


def test_a_gate_that_knows_nothing_is_not_adopted(tmp_path: Path) -> None:
    config, run = made(tmp_path, head_noise=400.0)
    record = fit_ensemble(config, run, 0)
    assert not record["scores"]["nested"]["steps"][0]["adopted"]
    assert "gate" not in record["rule"]


def test_without_kept_heads_there_is_no_such_step_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("distseg"), "propagate", True)  # as before any job
    config, run = made(tmp_path)
    nesting = Nesting(config, OutOfFold(config, run, 0))
    assert list(steps_of(nesting)) == [] and nesting.oof.presence(0, (1, 1)) is None
    said = "postprocess.gate: search: no model of this ensemble has an image head"
    assert said in [record.message for record in caplog.records]


def test_threshold_and_area_are_searched_with_the_gate(tmp_path: Path) -> None:
    """Behind a gate that shuts the empty images a lower threshold is better."""
    write_data(tmp_path / "data", num=36)
    rules = {"gate": "search", "threshold": "search", "min_area": "search"}
    config = made_config(tmp_path / "data", ("a",), own={"a": HEAD}, postprocess=rules)
    run = made_run(tmp_path, config, noise=0.8, offset=-0.6, head_noise=0.2)
    nesting = Nesting(config, OutOfFold(config, run, 0))
    named = dict(steps_of(nesting))
    before = named["threshold"](defaults(nesting))
    after = named["gate"](before)
    scores = [nesting.final_record(nesting.score(c))["score"] for c in (before, after)]
    assert scores[1] > scores[0]
    rules_of = [choices["all"].rule for choices in (before, after)]
    assert rules_of[1]["gate"][0] is not None
    assert rules_of[1]["threshold"][0] <= rules_of[0]["threshold"][0]


def test_what_cannot_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gate: search: needs an image head; write members\.a\."):
        made_config(tmp_path, postprocess={"gate": "search"})
    with pytest.raises(UserError, match=r"postprocess\.gate: multiclass takes the highest class"):
        made_config(tmp_path, own={"a": HEAD}, task="multiclass", classes=["x", "y"],
                    postprocess={"gate": "search"})  # fmt: skip


FILE = {"kind": "file", "path": "f.csv"}


@pytest.mark.parametrize(
    ("folds", "changes"),
    [
        (None, {"rounds": [{"kind": "supervised", "members": ["b"]}]}),
        ([0], {"data": {"format": "synthetic", "folds": {"num": 3, "use": [1]}}}),
        ([0], {"data": {"format": "synthetic", "folds": {**FILE, "use": [1]}}}),
    ],
)
def test_the_head_of_a_model_that_is_not_trained_is_none(
    folds: list[int] | None, changes: dict[str, Any]
) -> None:
    """Model a, which has one, is left out by the rounds, or by the folds."""
    tree = small_tree(postprocess={"gate": "search"}, **changes)
    tree["members"]["a"] |= {**HEAD, "folds": folds}
    said = r"needs an image head; write members\.b\.image_head: \.1; that of a is not trained"
    with pytest.raises(UserError, match=said):
        parse_config(tree, "test")
    tree["members"]["b"] |= HEAD
    parse_config(tree, "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": [{"kind": "supervised", "members": ["b"]}, {"kind": "supervised"}]},
        {"data": {"format": "synthetic", "folds": FILE}},
    ],
)
def test_a_head_of_some_round_or_fold_is_enough(changes: dict[str, Any]) -> None:
    tree = small_tree(postprocess={"gate": "search"}, **changes)
    tree["members"]["a"] |= {**HEAD, "folds": [3] if "data" in changes else None}
    parse_config(tree, "test")


def test_tiles_are_asked_one_by_one_from_training_to_prediction(tmp_path: Path) -> None:
    """A network for images of one size, which the whole image would end; what is kept of a row is
    the most that the head says of any tile, and a new image is asked alike."""
    tree = small_tree(postprocess={"gate": "search"}, predict={"tta": []})
    size = {"height": 96, "width": 64}
    tree["data"]["synthetic"] |= {"num_train": 8, "num_test": 2, **size}
    tree["data"]["folds"]["use"] = [0]
    tree["input"] = {"height": 64, "width": 64, "channels": 1, "fit": "crop", "overlap": 0.25}
    swin = {"arch": "Unet", "encoder": "tu-swin_tiny_patch4_window7_224", "encoder_weights": None}
    tree["members"] = {"a": {**swin, **HEAD, "decoder": {"decoder_channels": [8, 8, 8, 8, 8]}}}
    tree["stages"] = [{"schedule": {"epochs_per_cycle": 1}}]
    config, run = parse_config(tree, "test"), Run(tmp_path / "run")
    open_run(config, run)
    prepare(config, run)
    torch.set_num_threads(1)
    train_member(config, run.folder, 0, "a", 0)
    paths, cache = run.member(0, "a", 0), open_cache(config, run)
    (name,) = read_json(paths.done)["snapshots"]
    model, _ = load_snapshot_model(paths.snapshots / name, torch.device("cpu"), True)
    kept = read_json(paths.oof_scores)
    mean, std = float(np.mean([0.485, 0.456, 0.406])), float(np.mean([0.229, 0.224, 0.225]))
    for key, said in zip(kept["ids"], kept["heads"][Path(name).stem], strict=True):
        image = torch.from_numpy(cache.image(key).transpose(2, 0, 1) / 255.0).float()
        image = ((image - mean) / std)[None]
        with torch.inference_mode():
            tiles = [model(image[:, :, top : top + 64])[1][0] for top in (0, 32)]
        assert said == pytest.approx(torch.stack(tiles).amax(0).tolist(), abs=2e-3)
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    _, config, record = open_ensemble(run.folder)
    process, gated = one_process(config), {**record, "rule": {**record["rule"], "gate": [0.5]}}
    ensemble = LoadedEnsemble.load(config, run.folder, gated, process)
    pixels = [ImagePixels(key, cache.image(key), 96, 64) for key in kept["ids"]]
    presence: dict[int, float] = {}
    for places, _, heads, _ in logit_batches(ensemble, config, pixels, process):
        for place, one in zip(places, heads, strict=True):
            assert one is not None
            presence[place] = float(one[0])
    expected = [1 / (1 + np.exp(-one[0])) for one in kept["heads"][Path(name).stem]]
    assert [presence[place] for place in range(len(pixels))] == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run with a gate: model a has a head, b has none."""
    tree = small_tree(postprocess={"gate": "search"})
    tree["members"]["a"]["image_head"] = 0.5
    run = Run(tmp_path_factory.mktemp("trained") / "run")
    with pytest.MonkeyPatch.context() as patch:
        status, _ = start(parse_config(tree, "test"), run, patch)
    assert status == 0
    return run


def test_training_keeps_what_the_heads_say(trained: Run) -> None:
    config = parse_config(small_tree(), "test")
    paths = trained.member(0, "a", 0)
    scores, cache = read_json(paths.oof_scores), open_cache(config, trained)
    done = read_json(paths.done)
    assert list(scores["heads"]) == [Path(name).stem for name in done["snapshots"]]
    for name in done["snapshots"]:
        model, size = load_snapshot_model(paths.snapshots / name, torch.device("cpu"), True)
        mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
        assert size.mean is None
        for place, key in enumerate(scores["ids"][:3]):
            image = torch.from_numpy(cache.image(key).transpose(2, 0, 1) / 255.0).float()
            with torch.inference_mode():
                said = model(((image - float(mean)) / float(std))[None])[1][0]
            assert said.tolist() == pytest.approx(scores["heads"][Path(name).stem][place], abs=2e-3)
    assert "heads" not in read_json(trained.member(0, "b", 0).oof_scores)
    names = [step["step"] for step in read_json(trained.ensemble(0))["scores"]["nested"]["steps"]]
    assert "gate" in names


def test_predictions_go_through_the_gate_and_so_does_an_exported_folder(
    trained: Run, tmp_path: Path
) -> None:
    final = read_json(trained.final)
    images = [Path(sample.image) for sample in Manifest.read(trained.data / "test.csv")]
    before = distseg.load_ensemble(trained.folder).predict(images)
    low = {**final["rule"], "threshold": [-60.0]}  # every pixel, unless a gate shuts
    for gate, full in ((1e-9, True), (1.0, False)):
        write_json(trained.final, {**final, "rule": {**low, "gate": [gate]}})
        try:
            found = distseg.load_ensemble(trained.folder).predict(images)
            assert [bool(one.mask.all()) for one in found] == [full] * len(images)
            assert [bool(one.mask.any()) for one in found] == [full] * len(images)
            for one, other in zip(found, before, strict=True):
                np.testing.assert_array_equal(one.probabilities, other.probabilities)
            distseg.export_run(trained.folder, tmp_path / f"model{full}")
            again = distseg.load_ensemble(tmp_path / f"model{full}").predict(images)
            assert [one.mask.tolist() for one in again] == [one.mask.tolist() for one in found]
        finally:
            write_json(trained.final, final)


def test_turning_the_gate_on_predicts_again(trained: Run) -> None:
    def changes(gate: str, before: str) -> list[str]:
        tree = small_tree(postprocess={"gate": gate})
        tree["members"]["a"]["image_head"] = 0.5
        text = trained.config.read_text()
        trained.config.write_text(text.replace("gate: search", f"gate: {before}"))
        try:
            return find_changes(parse_config(tree, "test"), trained).again
        finally:
            trained.config.write_text(text)

    on, off = changes("search", "none"), changes("none", "search")
    assert "out-of-fold predictions" in on and "ensemble" in on
    assert "out-of-fold predictions" not in off and "ensemble" in off
