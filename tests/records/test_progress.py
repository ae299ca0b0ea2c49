"""How far a process has come, as it tells those who watch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distseg.records import progress
from distseg.records.progress import ProgressFile, read_position


def test_a_phase_is_told_at_once_and_then_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    path = tmp_path / "progress.json"
    file = ProgressFile(path)
    file.at("train", 1, 40)
    first = read_position(path)
    assert first and (first.phase, first.done, first.share) == ("train", 1, 1 / 40)
    assert first.memory > 0 and first.gpu is None
    now[0] += 0.5
    file.at("train", 2, 40)
    assert read_position(path) == first
    now[0] += 0.6
    file.at("train", 3, 40)
    later = read_position(path)
    assert later and later.done == 3 and later.seconds == pytest.approx(1.1)
    assert first.whole_s is None, "the first step was done before the clock began"
    assert later.whole_s == pytest.approx(1.1 / 2 * 40)
    file.at("evaluate", 0, 5)
    other = read_position(path)
    assert other and other.phase == "evaluate" and other.seconds == 0
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_is_not_the_first_tells_nobody(tmp_path: Path) -> None:
    file = ProgressFile(None)
    file.at("train", 1, 2)
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_it_does_not_stop_the_work(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "missing" / "progress.json")
    file.at("train", 1, 2)
    file.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"phase": "x", "done": [], "total": 1}', "\xff", "null"]
)
def test_what_is_damaged_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(text, encoding="latin-1")
    assert read_position(path) is None


def test_an_endless_number_is_no_position(tmp_path: Path) -> None:
    record = {"phase": "train", "done": 1e400, "total": 1, "seconds": 1, "memory": 1, "gpu": None}
    (tmp_path / "progress.json").write_text(json.dumps({**record, "written": 1}))
    assert read_position(tmp_path / "progress.json") is None
