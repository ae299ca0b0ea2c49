"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

from distseg.config.training import ScheduleConfig
from distseg.training.patience import Patience

ONECYCLE_START, ONECYCLE_RISE = 1 / 25, 0.3  # as in torch.optim.lr_scheduler.OneCycleLR


class Schedule:
    """The factor of the learning rate (its share of the peak) at each step of a stage.

    Apart from `plateau` it is a pure function of the step, and so needs no state to resume. It is
    stepped by nobody: Accelerate's prepared schedulers step once for every process, and the cycles
    would end early. `plateau` remembers what it has observed, as torch's ReduceLROnPlateau does.
    """

    def __init__(self, cfg: ScheduleConfig, steps_per_epoch: int) -> None:
        assert steps_per_epoch > 0
        self.cfg = cfg
        self.cycle_steps = cfg.epochs_per_cycle * steps_per_epoch
        self.warmup_steps = min(cfg.warmup_epochs * steps_per_epoch, self.cycle_steps - 1)
        self._scale = 1.0  # plateau
        self._patience = Patience(rises=cfg.mode == "max")

    def lr_factor(self, step: int) -> float:
        """Factor of the update number `step` (0 is the first of the stage). Past the end it
        stays at the last one's. Apart from plateau it depends on `step` only."""
        total = self.cfg.cycles * self.cycle_steps
        cycle, position = divmod(min(max(step, 0), total - 1), self.cycle_steps)
        floor = self.cfg.min_lr_scale
        peak = max(floor, self.cfg.restart_decay**cycle)
        if self.cfg.kind == "noam":  # Vaswani et al. 2017, with its peak at 1
            rise = max(1.0, self.warmup_steps)
            return min((position + 1) / rise, math.sqrt(rise / (position + 1)))
        if self.cfg.kind == "onecycle":
            return self._onecycle(position, peak)
        warmup = self.warmup_steps if cycle == 0 else 0.0
        if position < warmup:
            return (position + 1) / (warmup + 1) * self._scale
        if self.cfg.kind != "cosine":
            return self._scale
        return _cosine(peak, floor, (position - warmup) / (self.cycle_steps - warmup))

    def _onecycle(self, position: int, peak: float) -> float:
        """Up from peak/25 over the warm-up (without one: 30 % of the cycle), then down; both
        halves are cosines (Smith & Topin 2018)."""
        rise = self.warmup_steps or ONECYCLE_RISE * self.cycle_steps
        if position < rise:
            return _cosine(peak * ONECYCLE_START, peak, position / rise)
        return _cosine(peak, self.cfg.min_lr_scale, (position - rise) / (self.cycle_steps - rise))

    def observe(self, value: float) -> bool:
        """plateau: hand over the watched metric after an evaluation. True when the learning
        rate falls: more than `patience` values in a row without a gain (NaN is none)."""
        if self.cfg.kind != "plateau":
            return False
        if self._patience.observe(value) <= self.cfg.patience:
            return False
        before, self._patience.bad = self._scale, 0
        self._scale = max(self._scale * self.cfg.factor, self.cfg.min_lr_scale)
        return self._scale < before

    def state(self) -> dict[str, Any]:
        """What `load` needs, as JSON values."""
        return {"scale": self._scale, **self._patience.state()}

    def load(self, state: dict[str, Any]) -> None:
        self._scale = state["scale"]
        self._patience.load(state)


def _cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine; share 0..1 (Loshchilov & Hutter 2017)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
