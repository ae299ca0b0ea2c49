"""How long a run still takes: the arithmetic, on members whose files are written by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from distseg.config.load import load_config, parse_config
from distseg.records.files import append_line, mark_done, read_lines, write_json
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run
from distseg.run.forecast import ENSEMBLE_S, ENSEMBLE_S_PER_VALUE, REPORT_S, makespan
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.remaining import JOB_START_S, Remaining
from distseg.run.work import num_snapshots
from tests.jobs.driver import scripted

IMAGES, TEST = 20, 30


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Models a and b on two folds, ten epochs each; no job has started."""
    run = scripted(tmp_path)
    rows = [Sample(f"r{i}", "x.png", height=8, width=8, fold=i % 2) for i in range(IMAGES)]
    run.truth.parent.mkdir(parents=True)
    Manifest(rows).write(run.truth)
    run.data.mkdir()
    Manifest([Sample(f"t{i}", "x.png", height=8, width=8) for i in range(TEST)]).write(
        run.data / "test.csv"
    )
    return run


def epochs(run: Run, name: str, fold: int, number: int, seconds: float, evaluation: float) -> None:
    """Rows of metrics.jsonl: epochs of `seconds`, and evaluations beside them."""
    for epoch in range(number):
        row = {"epoch": epoch, "epochs": 10, "loss": 1.0, "score": 0.5, "seconds": seconds}
        append_line(run.member(0, name, fold).metrics,
                    {**row, "epoch_seconds": seconds + evaluation})  # fmt: skip


def statuses(run: Run) -> list[MemberStatus]:
    config = load_config(run.config)
    return [member_status(config, run, 0, name, fold) for name in "ab" for fold in (0, 1)]


def test_slots_are_filled_longest_first() -> None:
    assert makespan([], 2) == 0
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([2, 2, 3], 1) == 7


def test_nothing_is_said_before_anything_is_known(run: Run) -> None:
    assert Remaining(load_config(run.config), run, 1).seconds(0, statuses(run)) is None


def test_all_that_is_left_counts(run: Run) -> None:
    """Training, out-of-fold prediction by the evaluations' pace, test prediction, job starts."""
    config = load_config(run.config)
    assert config.epochs_of("a", 0) == 10 and config.compute.members_per_job == 1
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    remaining = Remaining(config, run, 1)
    left = remaining.seconds(0, statuses(run))
    passes = remaining.passes + 1  # and one without views
    snapshots = remaining.predict_s(0) / (TEST * remaining.passes * 4 * (1.0 / (IMAGES // 2)))
    training = (6 + 3 * 10) * 6.0
    out_of_fold = 4 * 1.0 * snapshots * passes
    starts = 4 * JOB_START_S + JOB_START_S  # of the members and of the test prediction
    ensemble = ENSEMBLE_S + IMAGES * 64 * 2 * (snapshots + 1) * ENSEMBLE_S_PER_VALUE
    known = training + out_of_fold + starts + ensemble + remaining.predict_s(0) + REPORT_S
    assert left == pytest.approx(known)


def test_the_running_epoch_counts_by_its_steps(run: Run) -> None:
    config, paths = load_config(run.config), run.member(0, "a", 0)
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    before = Remaining(config, run, 1).seconds(0, statuses(run))
    written = time.time() + 5  # younger than the last row
    position = {"phase": "train", "done": 30, "total": 40, "seconds": 1, "memory": 1, "gpu": None}
    write_json(paths.progress, {**position, "written": written})
    assert statuses(run)[0].epochs_done == 4.75
    after = Remaining(config, run, 1).seconds(0, statuses(run))
    assert before and after and before - after == pytest.approx(0.75 * 6.0 + JOB_START_S)
    write_json(paths.progress, {**position, "phase": "out of fold", "written": written})
    assert statuses(run)[0].oof_share == 0.75
    write_json(paths.progress, {**position, "written": 1.0})  # of an epoch that has ended since
    assert statuses(run)[0].epochs_done == 4


def test_the_first_epoch_is_judged_by_its_steps(run: Run) -> None:
    position = {"phase": "train", "done": 10, "total": 40, "seconds": 5, "memory": 1, "gpu": None}
    run.member(0, "a", 0).folder.mkdir(parents=True)
    write_json(run.member(0, "a", 0).progress, {**position, "written": time.time()})
    left = Remaining(load_config(run.config), run, 4).seconds(0, statuses(run))
    assert left and left > 9.75 * 20  # ten epochs of twenty seconds, less what is done
    first = {**position, "done": 1, "seconds": 0.001, "since": 1, "written": time.time()}
    write_json(run.member(0, "a", 0).progress, first)  # its clock began with this step
    assert Remaining(load_config(run.config), run, 4).seconds(0, statuses(run)) is None


def test_what_the_first_epoch_takes_beyond_the_others_is_no_pace(run: Run) -> None:
    """On a GPU it takes ten times as long: kernels are searched for, a graph is recorded."""
    config = load_config(run.config)
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    even = Remaining(config, run, 1).seconds(0, statuses(run))
    rows = read_lines(run.member(0, "a", 0).metrics)
    rows[0] |= {"seconds": 55.0, "epoch_seconds": 56.0}
    run.member(0, "a", 0).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert statuses(run)[0].first_seconds == 50.0
    left = Remaining(config, run, 1).seconds(0, statuses(run))
    assert left and even and left - even == pytest.approx(3 * 50.0)  # three members begin yet


def test_what_members_have_shown_replaces_the_guess(run: Run) -> None:
    config = load_config(run.config)
    epochs(run, "a", 0, 10, seconds=5.0, evaluation=1.0)
    mark_done(run.member(0, "a", 0).done, {"score": 0.5, "oof_seconds": 100.0})
    now = time.time()
    for event, when in (("job_started", now), ("job_done", now + 60 + 100 + 40)):
        line = {"event": event, "time": when, "job": "a_fold0", "members": ["a_fold0"]}
        append_line(run.ledger, {**line, "round": 0})
        # of members of the same names in another round, whose epochs `statuses` does not tell
        append_line(run.ledger, {**line, "round": 1, "time": when + 1000 * (event == "job_done")})
    remaining = Remaining(config, run, 1)
    left = remaining.seconds(0, statuses(run))
    assert left and left > 3 * (60 + 100 + 40)  # three members more: training, prediction, start
    known = 3 * 200 + 40 + ENSEMBLE_S + REPORT_S  # and next to nothing for so few pixels
    assert left - remaining.predict_s(0) == pytest.approx(known, abs=0.1)


def test_a_mean_teachers_epochs_cost_more_than_those_before(run: Run) -> None:
    """Where only round 0 has shown a pace, and, the other way round, where its own round has."""
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    tree = {"name": "two", "members": {"a": {}, "b": {}},
            "rounds": [{}, {"kind": "mean_teacher", "share": 0.5}]}  # fmt: skip
    config = parse_config(tree, "two")
    cost = 4 / 3 / 0.5
    remaining = Remaining(config, run, 1)
    remaining.seconds(0, statuses(run))
    assert remaining.shown["a"].epoch == pytest.approx(6.0)
    waiting = [member_status(config, run, 1, name, 0) for name in "ab"]
    trained = sum(status.epochs for status in waiting) * 6.0 * cost
    others = sum(remaining.shown["a"].out_of_fold for _ in waiting)
    assert remaining._training(1, waiting, 0.0) == pytest.approx(trained + others)
    remaining._learn(statuses(run), cost)
    assert remaining.shown["a"].epoch == pytest.approx(6.0 / cost)


def test_later_rounds_count(run: Run) -> None:
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    one = load_config(run.config)
    tree = {"name": "two", "members": {"a": {}, "b": {}},
            "rounds": [{"kind": "supervised"}, {"kind": "self_distill"}]}  # fmt: skip
    two = parse_config(tree, "two")
    first, both = (Remaining(c, run, 1).seconds(0, statuses(run)) for c in (one, two))
    assert first and both and both - first > 4 * 10 * 6.0
    members = [(name, fold) for name in "ab" for fold in (0, 1)]
    begun = [member_status(two, run, 1, *member) for member in members]
    later = Remaining(two, run, 1).seconds(1, begun)  # as a later round's view begins
    assert later and 4 * 10 * 6.0 < later < both, "round 0 has shown the pace"


def test_a_hold_out_s_images_are_those_of_one_fold(run: Run) -> None:
    """Four of twenty are held out: what they take says what a test image takes."""
    rows = [Sample(f"r{i}", "x.png", height=8, width=8, fold=0 if i < 4 else -1)
            for i in range(IMAGES)]  # fmt: skip
    Manifest(rows).write(run.truth)
    config = load_config(run.config)
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    remaining = Remaining(config, run, 1)
    remaining.seconds(0, statuses(run))
    each = remaining.shown["a"].out_of_fold / 4 / (remaining.passes + 1) * remaining.passes
    assert remaining.predict_s(0) == pytest.approx(TEST * each * 2)  # by one member of a and of b
    large = [Sample(f"t{i}", "x.png", height=32, width=16) for i in range(TEST)]
    Manifest(large).write(run.data / "test.csv")
    again = Remaining(config, run, 1)
    again.seconds(0, statuses(run))
    assert again.predict_s(0) == pytest.approx(8 * remaining.predict_s(0))


@pytest.mark.parametrize("held", [4, 10])
def test_an_evaluation_of_inner_rows_says_what_the_fold_s_take(run: Run, held: int) -> None:
    """A quarter of the train rows are watched: by their seconds an image, a fold's prediction."""
    rows = [Sample(f"r{i}", "x.png", height=8, width=8, fold=0 if i < held else -1)
            for i in range(IMAGES)]  # fmt: skip
    Manifest(rows).write(run.truth)
    tree = {"name": "two", "members": {"a": {}, "b": {}}, "train": {"inner_share": 0.25}}
    config = parse_config(tree, "two")
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    remaining = Remaining(config, run, 1)
    waiting = [member_status(config, run, 0, name, 0) for name in "ab"]
    remaining.seconds(0, waiting)
    each = 1.0 / (0.25 * (IMAGES - held))
    passes = num_snapshots(config, "a") * (remaining.passes + 1)
    assert remaining.shown["a"].out_of_fold == pytest.approx(held * each * passes)
