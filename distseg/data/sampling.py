"""Which samples an optimizer step sees: a pure function of (rows, epoch, seed).

One step is `batch_size` samples of the epoch's global order, laid out as (accumulation, world,
per device). So one rank with a batch of 8, one rank with 2 micro-batches of 4, and two ranks with
4 each see the same samples in the same step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Item = tuple[int, int, bool]  # row of the Manifest, epoch, False where it only fills the last step

_ORDER, _BOOTSTRAP = 1, 2  # keep the random streams of one seed apart


def num_steps(num_rows: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last may be filled up."""
    return -(-num_rows // batch_size)


def epoch_steps(
    rows: Sequence[int],
    epoch: int,
    seed: int,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    bootstrap: bool = False,
) -> list[list[Item]]:
    """The micro-batches of one rank in one epoch, `accumulation` per step, all of equal length.

    The last step is filled from the epoch's start with items whose `counts` is False: shapes stay
    static, and no tail is lost. `bootstrap` draws the rows with replacement, the same ones in
    every epoch.

    Raises:
        ValueError: no rows, or batch_size is no multiple of world_size * accumulation.
    """
    parts = world_size * accumulation
    if batch_size < 1 or batch_size % parts:
        raise ValueError(
            f"batch size {batch_size} is no multiple of {parts}: {world_size} ranks x "
            f"{accumulation} micro-batches"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} does not exist among {world_size}")
    if not len(rows):
        raise ValueError("no rows to train on")
    pool = np.asarray(rows, dtype=np.int64)
    if bootstrap:
        pool = np.random.default_rng([seed, _BOOTSTRAP]).choice(pool, len(pool))
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(pool)
    steps = num_steps(len(order), batch_size)
    filled = np.resize(order, steps * batch_size)  # repeats the order from its start
    counts = np.arange(len(filled)) < len(order)
    shape = (steps, accumulation, world_size, batch_size // parts)
    mine = filled.reshape(shape)[:, :, rank].reshape(steps * accumulation, -1).tolist()
    real = counts.reshape(shape)[:, :, rank].reshape(steps * accumulation, -1).tolist()
    return [
        [(row, epoch, count) for row, count in zip(rows_of, counts_of, strict=True)]
        for rows_of, counts_of in zip(mine, real, strict=True)
    ]


def batches_by_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Indices in batches of one (height, width) each, in order of first appearance.

    For prediction: a batch shares its canvas and its native size.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        groups[size].append(index)
    return [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]
