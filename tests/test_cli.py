"""The front door: exit statuses, one-line errors, and no torch before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distseg import cli
from distseg.arguments import parse
from distseg.config.find import find_config
from distseg.config.load import load_config
from distseg.records.errors import UserError
from distseg.run.launched import parse_members
from tests.tiny import PATIENCE_S, ROOT, tiny_tree


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree()), encoding="utf-8")
    return path


def distseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distseg", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def test_help_is_quick() -> None:
    """Processor seconds, so that a busy machine does not count: on an idle one it is the time."""
    before = os.times()
    done = distseg("--help")
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    assert done.returncode == 0
    assert seconds < 0.5
    for command in ("run", "plan", "inspect", "train", "predict", "score", "status", "doctor"):
        assert command in done.stdout
    assert "predict-test" not in done.stdout


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "distseg", argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "distseg.cli" in names
    assert not names & {"torch", "numpy", "pydantic", "accelerate", "timm", "rich", "yaml"}


def test_driver_needs_no_torch(tiny: Path) -> None:
    modules = (
        "run.pipeline, run.plan, run.status, run.view, jobs.scheduler, jobs.local, jobs.job, "
        "doctor.machine"
    )
    names = ", ".join(f"distseg.{name.strip()}" for name in modules.split(","))
    code = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quickstrat"], ["quickstrat", "'quickstart'"]),
        (["run", "{tiny}", "metric=dicee"], ["metric", "'dicee'", "'dice'"]),
        (["run", "{tiny}", "trian.batch_size=2"], ["trian", "'train'"]),
        (["plan", "{tiny}", "compute.gpus=1"], ["compute.gpus", "'gpus_per_job'"]),
        (["train", "{tiny}"], ["--member"]),
        (["train", "{tiny}", "--member", "b", "--fold", "0"], ["'b'", "Valid: a"]),
        (["train", "{tiny}", "--members", "a:x"], ["'a:x'", "NAME:FOLD"]),
        (["train", "{tiny}", "--members", "a:0", "--round", "1x"], ["'1x'", "1/teachers"]),
        (["status", "{dir}"], ["no run here"]),
        (["report", "{dir}"], ["no run here"]),
        (["predict", "{dir}", "--images", "x", "--out", "y"], ["no run here"]),
        (["config", "show"], ["CONFIG"]),
    ],
)
def test_user_errors(
    arguments: list[str], words: list[str], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [text.format(tiny=tiny, dir=tiny.parent) for text in arguments]
    assert cli.main(filled) == 2
    shown = capsys.readouterr().err
    assert all(line.startswith("distseg: error: ") for line in shown.splitlines())
    assert "Traceback" not in shown
    for word in words:
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["needs COMMAND", "`distseg --help`"]),
        (["rn"], ["unknown command 'rn'. Did you mean 'run'?"]),
        (["runn"], ["'runn'. Did you mean 'run'?"]),
        (["tech"], ["unknown command 'tech'"]),
        (["run"], ["needs CONFIG"]),
        (["run", "x", "--outt=y"], ["run: unknown option --outt=y", "did you mean --out?"]),
        (
            ["run", "x", "--outt", "lr"],
            ["unknown option --outt", "'lr': write a change", "key=val"],
        ),
        (["status", "x", "y"], ["status: unexpected argument 'y'"]),
        (["status", "x", "y=1"], ["status: unexpected argument 'y=1'"]),
        (["list", "encoder"], ["unknown value of what 'encoder'. Did you mean 'encoders'?"]),
        (["score", "a", "b", "--metric", "iou", "--order", "colum"], ["'colum'", "'column'"]),
        (["score", "a", "--metric", "iou", "b", "--width", "w"], ["--width", "'w'"]),
    ],
)
def test_bad_arguments(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit status 2, and no word of what only the driver calls."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distseg: error: ")
    assert all(word in line for word in words), line
    assert "predict-test" not in line and "teach" not in line and "complete" not in line


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr=0.1", "Did you mean 'stages.0.optimizer.lr'?"),
        ("stages.0.lr=0.1", "Did you mean 'stages.0.optimizer.lr'?"),
        ("optimizer.lr=0.1", "Did you mean 'stages.0.optimizer'?"),
        ("epochs=3", "Did you mean 'stages.0.schedule.epochs_per_cycle'?"),
        ("batch_size=3", "Did you mean 'train.batch_size' or 'predict.batch_size'?"),
        ("members.a.height=3", "Did you mean 'members.a.input.height'?"),
        ("seeed=3", "Did you mean 'seed'?"),
    ],
)
def test_a_key_is_found_where_it_stands(
    override: str, hint: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(tiny), override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1,\nb: 2\n", ["line 3, column 1: not YAML"]),
        ("a: 1\n\tb: 2\n", ["line 2, column 1: not YAML: a tab"]),
        ("a: 1\na: 2\n", ["line 2, column 1: not YAML: key 'a' is given twice"]),
        ("a: b: c\n", ["line 1, column 5", "mapping values are not allowed here"]),
        ("a: \x07\n", ["not YAML"]),
        ("a: " + "[" * 5000 + "\n", ["not YAML"]),
        ("a: 2024-13-45\n", ["not YAML"]),
        ("- 1\n", ["a config is a mapping of keys"]),
    ],
)
def test_what_is_no_yaml_is_one_line_that_names_the_file(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "torn.yaml"
    path.write_text(text)
    assert cli.main(["plan", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and all(word in line for word in words), line


def test_overrides_that_cannot_be_set_are_listed_at_once(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["a=[", "=3", "stages.7.keep=last", "name.x=1", "train={a: 1, a: 2}"]
    assert cli.main(["plan", str(tiny), *wrong]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(wrong) and all("override" in line for line in lines), lines


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("configs", "seeds/tgs_first_place"), ("encoders", "tu-convnext_atto"),
        ("encoders", "resnet18"), ("architectures", "ComposedUnet"), ("losses", "lovasz"),
        ("metrics", "mean_dice"), ("augmentations", "grid_distortion"), ("optimizers", "lion"),
    ],
)  # fmt: skip
def test_list(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kind]) == 0
    every = capsys.readouterr().out.splitlines()
    assert name in [line.split()[0] for line in every]
    assert cli.main(["list", kind, name.upper()]) == 0
    some = capsys.readouterr().out.splitlines()
    assert 0 < len(some) < len(every) and set(some) < set(every)


BASH = """
PATH="$1:$PATH"
eval "$(distseg completion bash)"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
compopt() { :; }
_distseg
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["distseg", "sta"], ["status"]),
        (["distseg", "te"], [""]),
        (["distseg", "run", "tune_q"], ["tune_quickstart"]),
        (["distseg", "plan", "quickstart", "--o"], ["--out"]),
        (["distseg", "run", "quickstart", "train.acc"], ["train.accumulation="]),
        (["distseg", "list", "lo"], ["losses"]),
        (["distseg", "status", "run"], [""]),
    ],
)
def test_a_shell_completes(words: list[str], found: list[str], tmp_path: Path) -> None:
    """In a real bash, with the script that `completion` prints."""
    program = tmp_path / "distseg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m distseg "$@"\n')
    program.chmod(0o755)
    command = ["bash", "-c", BASH, "bash", str(tmp_path), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines() == found, done.stderr


def test_error_reaches_the_shell(tmp_path: Path) -> None:
    done = distseg("run", str(tmp_path / "absent.yaml"))
    assert done.returncode == 2
    assert done.stderr.startswith("distseg: error: ")
    assert "Traceback" not in done.stderr


def test_overrides_stand_anywhere() -> None:
    args = parse(["run", "c.yaml", "a=1", "--out", "r", "b.c=2"])
    assert args.overrides == ["a=1", "b.c=2"]
    assert args.out == Path("r")


def test_config_names_are_found_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: x\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("mine") == Path("configs/mine.yaml")
    assert find_config("configs/mine.yaml") == Path("configs/mine.yaml")
    with pytest.raises(UserError, match="'mine'"):
        find_config("mien")


def test_config_schema_and_show(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == 0
    assert "compute" in json.loads(capsys.readouterr().out)["properties"]
    assert cli.main(["config", "show", str(tiny), "train.batch_size=4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["train"]["batch_size"] == 4
    assert shown["members"]["a"]["arch"] == "Unet"


def test_members_of_a_job(tiny: Path) -> None:
    config = load_config(tiny)
    assert parse_members(config, "a:1,a:0") == [("a", 1), ("a", 0)]
