"""Run folders of somebody else: no snapshot runs code, no record opens a file outside, and weights
that are no weights are refused. Also on the lowest versions that are allowed (make test-lowest)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.inference.load import load_snapshot_model
from distseg.models import checkpoint
from distseg.records.errors import Damaged, UserError
from distseg.records.files import read_json, write_json
from distseg.records.paths import Run
from tests.attack.victim import attack, check

HERE = "distseg_was_here"


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def predict(run: Run, out: Path) -> tuple[object, ...]:
    return ("predict", run.folder, "--images", run.folder.parent / "test_images", "--out", out)


def snapshot_of(run: Run, fold: int = 0) -> Path:
    return run.member(0, "a", fold).snapshots / "stage0_epoch0001.safetensors"


# -- what a snapshot's record asks for ------------------------------------------------------------

ENCODERS = ("tu-resnet10t", "tu-convnext_atto", "resnet18")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"checkpoint_path": "EVIL"}, {"pretrained_cfg": {"file": "EVIL"}},
    {"pretrained_cfg_overlay": {"file": "EVIL"}}, {"pretrained": True},
    {"pretrained_cfg": {"url": "file://EVIL"}}, {"pretrained_cfg": {"state_dict": {}}},
    {"cache_dir": "EVIL"}, {"features_only": False}, {"custom_load": True},
    {"Checkpoint_Path": "EVIL"},
    {"drop_rate": "EVIL"}, {"encoder_weights": "EVIL"}, {"encoder_name": "tu-EVIL"},
    {"an_option_of_tomorrow": 1}, {"norm_layer": {"x": "EVIL"}},
)  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_a_snapshot_opens_no_pickle(encoder: str, option: dict[str, Any], tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Evil(tmp_path / HERE)))
    text = json.dumps(option).replace("EVIL", str(evil))
    record = {
        "member": {"arch": "Unet", "encoder": encoder, "decoder": json.loads(text)},
        "input": {"height": 32, "width": 32, "channels": 3}, "num_outputs": 1,
    }  # fmt: skip
    path = tmp_path / "s.safetensors"
    checkpoint.save_snapshot(path, {"x": torch.zeros(1)}, record)
    with pytest.raises(UserError):
        load_snapshot_model(path, torch.device("cpu"), False)
    assert not (tmp_path / HERE).exists()


def test_weights_of_a_config_are_no_pickle(tmp_path: Path, original_config: Path) -> None:
    """A .pth as encoder_weights is refused, and one under the name of safetensors is not read."""
    for name in ("evil.pth", "evil.safetensors"):
        torch.save(Evil(tmp_path / HERE), tmp_path / name)
        changes = ["members.a.arch=Unet", "members.a.encoder=tu-resnet10t", "members.a.decoder={}"]
        changes += [
            f"members.a.encoder_weights={tmp_path / name}",
            "input.height=32",
            "input.width=32",
        ]
        check(attack("plan", original_config, *changes), (2,), "encoder_weights")
    assert not (tmp_path / HERE).exists()


# -- what a file of weights holds -----------------------------------------------------------------

BYTES: dict[str, Callable[[bytes], bytes]] = {
    "a pickle": lambda data: pickle.dumps(Evil(Path(HERE))),
    "a header of 2^63 bytes": lambda data: b"\xff" * 7 + b"\x7f" + data[8:],
    "a header that ends late": lambda data: (len(data) * 2).to_bytes(8, "little") + data[8:],
    "a header that is no JSON": lambda data: data[:8] + b"x" * 40 + data[48:],
    "deep JSON": lambda data: (90_000).to_bytes(8, "little") + b"[" * 90_000,
    "one byte of the weights": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "a byte too many": lambda data: data + b"\0",
    "a digit of the record": lambda data: data.replace(b'\\"fold\\": 0', b'\\"fold\\": 1'),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_damaged_weights_are_named(name: str, victim: Run, tmp_path: Path) -> None:
    path = snapshot_of(victim)
    changed = BYTES[name](path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    check(attack(*predict(victim, tmp_path / "out")), (2,), path.name)
    assert not Path(HERE).exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, victim: Run, tmp_path: Path) -> None:
    path = snapshot_of(victim)
    state, record = checkpoint.load_snapshot(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].reshape(-1)[0] = value
    checkpoint.save_snapshot(path, state, record)
    check(attack(*predict(victim, tmp_path / "out")), (2,), path.name, "finite")


def test_a_snapshot_of_another_fold_is_refused(victim: Run, tmp_path: Path) -> None:
    shutil.copyfile(snapshot_of(victim, 1), snapshot_of(victim, 0))
    check(attack(*predict(victim, tmp_path / "out")), (2,), "('a', 1)", "('a', 0)")


# -- what ensemble.json says ----------------------------------------------------------------------


def member(change: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["members"][0].update(change)


ENSEMBLES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a weight of NaN": member({"weight": float("nan")}),
    "an infinite weight": member({"weight": float("inf")}),
    "a negative weight": member({"weight": -1}),
    "a weight of text": member({"weight": "1"}),
    "a weight of true": member({"weight": True}),
    "a snapshot above": member({"snapshots": ["../../x.safetensors"]}),
    "an absolute snapshot": member({"snapshots": ["/etc/passwd"]}),
    "a snapshot of a number": member({"snapshots": [1]}),
    "no snapshot": member({"snapshots": []}),
    "no members": lambda record: record.update(members=[]),
    "members of text": lambda record: record.update(members="a"),
    "an unknown space": lambda record: record.update(space="os.system"),
    "an unknown view": lambda record: record.update(tta=["hflop"]),
    "a million passes": lambda record: record.update(tta=["dropout:1000000"]),
    "a rule of NaN": lambda record: record["rule"].update(threshold=[float("nan")]),
    "a rule for other classes": lambda record: record["rule"].update(threshold=[0.0] * 9),
    "a rule of text": lambda record: record.update(rule="x"),
    "no rule": lambda record: record.pop("rule"),
    "no scores": lambda record: record.pop("scores"),
    "scores of text": lambda record: record.update(scores={"final": {"score": "x"}}),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_that_cannot_be_is_refused(name: str, victim: Run, tmp_path: Path) -> None:
    record = read_json(victim.final)
    ENSEMBLES[name](record)
    write_json(victim.final, record)
    check(attack(*predict(victim, tmp_path / "out")), (2,), "ensemble.json")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))
    check(attack("report", victim.folder), (0, 2))


# -- states and logits ----------------------------------------------------------------------------

STATES: dict[str, Callable[[Path], object]] = {
    "a digit of the record": lambda f: _swap(f / "state.json", '"epoch": 3', '"epoch": 4'),
    "cut": lambda f: (f / "state.json").write_bytes((f / "state.json").read_bytes()[:40]),
    "empty": lambda f: (f / "state.json").write_bytes(b""),
    "deep": lambda f: (f / "state.json").write_bytes(b"[" * 90_000),
    "tensors elsewhere": lambda f: _swap(f / "state.json", '"tensors_0', '"../tensors_0'),
    "tensors lost": lambda f: (f / "tensors_0.safetensors").unlink(),
    "tensors cut": lambda f: os.truncate(f / "tensors_0.safetensors", 90),
    "a byte of the tensors": lambda f: _last_byte(f / "tensors_0.safetensors"),
}


def _swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("name", STATES)
def test_a_damaged_state_says_what_to_remove(name: str, tmp_path: Path) -> None:
    tree = {"model": {"w": torch.arange(64.0)}, "optimizer": {"step": 3}}
    checkpoint.save_state(tmp_path, tree, {"epoch": 3})
    STATES[name](tmp_path)
    with pytest.raises(UserError) as error:
        checkpoint.load_state(tmp_path)
    if name != "tensors lost":
        assert isinstance(error.value, Damaged)
        assert f"remove the folder {tmp_path}" in str(error.value)


def test_a_dtype_of_a_state_is_a_dtype(tmp_path: Path) -> None:
    """`~dtype` names an attribute of torch: no other is handed on."""
    checkpoint.save_state(tmp_path, {"a": torch.float32}, {})
    state = json.loads((tmp_path / "state.json").read_text())
    state["tree"]["a"]["~dtype"] = "load"
    state.pop("sha256")
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(Damaged, match="no dtype"):
        checkpoint.load_state(tmp_path)


def test_logits_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    from distseg.records.predictions import PredictionsWriter

    writer = PredictionsWriter(tmp_path / "oof")
    with pytest.raises(UserError, match="NaN"):
        writer.add("x", torch.full((1, 2, 2), float("nan")).numpy())
