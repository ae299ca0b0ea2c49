"""CamVid's own images through the whole pipeline: void counts nowhere, whole and tiled agree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from distseg.config.load import load_config
from distseg.data.dataset import ImageFiles
from distseg.data.fit import Fit
from distseg.data.read_input import Reading
from distseg.data.read_target import read_target
from distseg.ensemble.fit import fit_ensemble
from distseg.functional.losses import weighted_sum
from distseg.functional.metrics import count_planes
from distseg.functional.targets import training_target
from distseg.functional.tiles import tile_starts
from distseg.inference.load import load_predictor
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import Predictions, PredictionsWriter
from tests.tiny import ROOT

VOID, CLASSES, TILE, OVERLAP = 11, 11, (192, 256), 0.33
REACH = 10  # pixels around one that a U-Net with one pooling sees: 2 + 2 x 2 below, 2 more above

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """camvid_cpu on six images to train on and six to validate, by two U-Nets that see little."""
    root = tmp_path_factory.mktemp("camvid")
    for part, count in (("train", 6), ("val", 6), ("test", 2)):
        for path in sorted((data_root / "camvid" / part).iterdir())[:count]:
            for folder in (part, f"{part}annot"):
                source = data_root / "camvid" / folder / path.name
                if source.is_file():
                    (root / "data" / folder).mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, root / "data" / folder)
    tree = yaml.safe_load((ROOT / "configs/seeds/camvid_cpu.yaml").read_text(encoding="utf-8"))
    tree["data"]["root"] = str(root / "data")
    small = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 1}}
    tree["members"] = {"a": small, "b": {**small, "seed": 1}}
    tree["stages"][0]["schedule"] = {"kind": "cosine", "epochs_per_cycle": 2, "warmup_epochs": 0}
    tree["ensemble"]["weights"] = "search"
    tree["compute"] |= {"cpu_threads": 1, "slots": 1, "members_per_job": 2}
    (root / "camvid.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    command = [sys.executable, "-m", "distseg", "run", "camvid.yaml", "--out", "run"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return Run(root / "run")


def targets(run: Run) -> dict[str, np.ndarray]:
    """The label images of the validated rows: uint8 (360, 480), 11 where void."""
    rows = [row for row in Manifest.read(run.truth) if row.fold == 0]
    return {row.id: np.asarray(Image.open(row.target.removeprefix("file:"))) for row in rows}


def test_mean_iou_is_that_of_a_brute_force_confusion_matrix(run: Run) -> None:
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    predictions = Predictions(run.member(0, "a", 0).oof)
    for name, labels in targets(run).items():
        found = predictions.of(name).argmax(0)
        np.add.at(confusion, (labels[labels != VOID], found[labels != VOID]), 1)
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    expected = (hits[union > 0] / union[union > 0]).mean()
    assert read_json(run.ensemble(0))["scores"]["members"]["a"]["tta"] == pytest.approx(expected)


def test_void_changes_neither_metric_nor_ensemble(run: Run) -> None:
    """Other logits under void pixels, drawn at random: the same weights and scores."""
    config, before = load_config(run.config), read_json(run.ensemble(0))
    truth = targets(run)
    assert all((labels == VOID).any() for labels in truth.values())
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        predictions = Predictions(run.member(0, name, 0).oof)
        rows, unchanged = predictions.ids, predictions.flat.copy()
        shutil.move(predictions.folder, run.folder / f"as_predicted_{name}")
        writer = PredictionsWriter(predictions.folder)
        for row, logits in zip(rows, predictions, strict=True):
            void = truth[row] == VOID
            writer.add(row, np.where(void, rng.normal(0, 20, logits.shape), logits))
        writer.close()
        assert not np.array_equal(Predictions(predictions.folder).flat, unchanged)
    assert fit_ensemble(config, run, 0) == before


def test_void_changes_neither_loss_nor_counts(run: Run) -> None:
    config = load_config(run.config)
    rows = [row for row in Manifest.read(run.truth) if row.fold == 0][:2]
    target = np.stack([read_target(row.target, config, row.height, row.width) for row in rows])
    classes, valid = training_target(torch.from_numpy(target), "multiclass")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 360, 480, generator=generator).requires_grad_()
    other = torch.where(valid[:, None], logits, 9 * torch.randn(logits.shape, generator=generator))
    for name in ("cross_entropy", "dice", "jaccard", "focal", "lovasz_softmax"):
        loss = weighted_sum({name: 1.0}, "multiclass")
        value = loss(logits, classes, valid)
        assert torch.equal(value, loss(other, classes, valid)), name
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert (gradient.movedim(1, -1)[~valid] == 0).all() and gradient.any(), name
    masks, others = (
        x.argmax(1, keepdim=True) == torch.arange(CLASSES).view(1, -1, 1, 1)
        for x in (logits, other)
    )
    assert torch.equal(
        count_planes(masks, torch.from_numpy(target), "multiclass"),
        count_planes(others, torch.from_numpy(target), "multiclass"),
    )


def test_whole_and_tiled_agree_in_the_interior(run: Run) -> None:
    """Trained on crops of 192 x 256. A pixel whose surroundings lie within every tile that covers
    it has the logits of the whole image."""
    snapshot = sorted(run.member(0, "a", 0).snapshots.glob("*.safetensors"))[0]
    whole = load_predictor([snapshot], torch.device("cpu"), True, torch.no_grad)
    size = whole.fit.config.model_copy(update={"overlap": OVERLAP})
    tiled = replace(whole, fit=Fit(size))
    assert whole.fit.tiles is None and tiled.fit.tiles == (TILE, OVERLAP)
    rows = list(Manifest.read(run.data / "test.csv"))
    images = ImageFiles(rows, Reading(3), whole.fit)
    inside = torch.ones(384, 480, dtype=torch.bool)  # the canvas: multiples of 32
    for axis, length in enumerate(inside.shape):
        for start in tile_starts(length, TILE[axis], OVERLAP):
            for edge in (start, start + TILE[axis]):
                if 0 < edge < length:
                    inside.narrow(axis, edge - REACH, 2 * REACH).fill_(False)
    inside = inside[12:372]
    assert 0.6 < inside.float().mean() < 1
    for number in range(len(rows)):
        canvas = images[number]["image"][None]
        one, other = (p.native_logits(canvas, [(360, 480)], [])[0] for p in (whole, tiled))
        torch.testing.assert_close(one[:, inside], other[:, inside], rtol=1e-4, atol=1e-4)
        assert not torch.equal(one, other)
