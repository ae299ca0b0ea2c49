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


@pytest.mark.parametrize("arguments", [[], ["runn"], ["run"], ["run", "x", "--outt=y"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2


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
