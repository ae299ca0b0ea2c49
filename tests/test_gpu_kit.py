"""benchmarks/gpu, tried on the CPU: its whole path, with tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.data_helpers import tgs

KIT = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
def test_each_part_leaves_its_figures(tmp_path: Path) -> None:
    data, out = tgs(tmp_path / "tgs", 40), tmp_path / "out"
    command = [sys.executable, str(KIT), "--root", str(data), "--out", str(out), "--trial"]
    command += ["--work", str(tmp_path / "work"), "--seconds", "900", "--recipe-seconds", "300"]
    parts = ["limit", "recipe", "step", "steps", "plain", "predict"]
    done = subprocess.run(
        [*command, "--parts", *parts], capture_output=True, text=True, timeout=960
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert {part: summary[part]["status"] for part in parts} == dict.fromkeys(parts, "ok")
    assert summary["limit"]["8"]["train"] > 0
    assert summary["step"]["images_per_s"][0] > 0
    assert summary["steps"]["rows"][0]["in_memory"] > 0
    assert summary["recipe"]["epochs_done"] == 4
    assert (
        len((out / "submission.csv").read_text().splitlines()) == 1 + summary["predict"]["images"]
    )
