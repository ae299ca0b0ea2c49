"""Configs: what is shipped is valid, and each mistake gives one clear message."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distseg.config.load import (
    apply_overrides,
    dump_config,
    json_schema,
    load_config,
    parse_config,
    read_tree,
)
from distseg.records.errors import UserError
from tests.tiny import ROOT, tiny_tree

SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_are_valid_and_open_with_their_command(path: Path) -> None:
    config = load_config(path)
    head = path.read_text().splitlines()[:3]
    command = "tune" if config.tune else "run"
    assert head[1].startswith(f"# distseg {command} {path.relative_to(ROOT)}")
    assert "Hardware:" in head[2]
    assert parse_config(yaml.safe_load(dump_config(config)), "again") == config


def test_overrides_reach_lists_and_new_keys() -> None:
    tree = {"a": {"b": 1}, "list": [{"x": 1}]}
    changed = apply_overrides(tree, ["a.b=2e-3", "a.c=[1, 2]", "list.0.x=null", "new.key=text"])
    assert changed == {
        "a": {"b": "2e-3", "c": [1, 2]},  # YAML 1.1: a string; pydantic makes it a number
        "list": [{"x": None}],
        "new": {"key": "text"},
    }
    assert load_config(ROOT / "configs/quickstart.yaml", ["stages.0.optimizer.lr=2e-3"]).stages[
        0
    ].optimizer.lr == pytest.approx(2e-3)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_an_editor_finds_the_schema_and_takes_the_config(path: Path) -> None:
    """What the YAML language server does with the first line, and with a typo."""
    jsonschema = pytest.importorskip("jsonschema")
    mark, _, place = path.read_text().splitlines()[0].partition("$schema=")
    assert mark == "# yaml-language-server: "
    schema = json.loads((path.parent / place).read_text())
    check = jsonschema.Draft202012Validator(schema)
    tree = yaml.safe_load(path.read_text())
    assert [error.message for error in check.iter_errors(tree)] == []
    for typo in ("stages.0.loss={bec: 1.0}", "stages.0.loss={bce: {wieght: 1}}",
                 "augment=[{hflop: {}}]", "augment=[{hflip: {prob: 1}}]",
                 "augment=[{affine: {rotate: 200}}]", "train.bacth_size=3",
                 "rounds=[{kind: supervised, rules: {min_io: .4}}]"):  # fmt: skip
        assert list(check.iter_errors(apply_overrides(copy.deepcopy(tree), [typo]))), typo


def test_the_schema_is_up_to_date_and_describes_every_key() -> None:
    shipped = (ROOT / "configs" / "schema.json").read_text()
    schema = json_schema()
    assert shipped == json.dumps(schema, indent=2) + "\n", "run `make docs`"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(tiny_tree()) <= set(schema["properties"])
    for name, part in {"Config": schema, **schema["$defs"]}.items():
        # the arguments of a transform of albumentations are its own
        assert part["additionalProperties"] is (name == "Named"), name
        assert part["description"], name
        lacking = [key for key, one in part["properties"].items() if not one.get("description")]
        assert not lacking, f"{name}: {lacking}"


# (override, what the message must contain): key, value, what is valid, the nearest match
MISTAKES: list[tuple[str, list[str]]] = [
    ("inptu.height=64", ["inptu", "Did you mean 'input'?"]),
    ("input.hieght=64", ["input.hieght", "64", "Did you mean 'height'?", "width"]),
    ("input.height=tall", ["input.height", "'tall'", "a whole number"]),
    ("input.height=50", ["input.height: 50", "multiple of 8", "Did you mean 48?"]),
    ("input.height=4", ["input.height", "4", "a number from 8 up"]),
    ("input.overlap=0.5", ["input.overlap", "needs input.fit: crop"]),
    ("input.foreground=0.5", ["input.foreground", "needs input.fit: crop"]),
    ("input.fit=padd", ["input.fit", "'padd'", "Did you mean 'pad'?", "'resize'"]),
    ("input.mean=[0.1, 0.2]", ["input.mean", "needs 1 values"]),
    ("task=binray", ["task", "'binray'", "Did you mean 'binary'?"]),
    ("classes=[a, b]", ["classes", "task binary has one", "multilabel"]),
    ("metric=dise", ["metric", "'dise'", "Did you mean 'dice'?"]),
    ("members={}", ["members", "at least 1"]),
    ("members.a.arch=UNet++", ["members.a.arch", "'UNet++'", "Did you mean"]),
    ("members.a.encoder_depth=3", ["members.a.encoder_depth", "unknown key", "encoder"]),
    ("stages.0.loss.bec=1.0", ["stages.0.loss", "bec", "bce"]),
    ("stages.0.loss={lovasz: {weight: 1, activatoin: elu}}", ["activatoin", "activation"]),
    ("stages.0.loss={lovasz: {activation: elu1}}", ["stages.0.loss.lovasz.activation", "'elu'"]),
    ("stages.0.loss={lovasz: {symmetric: 1}}", ["stages.0.loss.lovasz.symmetric", "true or false"]),
    ("stages.0.loss={focal: {gama: 1.0}}", ["stages.0.loss.focal.gama", "Did you mean 'gamma'"]),
    ("stages.0.loss={bce: true}", ["stages.0.loss.bce.weight", "needs a number"]),
    ("stages.0.loss={bce: -1.0}", ["stages.0.loss.bce.weight", "a number from 0 up"]),
    ("stages.0.loss={bce: .nan}", ["stages.0.loss.bce.weight", "nan"]),
    ("stages.0.loss={bce: {label_smoothing: 1.5}}", ["label_smoothing", "a number up to 1", "1.5"]),
    ("stages.0.loss={bce: {pos_weight: [1.0, x]}}", ["stages.0.loss.bce.pos_weight", "number"]),
    ("stages.0.loss={bce: {pos_weight: [1.0, 2]}}", ["pos_weight", "each of 1 classes"]),
    ("stages.0.loss={bce: 0.0}", ["stages.0.loss", "a weight above 0"]),
    ("stages.0.loss={}", ["stages.0.loss", "a weight above 0"]),
    ("stages.0.loss=bce", ["stages.0.loss", "needs keys", "'bce'"]),
    ("augment=[{hflp: {}}]", ["augment.0.hflp", "Did you mean 'hflip'"]),
    ("augment=[{elastic: {sigma: 0.5}}]", ["augment.0.elastic.sigma", "a number from 1 up", "0.5"]),
    ("augment=[{affine: {scal: [1, 2]}}]", ["augment.0.affine.scal", "Did you mean 'scale'"]),
    ("augment=[{hflip: {p: 2}}]", ["augment.0.hflip.p", "a number up to 1", "2"]),
    ("augment=[{hflip: {p: x}}]", ["augment.0.hflip.p", "number", "'x'"]),
    ("augment=[{hflip: {p: true}}]", ["augment.0.hflip.p", "needs a number"]),
    ("augment=[{affine: {scale: [2, 1]}}]", ["augment.0.affine.scale", "low <= high"]),
    ("augment=[{affine: {scale: 1.2}}]", ["augment.0.affine.scale", "needs [low, high]", "1.2"]),
    ("augment=[{affine: {scale: [1, 2, 3]}}]", ["augment.0.affine.scale", "two numbers"]),
    ("augment=[{affine: {scale: [1, 40]}}]", ["augment.0.affine.scale", "<= 20"]),
    ("augment=[{cutout: {holes: 1.5}}]", ["augment.0.cutout.holes", "a whole number", "1.5"]),
    ("augment=[{cutout: {holes: [1, 2]}}]", ["augment.0.cutout.holes", "a whole number"]),
    ("augment=[{hflip: {}, vflip: {}}]", ["augment.0", "write it as {hflip: {p: 0.5}}"]),
    ("augment=[hflip]", ["augment.0", "write it as {hflip: {p: 0.5}}"]),
    ("augment=[{hflip: 0.5}]", ["augment.0.hflip", "needs keys", "0.5"]),
    ("augment=[{preset: severstall}]", ["augment.0.preset", "Did you mean 'severstal'"]),
    ("stages.0.augment=[{vflop: {}}]", ["stages.0.augment.0.vflop", "Did you mean 'vflip'"]),
    ("rounds.1={kind: self_distill, rules: {min_io: .4}}", ["rounds.1.rules.min_io", "'min_iou'"]),
    ("rounds.1={kind: self_distill, rules: {min_iou: 1.4}}", ["rounds.1.rules.min_iou", "1.4"]),
    ("rounds.1={kind: self_distill, rules: {min_iou: true}}", ["min_iou", "needs a number"]),
    ("rounds.1={kind: self_distill, rules: {constant: .5}}", ["constant", "true or false", "0.5"]),
    ("rounds.1={kind: pseudo_label, rules: {min_iou: .4}}", ["rounds.1.rules.min_iou", "valid"]),
    ("rounds.1={kind: pseudo_label, stages: [{loss: {bec: 1}}]}", ["rounds.1.stages.0.loss.bec"]),
    ("stages.0.schedule.metric=iuo", ["stages.0.schedule.metric", "'iuo'", "'iou'"]),
    ("members.a.encoder_weights=None", ["members.a.encoder_weights", "'None'", "null"]),
    ("members.a.decoder.checkpoint_path=x.pth", ["members.a.decoder", "checkpoint_path"]),
    ("members.a.decoder.norm_layer={url: x}", ["members.a.decoder", "norm_layer.url"]),
    ("members.b.input.channels=3", ["members.b.input.channels: 3", "input.channels 1"]),
    ("data.format=tsg", ["data.format", "'tsg'", "Did you mean 'tgs'?"]),
    ("postprocess.min_area=serach", ["postprocess.min_area", "'serach'", "Did you mean 'search'"]),
    ("stages.0.loss={lovasz_softmax: 1.0}", ["stages.0.loss", "lovasz_softmax", "binary"]),
    ("stages.0.optimizer.lr=-1", ["stages.0.optimizer.lr", "a number above 0", "-1"]),
    ("stages.0.schedule.kind=cosin", ["kind", "'cosin'", "Did you mean 'cosine'?"]),
    ("stages.0.schedule.kind=constant", ["cycles", "constant", "Did you mean kind: cosine?"]),
    ("stages.0.input_size=[32, 32]", ["stages.0.input_size", "resize or crop"]),
    ("stages.0.top_k=0", ["stages.0.top_k", "a number from 1 up"]),
    ("predict.tta=[hflop]", ["hflop", "hflip"]),
    ("data.folds.num=1", ["data.folds.num", "1", "2 or more"]),
    ("data.folds.kind=group", ["data.folds", "column", "groups"]),
    ("data.folds.kind=file", ["data.folds", "path"]),
    ("data.folds.use=[5]", ["fold 5 does not exist", "0..1"]),
    ("train.accumulation=3", ["train.accumulation: 3", "8"]),
    ("postprocess.threshold=1.5", ["postprocess.threshold", "1.5"]),
    ("compute.executor=slurm", ["compute.executor", "'slurm'", "'local'"]),
    ("name=../up", ["name", "../up"]),
]


@pytest.mark.parametrize(("override", "parts"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_each_mistake_gives_one_clear_message(override: str, parts: list[str]) -> None:
    tree = tiny_tree(rounds=[{}, {}], data={**tiny_tree()["data"], "folds": {"num": 3}})
    if "folds" in override:
        tree["data"]["folds"]["num"] = 2
    with pytest.raises(UserError) as caught:
        parse_config(apply_overrides(tree, [override]), "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    for noise in ("function-", "literal[", "constrained", "nullable", "tagged-union"):
        assert noise not in message
    keys = [line.split(": ")[1] for line in message.splitlines()]
    assert len(keys) == len(set(keys)), "several lines for one key"
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in {message!r}"


def test_all_mistakes_are_found_at_once() -> None:
    """Of the models, in lists and unions, and across fields; and no echo of one that is known."""
    overrides = ["augment=[{hflop: {}}, {hflip: {prob: 1}}, {vflip: {}}]", "inptu.height=3",
                 "stages.0.loss.bec=1", "train.accumulation=3", "postprocess.threshold=1.5",
                 "postprocess.exclusive=true", "members.a.arch=Unett"]  # fmt: skip
    read = read_tree(apply_overrides(tiny_tree(), overrides))
    assert {line.partition(": ")[0] for line in read.lines} == {
        "inptu", "augment.0.hflop", "augment.1.hflip.prob", "members.a.arch", "stages.0.loss.bec",
        "postprocess.threshold", "postprocess.exclusive", "train.accumulation",
    }  # fmt: skip
    assert read.config is not None and not read.judges("members.a: it has too few layers")


FILES: list[tuple[str, bytes, str]] = [
    ("missing", b"", "cannot be read"),
    ("a list", b"- 1\n- 2\n", "a config is a mapping"),
    ("empty", b"", "a config is a mapping"),
    ("a tab", b"name:\n\tx: 1\n", "line 2"),
    ("a key twice", b"name: a\nname: b\n", "'name' is given twice"),
    ("an open bracket", b"name: [1, 2\n", "not YAML"),
    ("not text", b"\xff\xfe\x00\x01", "cannot be read"),
    ("code", b"name: !!python/object/apply:os.system ['true']\n", "not YAML"),
]


@pytest.mark.parametrize(("case", "content", "part"), FILES, ids=[f[0] for f in FILES])
def test_each_broken_file_gives_one_clear_message(
    tmp_path: Path, case: str, content: bytes, part: str
) -> None:
    path = tmp_path / "bad.yaml"
    if case != "missing":
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


@pytest.mark.parametrize("pattern", ["{id}_mask.png", "{id}", "{id}.*", "gt_{id}"])
def test_a_pattern_of_names_is_written_as_messages_write_it(pattern: str) -> None:
    tree = apply_overrides(tiny_tree(), [f"data.folder.mask={pattern}"])
    assert tree["data"]["folder"]["mask"] == pattern


@pytest.mark.parametrize("override", ["novalue", "=3", "stages.7.keep=last", "name.sub=1"])
def test_bad_overrides_are_refused(override: str) -> None:
    with pytest.raises(UserError, match="override"):
        apply_overrides(tiny_tree(), [override])


def test_resolved_config_holds_every_default() -> None:
    config = parse_config(tiny_tree(), "test")
    dumped: dict[str, Any] = yaml.safe_load(dump_config(config))
    assert dumped["train"]["clip_norm"] == 5.0
    assert dumped["stages"][0]["schedule"]["warmup_epochs"] == 0.0


def test_the_config_reference_is_up_to_date() -> None:
    code = "import generate_config; print(generate_config.page(), end='')"
    command = [sys.executable, "-c", code]
    docs = ROOT / "docs"
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=docs).stdout
    assert (docs / "config.md").read_text() == printed, "run `make docs`"


def test_the_config_needs_neither_torch_nor_albumentations() -> None:
    code = (
        "import sys; from distseg.config.load import load_config; "
        "load_config('configs/quickstart.yaml'); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'albumentations', 'cv2', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_resolved_config_of_an_older_version_is_read() -> None:
    """Losses were numbers or mappings, augmentations had the options that were given."""
    tree: dict[str, Any] = yaml.safe_load(dump_config(parse_config(tiny_tree(), "test")))
    tree["stages"][0]["loss"] = {"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}}
    tree["augment"] = [{"preset": "tgs_winners"}, {"hflip": {}}, {"affine": {"rotate": 10}}]
    tree["rounds"][0]["rules"] = None
    config = parse_config(tree, "old")
    assert config.stages[0].loss.spec == {
        "bce": {"weight": 1.0, "label_smoothing": 0.0, "pos_weight": None},
        "lovasz": {"weight": 0.5, "activation": "elu", "symmetric": False},
    }
    assert parse_config(yaml.safe_load(dump_config(config)), "again") == config


@pytest.mark.parametrize(
    ("stage", "flag"),
    [
        ({"keep": "last"}, "honest"),
        ({"keep": "best"}, "indirect"),
        ({"keep": "top_k", "top_k": 1}, "indirect"),
        ({"schedule": {"kind": "plateau"}}, "indirect"),
        ({"schedule": {"kind": "plateau", "metric": "loss", "mode": "min"}}, "honest"),
        ({"early_stopping": {"patience": 2}}, "indirect"),
        ({"keep": "best_of_cycles"}, "indirect"),
        ({"early_stopping": {"patience": 2, "metric": "loss"}}, "honest"),
    ],
)
def test_weights_that_the_folds_score_has_chosen_are_not_honest(stage: dict, flag: str) -> None:
    config = parse_config(tiny_tree(stages=[stage]), "test")
    assert config.flag(0) == flag and config.teacher_flag(0) == "honest"
    train = {"batch_size": 8, "inner_share": 0.1}  # other rows have chosen
    assert parse_config(tiny_tree(stages=[stage], train=train), "test").flag(0) == "honest"
