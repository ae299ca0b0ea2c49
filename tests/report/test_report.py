"""The report of a made-up run: complete JSON, one HTML file without network."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distseg.config.schema import Config
from distseg.ensemble.fit import fit_ensemble
from distseg.records.errors import UserError
from distseg.records.files import append_line, read_json, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.report.charts import curve_chart, gantt
from distseg.report.report import epoch_rows, stage_seconds
from distseg.rounds.choose import choose_final
from distseg.run.summary import write_report
from tests.made_run import made_config, made_run, write_data


class Tags(HTMLParser):
    """All tags with their attributes; fails on one that is closed but not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "line", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"


def reported(
    tmp_path: Path, extra: dict[str, Any] | None = None, **changes: Any
) -> tuple[Run, Config]:
    write_data(tmp_path / "data")
    (tmp_path / "data" / "images" / "broken.png").write_bytes(b"no image")
    rules = {"threshold": "search", "min_area": "search"}
    config = made_config(tmp_path / "data", postprocess=rules)
    run = made_run(tmp_path, config, offset=0.6)
    for fold in (0, 1, 2):
        for epoch in range(3):
            row = {"epoch": epoch, "loss": 1 / (epoch + 1), "score": 0.2 * epoch if epoch else None}
            append_line(run.member(0, "a", fold).metrics, row)
    shutil.rmtree(run.member(0, "b", 2).folder)
    write_json(run.env, {"cpu": "a <b>CPU</b>", "cores": 2, "gpus": [], "packages": {}})
    run.submission.write_text("id,rle_mask\nx,1 2\ny,\n")
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    write_report(config, run, extra)
    return run, config


def test_the_json_holds_everything(tmp_path: Path) -> None:
    run, _ = reported(tmp_path, {"test": {"score": 0.75}})
    record, ensemble = read_json(run.report_json), read_json(run.ensemble(0))
    assert record["score"] == ensemble["scores"]["final"]["score"]
    assert record["standard_error"] > 0 and record["flag"] == "honest"
    assert record["scores"] == ensemble["scores"] and record["test"] == {"score": 0.75}
    assert record["chosen"]["weights"] == {"a": 1, "b": 1}
    assert record["chosen"]["rule"]["threshold"][0] > 0
    assert record["data"]["train"] == 24 and record["data"]["quarantine"] == 1
    assert "broken" in record["data"]["quarantine_first"][0]["id"]
    assert record["data"]["sizes"] == {"12x10": 24}
    assert sum(record["data"]["folds"].values()) == 24
    assert record["left_out"] == [{"name": "b", "fold": 2, "reason": "it has not finished"}]
    member = record["members"]["a_fold1"]
    assert (member["epochs"], member["best_epoch_score"], member["snapshots"]) == (3, 0.4, 2)
    assert member["curve"][0] == [0, 1.0, None, None]
    assert record["prediction"] == {"path": "submission.csv", "rows": 2, "empty": 1}
    assert record["seconds"]["ensemble"] > 0 and record["hardware"]["cores"] == 2


def test_the_page_is_one_file_that_is_whole(tmp_path: Path) -> None:
    run, _ = reported(tmp_path, {"test": {"score": 0.75}})
    text = run.report_html.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"link", "iframe", "object"}
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text, "the one script that may run"
    for _, attributes in tags.found:
        for key in ("src", "href", "data", "srcset"):
            value = attributes.get(key)
            assert value is None or value.startswith("data:image/png;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "a &lt;b&gt;CPU&lt;/b&gt;" in text and "<b>CPU" not in text
    pictures = [a["src"] for tag, a in tags.found if tag == "img"]
    assert len(pictures) == 12
    for source in pictures:
        data = np.frombuffer(base64.b64decode(str(source).split(",")[1]), np.uint8)
        assert np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)).shape == (240, 200, 3)
    # 3 members' loss and score, calibration, threshold and area
    assert sum(tag == "polyline" for tag, _ in tags.found) == 9
    for shown in ("0.7500", "Left out: b, fold 2", "in quarantine", "nested: honest", "worst"):
        assert shown in text


def test_it_comes_without_what_is_gone_and_before_the_test_prediction(tmp_path: Path) -> None:
    run, config = reported(tmp_path)
    for name in ("a", "b"):
        for fold in range(3):
            shutil.rmtree(run.member(0, name, fold).oof, ignore_errors=True)
            run.member(0, name, fold).metrics.unlink(missing_ok=True)
    for path in (run.submission, run.env, run.data / "quarantine.csv"):
        path.unlink()
    record = write_report(config, run)
    assert record["prediction"] is None and record["members"] == {} and record["hardware"] == {}
    text = run.report_html.read_text(encoding="utf-8")
    assert "<img" not in text and "no member is usable" in text
    run.final.unlink()
    with pytest.raises(UserError, match="no ensemble yet"):
        write_report(config, run)


def test_multiclass_page(tmp_path: Path) -> None:
    write_data(tmp_path / "data", num_labels=3)
    loss = [{"loss": {"cross_entropy": 1.0}}]
    classes = ["ground", "x", "y"]
    config = made_config(
        tmp_path / "data", task="multiclass", classes=classes, stages=loss, metric="miou"
    )
    run = made_run(tmp_path, config)
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    assert write_report(config, run)["metric"] == "miou"
    assert run.report_html.read_text(encoding="utf-8").count("<img") == 12


def test_seconds_leave_out_the_pause_between_two_starts() -> None:
    ledger = [
        {"time": 100, "event": "run_started"},
        {"time": 103, "event": "prepared"},
        {"time": 110, "event": "job_failed", "job": "a_fold0", "seconds": 6},
        {"time": 1000, "event": "run_started"},
        {"time": 1010, "event": "job_done", "job": "a_fold0", "seconds": 9},
        {"time": 1012, "event": "ensemble", "seconds": 1.5},
        {"time": 1020, "event": "job_done", "job": "predict-test", "seconds": 7},
    ]
    expected = {"data": 3, "train": 15, "ensemble": 1.5, "predict": 7, "wall": 30}
    assert stage_seconds(ledger) == expected
    assert stage_seconds([]) == {}


def test_charts_survive_what_training_can_write() -> None:
    rows = [
        {"epoch": 0, "loss": float("nan")},
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "loss": 2.0},
    ]
    drawn = curve_chart({"a": {"curve": rows}}, "loss", "loss")
    assert drawn["lines"][0]["points"].count(",") == 2
    assert curve_chart({"a": {"curve": rows}}, "score", "score")["lines"] == []
    assert curve_chart({}, "loss", "loss")["lines"] == []


def test_the_loss_of_validation_stands_on_the_axes_of_training() -> None:
    """Dashed is training; a member that validates nothing has that line alone."""
    rows = [
        {"epoch": 0, "loss": 2.0, "val_loss": 4.0},
        {"epoch": 1, "loss": 1.0, "val_loss": float("nan")},
        {"epoch": 2, "loss": 1.0},  # not evaluated
        {"epoch": 3, "loss": 0.0, "val_loss": 2.0},
    ]
    alone = [{"epoch": 0, "loss": 3.0}]
    drawn = curve_chart({"a": {"curve": rows}, "b": {"curve": alone}}, "loss", "loss")
    assert [(one["name"], one["dashed"]) for one in drawn["lines"]] == [
        ("a", True), ("a", False), ("b", True),
    ]  # fmt: skip
    training, validation, _ = (one["dots"] for one in drawn["lines"])
    assert [dot["text"] for dot in validation] == [
        "a, epoch 1: validation loss 4", "a, epoch 4: validation loss 2",
    ]  # fmt: skip
    assert training[0]["text"] == "a, epoch 1: training loss 2"
    assert training[0]["y"] == validation[1]["y"] and training[3]["x"] == validation[1]["x"]
    before = curve_chart({"b": {"curve": alone}}, "loss", "loss")
    assert not before["both"] and not before["lines"][0]["dashed"]
    assert before["lines"][0]["dots"][0]["text"] == "b, epoch 1: loss 3"


def test_curves_mark_what_happened_in_an_epoch() -> None:
    """A stage's begin, a snapshot, and the epochs in which steps were skipped or rolled back."""
    rows: list[dict[str, Any]] = [
        {"epoch": epoch, "stage": epoch // 2, "score": 0.1 * epoch} for epoch in range(4)
    ]
    rows[1] |= {"snapshot": True}
    rows[2] |= {"skipped": 2}
    rows[3] |= {"skipped": 0, "rolled_back": 1, "snapshot": True}
    drawn = curve_chart({"a": {"curve": rows}}, "score", "dice")
    assert [dot["kind"] for dot in drawn["lines"][0]["dots"]] == [
        "plain", "snapshot", "wrong", "wrong",
    ]  # fmt: skip
    texts = [dot["text"] for dot in drawn["lines"][0]["dots"]]
    assert "epoch 3: dice 0.2; 2 steps skipped" in texts[2] and "1 rollback" in texts[3]
    assert len(drawn["stages"]) == 1
    dots = drawn["lines"][0]["dots"]
    assert dots[1]["x"] < drawn["stages"][0][0] < dots[2]["x"]
    one = curve_chart({"a": {"curve": rows[:1]}}, "score", "dice")
    assert len(one["lines"][0]["dots"]) == 1, "one epoch is a point"


def test_marks_of_an_epoch_are_its_own(tmp_path: Path) -> None:
    """metrics.jsonl counts skipped steps and rollbacks from the beginning."""
    run, config = reported(tmp_path)
    paths = run.member(0, "a", 0)
    paths.metrics.unlink()
    for epoch, (skipped, rollbacks) in enumerate([(0, 0), (3, 0), (3, 1)]):
        row = {"epoch": epoch, "stage": 0, "loss": 1.0, "skipped_steps": skipped}
        append_line(paths.metrics, row | {"rollbacks": rollbacks})
    write_json(paths.done, read_json(paths.done) | {"snapshots": ["stage0_epoch0002.safetensors"]})
    rows = epoch_rows(config, run, Manifest.read(run.truth))["a_fold0"]["curve"]
    assert [row["skipped"] for row in rows] == [0, 3, 0]
    assert [row["rolled_back"] for row in rows] == [0, 0, 1]
    assert [row["snapshot"] for row in rows] == [False, True, False]


def test_jobs_over_time() -> None:
    ledger: list[dict[str, Any]] = [
        {"time": 0, "event": "job_started", "job": "a_fold0", "slot": 0, "devices": [0]},
        {"time": 0, "event": "job_started", "job": "a_fold1", "slot": 1, "devices": [1]},
        {"time": 50, "event": "job_failed", "job": "a_fold1"},
        {"time": 100, "event": "job_done", "job": "a_fold0"},
        {"time": 100, "event": "job_started", "job": "predict-test-0", "slot": 0, "devices": [0]},
        {"time": 150, "event": "report"},
    ]
    drawn = gantt(ledger)
    assert [name for name, _ in drawn["rows"]] == ["GPU 0", "GPU 1"]
    assert [(bar["job"], bar["kind"], bar["failed"]) for bar in drawn["bars"]] == [
        ("a_fold0", "train", False), ("a_fold1", "train", True),
        ("predict-test-0", "predict", False),
    ]  # fmt: skip
    assert drawn["busy"] == pytest.approx((100 + 50 + 50) / 300)
    assert [text for _, text in drawn["ticks"]] == ["0s", "20s", "40s", "1m00s", "1m20s", "1m40s",
                                                    "2m00s", "2m20s"]  # fmt: skip
    assert gantt([]) == {"bars": []}
