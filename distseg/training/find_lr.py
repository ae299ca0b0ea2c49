"""A learning rate from the data: the loss while the rate grows from step to step (Smith 2017).

The member of round 0 and its first stage train as always, on throw-away weights, while the factor
of the learning rate grows evenly in its logarithm. Nothing of the run is touched but the result:
the member has a folder of its own, so that no state of the run is read or written.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.distributed import make_accelerator
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, write_json
from distseg.records.paths import MemberPaths, Run
from distseg.training.member import Member, Progress
from distseg.training.stage import StageTrainer, StopSignal

LOW, HIGH = 1e-6, 1.0  # learning rates that the ramp goes through
SMOOTHING = 0.9  # of the running mean of losses
DIVERGED = 4.0  # times the least smoothed loss: the ramp ends
WIDTH, HEIGHT, EDGE = 640, 320, 48  # pixels of the picture


class RampEnd(Exception):
    """All rates are tried, or the loss has diverged."""


class Ramp:
    """In place of a stage's Schedule: reads the loss of the step before, gives the next rate."""

    def __init__(self, trainer: StageTrainer, steps: int) -> None:
        self.trainer, self.steps, self.lr = trainer, steps, trainer.stage.optimizer.lr
        self.rates: list[float] = []
        self.losses: list[float] = []  # smoothed, per sample
        self._mean, self._seen = 0.0, 0.0

    def lr_factor(self, step: int) -> float:
        if step % self.trainer.plan.steps:
            self.read()
        if len(self.rates) == self.steps:
            raise RampEnd
        self.rates.append(LOW * (HIGH / LOW) ** (len(self.rates) / (self.steps - 1)))
        return self.rates[-1] / self.lr

    def read(self) -> None:
        """The loss of the step that was just done: before the next one of its epoch, or after the
        epoch, because the trainer only keeps an epoch's sum."""
        total = float(self.trainer.loss_total)
        plan = self.trainer.plan
        in_epoch = len(self.losses) % plan.steps
        loss = (total - (self._seen if in_epoch else 0.0)) / plan.in_step(in_epoch)
        self._seen = total
        if loss == 0 or not math.isfinite(loss):  # a step that was skipped adds nothing
            raise RampEnd
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        self.losses.append(self._mean / (1 - SMOOTHING ** (len(self.losses) + 1)))
        if self.losses[-1] > DIVERGED * min(self.losses):
            raise RampEnd


def find_lr(config: Config, run: Run, name: str, fold: int, steps: int = 100) -> dict[str, Any]:
    """Write RUN/find_lr/NAME_foldK.{json,svg}; returns the record, with `suggested`.

    One process. `steps` optimizer updates at most, 10 or more. UserError: the loss of the very
    first steps is not finite.
    """
    # one process: ZeRO would train the same curve; and the rate is that of the whole network
    plain = config.compute.model_copy(update={"zero": 0})
    config = config.model_copy(update={"compute": plain})
    with tempfile.TemporaryDirectory() as scratch:
        paths = MemberPaths(Path(scratch))
        member = Member(config, run, 0, name, fold, make_accelerator(config), paths)
        progress = Progress()
        stage = member.stages[0].model_copy(update={"freeze_encoder": 0})
        trainer = StageTrainer(member, stage, progress)
        ramp = Ramp(trainer, steps)
        trainer.schedule = ramp  # type: ignore[assignment]
        with contextlib.suppress(RampEnd):
            while trainer.epoch(progress, StopSignal()):  # not armed: Ctrl-C just ends it
                ramp.read()
                progress.epoch, progress.step = progress.epoch + 1, 0
                progress.total_epochs += 1
    rates = ramp.rates[: len(ramp.losses)]
    if len(rates) < 3:
        raise UserError(f"find-lr: {name}: the loss is not finite from the first steps on")
    suggested = suggest(rates, ramp.losses)
    record: dict[str, Any] = {"member": name, "fold": fold, "suggested": suggested}
    record |= {"rates": rates, "losses": ramp.losses}
    path = run.folder / "find_lr" / f"{name}_fold{fold}.json"
    write_json(path, record)
    atomic_write(path.with_suffix(".svg"), picture(rates, ramp.losses, suggested))
    return record


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where the loss falls fastest per decade, before its least value; two digits."""
    least = max(2, min(range(len(losses)), key=losses.__getitem__))
    falls = [losses[i - 1] - losses[i + 1] for i in range(1, least)]
    best = max(range(len(falls)), key=falls.__getitem__) + 1
    return float(f"{rates[best]:.1e}")


def picture(rates: Sequence[float], losses: Sequence[float], suggested: float) -> str:
    """The curve as SVG: loss over the rate's logarithm, and a line at the suggestion."""
    low, high = min(losses), min(max(losses), 2 * losses[0])
    span = max(high - low, 1e-12)

    def x(rate: float) -> float:
        share = math.log(rate / rates[0]) / math.log(rates[-1] / rates[0])
        return EDGE + share * (WIDTH - 2 * EDGE)

    def y(loss: float) -> float:
        return HEIGHT - EDGE - (min(loss, high) - low) / span * (HEIGHT - 2 * EDGE)

    points = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in zip(rates, losses, strict=True))
    decades = range(math.ceil(math.log10(rates[0])), math.floor(math.log10(rates[-1])) + 1)
    ticks = "".join(
        f'<text x="{x(10.0**d):.1f}" y="{HEIGHT - EDGE + 16}" text-anchor="middle">1e{d}</text>'
        for d in decades
    )
    ticks += "".join(
        f'<text x="{EDGE - 6}" y="{y(v):.1f}" text-anchor="end">{v:.3g}</text>' for v in (low, high)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<line x1="{x(suggested):.1f}" x2="{x(suggested):.1f}" y1="{EDGE}" '
        f'y2="{HEIGHT - EDGE}" stroke="crimson"/><polyline fill="none" stroke="black" '
        f'points="{points}"/>{ticks}<text x="{WIDTH / 2}" y="{EDGE - 16}" text-anchor="middle">'
        f"loss by learning rate; suggested {suggested:.1e}</text></svg>\n"
    )
