from __future__ import annotations

from collections import Counter

import pytest

from distseg.data.sampling import Item, batches_by_size, epoch_steps, num_steps

ROWS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]  # 11: a tail for every batch size


def steps(batches: list[list[Item]], accumulation: int) -> list[list[Item]]:
    """Items per step, sorted."""
    return [
        sorted(item for batch in batches[i : i + accumulation] for item in batch)
        for i in range(0, len(batches), accumulation)
    ]


def test_every_row_counts_once_and_shapes_are_static() -> None:
    batches = epoch_steps(ROWS, 0, 0, 8)
    assert [len(batch) for batch in batches] == [8, 8] == [8] * num_steps(len(ROWS), 8)
    assert sorted(row for batch in batches for row, _, counts in batch if counts) == ROWS
    filled = [row for row, _, counts in batches[1] if not counts]
    assert filled == [row for row, _, _ in batches[0]][:5]  # from the epoch's start


@pytest.mark.parametrize("epoch", [0, 1])
def test_accumulation_and_ranks_see_the_same_samples_in_each_step(epoch: int) -> None:
    whole = steps(epoch_steps(ROWS, epoch, 7, 8), 1)
    assert steps(epoch_steps(ROWS, epoch, 7, 8, accumulation=4), 4) == whole
    for accumulation in (1, 2):
        ranks = [
            epoch_steps(ROWS, epoch, 7, 8, rank=r, world_size=2, accumulation=accumulation)
            for r in range(2)
        ]
        joined = [a + b for a, b in zip(*ranks, strict=True)]
        assert steps(joined, accumulation) == whole


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_steps(ROWS, 1, 0, 4) == epoch_steps(ROWS, 1, 0, 4)
    rows = [
        [i[0] for b in epoch_steps(ROWS, e, s, 4) for i in b] for e, s in [(0, 0), (1, 0), (0, 1)]
    ]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert all(epoch == 3 for batch in epoch_steps(ROWS, 3, 0, 4) for _, epoch, _ in batch)


def test_fewer_rows_than_a_batch_wraps_as_often_as_needed() -> None:
    (batch,) = epoch_steps([1, 2, 3], 0, 0, 8)
    assert len(batch) == 8 and sum(counts for _, _, counts in batch) == 3


def test_bootstrap_draws_the_same_rows_every_epoch() -> None:
    drawn = [
        Counter(row for b in epoch_steps(ROWS, e, 0, 4, bootstrap=True) for row, _, c in b if c)
        for e in range(3)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert sum(drawn[0].values()) == len(ROWS) and max(drawn[0].values()) > 1
    assert set(drawn[0]) < set(ROWS)


@pytest.mark.parametrize(
    ("rows", "batch", "options"),
    [
        (ROWS, 6, {"world_size": 2, "accumulation": 2}),
        (ROWS, 0, {}),
        ([], 4, {}),
        (ROWS, 4, {"rank": 2, "world_size": 2}),
    ],
)
def test_impossible_layouts_are_refused(
    rows: list[int], batch: int, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError):
        epoch_steps(rows, 0, 0, batch, **options)  # type: ignore[arg-type]


def test_batches_share_a_size() -> None:
    sizes = [(1, 2), (3, 4), (1, 2), (1, 2), (3, 4)]
    assert batches_by_size(sizes, 2) == [[0, 2], [3], [1, 4]]
