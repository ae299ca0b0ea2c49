"""Configs: what is shipped is valid, and each mistake gives one clear message."""

from __future__ import annotations

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
)
from distseg.records.errors import UserError
from tests.tiny import ROOT, tiny_tree

SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_are_valid_and_open_with_their_command(path: Path) -> None:
    config = load_config(path)
    head = path.read_text().splitlines()[:3]
    command = "tune" if config.tune else "run"
    assert head[0].startswith(f"# distseg {command} {path.relative_to(ROOT)}")
    assert "Hardware:" in head[1]
    assert parse_config(yaml.safe_load(dump_config(config)), "again") == config


def test_all_four_configs_are_shipped() -> None:
    names = {path.stem for path in SHIPPED}
    assert {"quickstart", "tgs_salt", "tgs_salt_cpu", "tgs_salt_pretrained"} <= names


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


def test_schema_is_json_and_names_every_top_level_key() -> None:
    text = json.dumps(json_schema())
    assert '"additionalProperties": false' in text
    assert set(tiny_tree()) <= set(json_schema()["properties"])


# (override, what the message must contain): key, value, what is valid, the nearest match
MISTAKES: list[tuple[str, list[str]]] = [
    ("inptu.height=64", ["inptu", "Did you mean 'input'?"]),
    ("input.hieght=64", ["input.hieght", "64", "Did you mean 'height'?", "width"]),
    ("input.height=tall", ["input.height", "'tall'", "integer"]),
    ("input.height=50", ["input.height: 50", "multiple of 8", "Did you mean 48?"]),
    ("input.height=4", ["input.height", "4", "greater than or equal to 8"]),
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
    ("stages.0.loss={lovasz_softmax: 1.0}", ["stages.0.loss", "lovasz_softmax", "binary"]),
    ("stages.0.optimizer.lr=-1", ["stages.0.optimizer.lr", "greater than 0", "-1"]),
    ("stages.0.schedule.kind=cosin", ["kind", "'cosin'", "Did you mean 'cosine'?"]),
    ("stages.0.schedule.kind=constant", ["cycles", "constant", "Did you mean kind: cosine?"]),
    ("stages.0.input_size=[32, 32]", ["stages.0.input_size", "resize or crop"]),
    ("stages.0.top_k=0", ["stages.0.top_k", "greater than or equal to 1"]),
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
    with pytest.raises(UserError) as caught:
        parse_config(apply_overrides(tiny_tree(), [override]), "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in {message!r}"


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
    command = [sys.executable, str(ROOT / "docs" / "generate_config.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "config.md").read_text() == printed, "run `make docs`"


@pytest.mark.parametrize(
    ("stage", "flag"),
    [
        ({"keep": "last"}, "honest"),
        ({"keep": "best"}, "indirect"),
        ({"keep": "top_k", "top_k": 1}, "indirect"),
        ({"schedule": {"kind": "plateau"}}, "indirect"),
        ({"schedule": {"kind": "plateau", "metric": "loss", "mode": "min"}}, "honest"),
    ],
)
def test_weights_that_the_folds_score_has_chosen_are_not_honest(stage: dict, flag: str) -> None:
    config = parse_config(tiny_tree(stages=[stage]), "test")
    assert config.flag(0) == flag and config.teacher_flag(0) == "honest"
