"""Curves and scores in TensorBoard and Weights & Biases, read back from what they wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from distseg import cli
from distseg.config.load import load_config, parse_config
from distseg.records.files import append_line, read_json, read_lines
from distseg.records.paths import Run
from distseg.run.launched import track_here
from distseg.training.tracking import SUMMARY, Tracking, member_tracking
from tests.tiny import tiny_tree

ROWS: list[dict[str, Any]] = [
    {"epoch": epoch, "loss": 1.0 / (epoch + 1), "score": 0.1 * epoch, "stage": 0}
    for epoch in range(3)
]


@pytest.fixture(autouse=True)
def one_process() -> None:
    PartialState(cpu=True)


class Fake(GeneralTracker):
    """accelerate's own interface, which keeps what it gets."""

    name = "wandb"
    requires_logging_directory = False
    made: list[Fake] = []  # noqa: RUF012  one list for all of them

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options, self.ended = project, options, False
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.summary: dict[str, float] = {}
        Fake.made.append(self)

    @property
    def tracker(self) -> Fake:
        return self

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if self.options["name"].endswith("breaks"):
            raise ConnectionError("no network")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.ended = True


def config_of(*track: str) -> Any:
    return parse_config(tiny_tree(track=list(track)), "tiny")


def test_members_are_grouped_and_scores_are_a_summary(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    Fake.made.clear()
    run, config = Run(trained), config_of("wandb")
    member = member_tracking(config, run, 0, "a", 0)
    member.close()
    summary = Tracking(config, run, SUMMARY)
    summary.summarize({"score": 0.5})
    summary.close()
    first, last = Fake.made
    assert first.project == "tiny" and first.ended and last.ended
    assert first.options["group"] == last.options["group"] == "run"
    assert first.options["name"] == "run/round0_a_fold0" and last.options["job_type"] == SUMMARY
    assert first.options["id"] != last.options["id"] and first.options["resume"] == "allow"
    assert [step for step, _ in first.rows] == [row["epoch"] for row in read_lines(
        run.member(0, "a", 0).metrics)]  # fmt: skip
    assert first.settings["members.a.encoder"] == "tu-convnext_atto"
    assert last.summary == {"score": 0.5}


def test_a_tracker_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    tracking = Tracking(config_of("wandb"), Run(tmp_path / "run"), "breaks")
    with caplog.at_level("WARNING", "distseg"):
        tracking.log(ROWS[0], 0)
        tracking.log(ROWS[1], 1)
    assert tracking.trackers == []
    assert caplog.text.count("wandb is left out: ConnectionError: no network") == 1


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds, by tag: (step, value)."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_each_epoch_once_after_an_interruption(tmp_path: Path) -> None:
    run, config = Run(tmp_path / "run"), config_of("tensorboard")
    for row in ROWS[:2]:
        append_line(run.member(0, "a", 0).metrics, row)
        tracking = member_tracking(config, run, 0, "a", 0)
        tracking.close()
    tracking = member_tracking(config, run, 0, "a", 0)
    tracking.log(ROWS[2], 2)
    tracking.close()
    found = scalars(run.folder / "track" / "round0_a_fold0")
    assert [step for step, _ in found["loss"]] == [0, 1, 2]
    assert [value for _, value in found["score"]] == pytest.approx([0.0, 0.1, 0.2])


def test_the_nested_score_stands_in_tensorboard(trained: Path, tmp_path: Path) -> None:
    import shutil

    run = Run(tmp_path / "copy")
    shutil.copytree(trained, run.folder)
    text = run.config.read_text()
    run.config.write_text(text.replace("track: []", "track: [tensorboard]"))
    assert load_config(run.config).track == ["tensorboard"]
    track_here(run)
    found = scalars(run.folder / "track" / SUMMARY)
    final = read_json(run.final)["scores"]["final"]
    assert found["score"] == [(0, pytest.approx(final["score"], abs=1e-6))]
    assert "model/plain" in found and "round/0" in found


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = Run(tmp_path / "run")
    tracking = Tracking(config_of("wandb"), run, "round0_a_fold0")
    (one,) = tracking.trackers
    assert one.tracker.group == "run" and one.tracker.settings.mode == "offline"
    for row in ROWS:
        tracking.log(row, row["epoch"])
    tracking.summarize({"nested": 0.5})
    assert dict(one.tracker.summary)["nested"] == 0.5
    tracking.close()
    assert wandb.run is None and list((run.folder / "track").glob("wandb/offline-run-*/*.wandb"))


def test_what_is_not_installed_is_said_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    Path("t.yaml").write_text(yaml.safe_dump(tiny_tree(track=["comet_ml"])))
    assert cli.main(["run", "t.yaml"]) == 2
    line = "track: comet_ml: comet_ml is not installed: pip install comet-ml"
    assert line in capsys.readouterr().err
    assert cli.main(["run", "t.yaml", "track=[tensorbord]"]) == 2
    assert "'tensorboard'" in capsys.readouterr().err
