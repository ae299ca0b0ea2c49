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

# Row of the Manifest, epoch, how often the row came before in it, False where the item only fills
# the last step.
Item = tuple[int, int, int, bool]

# keep the random streams of one seed apart
_ORDER, _BOOTSTRAP, _MIXED, _SLIDE, _DRAW = range(1, 6)


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
    `bootstrap` draws the rows with replacement, the same ones in every epoch. A row that comes
    again in an epoch is augmented anew: its items count up.

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
    pool, wanted = np.asarray(plan.rows, dtype=np.int64), np.asarray(plan.draw, dtype=np.float64)
    if plan.bootstrap:
        chosen = np.random.default_rng([plan.seed, _BOOTSTRAP]).choice(len(pool), len(pool))
        pool, wanted = pool[chosen], wanted[chosen] if len(wanted) else wanted
    if len(wanted):
        pool = _drawn(plan, pool, wanted, epoch)
    if plan.slide:
        pool = _balanced(plan, pool, epoch, plan.slide.at(epoch))
    order = np.random.default_rng([plan.seed, _ORDER, epoch]).permutation(pool)
    filled = np.resize(order, plan.steps * plan.own)  # repeats the order from its start
    counts = (np.arange(len(filled)) < len(order)) | bool(len(plan.mixed))
    again = np.resize(_occurrences(order), len(filled))
    shape = (plan.steps, accumulation, world_size, -1)
    table = np.stack([filled, again, counts], axis=-1).reshape(*shape, 3)
    if len(plan.mixed):
        others = _mixed(plan, epoch)
        extra = np.stack([others, _occurrences(others), np.ones_like(others)], axis=-1)
        table = np.concatenate([table, extra.reshape(*shape, 3)], axis=3)
    mine = table[:, :, rank].reshape(plan.steps * accumulation, -1, 3).tolist()
    return [[(row, epoch, nth, bool(count)) for row, nth, count in part] for part in mine]


def _occurrences(rows: np.ndarray) -> np.ndarray:
    """How often each entry's row came before it: 0, 1, ..."""
    order = np.argsort(rows, kind="stable")
    in_order = rows[order]
    first = np.searchsorted(in_order, in_order)  # where the run of equal rows begins
    found = np.empty_like(rows)
    found[order] = np.arange(len(rows)) - first
    return found


def _drawn(plan: Plan, pool: np.ndarray, wanted: np.ndarray, epoch: int) -> np.ndarray:
    """As many rows as `pool`, each entry as often as its share of `wanted` says, give or take
    one: even steps from a random start through the shares, which lie in random order."""
    rng = np.random.default_rng([plan.seed, _DRAW, epoch])
    order = rng.permutation(len(pool))
    shares = np.cumsum(wanted[order])
    at = (np.arange(len(order)) + rng.random()) / len(order) * shares[-1]
    return pool[order][np.minimum(np.searchsorted(shares, at, side="right"), len(pool) - 1)]


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
