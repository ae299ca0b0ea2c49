"""Every mistake that can be known before the first job: its command, its line, exit status 2.

The commands are those of a user, on made data. `decoded` fails a test that opens an image.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from distseg import cli
from distseg.config.load import parse_config
from distseg.data import read_input
from distseg.run.check import mistakes
from tests.data.data_helpers import folder, gray, save, tgs
from tests.tiny import ROOT

SMALL = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 2, "depth": 2}}
COMMANDS = ("plan", "inspect", "doctor", "run")
Case = tuple[str, list[str]]  # an override, or several separated by " ; "; words of the line


def tree(root: Path, **data: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "data": {"root": str(root), "folds": {"num": 2}, **data},
        "input": {"height": 32, "width": 32, "channels": 1},
        "members": {"a": SMALL},
        "stages": [{"schedule": {"epochs_per_cycle": 2}}],
        "train": {"batch_size": 4},
        "compute": {"processes_per_job": 1},
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with small data sets and tables beside it, and no image may be decoded."""
    folder(tmp_path / "data")
    tgs(tmp_path / "tgs")
    severstal = tmp_path / "severstal"
    save(severstal / "train_images" / "a.jpg", gray(0))
    (severstal / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 3\n")
    tables = {
        "folds.csv": "id,fold\n" + "".join(f"a{i},{i % 2}\n" for i in range(6)),
        "other_form.csv": "image,part\na0,1\n",
        "no_number.csv": "id,fold\n" + "".join(f"a{i},first\n" for i in range(6)),
        "one_lacks.csv": "id,fold\n" + "".join(f"a{i},{i % 2}\n" for i in range(5)),
        "groups.csv": "id,patient\n" + "".join(f"a{i},p{i // 2}\n" for i in range(6)),
        "one_group.csv": "id,patient\n" + "".join(f"a{i},p\n" for i in range(6)),
        "depths.csv": "id,z\n" + "".join(f"b{i},{i}\n" for i in range(6)),
        "bad_depths.csv": "id,z\na0,deep\n",
    }
    for name, text in tables.items():
        (tmp_path / "data" / name).write_text(text)
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{half")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    (tmp_path / "a_folder.safetensors").mkdir()
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, str(tmp_path / "little.safetensors"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded."""
    opened: list[str] = []
    real = read_input.Image.open

    def watched(path: Any, *args: Any, **options: Any) -> Any:
        opened.append(str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(read_input.Image, "open", watched)
    return opened


def lines_of(
    command: str, config: dict[str, Any], override: str, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The lines that a command prints on a mistake; its exit status is 2."""
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    overrides = [text for text in override.split(" ; ") if text]
    status = cli.main([command, "mine.yaml", *overrides])
    shown = capsys.readouterr().err.splitlines()
    assert status == 2, shown
    assert all(line.startswith("distseg: error: mine.yaml: ") for line in shown)
    assert not Path("runs").exists()
    return [line.removeprefix("distseg: error: mine.yaml: ") for line in shown]


CONFIG: list[Case] = [
    ("augment=[{hflop: {}}]", ["augment.0.hflop", "Did you mean 'hflip'"]),
    ("augment=[{hflip: {prob: 1}}]", ["augment.0.hflip.prob", "Valid: p"]),
    ("augment=[{hflip: {}}, {affine: {rotate: 300}}]", ["augment.1.affine.rotate", "180"]),
    ("stages.0.augment=[{hflop: {}}]", ["stages.0.augment.0.hflop", "Did you mean 'hflip'"]),
    ("members.a.stages=[{augment: [{hflip: {prob: 1}}]}]", ["members.a.stages.0.augment.0.hflip"]),
    (
        "rounds=[{}, {kind: pseudo_label, stages: [{augment: [{hflop: {}}]}]}]",
        ["rounds.1.stages.0.augment.0.hflop"],
    ),
    ("stages.0.loss={bec: 1.0}", ["stages.0.loss.bec", "Did you mean 'bce'"]),
    ("stages.0.loss={bce: {pos_wieght: 2}}", ["stages.0.loss.bce.pos_wieght", "'pos_weight'"]),
    (
        "stages.0.schedule={kind: plateau, metric: iuo}",
        ["stages.0.schedule.metric", "'iuo'", "Did you mean 'iou'"],
    ),
    (
        "rounds=[{}, {kind: pseudo_label, stages: [{schedule: {kind: plateau, metric: dice}}]}]",
        ["rounds.1.stages.0.schedule.metric", "'dice'", "'score'"],
    ),
    ("data.format=foldr", ["data.format", "'foldr'", "Did you mean 'folder'"]),
    ("members.a.encoder_weights=None", ["members.a.encoder_weights", "'None'", "null"]),
    ("members.a.encoder_weights='null'", ["members.a.encoder_weights", "'null'", "write null"]),
    ("members.a.decoder.checkpoint_path=w.pth", ["members.a.decoder", "checkpoint_path"]),
    ("members.a.decoder.pretrained_cfg={file: w}", ["members.a.decoder", "pretrained_cfg"]),
    ("members.a.decoder.pretrained_cfg_overlay={}", ["decoder", "pretrained_cfg_overlay"]),
    ("members.a.decoder.cache_dir=/tmp/x", ["members.a.decoder", "cache_dir"]),
    ("members.a.decoder.pretrained=true", ["members.a.decoder", "pretrained"]),
    ("members.a.decoder.norm_layer=a/b.pkl", ["members.a.decoder", "norm_layer"]),
    ("members.a.decoder.act_args={url: x}", ["members.a.decoder", "act_args.url"]),
    ("data.folds.use=[2]", ["data.folds.use", "fold 2 does not exist", "0..1"]),
    ("members.a.folds=[7]", ["members.a.folds", "fold 7 does not exist"]),
    ("data.folds.use=[0] ; members.a.folds=[1]", ["data.folds.use", "leaves no fold to train"]),
    ("rounds=[{}, {kind: pseudo_label, members: [b]}]", ["rounds.1.members", "'b'", "Valid: a"]),
    ("stages.0.rows=pseudo", ["stages.0.rows", "pseudo"]),
]

MODELS: list[Case] = [
    ("stages.0.optimizer.name=adamx", ["stages.0.optimizer.name", "'adamx'", "Did you mean"]),
    ("stages=[{}, {optimizer: {name: adamx}}]", ["stages.1.optimizer.name", "'adamx'"]),
    ("stages.0.optimizer.name=lookahead_adamx", ["stages.0.optimizer.name", "adamx"]),
    ("members.a.stages=[{optimizer: {name: adamx}}]", ["members.a.stages.0.optimizer.name"]),
    (
        "rounds=[{}, {kind: pseudo_label, stages: [{optimizer: {name: sdg}}]}]",
        ["rounds.1.stages.0.optimizer.name", "'sdg'", "Did you mean 'sgd'"],
    ),
    (
        "stages.0.optimizer.options={bets: [.9, .99]}",
        ["stages.0.optimizer.options.bets", "'betas'"],
    ),
    ("stages.0.optimizer.options={betas: [2, 3]}", ["stages.0.optimizer", "betas"]),
    ("stages.0.optimizer.options={betas: x}", ["stages.0.optimizer", "betas"]),
    ("members.b.encoder=resnet81", ["members.b.encoder", "'resnet81'", "Did you mean"]),
    ("members.b.encoder=tu-resnet81", ["members.b.encoder", "'tu-resnet81'", "Did you mean"]),
    ("members.b.encoder=resnet10t", ["members.b.encoder", "Did you mean 'tu-resnet10t'"]),
    ("members.b={encoder: resnet18, decoder: {chanels: 1}}", ["members.b.decoder.chanels"]),
    (
        "members.b={encoder: tu-resnet10t, decoder: {drop_pth: .1}}",
        ["members.b.decoder.drop_pth", "unknown option"],
    ),
    ("members.a.decoder.filtres=4", ["members.a.decoder.filtres", "Did you mean 'filters'"]),
    (
        "members.b={encoder: resnet18, encoder_weights: imagnet}",
        ["members.b.encoder_weights", "'imagnet'", "Did you mean 'imagenet'"],
    ),
    (
        "members.b={encoder: tu-resnet18, encoder_weights: a1_in}",
        ["members.b.encoder_weights", "'a1_in'", "Did you mean 'a1_in1k'"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: gone.safetensors}",
        ["members.b.encoder_weights: gone.safetensors", "no such file"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: a_folder.safetensors}",
        ["members.b.encoder_weights: a_folder.safetensors", "is no file"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: torn.safetensors}",
        ["members.b.encoder_weights: torn.safetensors", "cannot be read"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: little.safetensors}",
        ["members.b.encoder_weights: little.safetensors", "does not fit", "1 of"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: weights.pth}",
        ["members.b.encoder_weights: weights.pth", "must be a .safetensors file"],
    ),
    (
        "members.b={encoder: resnet18, encoder_weights: gone/w.pth}",
        ["members.b.encoder_weights: gone/w.pth", "no such file"],
    ),
    (
        "members.b={arch: DeepLabV3Plus, encoder: resnet18, batch_size: 1}",
        ["members.b", "cannot train on 1 image of 32x32", "more than 1 value per channel"],
    ),
    (
        "members.b={arch: DeepLabV3, encoder: resnet18} ; train.accumulation=4",
        ["members.b", "cannot train on 1 image", "accumulation 4"],
    ),
    ("compute.processes_per_job=3", ["train.batch_size: 4", "3 processes"]),
    (
        "tune={space: {stages.0.optimizer.name: {choice: [adamw, adamx]}}}",
        ["tune.space.stages.0.optimizer.name", "'adamx' is not valid"],
    ),
    ("tune={space: {stages.0.optimizr.lr: {choice: [1]}}}", ["'optimizr'", "'optimizer'"]),
]

DATA: list[Case] = [
    ("data.root=dta", ["data.root: dta", "no such folder", "Did you mean 'data'"]),
    ("data.folder.images=imgs", ["data.folder.images", "no such folder", "Did you mean 'images'"]),
    ("data.folder.masks=mask", ["data.folder.masks", "no such folder", "Did you mean 'masks'"]),
    ("data.folder.test_images=tests", ["data.folder.test_images", "Did you mean 'test_images'"]),
    ("data.folder.test_masks=truth", ["data.folder.test_masks", "no such folder"]),
    ("data.format=severstal ; data.root=severstal ; data.table=t.csv", ["data.table", "t.csv"]),
    ("data.depths=dephts.csv ; input.channels=2", ["data.depths", "Did you mean 'depths.csv'"]),
    ("data.depths=depths.csv ; input.channels=2", ["data.depths", "none of the train images"]),
    ("data.depths=bad_depths.csv ; input.channels=2", ["bad_depths.csv, line 2", "no number"]),
    ("data.folds.num=7", ["data.folds: 6 independent images", "7 folds"]),
    ("data.limit=4 ; data.folds.num=5", ["data.folds: 4 independent images", "5 folds"]),
    ("data.folds={kind: bootstrap, num: 9}", ["data.folds: 6 independent images", "9 folds"]),
    ("data.folds={kind: split}", ["data.folds.kind: split", "no validation part"]),
    ("data.folds={kind: file, path: gone.csv}", ["data.folds.path", "no such file"]),
    ("data.folds={kind: file, path: other_form.csv}", ["other_form.csv", "column 'id'"]),
    ("data.folds={kind: file, path: no_number.csv}", ["no_number.csv, line 2", "'first'"]),
    ("data.folds={kind: file, path: one_lacks.csv}", ["one_lacks.csv", "no fold for id 'a5'"]),
    ("data.folds={kind: file, path: folds.csv, use: [2]}", ["data.folds.use", "fold 2"]),
    (
        "data.folds={kind: file, path: folds.csv, groups: groups.csv, column: patient}",
        ["folds.csv", "'a0' (fold 0) and 'a1' (fold 1) belong to one group"],
    ),
    (
        "data.folds={kind: group, num: 2, groups: one_group.csv, column: patient}",
        ["data.folds: 1 independent images or groups", "2 folds"],
    ),
    (
        "data.folds={kind: group, num: 2, groups: gruops.csv, column: patient}",
        ["data.folds.groups", "no such file", "Did you mean 'groups.csv'"],
    ),
    (
        "data.folds={kind: group, num: 2, groups: groups.csv, column: person}",
        ["groups.csv", "column 'person' is missing"],
    ),
    ("data.folds={num: 2, strata: gone.csv}", ["data.folds.strata", "no such file"]),
    ("data.folds={num: 2, strata: groups.csv}", ["groups.csv", "column 'z' is missing"]),
    (
        "data.format=tgs ; data.root=tgs ; data.folder.rle_order=row",
        ["data.folder.rle_order", "tgs"],
    ),
    ("data.format=tgs ; data.root=tgs ; data.folder.images=x", ["data.folder.images", "tgs"]),
    ("data.format=tgs ; data.root=tgs ; data.table=train.csv", ["data.table", "severstal"]),
    ("data.format=tgs ; data.root=tgs ; data.synthetic.empty=.5", ["data.synthetic.empty", "tgs"]),
    ("data.border=pet", ["data.border", "format: folder", "oxford_pet"]),
    ("data.table=train.csv", ["data.table", "format: folder", "severstal, tianchi"]),
    ("data.synthetic.num_train=3", ["data.synthetic.num_train", "format: folder"]),
    ("data.folder.rle_base=0", ["data.folder.rle_base", "data.folder.submission: rle"]),
    ("data.format=synthetic ; data.folder.images=x", ["data.folder.images", "synthetic"]),
    ("data.cache_dir=weights.pth", ["data.cache_dir", "is no folder"]),
    (
        "data.folder.test_images=null ; rounds=[{}, {kind: pseudo_label}]",
        ["rounds.1.kind: pseudo_label", "no test images"],
    ),
]


def names(cases: list[Case]) -> list[str]:
    return [override for override, _ in cases]


def check_case(
    number: int, case: Case, place: Path, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """One mistake is one line with these words. The four commands take turns."""
    override, words = case
    command = COMMANDS[number % len(COMMANDS)]
    lines = lines_of(command, tree(place / "data"), override, capsys)
    assert len(lines) == 1, lines
    lacking = [word for word in words if word not in lines[0]]
    assert not lacking, f"{lacking} not in {lines[0]!r}"
    return lines


@pytest.mark.parametrize("number", range(len(CONFIG)), ids=names(CONFIG))
def test_what_the_config_alone_tells(
    number: int, place: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_case(number, CONFIG[number], place, capsys)
    assert decoded == []


@pytest.mark.parametrize("number", range(len(MODELS)), ids=names(MODELS))
def test_what_building_tells(
    number: int, place: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_case(number, MODELS[number], place, capsys)
    assert decoded == []


@pytest.mark.parametrize("number", range(len(DATA)), ids=names(DATA))
def test_what_names_and_tables_tell(
    number: int, place: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_case(number, DATA[number], place, capsys)
    # a row that a table of folds leaves out is opened: one that cannot be read needs no fold
    assert "one_lacks" in DATA[number][0] or decoded == []


@pytest.mark.parametrize("command", [*COMMANDS, "train", "find-lr", "tune"])
def test_all_of_them_at_once(
    command: str, place: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the config, of fields that do not fit, of data, of optimizers, of networks."""
    override = (
        "augment=[{hflop: {}}] ; stages=[{}, {optimizer: {name: adamx}}] ; train.accumulation=3 ; "
        "data.folder.test_images=tests ; data.folds.num=7 ; data.border=ignore ; "
        "members.b.encoder=resnet81 ; members.c={encoder: resnet18, encoder_weights: imagnet}"
    )
    Path("mine.yaml").write_text(yaml.safe_dump(tree(place / "data")))
    extra = {"train": ["--member", "a", "--fold", "0"], "find-lr": ["--member", "a"]}
    overrides = override.split(" ; ")
    assert cli.main([command, "mine.yaml", *overrides, *extra.get(command, [])]) == 2
    shown = capsys.readouterr().err
    keys = {line.split(": ")[3] for line in shown.splitlines()}
    assert keys == {
        "augment.0.hflop", "train.accumulation", "data.border", "data.folder.test_images",
        "data.folds", "stages.1.optimizer.name", "members.b.encoder", "members.c.encoder_weights",
        *(["tune"] if command == "tune" else []),
    }  # fmt: skip
    assert len(shown.splitlines()) == len(keys)
    assert decoded == [] and not Path("runs").exists()


def test_a_config_without_a_mistake_passes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, root in {"folder": "data", "tgs": "tgs"}.items():
        config = parse_config(tree(place / root, format=name), "test")
        assert mistakes(config) == []
    shipped = [ROOT / "configs/quickstart.yaml", ROOT / "configs/tune_quickstart.yaml"]
    for path in shipped:
        assert cli.main(["plan", str(path), "--out", str(place / "run")]) == 0


def test_a_default_folder_may_be_absent_and_a_resolved_config_is_no_wish(place: Path) -> None:
    """config.yaml of a run has every key; nobody has asked for test_images by name there."""
    for path in (place / "data" / "test_images").iterdir():
        path.unlink()
    (place / "data" / "test_images").rmdir()
    config = parse_config(tree(place / "data"), "test")
    assert mistakes(config) == []
    written_out = parse_config(config.model_dump(mode="json"), "test")
    assert mistakes(written_out) == []
    tgs_config = parse_config(tree(place / "tgs", format="tgs"), "test")
    assert mistakes(parse_config(tgs_config.model_dump(mode="json"), "test")) == []


def test_the_users_own_folds_of_a_run_are_checked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """folds.csv in the run folder replaces the division; here it splits a group."""
    run = place / "out"
    (run / "data").mkdir(parents=True)
    from distseg.records.paths import Run

    path = Run(run).folds
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((place / "data" / "folds.csv").read_text())
    config = tree(place / "data")
    config["data"]["folds"] |= {"kind": "group", "groups": "groups.csv", "column": "patient"}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    for text, words in {
        path.read_text(): "belong to one group",
        "image,part\na0,1\n": "column 'id'",
    }.items():
        path.write_text(text)
        assert cli.main(["plan", "mine.yaml", "--out", str(run)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("compute.zero=1", ["compute.zero", "deepspeed", "pip install 'distseg[deepspeed]'"]),
        ("compute.executor=ray", ["compute.executor", "ray", "pip install 'distseg[ray]'"]),
    ],
)
def test_an_extra_that_is_not_installed(
    override: str,
    words: list[str],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real: Callable[[str], Any] = importlib.util.find_spec
    gone = ("ray", "deepspeed")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in gone else real(name, *rest)
    )
    for command in COMMANDS:
        (line,) = lines_of(command, tree(place / "data"), override, capsys)
        assert all(word in line for word in words)


HUB = """
import sys
from pathlib import Path
from distseg.config.load import load_config
from distseg.run.check import mistakes
print("\\n".join(mistakes(load_config(Path(sys.argv[1])))))
"""


@pytest.mark.parametrize(
    ("encoder", "variables", "reason"),
    [
        ("resnet18", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("tu-resnet10t", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1 does not answer"),
    ],
)
def test_weights_of_the_hub_without_a_network(
    encoder: str, variables: dict[str, str], reason: str, place: Path
) -> None:
    """Refused before a job, unless the hub's cache on this machine holds them."""
    import segmentation_models_pytorch as smp
    import timm

    config = tree(place / "data") | {
        "members": {"a": {"encoder": encoder, "encoder_weights": "imagenet"}}
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE")
    environment = {k: v for k, v in os.environ.items() if k not in proxies}
    environment |= {**variables, "HF_HOME": str(place / "hub"), "PYTHONPATH": str(ROOT)}

    def found() -> str:
        command = [sys.executable, "-c", HUB, "mine.yaml"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    line = found()
    assert line.startswith("members.a.encoder_weights: 'imagenet'") and reason in line
    assert ".safetensors" in line and "\n" not in line
    if encoder == "resnet18":
        settings = smp.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
        repo, revision = settings["repo_id"], settings["revision"]
    else:
        cfg = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
        assert cfg is not None and cfg.hf_hub_id
        repo, revision = cfg.hf_hub_id, "0" * 40
    cached = place / "hub" / "hub" / f"models--{repo.replace('/', '--')}"
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots" / revision / "config.json").write_text(json.dumps({}))
    (cached / "snapshots" / revision / "model.safetensors").write_bytes(b"there")
    assert found() == ""
