from __future__ import annotations

from collections import Counter

import pytest

from distseg.data.sampling import Item, Sampling, Slide, micro_batches_of_epoch

ROWS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]  # 11: a tail for every batch size


def steps(batches: list[list[Item]], accumulation: int) -> list[list[Item]]:
    """Items per step, sorted."""
    return [
        sorted(item for batch in batches[i : i + accumulation] for item in batch)
        for i in range(0, len(batches), accumulation)
    ]


def test_every_row_counts_once_and_shapes_are_static() -> None:
    batches = micro_batches_of_epoch(Sampling(ROWS, 8, 0), 0)
    assert [len(batch) for batch in batches] == [8, 8] == [8] * Sampling(ROWS, 8, 0).steps
    assert sorted(row for batch in batches for row, *_, counts in batch if counts) == ROWS
    filled = [row for row, *_, counts in batches[1] if not counts]
    assert filled == [row for row, *_ in batches[0]][:5]  # from the epoch's start


@pytest.mark.parametrize("epoch", [0, 1])
def test_accumulation_and_ranks_see_the_same_samples_in_each_step(epoch: int) -> None:
    whole = steps(micro_batches_of_epoch(Sampling(ROWS, 8, 7), epoch), 1)
    assert steps(micro_batches_of_epoch(Sampling(ROWS, 8, 7), epoch, accumulation=4), 4) == whole
    for accumulation in (1, 2):
        ranks = [
            micro_batches_of_epoch(
                Sampling(ROWS, 8, 7), epoch, rank=r, world_size=2, accumulation=accumulation
            )
            for r in range(2)
        ]
        joined = [a + b for a, b in zip(*ranks, strict=True)]
        assert steps(joined, accumulation) == whole


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert micro_batches_of_epoch(Sampling(ROWS, 4, 0), 1) == micro_batches_of_epoch(
        Sampling(ROWS, 4, 0), 1
    )
    rows = [
        [i[0] for b in micro_batches_of_epoch(Sampling(ROWS, 4, s), e) for i in b]
        for e, s in [(0, 0), (1, 0), (0, 1)]
    ]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert all(
        epoch == 3
        for batch in micro_batches_of_epoch(Sampling(ROWS, 4, 0), 3)
        for _, epoch, *_ in batch
    )


def test_fewer_rows_than_a_batch_wraps_as_often_as_needed() -> None:
    (batch,) = micro_batches_of_epoch(Sampling([1, 2, 3], 8, 0), 0)
    assert len(batch) == 8 and sum(counts for *_, counts in batch) == 3


def test_bootstrap_draws_the_same_rows_every_epoch() -> None:
    drawn = [
        Counter(
            row
            for b in micro_batches_of_epoch(Sampling(ROWS, 4, 0, bootstrap=True), e)
            for row, *_, c in b
            if c
        )
        for e in range(3)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert sum(drawn[0].values()) == len(ROWS) and max(drawn[0].values()) > 1
    assert set(drawn[0]) < set(ROWS)


def test_a_bootstrap_without_a_positive_takes_none_from_elsewhere() -> None:
    """A pool that has missed the only positive row draws it all the same, and no other."""
    for seed in range(40):
        sampling = Sampling(
            [5, 6, 7], 1, seed, bootstrap=True, positives=[6], slide=Slide(0.5, 0.5, 0, 2)
        )
        rows = {row for batch in micro_batches_of_epoch(sampling, 0) for row, *_ in batch}
        assert 6 in rows and rows <= {5, 6, 7}


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
        micro_batches_of_epoch(Sampling(rows, batch, 0), 0, **options)


MIXED = list(range(1000, 1007))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_mixed_rows_hold_their_share_in_every_micro_batch(share: float) -> None:
    sampling = Sampling(ROWS, 16, 7, mixed=MIXED, share=share)
    whole = steps(micro_batches_of_epoch(sampling, 2), 1)
    for world, accumulation in ((1, 1), (2, 1), (1, 2), (2, 2)):
        ranks = [
            micro_batches_of_epoch(sampling, 2, rank=r, world_size=world, accumulation=accumulation)
            for r in range(world)
        ]
        for batch in (batch for rank in ranks for batch in rank):
            assert sum(row >= 1000 for row, *_ in batch) == share * len(batch)
            assert all(counts for *_, counts in batch)
        joined = [[i for batch in step for i in batch] for step in zip(*ranks, strict=True)]
        assert steps(joined, accumulation) == whole
    assert sampling.images == sampling.steps * 16 and sampling.in_step(sampling.steps - 1) == 16


def test_mixed_rows_come_equally_often_over_epochs() -> None:
    sampling = Sampling(ROWS, 8, 0, mixed=MIXED, share=0.5)
    seen = Counter(
        row
        for e in range(7)
        for b in micro_batches_of_epoch(sampling, e)
        for row, *_ in b
        if row >= 1000
    )
    assert set(seen) == set(MIXED) and max(seen.values()) - min(seen.values()) == 0
    own = Counter(row for b in micro_batches_of_epoch(sampling, 0) for row, *_ in b if row < 1000)
    assert set(own) == set(ROWS)


def test_a_share_that_ranks_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole number"):
        micro_batches_of_epoch(Sampling(ROWS, 4, 0, mixed=MIXED, share=0.25), 0, world_size=2)


def test_the_share_of_positives_slides_over_the_stage() -> None:
    """Rows 0..3 hold an object; the stage begins at epoch 5 and has 5 epochs."""
    sampling = Sampling(range(20), 5, 3, positives=range(4), slide=Slide(1.0, 0.2, 5, 5))
    shares = []
    for epoch in range(4, 11):
        rows = [row for batch in micro_batches_of_epoch(sampling, epoch) for row, *_ in batch]
        assert len(rows) == 20
        times = Counter(rows)
        for kind in (range(4), range(4, 20)):
            counts = [times[row] for row in kind]
            assert max(counts) - min(counts) <= 1
        shares.append(sum(row < 4 for row in rows) / 20)
    assert shares == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    of_ten = Sampling(range(20), 10, 3, positives=range(4), slide=Slide(1, 0.2, 5, 5))
    ranks = [micro_batches_of_epoch(of_ten, 6, rank=r, world_size=2) for r in range(2)]
    whole = micro_batches_of_epoch(of_ten, 6)
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


def test_hard_rows_come_as_often_as_their_share_says() -> None:
    draw = [1.0] * 8 + [4.0, 8.0]
    sampling = Sampling(range(10), 5, 3, draw=draw)
    times = [
        Counter(row for batch in micro_batches_of_epoch(sampling, epoch) for row, *_ in batch)
        for epoch in range(200)
    ]
    assert all(sum(count.values()) == 10 for count in times)
    assert all((count[8], count[9]) == (2, 4) for count in times)
    mean = sum(count[0] for count in times) / 200
    assert 0.4 < mean < 0.6  # every second epoch
    alike = Sampling(range(10), 5, 3, draw=[1.0] * 10)
    assert micro_batches_of_epoch(alike, 0) != micro_batches_of_epoch(sampling, 0)


def test_a_row_that_comes_again_in_an_epoch_is_another_sample() -> None:
    """Each draw of a row has a number of its own; what fills the last step repeats its item."""
    draw = [1.0] * 8 + [4.0, 8.0]
    items = [
        item for b in micro_batches_of_epoch(Sampling(range(10), 4, 3, draw=draw), 0) for item in b
    ]
    real = [item[:3] for item in items if item[3]]
    assert len(set(real)) == 10 == len(real)
    assert sorted(nth for row, _, nth in real if row == 9) == [0, 1, 2, 3]
    assert [item[:3] for item in items[10:]] == real[:2]
    mixed = [
        i
        for b in micro_batches_of_epoch(Sampling(range(8), 4, 0, mixed=[90, 91], share=0.5), 0)
        for i in b
    ]
    assert sorted(i[2] for i in mixed if i[0] == 90) == [0, 1, 2, 3]


def test_hard_rows_are_drawn_from_what_the_bootstrap_left() -> None:
    sampling = Sampling(range(40), 8, 5, bootstrap=True)
    kept = {row for batch in micro_batches_of_epoch(sampling, 0) for row, *_ in batch}
    hard = Sampling(range(40), 8, 5, bootstrap=True, draw=[1.0] * 20 + [5.0] * 20)
    drawn = [
        row for e in range(9) for b in micro_batches_of_epoch(hard, e) for row, *_, c in b if c
    ]
    assert len(kept) < 40 and set(drawn) <= kept
    share = sum(row >= 20 for row in drawn) / len(drawn)
    assert share > 0.7  # 5 in 6, if half of the bootstrap's rows are hard


def test_an_epoch_of_set_steps_goes_on_where_the_one_before_has_ended() -> None:
    sampling = Sampling(ROWS, 4, 5, steps_per_epoch=3)  # 12 images of 11 rows
    assert (sampling.steps, sampling.images, sampling.in_step(2)) == (3, 12, 4)
    seen = [
        item.row
        for e in range(11)
        for batch in micro_batches_of_epoch(sampling, e)
        for item in batch
    ]
    for start in range(0, 12 * 11, 11):  # one whole pass after another
        assert sorted(seen[start : start + 11]) == ROWS
    twice = micro_batches_of_epoch(sampling, 0)
    assert twice == micro_batches_of_epoch(sampling, 0)
    assert all(item.counts for batch in twice for item in batch)
    again = [item for batch in twice for item in batch if item.nth == 1]
    assert len(again) == 1  # 12 images of 11 rows: one comes twice, augmented anew


def test_set_steps_are_the_same_for_any_ranks_and_micro_batches() -> None:
    sampling = Sampling(ROWS, 8, 7, steps_per_epoch=5)
    whole = steps(micro_batches_of_epoch(sampling, 2), 1)
    ranks = [
        micro_batches_of_epoch(sampling, 2, rank=r, world_size=2, accumulation=2) for r in range(2)
    ]
    assert steps([a + b for a, b in zip(*ranks, strict=True)], 2) == whole


def test_set_steps_keep_the_share_of_positives_and_of_mixed_rows() -> None:
    slide = Slide(0.5, 0.5, 0, 4)
    sampling = Sampling(range(10), 4, 1, positives=[0, 1], slide=slide, steps_per_epoch=5)
    for epoch in range(2):  # two passes an epoch, half of each from the two positives
        rows = [i.row for b in micro_batches_of_epoch(sampling, epoch) for i in b]
        assert sum(row < 2 for row in rows) == 10
    mixed = Sampling(ROWS, 4, 1, mixed=range(1000, 1003), share=0.5, steps_per_epoch=3)
    for batch in micro_batches_of_epoch(mixed, 1):
        assert sum(item.row >= 1000 for item in batch) == 2
