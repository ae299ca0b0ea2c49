"""How a budget of time is spent: which encoder at which size, folds, updates and snapshots.

Arithmetic alone. Every way to spend the time is tried, what it takes is forecast
(`run/forecast.py`), the updates fill what is left, and the way with the best expected score is
taken. The expectation is a rule of thumb with few numbers, all of them here: a network learns like
1 - exp(-images / need), sees more in more pixels, gains a little from company, and is known and
tuned the better the more images are scored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distseg.functional.evaluations import num_evaluations
from distseg.init.folds import Folds
from distseg.init.sizes import Size
from distseg.records.paces import Pace
from distseg.run.forecast import Forecast, Machine, Work, forecast

USED = 0.96  # share of a budget that is planned for
MIN_UPDATES, MAX_UPDATES = 60, 40_000
MAX_EPOCHS, EPOCH_UPDATES = 30, 50  # of a member, and about how many an epoch has in a short budget
MAX_PASSES = 400  # over all that train images show, of one member: more make nothing better
NEED_PRETRAINED, NEED_SCRATCH = 2500.0, 7000.0  # images to learn 63 % of what can be learned
DETAIL = 0.12  # exponent of the share of native pixels that a network sees
SEEN_PIXELS = 8.0  # width of an object, as the network sees it, that is enough to see it
HARD_PIXELS = 3.0  # such a width, at which 63 % of it is seen
SMALL_COUNT = 0.25  # what small objects count beside the middle one
CONTEXT = 0.985  # what a crop loses by seeing a part alone
AROUND = 4.0  # width of a crop, in widths of an object, that teaches as much as a whole image
COMPANY, SNAPSHOTS = 0.03, 0.008  # gain of many members, of many snapshots
TTA = 1.01  # gain of a flipped view
UNSURE = 0.2  # what is lost where thresholds and the score rest on one image; 1 / sqrt(images)
FIRST_WHOLE, FIRST_SMALL = 3, 4  # of five epochs: the first stage's, at the whole or a smaller size
SMALL_TEACHES = 0.5  # exponent of the share of pixels: what an image at that size teaches
FIXED = 0.1  # share of a step's time that does not grow with its pixels: images are opened, moved
EVALUATION_SHARE = 0.1  # of the time of training
THREADS = 0.7  # a job on twice the cores is 2 ** 0.7 times as fast


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoder at a size. quality: its prior; pretrained: whether it has weights; tta: whether
    each image is predicted flipped, too.

    jobs: number of jobs side by side, among which the cores are divided, that the pace is for;
    None: it holds for any. first: (height, width) that the first stage trains at; None: the size's.
    """

    encoder: int
    size: Size
    pace: Pace
    quality: float
    pretrained: bool
    tta: bool = True
    jobs: int | None = None
    first: tuple[int, int] | None = None

    @property
    def first_share(self) -> float:
        """Pixels that the first stage trains at, as a share of the size's."""
        return 1.0 if self.first is None else math.prod(self.first) / self.size.pixels


@dataclass(frozen=True, slots=True)
class Data:
    """Counts and sizes that the arithmetic needs.

    height, width: of the middle train image; test: of the middle test image, None: the same.
    folds: the divisions to choose from, the cheapest first. object_widths: of small objects and of
    the middle one, pixels in the image; None where unknown.
    """

    num_train: int
    num_test: int
    height: int
    width: int
    outputs: int
    folds: tuple[Folds, ...]
    test: tuple[int, int] | None = None
    object_widths: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """A way to spend the budget.

    models: of the same encoder from different seeds. updates: of a member, in `epochs` epochs of
    `steps_per_epoch`; the first `first_epochs` are the first stage's, the others are divided into
    `snapshots` cycles.
    """

    candidate: Candidate
    folds: Folds
    models: int
    snapshots: int
    epochs: int
    first_epochs: int
    steps_per_epoch: int
    evaluate_every: int
    forecast: Forecast
    expected: float

    @property
    def updates(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def members(self) -> int:
        return self.models * self.folds.used


def spend(
    candidates: Sequence[Candidate], data: Data, machine: Machine, seconds: float
) -> tuple[Spent, bool]:
    """(the best way to spend so many seconds, whether it fits). Where none fits: the shortest."""
    assert candidates, "nothing was measured"
    ways = [
        way
        for candidate, folds, models, snapshots in itertools.product(
            candidates, data.folds, (1, 2), (1, 2, 3)
        )
        if (beside := _beside(candidate, machine, models * folds.used)) is not None
        for way in _filled(candidate, folds, models, snapshots, data, beside, seconds)
    ]
    fitting = [way for way in ways if way.forecast.seconds <= seconds * USED * 1.001]
    if fitting:
        return max(fitting, key=lambda way: (way.expected, -way.members)), True
    return min(ways, key=lambda way: way.forecast.seconds), False


def _beside(candidate: Candidate, machine: Machine, members: int) -> Machine | None:
    """The machine as so many members use it: fewer than it has slots divide it among fewer jobs.
    None: the candidate's pace is for another number of jobs."""
    if candidate.jobs is None:
        return machine
    jobs = min(machine.slots, members)
    return replace(machine, slots=jobs, ranks=jobs) if candidate.jobs == jobs else None


def _filled(
    candidate: Candidate, folds: Folds, models: int, snapshots: int, data: Data, machine: Machine,
    seconds: float,
) -> Iterator[Spent]:  # fmt: skip
    """A way whose updates fill the time; none where that leaves too few for its snapshots."""
    per_epoch = candidate.pace.batch_size
    train = data.num_train * folds.share / taught(candidate.size, data)
    most = min(MAX_UPDATES, max(MIN_UPDATES, math.ceil(MAX_PASSES * train / per_epoch)))

    def way(updates: float) -> Spent:
        return _planned(candidate, folds, models, snapshots, data, machine, updates)

    low, high = MIN_UPDATES, most
    if way(low).forecast.seconds > seconds * USED:
        if snapshots == 1:
            yield way(low)  # the shortest there is, where nothing fits
        return
    while high - low > max(2, low // 100):  # the time grows with the updates
        middle = (low + high) // 2
        if way(middle).forecast.seconds <= seconds * USED:
            low = middle
        else:
            high = middle
    best = way(most) if way(most).forecast.seconds <= seconds * USED else way(low)
    if snapshots == 1 or best.updates >= 300 * snapshots:
        yield best


def _planned(
    candidate: Candidate, folds: Folds, models: int, snapshots: int, data: Data, machine: Machine,
    updates: float,
) -> Spent:  # fmt: skip
    """The way with about so many updates of each member."""
    pace = candidate.pace
    epochs, first, steps = epochs_of(updates, snapshots, candidate.first is not None)
    val = data.num_train * (1 - folds.share)
    # the first stage, counted in epochs of the whole size
    small = first * (FIXED + (1 - FIXED) * candidate.first_share)
    training = steps * (small * pace.first_step_s + (epochs - first) * pace.step_s)
    cycles = (epochs - first) // snapshots
    every = evaluate_every(training, val * pace.evaluate_s, first, cycles)
    evaluations = num_evaluations(first, first, every)
    evaluations += num_evaluations(epochs - first, cycles, every)
    work = Work("model", (small + epochs - first) * steps, epochs, evaluations, val, snapshots,
                candidate.tta, first_updates=small * steps)  # fmt: skip
    members = models * folds.used
    foreseen = forecast(
        [work] * members, {"model": pace}, machine, num_train=data.num_train,
        num_test=data.num_test * test_share(candidate, data), pixels=data.height * data.width,
        outputs=data.outputs,
    )  # fmt: skip
    worth = first * candidate.first_share**SMALL_TEACHES + epochs - first
    seen = worth * steps * pace.batch_size
    score = expected(candidate, data, seen, folds, members, snapshots)
    return Spent(candidate, folds, models, snapshots, epochs, first, steps, every, foreseen, score)


def test_share(candidate: Candidate, data: Data) -> float:
    """What predicting a test image takes, as a multiple of what a train image takes: by the pixels
    that the network is shown, or by its own where these are more, as what comes of it grows with
    them."""
    if data.test is None:
        return 1.0
    native = math.prod(data.test) / (data.height * data.width)
    shown = candidate.size.predicts(*data.test) / candidate.size.predicts(data.height, data.width)
    return max(native, shown)


def epochs_of(updates: float, snapshots: int, small: bool = False) -> tuple[int, int, int]:
    """(epochs, those of the first stage, updates of an epoch) of about so many updates, with equal
    cycles in the second stage. small: the first one trains at a smaller size. Its share is always
    the same: the time would jump with the updates otherwise."""
    unit = 5 * snapshots
    units = max(1, min(MAX_EPOCHS // unit, round(updates / EPOCH_UPDATES / unit)))
    epochs, cycle = units * unit, units * (5 - (FIRST_SMALL if small else FIRST_WHOLE))
    return epochs, epochs - cycle * snapshots, max(1, int(updates // epochs))


def evaluate_every(training_s: float, evaluation_s: float, first: int, cycle: int) -> int:
    """Epochs between two evaluations, so that they take EVALUATION_SHARE of the training at most;
    the ends of cycles are always evaluated."""
    affordable = max(1, int(EVALUATION_SHARE * training_s / max(evaluation_s, 1e-9)))
    longest = max(first, cycle)
    return max(1, min(longest, math.ceil((first + cycle) / affordable)))


def expected(
    candidate: Candidate, data: Data, seen: float, folds: Folds, members: int, snapshots: int
) -> float:
    """What to expect of a way, as a share of the best possible; only its order counts.

    seen: images that each member trains on, all epochs together; one at a smaller size than the
    candidate's counts for less.
    """
    size = candidate.size
    need = NEED_PRETRAINED if candidate.pretrained else NEED_SCRATCH
    many = data.num_train / 1000  # more images have more to teach
    if many < 1 and not candidate.pretrained:
        need *= many**0.1  # without weights a network needs nearly as much training for few
    else:
        need *= min(2.0, max(0.3, many**0.3))
    learned = 1 - math.exp(-((seen * taught(size, data) / need) ** 0.8))
    detail = min(1.0, size.scale) ** (2 * DETAIL)
    if size.fit == "crop":
        detail *= CONTEXT
    if data.object_widths is not None:
        small, middle = data.object_widths
        seen_of = visible(small * size.scale), visible(middle * size.scale)
        detail *= SMALL_COUNT * seen_of[0] + (1 - SMALL_COUNT) * seen_of[1]
        if size.fit == "crop":  # a crop inside an object does not show where it ends
            detail *= min(1.0, size.width / (2 * middle)) ** 0.3
    company = 1 + COMPANY * (1 - 1 / members) + SNAPSHOTS * (1 - 1 / snapshots)
    share = folds.share**0.1
    sure = 1 - UNSURE / math.sqrt(max(1.0, folds.scored(data.num_train)))
    views = TTA if candidate.tta else 1.0
    return candidate.quality * detail * learned * company * views * share * sure


def taught(size: Size, data: Data) -> float:
    """What a crop teaches, as a share of what a whole image does. A rule of thumb: on one core,
    crops of 192 pixels scored .25 on CamVid in 15 minutes and whole images in small .42, as they
    did in 5; on Tianchi's buildings both scored .77."""
    if size.fit != "crop" or data.object_widths is None:
        return 1.0
    reach = AROUND * data.object_widths[1]
    tall, wide = min(reach, data.height), min(reach, data.width)
    return min(1.0, size.height / tall) * min(1.0, size.width / wide)


def visible(width: float) -> float:
    """Share of an object that can be seen where it is so many pixels wide: all of it from
    SEEN_PIXELS on, and next to nothing of what is narrower than one."""
    return 1.0 if width >= SEEN_PIXELS else 1 - math.exp(-((width / HARD_PIXELS) ** 2))


def divided(pace: Pace, cores: int, measured: int, jobs: int) -> Pace:
    """A pace of one of `measured` jobs side by side as that of one of `jobs` jobs."""
    threads = max(1, cores // jobs) / max(1, cores // measured)
    share = threads**-THREADS
    return replace(
        pace, step_s=pace.step_s * share, first_step_s=pace.first_step_s * share,
        evaluate_s=pace.evaluate_s * share, predict_s=pace.predict_s * share,
    )  # fmt: skip


def scaled(pace: Pace, measured: Size, size: Size, tta: bool = True) -> Pace:
    """A pace, measured with one flipped view, at another size, and without that view.

    What a network computes grows with the pixels that it sees. The view takes a forward pass; that
    is an eighth to a third of a step of as many pixels, however the measurement may stray. What
    else an image takes at prediction, to be brought to its own size and counted, stays.
    """
    training = size.pixels / measured.pixels
    predicting = size.predicted / measured.predicted
    tiles = measured.predicted / measured.pixels  # of an image, where a step has one of them
    step = pace.step_s / pace.batch_size * tiles
    forward = min(max(pace.predict_s - pace.evaluate_s, step / 8), step / 3)
    forward = min(forward, pace.evaluate_s, pace.predict_s / 2)
    evaluate = pace.evaluate_s - forward + forward * predicting
    predict = pace.predict_s - 2 * forward + (2 if tta else 1) * forward * predicting
    return replace(
        pace, step_s=pace.step_s * training, first_step_s=pace.first_step_s * training,
        evaluate_s=evaluate, predict_s=predict, memory=int(pace.memory * max(1.0, training)),
    )  # fmt: skip
