"""How long a run takes, from what single steps take: arithmetic alone, for `plan` and `init`.

Every term is a count of the config times a second of a measurement (`records/paces.py`). What is
not measured, the ensemble's search and the report, is estimated from counts of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distseg.records.log import duration
from distseg.records.paces import Pace
from distseg.records.paths import RoundKey

# Seconds for what no measurement covers, found with runs on 2 cores of this class of machine; they
# are a small part of a run, and the spread covers them.
DRIVER_S = 2.0  # the driver's own imports and checks
REPORT_S = 1.5
ENSEMBLE_S = 1.0
ENSEMBLE_S_PER_VALUE = 1e-7  # per out-of-fold logit of each member and snapshot
REPORT_S_PER_IMAGE = 0.004
PREDICTION_START = 0.6  # of what a training's start takes: it has no optimizer and no first steps
SPREAD = 0.15  # what measured seconds are unsure by at least: other work, heat, disks


@dataclass(frozen=True, slots=True)
class Work:
    """What one member does.

    name: of its model. updates: steps of all stages, in steps of the measured size: one on a
    quarter of the pixels counts as a quarter. first_updates: those of them that have the first
    stage's loss, where the last stage has another. epochs, evaluations: how many. val_images: that
    its fold validates. snapshots: that it keeps. tta: whether it predicts with more than one view.
    watching: images of an evaluation; None: val_images. round: one is trained after the other.
    """

    name: str
    updates: float
    epochs: int
    evaluations: int
    val_images: float
    snapshots: int
    tta: bool = True
    watching: float | None = None
    first_updates: float = 0.0
    round: RoundKey = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """slots: jobs at the same time; ranks: processes that predict the test images together;
    members_per_job: that a job trains in a row."""

    slots: int = 1
    ranks: int = 1
    members_per_job: int = 1


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds by phase, and how much the sum may be off, as a share."""

    phases: Mapping[str, float]
    spread: float

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())

    def text(self) -> str:
        """`4m10s (3m20s to 5m00s)`."""
        low, high = self.seconds * (1 - self.spread), self.seconds * (1 + self.spread)
        return f"{duration(self.seconds)} ({duration(low)} to {duration(high)})"


def member_seconds(work: Work, pace: Pace) -> float:
    """Training and out-of-fold prediction of a member, without the start of its process."""
    watching = work.val_images if work.watching is None else work.watching
    evaluation = work.evaluations * watching * pace.evaluate_s
    last_updates = work.updates - work.first_updates
    training = work.first_updates * pace.first_step_s + last_updates * pace.step_s
    saving = work.epochs * pace.save_s
    return training + saving + evaluation + out_of_fold_seconds(work, pace)


def out_of_fold_seconds(work: Work, pace: Pace) -> float:
    """Out-of-fold prediction: each snapshot is counted with views, where there are any, and
    without."""
    plain = pace.evaluate_s if work.tta else 0.0
    return work.val_images * work.snapshots * (pace.predict_s + plain)


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last of these jobs ends, the longest first, each on the first slot that is free."""
    free = [0.0] * max(1, slots)
    for length in sorted(seconds, reverse=True):
        place = free.index(min(free))
        free[place] += length
    return max(free)


def forecast(
    works: Sequence[Work], paces: Mapping[str, Pace], machine: Machine, *,
    num_train: int, num_test: float, pixels: int, outputs: int, prepared: bool = False,
) -> Forecast:  # fmt: skip
    """How long a run of these members takes.

    Args:
        paces: of each model that `works` name.
        num_train, num_test: images; a test image of more pixels counts as several. pixels: of a
            train image. outputs: logits of a pixel.
        prepared: the train images are decoded already.
    """
    used = [paces[work.name] for work in works]
    decode = max((pace.prepare_s for pace in used), default=0.0)
    rounds: dict[RoundKey, list[tuple[float, float]]] = {}
    for work, pace in zip(works, used, strict=True):
        rounds.setdefault(work.round, []).append((member_seconds(work, pace), pace.start_s))
    training = sum(makespan(_jobs(own, machine), machine.slots) for own in rounds.values())
    logits = sum(w.val_images * (w.snapshots + (w.snapshots > 1)) for w in works) * pixels * outputs
    views = sum(work.snapshots * pace.predict_s for work, pace in zip(works, used, strict=True))
    start = PREDICTION_START * max((pace.start_s for pace in used), default=0.0)
    test = start + num_test * views / max(1, machine.ranks) if num_test and works else 0.0
    shown = REPORT_S_PER_IMAGE * sum(work.val_images for work in works)
    phases = {
        "data": DRIVER_S + (0.0 if prepared else num_train * decode),
        "training and out-of-fold": training,
        "ensemble": ENSEMBLE_S + ENSEMBLE_S_PER_VALUE * logits if works else 0.0,
        "test prediction": test,
        "report": REPORT_S + shown if works else 0.0,
    }
    unsure = math.sqrt(sum(pace.spread**2 for pace in used) / len(used)) if used else 0.0
    return Forecast(phases, min(0.5, max(SPREAD, unsure / 2)))


def _jobs(members: Sequence[tuple[float, float]], machine: Machine) -> list[float]:
    """Seconds of each job, from (seconds, start) of its members, the longest first in a row."""
    size = min(machine.members_per_job, math.ceil(len(members) / max(1, machine.slots)))
    ordered = sorted(members, reverse=True)
    groups = [ordered[i : i + size] for i in range(0, len(ordered), max(1, size))]
    return [sum(s for s, _ in group) + max(start for _, start in group) for group in groups]
