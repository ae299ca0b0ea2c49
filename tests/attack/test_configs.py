"""Configs from somebody else: refused in a line, at once, whatever they hold."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attack.odd import make_odd
from tests.attack.victim import attack, check

# Files that are no config. Each is tried with several commands.
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)
FILES: dict[str, bytes | str] = {
    "empty": "",
    "a list": "- name: x\n",
    "a text": "hello",
    "a number": "12",
    "null": "null",
    "alias bomb": BOMB,
    "alias bomb below a key": "name: x\nmembers:\n  " + BOMB.replace("\n", "\n  "),
    "bomb of mappings": "c0: &c0 {b: 1}\n"
    + "\n".join(f"c{i}: &c{i} {{x: *c{i - 1}, y: *c{i - 1}}}" for i in range(1, 30)),
    "an alias of itself": "a: &a [*a]\nname: x\n",
    "a mapping of itself": "name: x\nmembers: &m {a: *m}\n",
    "merge of itself": "a: &a\n  <<: *a\n",
    "merge of a list": "a:\n  <<: [1, 2]\n",
    "deep lists": "name: " + "[" * 5000 + "]" * 5000,
    "deeper lists": "name: " + "[" * 100_000,
    "deep mappings": "name: " + "{a: " * 3000 + "1" + "}" * 3000,
    "deep block": "\n".join(" " * i + "a:" for i in range(400)),
    "two megabytes": "name: " + "x" * 2_000_000,
    "two megabytes of keys": "".join(f"k{i}: 1\n" for i in range(250_000)),
    "too many nodes": "name: x\nclasses: [" + "a, " * 40_000 + "a]",
    "not UTF-8": b"name: \xff\xfe\n",
    "UTF-16": "name: x\n".encode("utf-16"),
    "NUL": b"name: a\x00b\n",
    "control characters": b"name: \x1b[31mred\x07\n",
    "a date that is none": "name: 2024-99-99\n",
    "a time that is none": "name: 2024-01-01 99:99:99\n",
    "an int that is none": "name: !!int abc\n",
    "a float that is none": "name: !!float abc\n",
    "a bool that is none": "name: !!bool abc\n",
    "a time tag": "name: !!timestamp abc\n",
    "binary that is none": "name: !!binary '%%%'\n",
    "a python object": "name: !!python/object/apply:os.system ['touch /tmp/distseg_was_here']\n",
    "a python name": "name: !!python/name:os.system\n",
    "a python module": "name: !!python/object/new:subprocess.Popen [[touch, /tmp/was_here]]\n",
    "an unknown tag": "name: !mine x\n",
    "a set": "name: x\nclasses: !!set {a, b}\n",
    "ordered pairs": "name: x\ndata: !!omap [a: 1]\n",
    "a key given twice": "name: x\nname: y\n",
    "a key that is a list": "? [a, b]\n: 1\n",
    "a key that is a mapping": "? {a: b}\n: 1\n",
    "a key that is null": "name: x\n~: 1\n",
    "a key that is a number": "name: x\n1: 2\n",
    "an unknown anchor": "name: *nothing\n",
    "an open quote": "name: 'x\n",
    "an open bracket": "name: [x\n",
    "tabs": "name:\tx\n\tdata: 1\n",
    "two documents": "name: x\n---\nname: y\n",
    "a huge integer": "name: x\nseed: " + "9" * 5000 + "\n",
    "a huge exponent": "name: x\nseed: 1e999999\n",
    "sexagesimal": "name: x\nseed: 999999999:59:59\n",
    "a megabyte as a name": "name: " + "x" * 1_000_000 + "\n",
    "a megabyte as a key": "name: x\n? " + "y" * 900_000 + "\n: 1\n",
    "a directive": "%YAML 9.9\n---\nname: x\n",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a pickle": pickle.dumps(os.system),
    "a safetensors file": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "JSON": '{"name": 1}',
}  # fmt: skip
COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "show": lambda path: ("config", "show", path),
    "run": lambda path: ("run", path, "--out", path.parent / "out"),
    "plan": lambda path: ("plan", path),
}

# Values that no config may have, one at a time: a line that names the key.
VALUES = {
    "seed": ("-1", "1.5", "1e30", "9223372036854775808", ".inf", ".nan", "abc", "[1]", "null"),
    "data.max_pixels": ("0", "-1", "1e12", ".inf", "many"),
    "data.synthetic.num_train": ("1000000000000", "0", "-1", ".nan"),
    "data.synthetic.num_test": ("1000000000000", "-1"),
    "data.synthetic.height": ("1000000", "0"),
    "data.folds.num": ("1000000000000", "0", "1.5"),
    "data.folds.fraction": (".nan", ".inf", "0", "1", "-.inf"),
    "data.limit": ("0", "1000000000000", ".nan"),
    "input.height": ("0", "1000000000", ".nan"),
    "input.width": ("-5", "1e9"),
    "input.channels": ("0", "1000000"),
    "input.mean": ("[.nan, 0, 0]", "[.inf, 1, 1]", "x"),
    "input.std": ("[0, 1, 1]", "[.nan, 1, 1]"),
    "train.batch_size": ("0", "1000000000000", ".nan", "1e400"),
    "compute.slots": ("1000000000000", "0"),
    "compute.workers": ("1000000", "-1"),
    "compute.cpu_threads": ("1000000",),
    "compute.processes_per_job": ("1000000000",),
    "compute.gpus_per_job": (".nan", ".inf", "0", "1e300"),
    "compute.retries": ("1000000000000", "-1"),
    "postprocess.threshold": (".nan", ".inf", "2", "serach"),
    "predict.tta": ("[scale:1e300]", "[scale:nan]", "[dropout:99999999999]", f"[{'x' * 5000}]"),
    "stages.0.optimizer.lr": (".nan", ".inf", "-1", "1e999"),
    "stages.0.schedule.cycles": ("0", "1000000000000"),
    "stages.0.schedule.epochs_per_cycle": ("1000000000000", "-3"),
    "members.a.encoder": ("x" * 1_000_00, "../../etc/passwd", "tu-" + "y" * 300, "[1]"),
    "members.a.image_head": (".nan", ".inf", "-1"),
    "name": ("../up", "a/b", "x" * 200, "", "'\\x1b[31m'", "null"),
    "task": ("x" * 100_000,),
    "metric": ("y" * 100_000,),
    "void": ("256", "-1", ".nan"),
    "nonsense": ("1", "x" * 100_000),
    "a" + ".a" * 5000: ("1",),
}  # fmt: skip
# What would reach a loader that opens files or unpickles; of every architecture with an encoder.
CODE = (
    "{checkpoint_path: /tmp/evil.pth}", "{pretrained_cfg: {file: /tmp/evil.pth}}",
    "{pretrained_cfg_overlay: {file: /tmp/evil.pth}}", "{pretrained: true}",
    "{PRETRAINED_CFG: {url: 'http://x/evil.pth'}}", "{cache_dir: /tmp}", "{hf_hub_id: x/y}",
    "{features_only: false}", "{feature_cfg: {out_indices: [0]}}", "{custom_load: true}",
    "{act_layer: /tmp/evil.pth}", "{norm_layer: 'os.system'}", "{kwargs_filter: [a]}",
    "{state_dict: evil.pth}", "{img_size: 'evil.pkl'}", "{model_name: x}", "{scriptable: true}",
    "{drop_path_rate: {a: {b: /etc/passwd}}}", "{no_such_option: 1}", "{encoder_name: x}",
    "{encoder_weights: imagenet}", "{aux_params: {classes: 1}}", "{in_channels: 999999999}",
    "{classes: 1}", "{weights: evil.pth}", "{url: 'file:///tmp/evil.pth'}", "{block_fn: x}",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_config_is_refused(name: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    data = FILES[name]
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    outcome = attack(*COMMANDS[command](path))
    check(outcome, (2,), "given.yaml")
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/distseg_was_here").exists()
    assert outcome.peak < 512 << 20


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(key: str, value: str, original_config: Path) -> None:
    outcome = attack("config", "show", original_config, f"{key}={value}")
    check(outcome, (2,), key[:60])
    assert all(len(line) < 2500 for line in outcome.errors)


@pytest.mark.parametrize("option", CODE)
@pytest.mark.parametrize("encoder", ["tu-resnet10t", "resnet18"])
def test_no_option_opens_a_file_or_runs_code(
    encoder: str, option: str, original_config: Path
) -> None:
    changes = [
        f"members.a.decoder={option}", f"members.a.encoder={encoder}", "members.a.arch=Unet",
        "input.height=32", "input.width=32",
    ]  # fmt: skip
    check(attack("plan", original_config, *changes), (2,), "members.a")


@pytest.mark.parametrize(
    "what", ["a pipe", "a device", "a folder", "a socket", "a loop", "a long name"]
)
def test_a_config_that_is_no_file(what: str, tmp_path: Path) -> None:

    check(attack("config", "show", make_odd(what, tmp_path, "x.yaml")), (2,))
