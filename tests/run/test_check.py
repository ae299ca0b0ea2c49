"""Every mistake that can be known before the first job: its command, its line, exit status 2.

The commands are those of a user, on made data. `decoded` fails a test that opens an image.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from distseg import cli
from distseg.config.load import parse_config
from distseg.data import read_input
from distseg.doctor import machine
from distseg.inference.load import load_snapshot_model
from distseg.jobs.hardware import Gpu
from distseg.models import check
from distseg.models.checkpoint import save_snapshot
from distseg.records.errors import UserError
from distseg.records.files import mark_done
from distseg.records.paths import Run
from distseg.run.check import Purpose, mistakes
from distseg.tune.space import space_mistakes
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


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> Iterator[None]:
    """`doctor` imports all packages in ten seconds: once for all tests here, not for each."""
    found = list(machine._packages())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_packages", lambda: iter(found))
        yield


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
    ("compute.processes_per_job=3", ["train.batch_size: 4", "3 processes x 1 micro-batch"]),
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
    (
        "data.folds={kind: file, path: one_lacks.csv}",
        ["one_lacks.csv", "no fold for id 'a5' (1 id is missing)"],
    ),
    ("data.folds={kind: file, path: folds.csv, use: [2]}", ["data.folds.use", "fold 2"]),
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
    ("data.border=ignore", ["data.border", "format: folder", "oxford_pet"]),
    ("data.table=train.csv", ["data.table", "format: folder", "severstal, tianchi"]),
    ("data.synthetic.num_train=3", ["data.synthetic.num_train", "format: folder"]),
    ("data.folder.rle_base=0", ["data.folder.rle_base", "data.folder.submission: rle"]),
    ("data.format=synthetic ; data.folder.images=x", ["data.folder.images", "synthetic"]),
    ("data.cache_dir=weights.pth", ["data.cache_dir", "is no folder"]),
    (
        "data.folder.test_images=null ; rounds=[{}, {kind: pseudo_label}]",
        ["rounds.1.kind: pseudo_label", "no test images"],
    ),
    (
        "data.folder.test_images=null ; rounds=[{}, {kind: mean_teacher}]",
        ["rounds.1.kind: mean_teacher", "no test images"],
    ),
    (
        "train.accumulation=2 ; rounds=[{}, {kind: mean_teacher, share: .25}]",
        ["rounds.1.share: 0.25 of a batch of 4 cannot be split", "2 micro-batches"],
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
    if "encoder_weights" in override and command == "inspect":  # it needs none
        command = "plan"
    if "tune=" in override:  # no other command reads that section
        command = "tune"
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
        "data.folds", "stages.1.optimizer.name", "members.b.encoder",
        *(["members.c.encoder_weights"] if command != "inspect" else []),
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


def test_a_snapshot_of_somebody_else_opens_no_pickle(tmp_path: Path) -> None:
    """Its record comes through the same models as a config."""
    path = tmp_path / "snapshot.safetensors"
    member = {"arch": "Unet", "encoder": "tu-resnet10t", "decoder": {"checkpoint_path": "evil.pth"}}
    record = {"member": member, "input": {"height": 32, "width": 32}, "num_outputs": 1}
    save_snapshot(path, {"w": torch.zeros(1)}, record)
    with pytest.raises(UserError, match="decoder: checkpoint_path") as caught:
        load_snapshot_model(path, torch.device("cpu"), False)
    assert str(caught.value).startswith(str(path))


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
        pytest.param("resnet18", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set",
                     marks=pytest.mark.slow),
        ("tu-resnet10t", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1 does not answer"),
    ],
)  # fmt: skip
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


# -- what a command is about to do ----------------------------------------------------------------


def write(config: dict[str, Any]) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(config))


def shown(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, list[str]]:
    """Exit status, and the mistakes that were printed."""
    status = cli.main(list(command))
    lines = capsys.readouterr().err.splitlines()
    return status, [line.partition(".yaml: ")[2] for line in lines if "error: " in line]


def test_the_folds_of_another_run_are_not_looked_at(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect` and `doctor` make no run, and a sweep has a folder of its own."""
    torn = Run(Path("runs/mine")).folds
    torn.parent.mkdir(parents=True)
    torn.write_text("image,part\na0,1\n")
    write(tree(place / "data") | {"tune": {"space": {"seed": {"choice": [-1]}}}})
    assert shown(capsys, "inspect", "mine.yaml") == (0, [])
    assert shown(capsys, "doctor", "mine.yaml") == (0, [])
    _, (line,) = shown(capsys, "plan", "mine.yaml")
    assert "column 'id' is missing" in line
    status, (line,) = shown(capsys, "tune", "mine.yaml")
    assert status == 2 and line.startswith("tune.space.seed")
    own = Run(Path("runs/mine-tune")).folds
    own.parent.mkdir()
    torn.rename(own)
    assert shown(capsys, "plan", "mine.yaml") == (0, [])
    _, lines = shown(capsys, "tune", "mine.yaml")
    assert any("column 'id' is missing" in line for line in lines)


def test_a_table_that_the_runs_own_folds_replace_may_be_gone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(Path("runs/mine")).folds.parent.mkdir(parents=True)
    Run(Path("runs/mine")).folds.write_text((place / "data" / "folds.csv").read_text())
    for folds in ({"kind": "file", "path": "gone.csv"}, {"num": 2, "strata": "gone.csv"}):
        write(tree(place / "data", folds=folds))
        assert shown(capsys, "plan", "mine.yaml") == (0, [])
        status, (line,) = shown(capsys, "plan", "mine.yaml", "--out", "other")
        assert status == 2 and "gone.csv: no such file" in line


def test_two_folds_of_the_users_own_are_too_few_for_pairs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(Path("runs/mine")).folds.parent.mkdir(parents=True)
    Run(Path("runs/mine")).folds.write_text((place / "data" / "folds.csv").read_text())
    rounds = [{}, {"kind": "self_distill", "teacher": "pair"}]
    write(tree(place / "data", folds={"num": 3}) | {"rounds": rounds})
    status, (line,) = shown(capsys, "plan", "mine.yaml")
    assert status == 2 and line.startswith("rounds.1.teacher: pair needs 3 or more folds, not 2")
    assert shown(capsys, "plan", "mine.yaml", "--out", "other") == (0, [])


def test_an_image_in_quarantine_is_not_opened_again(
    place: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(Path("runs/mine"))
    run.data.mkdir(parents=True)
    run.folds.write_text((place / "data" / "one_lacks.csv").read_text())
    write(tree(place / "data"))
    status, (line,) = shown(capsys, "run", "mine.yaml")
    assert status == 2 and "'a5' (1 id is missing)" in line and len(decoded) > 0
    decoded.clear()
    (run.data / "quarantine.csv").write_text("id,file,reason\na5,a5.png,torn\n")
    assert mistakes(parse_config(tree(place / "data"), "test"), Purpose(run)) == []
    assert decoded == []


def test_what_is_trained_needs_no_weights_any_more(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = {"encoder": "resnet18", "encoder_weights": "gone.safetensors"}
    write(tree(place / "data") | {"members": {"a": SMALL, "b": member}})
    run = Run(Path("runs/mine"))
    run.folder.mkdir(parents=True)
    run.config.write_text(Path("mine.yaml").read_text())
    for fold in range(2):
        status, (line,) = shown(capsys, "plan", "mine.yaml")
        assert status == 2 and line.startswith("members.b.encoder_weights")
        mark_done(run.member(0, "b", fold).done, {})
    assert shown(capsys, "plan", "mine.yaml") == (0, [])
    status, (line,) = shown(capsys, "plan", "mine.yaml", "data.folds.num=3", "--out", "other")
    assert status == 2 and "gone.safetensors: no such file" in line


def test_inspect_needs_no_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = {"encoder": "resnet18", "encoder_weights": "gone.safetensors"}
    write(tree(place / "data") | {"members": {"b": member}})
    assert shown(capsys, "inspect", "mine.yaml") == (0, [])


def test_only_a_sweep_reads_the_section_of_sweeps(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"stages.0.optimizer.name": {"choice": ["adamx"]}}
    write(tree(place / "data") | {"tune": {"space": space, "folds": [7]}})
    assert shown(capsys, "plan", "mine.yaml") == (0, [])
    assert shown(capsys, "tune", "mine.yaml") == (
        2, ["tune.folds: fold 7 does not exist; valid: 0..1"],
    )  # fmt: skip
    status, (line,) = shown(capsys, "tune", "mine.yaml", "tune.folds=[1]")
    assert status == 2 and "'adamx' is not valid" in line


@pytest.mark.parametrize(
    ("path", "values", "words"),
    [
        ("compute.processes_per_job", [1, 3], ["3 is not valid", "over 3 processes x 2 micro-"]),
        ("members.b.batch_size", [2, 4], ["2 is not valid", "cannot train on 1 image of 32x32"]),
        ("compute.zero", [0, 3], ["3 is not valid", "compute.precision: fp16"]),
        ("train.accumulation", [1, 4], ["4 is not valid", "cannot train on 1 image of 32x32"]),
    ],
)
def test_each_value_of_a_sweep_is_tried(
    path: str, values: list[int], words: list[str], place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    member = {"arch": "DeepLabV3Plus", "encoder": "resnet18"}
    config = tree(place / "data") | {
        "members": {"b": member},
        "train": {"batch_size": 4, "accumulation": 1 if path == "train.accumulation" else 2},
        "tune": {"space": {path: {"choice": values}}},
    }
    if path == "compute.zero":
        config["compute"]["precision"] = "fp16"
    write(config)
    status, lines = shown(capsys, "tune", "mine.yaml")
    (line,) = lines
    assert status == 2 and all(word in line for word in words), line
    assert line.startswith(f"tune.space.{path}: ")


def test_a_sweep_builds_each_network_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    real = check.build_model

    def watched(*args: Any, **options: Any) -> Any:
        built.append(args[0])
        return real(*args, **options)

    monkeypatch.setattr(check, "build_model", watched)
    space = {
        "stages.0.optimizer.lr": {"choice": [0.1, 0.01, 0.001]},
        "train.batch_size": {"choice": [4, 8, 16]},
    }
    config = parse_config(tree(place / "data") | {"tune": {"space": space}}, "test")
    assert space_mistakes(config, {}) == [] and len(built) == 1


def test_the_gpus_of_a_cluster_are_not_this_machines(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs a job, one here: the nodes of a cluster may have more, also for a sweep."""
    monkeypatch.setattr("distseg.run.check.visible_gpus", lambda: [Gpu("0", "GPU", 0)])
    write(
        tree(place / "data")
        | {"compute": {"gpus_per_job": 2}, "tune": {"space": {"seed": {"choice": [-1]}}}}
    )
    few = "compute.gpus_per_job: 2: this machine shows 1 GPU"
    assert shown(capsys, "doctor", "mine.yaml") == (2, [few])
    assert few in shown(capsys, "tune", "mine.yaml")[1]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert few not in shown(capsys, "tune", "mine.yaml")[1]
    assert shown(capsys, "doctor", "mine.yaml") == (2, [few])


def test_a_launched_process_has_the_ranks_of_its_launch(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distseg.run.check.visible_gpus", lambda: [Gpu("0", "GPU", 0)])
    write(tree(place / "data") | {"compute": {"gpus_per_job": 2}})
    monkeypatch.setenv("WORLD_SIZE", "3")
    train = ("train", "mine.yaml", "--member", "a", "--fold", "9")
    assert shown(capsys, *train) == (
        2, ["train.batch_size: 4 cannot be split over 3 processes x 1 micro-batch"],
    )  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    status = cli.main([*train])
    assert status == 2 and "--fold" in capsys.readouterr().err


def test_an_option_for_gpus_alone_is_no_mistake(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree(place / "data"))
    key = "stages.0.optimizer.options"
    assert shown(capsys, "plan", "mine.yaml", f"{key}={{capturable: true}}") == (0, [])
    assert shown(capsys, "plan", "mine.yaml", f"{key}={{capturabl: true}}")[0] == 2


@pytest.mark.parametrize("name", ["no name", "", "-x", 3])
def test_a_wrong_name_hides_nothing(
    name: object, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree(place / "data") | {"name": name, "metric": "dise", "tune": {}})
    status, lines = shown(capsys, "plan", "mine.yaml", "members.a.decoder.filtres=4")
    assert status == 2
    assert [line.split(": ")[0] for line in lines] == [
        "name", "metric", "tune.space", "members.a.decoder.filtres",
    ]  # fmt: skip
    assert "pattern" not in lines[0]
    config = tree(place / "data") | {"metric": "dise"}
    del config["name"]
    write(config)
    _, lines = shown(capsys, "plan", "mine.yaml")
    assert [line.split(": ")[0] for line in lines] == ["name", "metric"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.root={long}", "data.root"),
        ("data.depths={long} ; input.channels=2", "data.depths"),
        ("data.folds={{kind: file, path: {long}}}", "data.folds.path"),
        ("data.folder.test_images={long}", "data.folder.test_images"),
        ("data.folder.images={long}", None),
        ("members.a={{encoder: resnet18, encoder_weights: {long}.safetensors}}", "members.a"),
        ("members.a={{encoder: resnet18, encoder_weights: {long}}}", "members.a"),
    ],
)
def test_a_name_that_no_disk_can_hold(
    override: str, key: str | None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = override.format(long="x" * 300)
    (line,) = lines_of("plan", tree(place / "data"), text, capsys)
    assert key is None or line.startswith(key)
    assert "File name too long" in line


@pytest.mark.parametrize(("option", "refused"), [("drop_path", False), ("some_path", True)])
def test_a_rate_is_no_path(
    option: str, refused: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = {"encoder": "tu-resnet10t", "decoder": {option: 0.1}}
    write(tree(place / "data") | {"members": {"b": member}})
    _, lines = shown(capsys, "plan", "mine.yaml")
    assert ("would open a file" in " ".join(lines)) == refused


def test_a_file_is_guessed_by_its_stem(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tables end alike: that is no reason to name one."""
    config = tree(place / "data")
    for name, hint in {"xyz.csv": None, "depth.csv": "depths.csv", "folds": "folds.csv"}.items():
        (line,) = lines_of("plan", config, f"data.folds={{kind: file, path: {name}}}", capsys)
        assert line.endswith("no such file." + (f" Did you mean {hint!r}?" if hint else ""))


def test_a_pass_in_training_mode_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that needs numbers is shown them where they are few; the others are not paid
    for."""
    shapes: list[tuple[int, ...]] = []

    def no_meta(*_: object) -> None:
        raise RuntimeError("needs numbers")

    monkeypatch.setattr(check, "pass_on_meta", no_meta)
    monkeypatch.setattr(check, "_pass", lambda model, shape: shapes.append(shape))
    config = parse_config(
        tree(Path(), format="synthetic") | {
            "input": {"height": 64, "width": 64, "channels": 1, "fit": "resize"},
            "stages": [{}, {"input_size": [128, 128]}, {"input_size": [4096, 4096]}],
        },
        "test",
    )  # fmt: skip
    assert check.mistakes(config, 1, (), {}) == []
    assert shapes == [(2, 1, 128, 128)]
