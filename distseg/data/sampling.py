"""Which samples an optimizer step sees: a pure function of (rows, epoch, seed).

One step is `batch_size` samples of the epoch's global order, laid out as a table of (accumulation,
ranks, images of a rank). So one rank with a batch of 8, one rank with two micro-batches of 4, and
two ranks with 4 each see the same samples in the same step. Nothing is remembered between epochs:
a job that was killed computes the same order again and skips the steps that it has done.

With `mixed` rows (pseudo-labels), a fixed share of every micro-batch on every rank is drawn from
them, and so the same share of every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# One seed feeds several random streams. A number of its own keeps each apart from the others:
# without it the order of an epoch would depend on how many rows were drawn before it was shuffled.
_ORDER, _BOOTSTRAP, _MIXED, _SLIDE, _DRAW = range(1, 6)


class Item(NamedTuple):
    """One image of a micro-batch."""

    row: int  # of the Manifest
    epoch: int  # of the member, over all stages; it seeds the augmentation
    nth: int  # how often the row came before in this epoch: each time it is augmented anew
    counts: bool  # False where the image only fills the last step: its loss is weighted 0


@dataclass(frozen=True)
class Slide:
    """A share that goes evenly from `start` to `end` in `epochs` epochs, from number `first` on."""

    start: float
    end: float
    first: int
    epochs: int

    def at(self, epoch: int) -> float:
        """The share in an epoch of the member; before and after the slide, its nearest end."""
        way = (epoch - self.first) / max(1, self.epochs - 1)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, way))


@dataclass(frozen=True)
class Sampling:
    """What the epochs of a stage go through.

    rows: rows of the Manifest; each is seen once an epoch.
    steps_per_epoch: steps of an epoch, however many rows there are: one pass over them after
        another, and an epoch goes on where the one before has ended. None: one pass.
    batch_size: images of one optimizer step, over all ranks and micro-batches.
    bootstrap: draw the rows with replacement, the same ones in every epoch.
    mixed: rows that take `share` (0..1) of every step, in turn, as often as the step needs them.
    draw: how often each of `rows` is wanted, relative to the others; empty: all alike.
    positives: those of `rows` that hold an object; `slide` gives their share of each epoch.
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
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ValueError("no rows to train on")

    @property
    def own(self) -> int:
        """Images of a step that are drawn from `rows`; the others are from `mixed`."""
        return self.batch_size - round(self.batch_size * self.share if len(self.mixed) else 0)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch; the last may be filled up."""
        return self.steps_per_epoch or -(-len(self.rows) // self.own)

    @property
    def images(self) -> int:
        """Images of an epoch that count."""
        whole = len(self.mixed) or self.steps_per_epoch
        return self.steps * self.batch_size if whole else len(self.rows)

    def in_step(self, step: int) -> int:
        """Images of a step that count, over all ranks and micro-batches: what its loss is divided
        by, so that a filled-up last step weighs each of its real images as any other step does."""
        return min(self.batch_size, self.images - step * self.batch_size)


def micro_batches_of_epoch(
    sampling: Sampling, epoch: int, *, rank: int = 0, world_size: int = 1, accumulation: int = 1
) -> list[list[Item]]:
    """The micro-batches of one rank in one epoch, `accumulation` per step, all of equal length.

    The last step is filled from the epoch's start with items whose `counts` is False: shapes stay
    static (no new graph, no new cuDNN search), every rank has as many steps as the others, and no
    image is left out. With mixed rows the filling counts: the share holds to the end. With a set
    number of steps nothing is filled up.

    Raises:
        ValueError: batch_size is no multiple of world_size * accumulation, or the share of a
            micro-batch is no whole number of images.
    """
    _check_layout(sampling, rank, world_size, accumulation)
    order = _rows_of_steps(sampling, epoch) if sampling.steps_per_epoch else _order(sampling, epoch)
    filled = np.resize(order, sampling.steps * sampling.own)  # repeats the order from its start
    counts = (np.arange(len(filled)) < len(order)) | bool(len(sampling.mixed))
    # What fills the last step repeats its item, number included: it is the same augmented image.
    nth = np.resize(_occurrences(order), len(filled))
    # The global order is cut into steps first and only then into micro-batches and ranks: that is
    # why a step holds the same images however many of them there are.
    shape = (sampling.steps, accumulation, world_size, -1)
    table = np.stack([filled, nth, counts], axis=-1).reshape(*shape, 3)
    if len(sampling.mixed):
        others = _mixed(sampling, epoch)
        extra = np.stack([others, _occurrences(others), np.ones_like(others)], axis=-1)
        table = np.concatenate([table, extra.reshape(*shape, 3)], axis=3)
    mine = table[:, :, rank].reshape(sampling.steps * accumulation, -1, 3).tolist()
    return [[Item(row, epoch, nth, bool(count)) for row, nth, count in batch] for batch in mine]


def _check_layout(sampling: Sampling, rank: int, world_size: int, accumulation: int) -> None:
    """ValueError: the ranks and micro-batches cannot divide a step evenly."""
    divisor = world_size * accumulation
    if sampling.batch_size < 1 or sampling.batch_size % divisor:
        raise ValueError(
            f"batch size {sampling.batch_size} is no multiple of {divisor}: {world_size} ranks x "
            f"{accumulation} micro-batches"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} does not exist among {world_size}")
    if sampling.own % divisor:
        raise ValueError(
            f"a share of {sampling.share:g} of {sampling.batch_size // divisor} images is no whole "
            "number"
        )


def _rows_of_steps(sampling: Sampling, epoch: int) -> np.ndarray:
    """The rows of an epoch of a set number of steps: passes over the rows, numbered from the first
    epoch on, so that any epoch can be computed alone."""
    num, need = len(sampling.rows), sampling.steps * sampling.own
    first = epoch * need
    passes = range(first // num, -(-(first + need) // num))
    start = first - passes[0] * num
    return np.concatenate([_order(sampling, number, epoch) for number in passes])[
        start : start + need
    ]


def _order(sampling: Sampling, number: int, epoch: int | None = None) -> np.ndarray:
    """The rows of a pass in their global order: drawn, balanced, then shuffled. number: of the
    pass; epoch: the one that it is for, whose share of positives it has (None: the same number).

    The bootstrap comes first and without the epoch in its seed: what it has left out stays out of
    the whole training, whatever is drawn from the rest."""
    pool = np.asarray(sampling.rows, dtype=np.int64)
    wanted = np.asarray(sampling.draw, dtype=np.float64)
    if sampling.bootstrap:
        chosen = np.random.default_rng([sampling.seed, _BOOTSTRAP]).choice(len(pool), len(pool))
        pool, wanted = pool[chosen], wanted[chosen] if len(wanted) else wanted
    if len(wanted):
        pool = _drawn(sampling, pool, wanted, number)
    if sampling.slide:
        share = sampling.slide.at(number if epoch is None else epoch)
        pool = _balanced(sampling, pool, number, share)
    return np.random.default_rng([sampling.seed, _ORDER, number]).permutation(pool)


def _occurrences(rows: np.ndarray) -> np.ndarray:
    """How often the row of each place came before that place: 0, 1, ..."""
    order = np.argsort(rows, kind="stable")
    in_order = rows[order]
    first = np.searchsorted(in_order, in_order)  # where the run of equal rows begins
    found = np.empty_like(rows)
    found[order] = np.arange(len(rows)) - first
    return found


def _drawn(sampling: Sampling, pool: np.ndarray, wanted: np.ndarray, epoch: int) -> np.ndarray:
    """As many rows as `pool`, each place of it as often as its share of `wanted` says, give or
    take one.

    This is systematic sampling: even steps from a random start through the summed shares, which
    lie in random order. Independent draws would leave some rows out of an epoch by chance."""
    rng = np.random.default_rng([sampling.seed, _DRAW, epoch])
    order = rng.permutation(len(pool))
    shares = np.cumsum(wanted[order])
    at = (np.arange(len(order)) + rng.random()) / len(order) * shares[-1]
    # rounding may put the last step on the end of the shares, where no place is
    return pool[order][np.minimum(np.searchsorted(shares, at, side="right"), len(pool) - 1)]


def _balanced(sampling: Sampling, pool: np.ndarray, epoch: int, share: float) -> np.ndarray:
    """As many rows as `pool`, of which `share` are positives. A row comes as often as any other
    row of its kind, give or take one."""
    rng = np.random.default_rng([sampling.seed, _SLIDE, epoch])
    every = np.asarray(sampling.rows, dtype=np.int64)
    positives = np.asarray(sampling.positives, dtype=np.int64)
    wanted = round(share * len(pool))
    kinds = []
    for positive, number in ((True, wanted), (False, len(pool) - wanted)):
        in_pool, in_all = (rows[np.isin(rows, positives) == positive] for rows in (pool, every))
        # a bootstrap's pool may have missed all rows of a kind
        kinds.append(np.resize(rng.permutation(in_pool if len(in_pool) else in_all), number))
    return np.concatenate(kinds)


def _mixed(sampling: Sampling, epoch: int) -> np.ndarray:
    """The mixed rows of an epoch: one permutation after another, going on where the epoch before
    has ended, so that each row comes equally often over the epochs, even where an epoch needs
    fewer rows than there are. The permutations are numbered from the first epoch on, so that any
    epoch can be computed alone."""
    num, need = len(sampling.mixed), sampling.steps * (sampling.batch_size - sampling.own)
    first, pool = epoch * need, np.asarray(sampling.mixed, dtype=np.int64)
    rounds = range(first // num, -(-(first + need) // num))
    drawn = [np.random.default_rng([sampling.seed, _MIXED, r]).permutation(pool) for r in rounds]
    start = first - rounds[0] * num
    return np.concatenate(drawn)[start : start + need]
