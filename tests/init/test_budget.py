"""distseg.init.budget and run.forecast: arithmetic, with values counted by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from distseg.config.data import FoldsConfig
from distseg.functional.evaluations import num_evaluations
from distseg.init.budget import (
    FIXED,
    MAX_PASSES,
    THREADS,
    USED,
    Candidate,
    Data,
    divided,
    epochs_of,
    evaluate_every,
    expected,
    scaled,
    spend,
    taught,
    visible,
)
from distseg.init.folds import Folds, divisions
from distseg.init.sizes import Size, sizes
from distseg.records.paces import Pace
from distseg.run.forecast import (
    DRIVER_S,
    ENSEMBLE_S,
    ENSEMBLE_S_PER_VALUE,
    PREDICTION_START,
    REPORT_S,
    REPORT_S_PER_IMAGE,
    Machine,
    Work,
    forecast,
    makespan,
    member_seconds,
)

PACE = Pace(
    batch_size=8, step_s=0.25, first_step_s=0.25, spread=0.1, evaluate_s=0.01, predict_s=0.02,
    save_s=0.1, start_s=5.0, prepare_s=0.001, memory=10**9, saved=10**7,
)  # fmt: skip


def data_of(num_train: int, num_test: int, height: int, width: int) -> Data:
    """Of one class; the divisions are those that `init` tries where nothing is said."""
    return Data(num_train, num_test, height, width, 1, tuple(divisions(num_train, FoldsConfig())))


DATA = data_of(1000, 500, 128, 128)
TWO = Machine(slots=2, ranks=2, members_per_job=100)


def candidates(data: Data = DATA, pace: Pace = PACE, *, one_size: bool = True) -> list[Candidate]:
    """Of one encoder, measured at 128 x 128."""
    measured = Size(128, 128, "resize", 1.0, 128 * 128)
    return [
        Candidate(0, size, scaled(pace, measured, size), 1.0, True)
        for size in sizes(data.height, data.width, one_size, gpu=False)
    ]


def test_a_member_takes_what_its_counts_say() -> None:
    work = Work("a", updates=100, epochs=4, evaluations=2, val_images=50, snapshots=3)
    # 100 x .25 + 4 x .1 + 2 x 50 x .01 + 50 x 3 x (.02 + .01)
    assert member_seconds(work, PACE) == pytest.approx(25 + 0.4 + 1 + 4.5)
    # 60 updates of the first stage, whose loss is cheaper
    split, pace = replace(work, first_updates=60.0), replace(PACE, first_step_s=0.1)
    assert member_seconds(split, pace) == pytest.approx(6 + 10 + 0.4 + 1 + 4.5)
    assert member_seconds(split, PACE) == member_seconds(work, PACE)


def test_fewer_jobs_than_slots_have_all_cores() -> None:
    """One member alone takes the cores of both slots, and predicts the test images with them."""
    alone = divided(PACE, cores=2, measured=2, jobs=1)
    assert alone.step_s == pytest.approx(PACE.step_s / 2**THREADS)
    assert divided(alone, cores=2, measured=1, jobs=2).step_s == pytest.approx(PACE.step_s)
    assert divided(PACE, cores=16, measured=4, jobs=4) == PACE
    (size,) = sizes(64, 64, one_size=True, gpu=False)[:1]
    both = [
        Candidate(0, size, pace, 1.0, False, jobs=jobs) for jobs, pace in ((1, alone), (2, PACE))
    ]
    for offers, members in ((both[:1], {1}), (both[1:], {2, 3, 4, 5, 6, 10})):
        spent, fits = spend(offers, DATA, TWO, 600.0)
        assert fits and spent.members in members
    single = spend(both[:1], DATA, TWO, 600.0)[0]
    views = single.forecast.phases["test prediction"]
    expected = PREDICTION_START * alone.start_s + DATA.num_test * single.snapshots * alone.predict_s
    assert views == pytest.approx(expected)


def test_the_last_job_ends_as_the_longest_first_says() -> None:
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # 3+2+2 and 3+2
    assert makespan([], 2) == 0 and makespan([4], 3) == 4


def test_a_run_is_the_sum_of_its_phases() -> None:
    work = Work("a", 100, 4, 2, 50, 3)
    found = forecast(
        [work, work, work], {"a": PACE}, TWO, num_train=1000, num_test=500, pixels=100, outputs=2
    )
    assert found.phases["data"] == pytest.approx(DRIVER_S + 1.0)
    # two members in a row on one slot, one on the other; each job starts once
    assert found.phases["training and out-of-fold"] == pytest.approx(2 * 30.9 + 5)
    values = 3 * 50 * 4 * 100 * 2  # of each snapshot, and of their mean
    assert found.phases["ensemble"] == pytest.approx(ENSEMBLE_S + values * ENSEMBLE_S_PER_VALUE)
    assert found.phases["test prediction"] == pytest.approx(
        PREDICTION_START * 5 + 500 * 3 * 3 * 0.02 / 2
    )
    assert found.phases["report"] == pytest.approx(REPORT_S + REPORT_S_PER_IMAGE * 150)
    assert found.seconds == pytest.approx(sum(found.phases.values()))
    done = forecast([], {}, TWO, num_train=9, num_test=9, pixels=1, outputs=1, prepared=True)
    assert done.seconds == pytest.approx(DRIVER_S)


@pytest.mark.parametrize("minutes", [2, 5, 15, 60, 600])
def test_what_is_planned_fits_the_budget_and_fills_it_where_that_helps(minutes: int) -> None:
    spent, fits = spend(candidates(), DATA, TWO, 60.0 * minutes)
    assert fits and spent.forecast.seconds <= 60 * minutes * USED * 1.001
    batch = spent.candidate.pace.batch_size
    passes = spent.updates * batch / (DATA.num_train * spent.folds.share)
    assert passes <= MAX_PASSES * 1.02
    if passes < 0.9 * MAX_PASSES:  # more would have been worth it
        assert spent.forecast.seconds > 0.8 * 60 * minutes * USED


def test_more_time_is_worth_more_and_a_faster_machine_too() -> None:
    scores = [spend(candidates(), DATA, TWO, 60.0 * m)[0].expected for m in (2, 5, 15, 60)]
    assert scores == sorted(scores) and scores[0] < scores[-1]
    fast = replace(PACE, step_s=0.02, first_step_s=0.02, predict_s=0.002, evaluate_s=0.001)
    assert spend(candidates(pace=fast), DATA, TWO, 300.0)[0].expected > scores[1]


def test_more_time_buys_pixels_folds_and_members() -> None:
    short = spend(candidates(), DATA, TWO, 120.0)[0]
    long = spend(candidates(), DATA, TWO, 7200.0)[0]
    assert short.folds.used * short.models < long.folds.used * long.models
    assert short.candidate.size.pixels <= long.candidate.size.pixels == 128 * 128
    assert long.folds.full


def test_a_budget_that_is_too_short_gives_the_shortest_run_and_says_so() -> None:
    slow = replace(PACE, step_s=5.0, first_step_s=5.0)
    spent, fits = spend(candidates(pace=slow), DATA, TWO, 60.0)
    assert not fits and spent.members == 1 and spent.snapshots == 1
    assert spent.candidate.size.pixels == min(c.size.pixels for c in candidates(pace=slow))


def test_small_objects_in_large_images_are_cropped_and_large_ones_are_not() -> None:
    large = data_of(100, 0, 2000, 2000)
    tiny = replace(large, object_widths=(14.0, 20.0))
    assert spend(candidates(tiny), tiny, TWO, 3600.0)[0].candidate.size.fit == "crop"
    huge = replace(large, object_widths=(300.0, 700.0))
    assert spend(candidates(huge), huge, TWO, 900.0)[0].candidate.size.fit == "resize"


def test_epochs_and_evaluations_follow_from_updates() -> None:
    for updates, snapshots, small in itertools.product(
        (60, 300, 900, 20_000), (1, 2, 3), (False, True)
    ):
        epochs, first, steps = epochs_of(updates, snapshots, small)
        assert (epochs - first) % snapshots == 0 and 0 < first < epochs
        assert 0.8 * updates <= epochs * steps <= updates or steps == 1
        assert 5 * first == (4 if small else 3) * epochs
    assert evaluate_every(100.0, 0.001, 10, 5) == 1  # it costs nothing: each epoch
    assert evaluate_every(100.0, 5.0, 10, 5) == 8  # two of them are a tenth of the training
    assert evaluate_every(1.0, 5.0, 10, 5) == 10  # the ends of stages alone


def test_a_first_stage_at_a_smaller_size_takes_less_and_so_shows_more() -> None:
    whole = Candidate(0, Size(128, 128, "resize", 1.0, 128 * 128), PACE, 1.0, False, tta=False)
    half = replace(whole, first=(96, 64))
    assert (whole.first_share, half.first_share) == (1.0, 96 * 64 / 128**2)
    shown, plain = (spend([one], DATA, TWO, 600.0)[0] for one in (half, whole))
    assert shown.updates > 1.5 * plain.updates and shown.expected > plain.expected
    assert shown.first_epochs / shown.epochs == 0.8
    # counted by hand: an update of the first stage takes what its pixels say
    steps, last = shown.steps_per_epoch, shown.epochs - shown.first_epochs
    share = FIXED + (1 - FIXED) * half.first_share
    training = steps * (shown.first_epochs * share + last) * PACE.step_s
    cycle = last // shown.snapshots
    evaluations = num_evaluations(shown.first_epochs, shown.first_epochs, shown.evaluate_every)
    evaluations += num_evaluations(last, cycle, shown.evaluate_every)
    val = DATA.num_train * (1 - shown.folds.share)
    scoring = val * (evaluations * PACE.evaluate_s + shown.snapshots * PACE.predict_s)
    member = training + shown.epochs * PACE.save_s + scoring
    rows = math.ceil(shown.members / TWO.slots)
    assert shown.forecast.phases["training and out-of-fold"] == pytest.approx(
        rows * member + PACE.start_s
    )
    # where there is time for all that a few images can teach, they are shown at their size
    few = data_of(20, 0, 128, 128)
    assert spend([half, whole], few, TWO, 36_000.0)[0].candidate.first is None


def test_what_is_expected_grows_with_all_that_helps() -> None:
    held, full = Folds("holdout", 1, 1, 0.8, False), Folds("stratified", 5, 5, 0.8, True)
    here = candidates()[0]
    base = expected(here, DATA, 5000, held, 1, 1)
    assert expected(here, DATA, 20_000, held, 1, 1) > base
    assert expected(here, DATA, 5000, held, 2, 1) > base
    assert expected(here, DATA, 5000, held, 1, 2) > base
    assert expected(here, DATA, 5000, full, 1, 1) > base
    assert expected(replace(here, pretrained=False), DATA, 5000, held, 1, 1) < base


def test_few_images_are_all_scored() -> None:
    """A hold-out of 20 images is four: no score, and no cut point, can rest on them."""
    few = data_of(20, 5, 128, 128)
    for minutes in (5, 15):
        spent = spend(candidates(), few, TWO, 60.0 * minutes)[0]
        assert spent.folds.full, minutes


def test_what_an_image_takes_beside_the_network_does_not_grow_with_tiles() -> None:
    """A forward pass is what the flipped view takes more, here .005 s of an image at 128 x 128."""
    measured = Size(128, 128, "resize", 0.1, 128 * 128)
    crop = Size(192, 192, "crop", 1.0, 100 * 128 * 128)
    pace = replace(PACE, step_s=0.24, first_step_s=0.24, evaluate_s=0.05, predict_s=0.055)
    tiled = scaled(pace, measured, crop)
    assert tiled.step_s == pytest.approx(0.24 * 2.25)
    assert tiled.evaluate_s == pytest.approx(0.045 + 100 * 0.005)
    assert tiled.predict_s == pytest.approx(0.045 + 2 * 100 * 0.005)
    assert scaled(pace, measured, crop, tta=False).predict_s == pytest.approx(0.045 + 100 * 0.005)
    same = scaled(pace, measured, measured)
    assert same.predict_s == pytest.approx(pace.predict_s) and same.step_s == pace.step_s


def test_a_view_less_of_many_tiles_takes_half_the_time() -> None:
    """Measured as crops: a step has one tile of an image, prediction all of them."""
    crop = Size(192, 192, "crop", 1.0, 150 * 192 * 192)
    pace = replace(PACE, batch_size=4, step_s=0.785, evaluate_s=11.5, predict_s=23.0)
    assert scaled(pace, crop, crop).predict_s == pytest.approx(23.0)
    once = scaled(pace, crop, crop, tta=False)
    assert once.predict_s == pytest.approx(once.evaluate_s, rel=0.2)


def test_objects_that_a_resize_would_lose_are_seen_in_crops_in_a_short_budget_too() -> None:
    """Objects of 6 pixels in pictures of 2000, one core: the flipped views are given up."""
    data = replace(data_of(40, 8, 2000, 2000), object_widths=(5.0, 7.0))
    pace = replace(
        PACE, batch_size=4, step_s=0.26, first_step_s=0.26, evaluate_s=0.1, predict_s=0.11
    )
    measured = Size(256, 256, "resize", 0.128, 256 * 256)
    offers = [
        Candidate(0, size, scaled(pace, measured, size, tta), 1.0, False, tta)
        for size in sizes(2000, 2000, True, gpu=False)
        for tta in (True, False)
    ]
    chosen = spend(offers, data, Machine(1, 1, 100), 300.0)[0].candidate
    assert chosen.size.fit == "crop" and not chosen.tta
    slow = [
        replace(
            offer, pace=replace(offer.pace, step_s=3 * offer.pace.step_s,
                                first_step_s=3 * offer.pace.first_step_s)
        )
        for offer in offers
    ]  # fmt: skip
    chosen = spend(slow, data, Machine(1, 1, 100), 300.0)[0].candidate
    assert chosen.size.fit == "crop", "objects of one pixel are not seen, however long one looks"


def test_a_crop_teaches_as_much_less_as_it_shows_of_what_is_around_an_object() -> None:
    crop, whole = Size(192, 192, "crop", 1.0, 1e6), Size(192, 192, "resize", 0.375, 192 * 192)
    large = replace(data_of(60, 60, 512, 512), object_widths=(23.0, 147.0))
    assert taught(whole, large) == 1.0 and taught(crop, large) == pytest.approx((192 / 512) ** 2)
    long = replace(data_of(60, 60, 256, 1600), object_widths=(25.0, 96.0))
    assert taught(crop, long) == pytest.approx(192 / 256 * 192 / (4 * 96))
    small = replace(large, object_widths=(5.0, 7.0))
    assert taught(crop, small) == 1.0, "all that is around them is in the crop"
    assert taught(crop, replace(large, object_widths=None)) == 1.0


@pytest.mark.parametrize(("minutes", "fit"), [(15, "resize"), (1500, "crop")])
def test_objects_as_wide_as_a_crop_are_cropped_where_there_is_time_to_learn_them(
    minutes: int, fit: str
) -> None:
    """Buildings in pictures of 1024 pixels, at the pace of one core."""
    data = replace(data_of(62, 62, 1024, 1024), object_widths=(23.0, 147.0))
    pace = replace(
        PACE, batch_size=4, step_s=0.47, first_step_s=0.42, evaluate_s=0.04, predict_s=0.06
    )
    measured = Size(128, 128, "resize", 0.125, 128 * 128)
    offers = [
        Candidate(0, size, scaled(pace, measured, size), 0.9, False)
        for size in sizes(1024, 1024, True, gpu=False)
    ]
    spent, fits = spend(offers, data, Machine(1, 1, 100), 60.0 * minutes)
    assert fits and spent.candidate.size.fit == fit


def test_what_is_narrower_than_a_pixel_is_hardly_seen() -> None:
    assert visible(0.8) < 0.1 and visible(2.0) < 0.5 and 0.99 < visible(7.9) < visible(8.0) == 1.0
    data = data_of(100, 0, 2000, 2000)
    smallest = min(candidates(data), key=lambda c: c.size.scale)
    assert smallest.size.scale < 0.14
    hold_out = data.folds[0]
    plain, mixed, tiny = (
        expected(smallest, replace(data, object_widths=widths), 5000, hold_out, 1, 1)
        for widths in ((700.0, 700.0), (6.0, 700.0), (6.0, 7.0))
    )
    assert 0.5 * plain < mixed < plain, "the large ones are seen whatever is beside them"
    assert 0 < tiny < 0.1 * plain


def test_test_images_of_more_pixels_take_more_of_the_time() -> None:
    """16 times as many: so much longer is their prediction, and less is left for the training."""
    (size,) = [
        one for one in sizes(256, 256, True, gpu=False) if one.height == 192 and one.fit == "crop"
    ]
    plain = replace(data_of(1000, 500, 256, 256), test=(256, 256))
    large = replace(plain, test=(1024, 1024))
    offers = [Candidate(0, size, PACE, 1.0, False)]
    both = [spend(offers, data, Machine(1, 1, 100), 1800.0)[0] for data in (plain, large)]
    start = PREDICTION_START * PACE.start_s
    views = [(way.forecast.phases["test prediction"] - start) / way.snapshots / way.members
             for way in both]  # fmt: skip
    assert views[1] == pytest.approx(16 * views[0]) and both[1].updates < both[0].updates


def test_rounds_are_trained_one_after_the_other() -> None:
    """Two slots: a round of one member leaves one of them empty."""
    works = [Work("a", 100, 4, 2, 50, 3, round=number) for number in (0, 1)]
    found = forecast(
        works, {"a": PACE}, TWO, num_train=10, num_test=0, pixels=100, outputs=1, prepared=True
    )
    assert found.phases["training and out-of-fold"] == pytest.approx(2 * (30.9 + 5))
