"""The reports of runs that were really trained, on real data, in a real browser: TGS with two
rounds, CamVid's eleven classes, and four photographs. Every interaction, both widths and schemes,
print; no error in the console, no request."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distseg.records.files import read_json
from distseg.records.paths import Run
from distseg.run.summary import compare_runs
from tests.report.test_browser import opened
from tests.report.test_browser_runs import drive, fits
from tests.tiny import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.data]


def trained(folder: Path, name: str, *changes: str) -> Run:
    """A run of one of the configs of the project; changes: as on the command line."""
    command = [sys.executable, "-m", "distseg", "run", str(ROOT / "configs" / f"{name}.yaml")]
    done = subprocess.run(
        [*command, *changes, "--out", str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Run(folder)


def short(config: str, **schedule: Any) -> list[str]:
    """Changes that make every stage of a config short."""
    tree = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text(encoding="utf-8"))
    return [
        f"stages.{number}.schedule={json.dumps({'epochs_per_cycle': 2, **schedule})}"
        for number in range(len(tree["stages"]))
    ]
