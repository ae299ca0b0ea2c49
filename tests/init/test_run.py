"""A folder to a score, in one line, within a budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import distseg
from distseg.cli import main
from distseg.config.load import load_config
from tests.init.made_sets import folder


@pytest.mark.slow
def test_a_folder_becomes_a_score_and_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "set", num=24, size=(64, 64), objects=(20, 2), tests=4)
    out = tmp_path / "run"
    line = ["run", str(root), "--budget", "1m", "--out", str(out)]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "out-of-fold dice" in shown and "Time: about" in (out / "init.yaml").read_text()
    run = distseg.load_run(out)
    assert run.config == load_config(out / "init.yaml") and run.config.train.steps_per_epoch
    assert len(list((out / "test_masks").glob("*.png"))) == 4
    assert json.loads((out / "init.json").read_text())["budget_s"] == 60
    assert main(line) == 0  # to resume, the same line; nothing is made again
    assert "to train" not in capsys.readouterr().out


@pytest.mark.slow
def test_init_writes_what_plan_measures_and_the_command_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "cells", num=24, size=(64, 64))
    assert main(["init", "cells", "--budget", "2m", "classes=[cell]"]) == 0
    assert "written: cells.yaml; next: distseg run cells.yaml" in capsys.readouterr().out
    assert load_config("cells.yaml").classes == ["cell"]
    assert main(["init", "cells"]) == 2
    assert "cells.yaml: is there already" in capsys.readouterr().err
    assert main(["plan", "cells.yaml", "--measure"]) == 0
    text = capsys.readouterr().out
    assert "time: about" in text and "training and out-of-fold" in text
    assert not (tmp_path / "runs").exists()
