"""A small share of the campaign of kills; all of it is started by hand (tests/attack/kills.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distseg.records.files import read_lines
from tests.attack.kills import table
from tests.attack.traces import differences, files_of
from tests.tiny import ROOT

KILLS = 8


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["one_rank", "two_ranks", "outputs"])
def test_what_is_killed_ends_as_what_is_not(tmp_path: Path, lane: str) -> None:
    command = [sys.executable, "-m", "tests.attack.kills", lane, "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--kills", str(KILLS)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = read_lines(tmp_path / f"{lane}.jsonl")
    kills = [event for event in events if event["event"] == "kill"]
    assert len(kills) >= KILLS
    if lane == "two_ranks":
        assert any(event["ranks"] == 2 for event in kills)
    for lap in (event for event in events if event["event"] == "lap"):
        assert not lap["different"] and not lap["litter"] and not lap["problems"], lap
        assert lap["orphans"] == 0, lap
    assert table(tmp_path).splitlines()[-1].startswith(f"| all | {len(kills)} |")


def test_what_differs_is_found(tmp_path: Path) -> None:
    """Times and diaries may differ; a bit of a file, a file too few and one too many may not."""
    folders = tmp_path / "one", tmp_path / "other"
    for number, folder in enumerate(folders):
        (folder / "state.tmp").mkdir(parents=True)
        (folder / "DONE").write_text(f'{{"score": 0.5, "seconds": {number}}}')
        (folder / "run.log").write_text(str(number))
        (folder / "logits.f16").write_bytes(b"same")
        (folder / "state.tmp" / "x").touch()
    one, other = (files_of(folder) for folder in folders)
    assert differences(one, other) == ([], [])
    (folders[1] / "logits.f16").write_bytes(b"sane")
    (folders[1] / "DONE").unlink()
    assert differences(one, files_of(folders[1])) == (["DONE", "logits.f16"], [])
    (folders[0] / "state.tmp" / "x").unlink()
    (folders[0] / "state.tmp").rmdir()
    assert differences(files_of(folders[0]), other) == ([], ["state.tmp"])
