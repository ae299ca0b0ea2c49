"""Files and folders appear whole, or stay as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distseg.records.files import (
    append_line,
    begin_folder,
    put_folder,
    read_lines,
    remove_stale,
    whole_folder,
)


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for text in ("first", "second"):
        with whole_folder(folder) as temporary:
            (temporary / text).write_text(text)
            assert not (folder / text).exists()
        assert [path.name for path in folder.iterdir()] == [text]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_writer_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with whole_folder(folder) as temporary:
        (temporary / "old").touch()
    with pytest.raises(OSError, match="disk"), whole_folder(folder) as temporary:
        (temporary / "new").touch()
        raise OSError("the disk is full")
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_writer_left_is_not_taken_along(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (begin_folder(folder) / "of the killed one").touch()
    temporary = begin_folder(folder)
    (temporary / "new").touch()
    put_folder(temporary, folder)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_half_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_line(path, {"event": "whole"})
    with path.open("a") as file:
        file.write('{"event": "ha')
    assert read_lines(path) == [{"event": "whole"}]


def test_what_killed_writers_have_left_is_removed(tmp_path: Path) -> None:
    """Of this machine: who lives, or writes on another one, keeps it; what is not ours stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host, below = os.uname().nodename, tmp_path / "below"
    below.mkdir()
    stale = [f".a.csv.{host}.{gone.pid}.tmp", f".b.csv.{host}.{gone.pid}.tmp"]
    kept = [
        f".a.csv.{host}.{os.getppid()}.tmp", f".a.csv.other-{host}.{gone.pid}.tmp", "a.csv.tmp",
        f".a.csv.{host}.tmp", "a.csv",
    ]  # fmt: skip
    for folder in (tmp_path, below):
        for name in [*stale, *kept]:
            (folder / name).touch()

    def names(folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir() if path.is_file()}

    remove_stale(tmp_path, "a.csv")
    assert names(tmp_path) == {stale[1], *kept}
    remove_stale(tmp_path)
    assert names(tmp_path) == {*kept} and names(below) == {*stale, *kept}
    remove_stale(tmp_path, below=True)
    assert names(below) == {*kept}
    remove_stale(tmp_path / "not there")
