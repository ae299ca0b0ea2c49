"""Which samples an optimizer step sees: a pure function of (rows, epoch, seed).

One step is `batch_size` samples of the epoch's global order, laid out as (accumulation, world,
per device). So one rank with a batch of 8, one rank with 2 micro-batches of 4, and two ranks with
4 each see the same samples in the same step.

With `mixed` rows (pseudo-labels), a fixed share of every part of every step is drawn from them:
exact for each rank and micro-batch, and so for the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Item = tuple[int, int, bool]  # row of the Manifest, epoch, False where it only fills the last step

_ORDER, _BOOTSTRAP, _MIXED, _SLIDE, _DRAW = (
    1,
    2,
    3,
    4,
    5,
)  # keep the random streams of one seed apart


@dataclass(frozen=True)
class Slide:
    """A share that goes from `start` to `end` over the `epochs` from number `first` on."""

    start: float
    end: float
    first: int
    epochs: int

    def at(self, epoch: int) -> float:
        way = (epoch - self.first) / max(1, self.epochs - 1)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, way))


@dataclass(frozen=True)
class Plan:
    """What an epoch goes through.

    rows: rows of the Manifest; each is seen once an epoch.
    batch_size: images of one optimizer step, over all ranks.
    draw: how often each of `rows` is wanted, as a share of the others; empty: all alike.
    positives: those of `rows` that `slide` gives a share of each epoch.
    mixed: rows that take `share` of every step, in turn, as often as it needs.
    """

    rows: Sequence[int]
    batch_size: int
    seed: int
    bootstrap: bool = False
    mixed: Sequence[int] = ()
    share: float = 0.0
    draw: Sequence[float] = ()
    positives: Sequence[int] = ()
    slide: Slide | None = None

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ValueError("no rows to train on")

    @property
    def own(self) -> int:
        """Images of `rows` in a step."""
        return self.batch_size - round(self.batch_size * self.share if len(self.mixed) else 0)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch; the last may be filled up."""
        return -(-len(self.rows) // self.own)

    @property
    def images(self) -> int:
        """Images of an epoch that count."""
        return self.steps * self.batch_size if len(self.mixed) else len(self.rows)

    def in_step(self, step: int) -> int:
        """Images of a step that count."""
        return min(self.batch_size, self.images - step * self.batch_size)


def epoch_steps(
    plan: Plan, epoch: int, *, rank: int = 0, world_size: int = 1, accumulation: int = 1
) -> list[list[Item]]:
    """The micro-batches of one rank in one epoch, `accumulation` per step, all of equal length.

    The last step is filled from the epoch's start with items whose `counts` is False: shapes stay
    static, and no tail is lost. With mixed rows the filling counts: the share holds to the end.
    `bootstrap` draws the rows with replacement, the same ones in every epoch.

    Raises:
        ValueError: batch_size is no multiple of world_size * accumulation, or the share of a
            part is no whole number of images.
    """
    parts = world_size * accumulation
    if plan.batch_size < 1 or plan.batch_size % parts:
        raise ValueError(
            f"batch size {plan.batch_size} is no multiple of {parts}: {world_size} ranks x "
            f"{accumulation} micro-batches"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} does not exist among {world_size}")
    if plan.own % parts:
        raise ValueError(
            f"a share of {plan.share:g} of {plan.batch_size // parts} images is no whole number"
        )
    pool = np.asarray(plan.rows, dtype=np.int64)
    if plan.bootstrap:
        pool = np.random.default_rng([plan.seed, _BOOTSTRAP]).choice(pool, len(pool))
    if len(plan.draw):
        pool = _drawn(plan, epoch)
    if plan.slide:
        pool = _balanced(plan, pool, epoch, plan.slide.at(epoch))
    order = np.random.default_rng([plan.seed, _ORDER, epoch]).permutation(pool)
    filled = np.resize(order, plan.steps * plan.own)  # repeats the order from its start
    counts = (np.arange(len(filled)) < len(order)) | bool(len(plan.mixed))
    shape = (plan.steps, accumulation, world_size, -1)
    rows, real = filled.reshape(shape), counts.reshape(shape)
    if len(plan.mixed):
        others = _mixed(plan, epoch).reshape(shape)
        rows = np.concatenate([rows, others], axis=3)
        real = np.concatenate([real, np.ones_like(others, dtype=np.bool_)], axis=3)
    lines = plan.steps * accumulation
    mine, kept = (a[:, :, rank].reshape(lines, -1).tolist() for a in (rows, real))
    return [
        [(row, epoch, count) for row, count in zip(rows_of, counts_of, strict=True)]
        for rows_of, counts_of in zip(mine, kept, strict=True)
    ]


def _drawn(plan: Plan, epoch: int) -> np.ndarray:
    """As many rows as there are, each as often as its share says, give or take one: even steps
    from a random start through the shares, which lie in random order."""
    rng = np.random.default_rng([plan.seed, _DRAW, epoch])
    order = rng.permutation(len(plan.rows))
    shares = np.cumsum(np.asarray(plan.draw, dtype=np.float64)[order])
    at = (np.arange(len(order)) + rng.random()) / len(order) * shares[-1]
    rows = np.asarray(plan.rows, dtype=np.int64)[order]
    return rows[np.minimum(np.searchsorted(shares, at, side="right"), len(rows) - 1)]


def _balanced(plan: Plan, pool: np.ndarray, epoch: int, share: float) -> np.ndarray:
    """As many rows as `pool`, of which `share` are positives: each row of a kind as often as any
    other of it, give or take one."""
    rng = np.random.default_rng([plan.seed, _SLIDE, epoch])
    every = np.asarray(plan.rows, dtype=np.int64)
    wanted = round(share * len(pool))
    parts = []
    for positive, number in ((True, wanted), (False, len(pool) - wanted)):
        kind, all_of_it = (
            rows[np.isin(rows, np.asarray(plan.positives, dtype=np.int64)) == positive]
            for rows in (pool, every)
        )
        # a bootstrap's pool may have missed all rows of a kind
        parts.append(np.resize(rng.permutation(kind if len(kind) else all_of_it), number))
    return np.concatenate(parts)


def _mixed(plan: Plan, epoch: int) -> np.ndarray:
    """The mixed rows of an epoch: one permutation after another, going on where the epoch before
    has ended, so that each row comes equally often."""
    num, need = len(plan.mixed), plan.steps * (plan.batch_size - plan.own)
    first, pool = epoch * need, np.asarray(plan.mixed, dtype=np.int64)
    rounds = range(first // num, -(-(first + need) // num))
    drawn = [np.random.default_rng([plan.seed, _MIXED, r]).permutation(pool) for r in rounds]
    start = first - rounds[0] * num
    return np.concatenate(drawn)[start : start + need]
