"""What shows that a node sees the run folder, also for a job that outlives its driver."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

from distseg.jobs.ray_nodes import Share, next_token


def share_of(folder: Path, before: str = "") -> Share:
    """What a driver that has started asks nodes for. before: of the driver before it."""
    share = Share(folder, next_token(before), folder)
    folder.mkdir(exist_ok=True)
    (folder / "driver").write_text(share.token, encoding="utf-8")
    return share


def test_a_job_of_an_earlier_driver_sees_the_run_folder_of_the_next(tmp_path: Path) -> None:
    first = share_of(tmp_path / "nodes")
    assert first.why_not("here") == ""
    second = share_of(tmp_path / "nodes", first.token)
    third = share_of(tmp_path / "nodes", second.token)
    assert first.why_not("here") == second.why_not("here") == third.why_not("here") == ""
    # by which the driver that works now knows that the node writes where it reads
    assert (tmp_path / "nodes" / "here").read_text(encoding="utf-8") == third.token


def test_a_stale_copy_and_another_disk_are_not_the_run_folder(tmp_path: Path) -> None:
    first = share_of(tmp_path / "nodes")
    second = Share(tmp_path / "nodes", next_token(first.token), tmp_path)
    assert "does not see the run folder" in second.why_not("here")  # the first one's token is there
    assert share_of(tmp_path / "other").why_not("here") == ""
    other = Share(tmp_path / "other", first.token, tmp_path)
    assert "does not see the run folder" in other.why_not("here")
    for text in ("", "damaged", "a b c", "\N{SUPERSCRIPT TWO}"):
        (tmp_path / "nodes" / "driver").write_text(text, encoding="utf-8")
        assert "does not see the run folder" in second.why_not("here")
        assert next_token(text).split()[1] == "1"
    (tmp_path / "nodes" / "driver").unlink()
    assert "does not see the run folder" in second.why_not("here")
