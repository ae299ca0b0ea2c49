"""The run folder: whose it is, who works on it, where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from distseg import cli
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.files import (
    append_line,
    mark_done,
    read_json,
    write_json,
)
from distseg.records.paths import Run
from distseg.run import changes, folder, summary
from distseg.run.status import is_alive, status_text
from tests.tiny import tiny_tree


def config_of(change: Callable[[dict], None] = lambda tree: None) -> Config:
    tree = tiny_tree()
    change(tree)
    return parse_config(tree, "test")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    folder.open_run(config_of(), run)
    return run


@pytest.fixture
def begun(run: Run) -> Run:
    """A run of which a member has trained an epoch."""
    append_line(run.member(0, "a", 0).metrics, {"epoch": 0})
    return run


def test_open_run_records_where_it_was_made(run: Run) -> None:
    record = read_json(run.env)
    assert record["packages"]["torch"]
    assert record["cores"] >= 1
    assert run.config.is_file()


def test_another_config_is_refused(begun: Run) -> None:
    def change(tree: dict) -> None:
        tree["members"]["a"]["encoder"] = "tu-resnet10t"
        tree["train"]["batch_size"] = 4

    with pytest.raises(UserError) as error:
        folder.open_run(config_of(change), begun)
    assert "members.a.encoder: 'tu-convnext_atto' -> 'tu-resnet10t'" in str(error.value)
    assert "train.batch_size: 8 -> 4" in str(error.value)


def test_compute_and_name_may_change(begun: Run) -> None:
    def change(tree: dict) -> None:
        tree["compute"]["slots"] = 3
        tree["name"] = "other"

    folder.open_run(config_of(change), begun)
    assert "slots: 3" in begun.config.read_text()  # jobs read it from there


def test_rounds_may_be_added_at_the_end_alone(begun: Run) -> None:
    def add(tree: dict) -> None:
        tree["rounds"] = [{"kind": "supervised"}, {"kind": "pseudo_label"}]

    def change(tree: dict) -> None:
        tree["rounds"] = [{"kind": "supervised"}, {"kind": "pseudo_label", "share": 0.25}]

    folder.open_run(config_of(add), begun)
    assert "pseudo_label" in begun.config.read_text()
    append_line(begun.member(1, "a", 0).metrics, {"epoch": 0})
    with pytest.raises(UserError, match=r"rounds\.1\.share: 0\.5 -> 0\.25"):
        folder.open_run(config_of(change), begun)


def test_accumulation_is_free_within_a_job_only(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(lambda tree: tree["train"].update(accumulation=2))
    with pytest.raises(UserError, match=r"train\.accumulation"):
        changes.check_same(config, begun)
    monkeypatch.setenv("DISTSEG_JOB", "x")
    changes.check_same(config, begun)


def test_a_second_driver_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_alive(run)
    with FileLock(run.lock):
        assert is_alive(run)
        assert cli.main(["run", str(run.config), "--out", str(run.folder)]) == 2
    assert "another `distseg run`" in capsys.readouterr().err
    assert not is_alive(run)


def test_no_ensemble_no_report(run: Run) -> None:
    with pytest.raises(UserError, match="no ensemble yet"):
        summary.report(config_of(), run)


def test_status(run: Run) -> None:
    now = {"time": time.time(), "job": "a_fold0", "members": ["a_fold0"]}
    append_line(run.ledger, {"event": "run_started"})
    append_line(run.ledger, {"event": "job_started", **now})
    row = {"epoch": 0, "epochs": 2, "loss": 0.5, "score": 0.25, "seconds": 10, "eta_s": 10}
    append_line(run.member(0, "a", 0).metrics, row)
    text = status_text(run.folder)
    assert "not running" in text
    assert "stopped" in text
    with FileLock(run.lock):
        text = status_text(run.folder)
    assert "a_fold0" in text
    assert "running  epoch 1/2  score 0.2500  ETA 10s" in text
    assert "waiting  epoch 0/2" in text
    assert "the run ends in about" in text
    assert "running  epoch 1/2" in text
    mark_done(run.member(0, "a", 0).done, {"score": 0.75, "seconds": 20})
    write_json(run.member(0, "a", 1).failure, {"kind": "error", "message": "it broke"})
    text = status_text(run.folder)
    assert "round 0: 1 of 2" in text
    assert "score 0.7500" in text
    assert "error: it broke" in text
