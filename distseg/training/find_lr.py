"""A learning rate from the data: the loss while the rate grows from step to step (Smith 2017).

The member of round 0 and its first stage take the steps of training, on throw-away weights, while
the learning rate grows evenly in its logarithm. Nothing of the run is touched but the result: the
member has a folder of its own, so that no state of the run is read or written.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.distributed import make_accelerator
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, write_json
from distseg.records.paths import MemberPaths, Run
from distseg.training.member import Member
from distseg.training.stage import Stage, begin_epoch, set_up_stage, train_step

LOW, HIGH = 1e-6, 1.0  # learning rates that the ramp goes through
SMOOTHING = 0.9  # of the running mean of losses
DIVERGED = 4.0  # times the least smoothed loss: the ramp ends
WIDTH, HEIGHT, EDGE = 640, 320, 48  # pixels of the picture


def find_lr(config: Config, run: Run, name: str, fold: int, steps: int = 100) -> dict[str, Any]:
    """Write RUN/find_lr/NAME_foldK.{json,svg}; returns the record, with `suggested`.

    One process. `steps` optimizer updates at most, 10 or more. UserError: the loss of the very
    first steps is not finite.
    """
    # one process: ZeRO would train the same curve
    plain = config.compute.model_copy(update={"zero": 0})
    config = config.model_copy(update={"compute": plain})
    with tempfile.TemporaryDirectory() as scratch:
        paths = MemberPaths(Path(scratch))
        member = Member(config, run, 0, name, fold, make_accelerator(config), paths)
        stage = set_up_stage(member, 0)
        curve = smooth(ramp(member, stage, steps))
        stage.close()
        member.close()
        rates, losses = [rate for rate, _ in curve], [loss for _, loss in curve]
    if len(rates) < 3:
        raise UserError(f"find-lr: {name}: the loss is not finite from the first steps on")
    suggested = suggest(rates, losses)
    record: dict[str, Any] = {"member": name, "fold": fold, "suggested": suggested}
    record |= {"rates": rates, "losses": losses}
    path = run.folder / "find_lr" / f"{name}_fold{fold}.json"
    write_json(path, record)
    atomic_write(path.with_suffix(".svg"), picture(rates, losses, suggested))
    return record


def ramp(member: Member, stage: Stage, steps: int) -> Iterator[tuple[float, float]]:
    """Train `steps` steps; yields each one's learning rate and mean loss per sample. Ends early at
    a bad step (see `Update`): its loss, or a gradient, was not finite."""
    in_epoch = stage.sampling.steps
    for number in range(steps):
        epoch, step = divmod(number, in_epoch)
        if step == 0:
            begin_epoch(stage, epoch=stage.config.schedule.epochs)  # of all that learns
            batches = stage.batches.epoch(epoch)
        rate = LOW * (HIGH / LOW) ** (number / (steps - 1))
        factor = rate / stage.config.optimizer.lr
        result = train_step(member, stage, batches, epoch=epoch, step=step, lr_factor=factor)
        if int(result.bad):
            return
        yield rate, float(result.loss) / stage.sampling.in_step(step)


def smooth(steps: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
    """Learning rates with the running mean of their losses, corrected for its start at 0 as in
    Adam (Kingma & Ba 2015). It ends where the mean is not finite or has diverged, and asks for no
    further step then."""
    curve: list[tuple[float, float]] = []
    mean, least = 0.0, math.inf
    for number, (rate, loss) in enumerate(steps, start=1):
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        corrected = mean / (1 - SMOOTHING**number)
        curve.append((rate, corrected))
        least = min(least, corrected)
        if corrected > DIVERGED * least:
            break
    return curve


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
