"""What evaluation and prediction take, from as many images as the time lets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distseg.distributed import make_accelerator
from distseg.records.paths import MemberPaths
from distseg.training import pace
from distseg.training.member import Member
from distseg.training.stage import set_up_stage
from tests.training.tiny_training import set_up


@pytest.mark.parametrize(("least", "whole"), [(1e6, True), (0.0, False)])
def test_a_batch_is_timed_although_the_start_took_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, whole: bool
) -> None:
    """One image, which makes everything ready, tells what others take where no time is left."""
    monkeypatch.setattr(pace, "EVALUATION_S", least)
    config, run = set_up(tmp_path)
    member = Member(config, run, 0, "a", 0, make_accelerator(config), MemberPaths(tmp_path / "m"))
    seen: list[int] = []
    count = member.evaluator.count

    def counted(natives: Any, positions: Sequence[int]) -> Any:
        seen.append(len(positions))
        return count(natives, positions)

    monkeypatch.setattr(member.evaluator, "count", counted)
    plain, views = pace.evaluation_times(member, ["hflip"], 0.0)
    member.close()
    assert plain > 0 and views > 0
    batches = [len(batch) for batch in member.evaluator.batches]
    assert seen == ([n for n in batches for _ in range(2)] if whole else [])


@pytest.mark.parametrize(("least", "number"), [(1e6, 8), (0.0, 2)])
def test_steps_are_timed_although_the_start_took_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, number: int
) -> None:
    monkeypatch.setattr(pace, "STEPS_S", least)
    monkeypatch.setattr(pace, "MIN_STEPS", 1)
    monkeypatch.setattr(pace, "MAX_STEPS", 7)
    config, run = set_up(tmp_path)
    member = Member(config, run, 0, "a", 0, make_accelerator(config), MemberPaths(tmp_path / "m"))
    stage = set_up_stage(member, 0)
    start, *steps = pace.step_times(member, [stage], 0.0, 0.0)
    stage.close()
    member.close()
    assert start > 0 and len(steps) == number - 1 and min(steps) > 0


def test_the_first_steps_do_not_count() -> None:
    assert pace.settled([0.3, 0.25, 0.2, 0.2]) == [0.2, 0.2]
    assert pace.settled([0.3, 0.2, 0.2]) == [0.2, 0.2] and pace.settled([0.3]) == [0.3]
