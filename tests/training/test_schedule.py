"""distseg.training.schedule: the factor of the learning rate at each step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from distseg.config.training import ScheduleConfig
from distseg.training.schedule import Schedule


def factors(steps_per_epoch: int, **cfg: Any) -> list[float]:
    config = ScheduleConfig(**cfg)
    schedule = Schedule(config, steps_per_epoch)
    return [schedule.lr_factor(step) for step in range(config.epochs * steps_per_epoch)]


def test_cosine_restarts_warms_up_once_and_decays_its_peaks() -> None:
    found = factors(4, cycles=3, epochs_per_cycle=2, warmup_epochs=0.5, restart_decay=0.5)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[8] == pytest.approx(0.5) and found[16] == pytest.approx(0.25)
    assert found[12] == pytest.approx((0.5 + 0.01) / 2)  # half-way down
    assert all(a > b for a, b in itertools.pairwise(found[8:16]))
    assert 0.01 < found[23] < 0.03
    schedule = Schedule(ScheduleConfig(cycles=3, epochs_per_cycle=2, restart_decay=0.5), 4)
    assert schedule.lr_factor(10**6) == schedule.lr_factor(23)


def test_onecycle_constant_and_short_runs() -> None:
    found = factors(10, kind="onecycle", epochs_per_cycle=10)
    assert found[0] == pytest.approx(1 / 25) and max(found) == found[30] == 1
    assert found[-1] < 0.02
    assert factors(5, kind="constant", epochs_per_cycle=1, warmup_epochs=0.4) == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1]
    )
    for kind in ("cosine", "onecycle", "constant", "plateau"):
        for warmup in (0, 0.5, 30):
            single = factors(1, kind=kind, epochs_per_cycle=1, warmup_epochs=warmup)
            assert len(single) == 1 and 0 < single[0] <= 1


def test_noam_rises_over_the_warm_up_and_falls_with_the_root() -> None:
    found = factors(4, kind="noam", epochs_per_cycle=4, warmup_epochs=1)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[15] == pytest.approx(math.sqrt(4 / 16))
    assert factors(4, kind="noam", epochs_per_cycle=1) == pytest.approx(
        [1, math.sqrt(1 / 2), math.sqrt(1 / 3), 0.5]
    )


def test_plateau_falls_after_patience_and_comes_back_from_its_state() -> None:
    config = ScheduleConfig(kind="plateau", patience=1, factor=0.5, min_lr_scale=0.2)
    schedule = Schedule(config, 3)
    fell = [schedule.observe(value) for value in (0.5, 0.6, 0.6, math.nan)]
    assert fell == [False, False, False, True] and schedule.lr_factor(7) == 0.5
    again = Schedule(config, 3)
    again.load(schedule.state())
    assert again.lr_factor(0) == 0.5 and not again.observe(0.6) and again.observe(0.1)
    assert again.lr_factor(0) == 0.25
    assert [again.observe(0.0) for _ in range(4)] == [False, True, False, False]
    assert again.lr_factor(0) == 0.2  # the floor
    down = Schedule(config.model_copy(update={"mode": "min", "patience": 0}), 3)
    assert [down.observe(v) for v in (0.5, 0.4, 0.45)] == [False, False, True]
