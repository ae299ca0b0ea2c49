"""`accelerate launch launch/train.py` by hand: what two ranks say and leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distseg.jobs.job import RUN_MARK
from distseg.records.paths import Run
from tests.tiny import PATIENCE_S, ROOT, tiny_tree

LAUNCH = ROOT / "launch"


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train member a of fold 0 with two CPU ranks."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree()))
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(LAUNCH / "accelerate" / "cpu_2ranks.yaml")),
        *(str(LAUNCH / "train.py"), str(path), "--member", "a", "--fold", "0"),
        *("--out", str(folder / "run"), *overrides),
    ]
    environment = {k: v for k, v in os.environ.items() if k != RUN_MARK}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT
    )


@pytest.mark.slow
def test_two_ranks_look_once_and_train(tmp_path: Path) -> None:
    """All mistakes in the words of one rank, nothing on disk; then the same folder is trained."""
    run = Run(tmp_path / "run")
    wrong = ("metric=dise", "stages.0.optimizer.name=adamx", "data.folds.use=[5]")
    done = launch(tmp_path, *wrong)
    lines = [line for line in done.stderr.splitlines() if "distseg: error: " in line]
    assert done.returncode != 0
    keys = [line.partition("tiny.yaml: ")[2].split(": ")[0] for line in lines]
    assert sorted(keys) == ["data.folds.use", "metric", "stages.0.optimizer.name"]
    assert not run.folder.exists()
    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    assert run.member(0, "a", 0).done.is_file()
