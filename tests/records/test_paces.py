from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distseg.records import paces
from distseg.records.paces import Pace, paces_path, parse_pace, read_paces, write_paces

PACE = Pace(8, 0.5, 0.1, 0.01, 0.02, 0.1, 5.0, 0.001, 10**9, 10**7, 0.5)


def test_what_is_written_is_read_and_what_is_newer_wins(tmp_path: Path) -> None:
    path = tmp_path / "a" / "paces.json"
    write_paces({"x": PACE, "y": PACE}, path)
    write_paces({"x": replace(PACE, step_s=1.5)}, path)
    assert read_paces(path) == {"x": replace(PACE, step_s=1.5), "y": PACE}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"x": 3}', '{"x": {"step_s": 1}}', "[" * 100_000, "\udce4"]
)
def test_a_file_that_says_nothing_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "paces.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_paces(path) == {}
    write_paces({"x": PACE}, path)  # and is written over
    assert read_paces(path) == {"x": PACE}


@pytest.mark.parametrize(
    ("key", "value"),
    [("step_s", 0), ("step_s", float("nan")), ("batch_size", 0), ("memory", "1"), ("save_s", -1),
     ("saved", True), ("start_s", None), ("predict_s", 1e300)],
)  # fmt: skip
def test_a_number_that_is_none_is_no_pace(key: str, value: object) -> None:
    assert parse_pace(asdict(PACE)) == PACE
    assert parse_pace({**asdict(PACE), key: value}) is None


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "paces.json"
    monkeypatch.setattr(paces, "MAX_ENTRIES", 3)
    for number in range(5):
        write_paces({f"k{number}": PACE}, path)
    assert set(read_paces(path)) == {"k2", "k3", "k4"}
    old = json.loads(path.read_text())
    old["k2"]["time"] = time.time() - 2 * paces.MAX_AGE_S
    path.write_text(json.dumps(old))
    write_paces({"new": PACE}, path)
    assert set(read_paces(path)) == {"k3", "k4", "new"}
    path.write_text(json.dumps({"x": asdict(PACE)}) + " " * paces.MAX_BYTES)
    assert read_paces(path) == {}


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert paces_path() is None  # of the tests: conftest.py
    write_paces({"x": PACE})
    assert read_paces() == {}
    monkeypatch.delenv("DISTSEG_PACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paces_path() == tmp_path / "distseg" / "paces.json"


def test_a_folder_that_may_not_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_paces({"x": PACE}, tmp_path / "file" / "paces.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
