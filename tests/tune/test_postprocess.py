"""`distseg tune RUN --postprocess`: what is printed, and what is the user's mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.cli import main
from distseg.config.schema import Config
from distseg.ensemble.joint import search_joint
from distseg.records.paths import Run
from distseg.tune.postprocess import tune_postprocess
from tests.made_run import made_config, made_run, write_data

pytestmark = pytest.mark.usefixtures("few_weightings")


def test_the_cost_is_printed(finished: tuple[Config, Run]) -> None:
    config, run = finished
    shown = tune_postprocess(config, run)
    assert "µs a candidate" in shown
    assert "adopted: nested iou" in shown


def test_user_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(tmp_path), "--postprocess"]) == 2
    assert "no run here" in capsys.readouterr().err
    write_data(tmp_path / "data")
    run: Run = made_run(tmp_path, config := made_config(tmp_path / "data"))
    with pytest.raises(ValueError, match="no ensemble yet"):
        search_joint(config, run)
