"""The reports of runs that were really trained, on real data, in a real browser: TGS with two
rounds, CamVid's eleven classes, and four photographs. Every interaction, both widths and schemes,
print; no error in the console, no request.

DISTSEG_SHOWN names a folder in which the runs are kept, to be looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distseg.records.paths import Run
from distseg.run.summary import compare_runs
from tests.report.test_browser import opened
from tests.report.test_browser_runs import drive, fits
from tests.tiny import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.data]


def trained(folder: Path, config: str, data: Path, *changes: str, epochs: int = 2) -> Run:
    """A run of a config of the project with short stages. changes: as on the command line."""
    if kept := os.environ.get("DISTSEG_SHOWN"):
        folder = Path(kept).resolve() / folder.name
    tree = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text(encoding="utf-8"))
    schedule = f"schedule={{epochs_per_cycle: {epochs}}}"
    short = [f"stages.{number}.{schedule}" for number in range(len(tree["stages"]))]
    command = [sys.executable, "-m", "distseg", "run", str(ROOT / "configs" / f"{config}.yaml"),
               f"data.root={data}", *short, *changes, "--out", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Run(folder)


def test_tgs_with_rounds(data_root: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "tgs", "tgs_self_distill_cpu", data_root / "tgs", "data.limit=240",
                  epochs=4)  # fmt: skip
    drive(run, 240)
    with opened(run.report_html) as page:
        body = page.inner_text("body")
        assert "round 1 (self_distill) over round 0" in body
        assert "What the rounds kept and dropped" in body
        assert page.locator("details img.sheet").count() >= 6, "kept and dropped, of each fold"
    assert list(fits(run.report_html)) == []
    plain = "data.limit=240", "rounds=[{kind: supervised}]", "seed=1"
    other = trained(tmp_path / "tgs_plain", "tgs_self_distill_cpu", data_root / "tgs", *plain)
    compare_runs([other.folder, run.folder], tmp_path / "out")
    with opened(tmp_path / "out" / "compare.html") as page:
        body = page.inner_text("body")
        assert "240" in body and "rounds" in body and "tgs_plain" in body


def test_camvid(data_root: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "camvid", "seeds/camvid_cpu", data_root / "camvid",
                  "data.limit=60", "data.folds={kind: stratified, num: 2}")  # fmt: skip
    drive(run, 94)  # 60 of its own train part, and its validation part
    with opened(run.report_html) as page:
        assert len(page.locator("td.cell").all_inner_texts()) == 11 * 11
    assert list(fits(run.report_html)) == []


def test_four_photographs(data_root: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "four", "seeds/oxford_pet_unet_vs_resnet34_cpu",
                  data_root / "oxford_pet", "data.limit=4")  # fmt: skip
    drive(run, 4)
    with opened(run.report_html) as page:
        captions = page.locator("figcaption").all_inner_texts()
        assert len([text for text in captions if text.startswith("by score")]) == 4
    assert list(fits(run.report_html)) == []
