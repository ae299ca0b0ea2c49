"""Models for use elsewhere: each form gives the run's own numbers, wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from PIL import Image

import distseg
from distseg import cli
from distseg.config.data import InputConfig
from distseg.config.load import load_config
from distseg.config.member import MemberConfig
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.export import graph as graph_module
from distseg.export.graph import ExportFailed, MemberGraph, write_graph
from distseg.inference.forward import Normalizer
from distseg.inference.load import load_snapshot_model
from distseg.models.build import build_model
from distseg.records.errors import UserError
from distseg.records.files import read_json, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run

CPU = torch.device("cpu")


def images_of(run: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(s.image)) for s in Manifest.read(Run(run).data / "test.csv")]


def test_an_ensemble_predicts_the_same_bits_elsewhere(trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for number, image in enumerate(images_of(trained)):
        Image.fromarray(image).save(images / f"{number}.png")
    shutil.copytree(trained, tmp_path / "run")
    common = ["--images", str(images)]
    assert cli.main(["predict", str(tmp_path / "run"), *common, "--out", str(tmp_path / "a")]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 0
    shutil.rmtree(tmp_path / "run")
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (tmp_path / "model").rename(moved)
    assert cli.main(["predict", str(moved), *common, "--out", str(tmp_path / "b")]) == 0
    for one in distseg.load_ensemble(moved).predict(images):
        before, after = ((tmp_path / x / f"{one.id}.png").read_bytes() for x in "ab")
        assert before == after
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "a" / f"{one.id}.png")), 255 * one.mask
        )


def test_nothing_of_this_machine_goes_along(trained: Path, tmp_path: Path) -> None:
    distseg.export_run(trained, tmp_path / "model")
    named = [str(trained), str(Path.home()), str(tmp_path)]
    for file in (tmp_path / "model").rglob("*"):
        assert file.suffix != ".pt" and not file.name.startswith(".")
        if file.is_file():
            text = file.read_bytes().decode("latin-1")
            assert not [name for name in named if name in text], file
    config = load_config(tmp_path / "model" / "config.yaml")
    assert config.data.root == "." and config.data.cache_dir is None


def test_a_model_of_folds_that_the_folder_has_not(tmp_path: Path, trained: Path) -> None:
    """The run had ten folds; the folder has the default five, and no member is of any."""
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    tree["data"]["folds"]["num"] = 10
    tree["members"]["plain"]["folds"] = [0, 7]
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    distseg.export_run(tmp_path / "run", tmp_path / "model")
    assert load_config(tmp_path / "model" / "config.yaml").members["plain"].folds is None
    assert distseg.load_ensemble(tmp_path / "model").predict(images_of(trained)[:1])


def test_the_path_of_first_weights_stays_here(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text()
    changed = text.replace(
        "encoder_weights: null", "encoder_weights: /home/me/secret.safetensors", 1
    )
    assert changed != text
    (tmp_path / "run" / "config.yaml").write_text(changed)
    distseg.export_run(tmp_path / "run", tmp_path / "model")
    assert "/home/me" not in (tmp_path / "model" / "config.yaml").read_text()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "secret.safetensors" in card and "/home/me" not in card


def test_the_card_is_filled(trained: Path, tmp_path: Path) -> None:
    distseg.export_run(trained, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    run = distseg.load_run(trained)
    assert card.startswith("---\nlibrary_name: distseg\n")
    assert (
        f"dice {run.score:.4f} ± {run.standard_error:.4f}** on 37 images, out of fold, *honest*"
        in card
    )
    assert "| a | Unet, tu-convnext_atto | random | 0 1 | 2 | 1 |" in card
    assert "37 of 32 x 32 pixels" in card and "## Licenses" in card and "## Limits" in card
    facts = read_json(tmp_path / "model" / "export.json")["facts"]
    again = distseg.export_run(tmp_path / "model", tmp_path / "again")
    assert again["facts"] == facts, "a copy of a copy knows what the first one knew"


def test_a_snapshot_that_weighs_by_itself_goes_along(trained: Path, tmp_path: Path) -> None:
    """Beside the mean that it is a part of: each has its own files."""
    run = Run(tmp_path / "run")
    shutil.copytree(trained, run.folder)
    config, record = load_config(run.config), read_json(run.final)
    oof = OutOfFold(config, run, 0)
    weights = tuple({"a": 1, "a#2": 3}.get(name, 0) for name in oof.names)
    write_json(
        run.final,
        {**record, "members": oof.weighted(weights), "weights": oof.shown(weights)},
    )
    distseg.export_run(run.folder, tmp_path / "model")
    folders = sorted(path.name for path in (tmp_path / "model" / "members").iterdir())
    assert folders == ["a#2_fold0", "a#2_fold1", "a_fold0", "a_fold1"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| a | Unet, tu-convnext_atto | random | 0 1 | 2 | 1 |" in card
    assert "| a#2 | Unet, tu-convnext_atto | random | 0 1 | 1 | 3 |" in card
    images = images_of(trained)[:2]
    before, after = (distseg.load_ensemble(x) for x in (run.folder, tmp_path / "model"))
    for one, other in zip(before.predict(images), after.predict(images), strict=True):
        assert np.array_equal(one.mask, other.mask)


def test_smp_reads_each_snapshot(trained: Path, tmp_path: Path) -> None:
    record = distseg.export_run(trained, tmp_path / "out", form="smp", members=["a:0", "a:1"])
    assert len(record["models"]) == 4
    run = distseg.load_run(trained)
    own = next(m for m in run.members if (m.name, m.fold) == ("a", 1)).snapshots[0]
    model, input_config = load_snapshot_model(own, CPU, False)
    folder = tmp_path / "out" / "a_fold1" / own.stem
    again = smp.from_pretrained(folder).eval()
    images = torch.randn(2, 1, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(images), model(images)[0])
    assert read_json(folder / "distseg.json")["input"] == input_config.model_dump(mode="json")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.suffix in (".bin", ".pt")]


GRAPHS = [("onnx", "a:1"), ("onnx", "plain:0"), ("torch", "a:0")]


@pytest.mark.parametrize(("kind", "member"), GRAPHS)
def test_a_graph_gives_torchs_logits(trained: Path, tmp_path: Path, kind: str, member: str) -> None:
    """On real images, at two sizes, with what the file itself says; no line of ours reads it."""
    pytest.importorskip("onnxruntime")
    command = ["export", str(trained), "--out", str(tmp_path / "out"), "--format", kind]
    assert cli.main([*command, "--members", member]) == 0
    (entry,) = read_json(tmp_path / "out" / "export.json")["models"]
    assert entry["largest_difference"] <= 1e-4 and entry["sizes"] == [[32, 32], [64, 64]]
    run, constants, infer = distseg.load_run(trained), {}, None
    path = tmp_path / "out" / entry["file"]
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        constants = json.loads(session.get_modelmeta().custom_metadata_map["distseg"])
        infer = lambda images: session.run(["logits", "mask"], {"images": images})  # noqa: E731
    else:
        files = {"distseg.json": ""}
        module = torch.export.load(path, extra_files=files).module()
        constants = json.loads(files["distseg.json"])
        infer = lambda images: [module(torch.from_numpy(images))[i].numpy() for i in (0, 2)]  # noqa: E731
    assert constants["classes"] == ["object"] and constants["any_size"] is True
    assert constants["ensemble"]["rule"] == run.ensemble["rule"]
    snapshots = next(m for m in run.members if f"{m.name}:{m.fold}" == member).snapshots
    models = [load_snapshot_model(file, CPU, False)[0] for file in snapshots]
    normalizer = Normalizer(InputConfig.model_validate(constants["input"]), CPU, False)
    real = np.stack(images_of(trained)[:3])[:, None]
    wide = np.concatenate([real, real[:, :, :, ::-1], real], axis=3)  # 32 x 96
    for batch in (real[:1], real, wide):
        batch = np.ascontiguousarray(batch)
        with torch.inference_mode():
            images = normalizer(torch.from_numpy(batch))
            expected = torch.stack([model(images)[0] for model in models]).mean(0).numpy()
        logits, mask = infer(batch)
        assert np.abs(logits - expected).max() <= 1e-4
        assert np.array_equal(mask, logits > 0) and mask.dtype == np.uint8


@pytest.mark.parametrize("task", [pytest.param("multiclass", marks=pytest.mark.slow), "multilabel"])
def test_graphs_of_other_tasks_and_normalizations(tmp_path: Path, task: str) -> None:
    """The median of each image, three classes, and a network that is no smp model."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = InputConfig(height=32, width=64, channels=3, fit="resize", normalize="median")
    member = MemberConfig(arch="PlainUnet", encoder="none", decoder={"filters": 4, "depth": 2})
    model = build_model(member, 3, 3, (32, 64), pretrained=False).eval()
    graph = MemberGraph([model], config, task).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2)]
    checked = write_graph(graph, config, images, {}, tmp_path / "m.onnx", "onnx")
    assert checked["sizes"] == [[32, 64], [64, 96]] and checked["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    batch = rng.integers(0, 256, (2, 3, 32, 64), dtype=np.uint8)
    logits, probs, mask = session.run(None, {"images": batch})
    with torch.inference_mode():
        expected = model(Normalizer(config, CPU, False)(torch.from_numpy(batch)))[0].numpy()
    assert np.abs(logits - expected).max() <= 1e-4
    if task == "multiclass":
        assert np.allclose(probs.sum(1), 1, atol=1e-5)
        assert np.array_equal(mask[:, 0], logits.argmax(1))
    else:
        assert np.allclose(probs, 1 / (1 + np.exp(-logits)), atol=1e-5)
        assert mask.shape == logits.shape


def test_other_numbers_than_torchs_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(graph_module, "TOLERANCE", -1.0)
    with pytest.raises(ExportFailed, match="differ from torch's"):
        distseg.export_run(trained, tmp_path / "out", form="onnx", members=["plain:1"])
    assert not (tmp_path / "out").exists(), "half an export has no name"


def test_mistakes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            distseg.export_run(trained, out, **options)
        assert not out.exists() or [file.name for file in out.iterdir()] == ["mine.txt"]

    refused("unknown format 'onx'. Did you mean 'onnx'", form="onx")
    refused("unknown member 'a:7'.*Valid: a:0, a:1, plain:0, plain:1", form="smp", members=["a:7"])
    refused("PlainUnet is no architecture of segmentation-models-pytorch", form="smp")
    refused("the score and the rules are those of the whole", members=["a:0"])
    refused("no such folder", form="onnx", images=tmp_path / "absent")
    monkeypatch.setattr(graph_module, "PACKAGES", {"onnx": ("nix_da",)})
    refused("nix_da is not installed: pip install 'distseg.export.'", form="onnx")
    out.mkdir()
    (out / "mine.txt").write_text("x")
    refused("something is there already")


def test_other_commands_say_what_an_exported_folder_lacks(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distseg.export_run(trained, tmp_path / "model")
    onnx = ["export", "--format", "onnx", "--out", "x"]
    for name, *rest in (["report"], ["tune", "--postprocess"], onnx):
        status = cli.main([name, str(tmp_path / "model"), *rest])
        text = capsys.readouterr().err
        assert status == 2 and text.startswith("distseg: error: "), text
        assert len(text.splitlines()) == 1, text
