"""How long a run still takes: the arithmetic, on members whose files are written by hand."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from distseg.config.load import load_config, parse_config
from distseg.config.training import weight_of_last
from distseg.jobs.hardware import Gpu, Slot, make_slots, num_cores, visible_gpus
from distseg.records.files import append_line, mark_done, read_lines, write_json
from distseg.records.manifest import Manifest, Sample
from distseg.records.paces import Pace as MachinePace
from distseg.records.paces import write_paces
from distseg.records.paths import Run
from distseg.run import remaining as remaining_module
from distseg.run.forecast import (
    ENSEMBLE_S,
    ENSEMBLE_S_PER_VALUE,
    PREDICTION_START,
    REPORT_S,
    makespan,
)
from distseg.run.measure import data_size
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.pace import pace_key
from distseg.run.remaining import JOB_START_S, Remaining, _gpus, running_predictions
from distseg.run.status import status_text
from distseg.run.submission import prediction_jobs
from distseg.run.work import num_snapshots
from tests.jobs.driver import scripted

IMAGES, TEST = 20, 30
PREDICTED_START_S = PREDICTION_START * JOB_START_S


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
    starts = 4 * JOB_START_S + PREDICTED_START_S  # of the members and of the test prediction
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


def test_members_in_a_row_begin_as_those_did_that_were_not_the_first_of_their_process(
    run: Run,
) -> None:
    tree = {**yaml.safe_load(run.config.read_text()), "compute": {"members_per_job": 4}}
    config = parse_config(tree, "row")
    for fold in (0, 1):
        epochs(run, "a", fold, 10, seconds=5.0, evaluation=1.0)
    even = Remaining(config, run, 1).seconds(0, statuses(run))
    for fold, beyond in ((0, 50.0), (1, 2.0)):
        path = run.member(0, "a", fold).metrics
        rows = read_lines(path)
        rows[0] |= {"seconds": 5.0 + beyond, "epoch_seconds": 6.0 + beyond}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    left = Remaining(config, run, 1).seconds(0, statuses(run))
    assert left and even and left - even == pytest.approx(2 * 2.0)  # two members begin yet


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
    known = (
        3 * 200 + PREDICTION_START * 40 + ENSEMBLE_S + REPORT_S
    )  # and next to nothing for so few pixels
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
    remaining._learn(statuses(run), 1)
    assert remaining.shown["a"].epoch == pytest.approx(6.0 / cost)


def test_epochs_of_a_stage_at_a_smaller_size_count_by_its_pixels(run: Run) -> None:
    """Eight epochs at a quarter of the pixels, and two at the input's size."""
    tree = yaml.safe_load(run.config.read_text())
    tree["input"] = {**tree.get("input", {}), "height": 64, "width": 64, "fit": "resize"}
    last = {"schedule": {"epochs_per_cycle": 2}}
    tree["stages"] = [{"input_size": [32, 32], "schedule": {"epochs_per_cycle": 8}}, last]
    config = parse_config(tree, "small")
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    remaining = Remaining(config, run, 1)
    running = member_status(config, run, 0, "a", 0)
    remaining.seconds(0, [running])
    assert remaining.shown["a"].epoch == pytest.approx(6.0 / 0.25)
    left = 4 * 6.0 + 2 * 24.0 + remaining.shown["a"].out_of_fold
    assert remaining._training(0, [running], JOB_START_S) == pytest.approx(left + JOB_START_S)
    # early stopping has ended the first stage after three: the fourth is of the second one
    path = run.member(0, "a", 0).metrics
    rows = read_lines(path)
    rows[3] |= {"stage": 1, "epochs_left_out": 5}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stopped = member_status(config, run, 0, "a", 0)
    remaining._learn([stopped], 0)
    assert remaining.shown["a"].epoch == pytest.approx(4 * 6.0 / (3 * 0.25 + 1.0))
    rows[3] |= {"stage": ["damaged"]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert member_status(config, run, 0, "a", 0).stages == (0, 0, 0, 0)


def test_what_the_last_epochs_take() -> None:
    weights = [0.25, 0.25, 1.0, 1.0]
    assert [weight_of_last(weights, n) for n in (0, 1, 2.5, 3, 4, 9)] == [
        0.0, 1.0, 2.125, 2.25, 2.5, 2.5,
    ]  # fmt: skip


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


def begin(run: Run, label: str, ago: float) -> None:
    """A line of the ledger: a job without members has started some seconds ago."""
    line = {"event": "job_started", "time": time.time() - ago, "job": label, "members": []}
    append_line(run.ledger, {**line, "round": 0})


def test_the_labels_of_predictions_are_understood(run: Run) -> None:
    slots = [Slot(0, (), 1, 1), Slot(1, (), 2, 1)]
    labels = [job.label for number in (None, 2) for job in prediction_jobs(run, slots, number)[0]]
    for label in (*labels, "teach-round-1", "track"):
        begin(run, label, 1.0)
    found = [(one.kind, one.round) for one in running_predictions(run)]
    assert found == [("predict-test", None)] * 2 + [("predict-test", 2)] * 2 + [("teach", 1)]
    append_line(run.ledger, {"event": "job_done", "job": "teach-round-1", "time": time.time()})
    assert len(running_predictions(run)) == 4
    append_line(run.ledger, {"event": "run_started", "time": time.time()})
    assert running_predictions(run) == []


def test_the_test_prediction_counts_down_to_the_report(run: Run) -> None:
    """By the members' pace until its own processes have shown theirs."""
    config = load_config(run.config)
    for name in "ab":
        epochs(run, name, 0, 10, seconds=5.0, evaluation=100.0)
    remaining = Remaining(config, run, 2)
    assert remaining.seconds_of_prediction() is None, "no such job runs"
    begin(run, "predict-test-0", ago=3.0)
    left, whole = remaining.seconds_of_prediction(), remaining.predict_s(0)
    assert whole > 100
    assert left == pytest.approx(PREDICTED_START_S + whole - 3.0 + REPORT_S, abs=0.5)
    position = {"phase": "predict", "done": 20, "total": 80, "seconds": 9, "memory": 1, "gpu": None}
    write_json(run.predict_progress(0), {**position, "written": 1.0})  # of an earlier start
    assert remaining.seconds_of_prediction() == pytest.approx(left, abs=0.5)
    write_json(run.predict_progress(0), {**position, "written": time.time()})
    write_json(run.predict_progress(1), {**position, "seconds": 11, "written": time.time()})
    slower = pytest.approx(33 + REPORT_S, abs=0.5)
    assert remaining.seconds_of_prediction() == slower
    for share in (0, 1):  # the first that is done takes its file away
        run.predict_progress(share).unlink()
    assert remaining.seconds_of_prediction() == slower


def test_what_follows_a_rounds_predictions_counts(run: Run) -> None:
    for name in "ab":
        epochs(run, name, 0, 10, seconds=5.0, evaluation=1.0)
    tree = {"name": "two", "members": {"a": {}, "b": {}},
            "rounds": [{"kind": "supervised"}, {"kind": "pseudo_label"}]}  # fmt: skip
    config, every = parse_config(tree, "two"), parse_config(
        {**tree, "predict": {"every_round": True}}, "two"
    )  # fmt: skip
    begin(run, "predict-test-round-0-0", ago=0.0)
    remaining = Remaining(every, run, 1)
    left = remaining.seconds_of_prediction()
    training = sum(s.epochs for s in statuses(run)) * 6.0
    assert left and training < left < 2 * training
    append_line(run.ledger, {"event": "job_done", "job": "predict-test-round-0-0", "time": 1.0})
    begin(run, "teach-round-1", ago=0.0)
    position = {"phase": "predict", "done": 20, "total": 80, "seconds": 9, "memory": 1, "gpu": None}
    write_json(run.teach_progress, {**position, "written": time.time() + 1})
    last = Remaining(config, run, 1)
    left = last.seconds_of_prediction()
    assert left == pytest.approx(
        27 + last._training(1, last._statuses(1), JOB_START_S)
        + last._ensemble(1) + PREDICTED_START_S + last.predict_s(1) + REPORT_S, abs=0.5
    )  # fmt: skip
    assert left and left > 27 + training, "all members of round 1"
    # the labels that teachers give are waited for before round 1 trains, and not once more then
    append_line(run.ledger, {"event": "job_done", "job": "teach-round-1", "time": 1.0})
    before, within = last.seconds(0, statuses(run)), last.seconds(1, last._statuses(1))
    after = last._training(0, statuses(run), JOB_START_S) + last._ensemble(0)
    assert before and within
    assert before - within == pytest.approx(after + PREDICTED_START_S + last.predict_s(1), abs=0.1)


def test_until_a_pace_is_shown_it_is_that_of_the_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `init` and `plan --measure` have found it, and earlier runs."""
    monkeypatch.delenv("DISTSEG_PACES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = load_config(run.config)
    assert Remaining(config, run, 1).seconds(0, statuses(run)) is None
    gpus, size = visible_gpus(), data_size(config, run)
    slot = make_slots(config.compute, gpus, num_cores())[0]
    pace = MachinePace(batch_size=1, step_s=1.0, first_step_s=1.0, spread=0.0, evaluate_s=0.0,
                   predict_s=0.0, save_s=0.0, start_s=0.0, prepare_s=0.0, memory=1,
                   saved=1)  # fmt: skip
    write_paces({pace_key(config, name, size, slot, gpus): pace for name in "ab"})
    left = Remaining(config, run, 1).seconds(0, statuses(run))
    steps = sum(-(-10 * s.epochs // config.batch_size_of(s.name)) for s in statuses(run))
    assert left and steps < left < steps + 10, "a second a step, the ensemble and the report"
    epochs(run, "a", 0, 4, seconds=500.0, evaluation=0.0)
    shown = Remaining(config, run, 1).seconds(0, statuses(run))
    assert shown and shown > 16 * 500, "what the run has shown comes first"


def test_a_job_starts_as_the_first_was_seen_to_start(run: Run) -> None:
    line = {"event": "job_started", "time": 1000.0, "job": "a_fold0", "round": 0}
    append_line(run.ledger, {**line, "members": ["a_fold0", "a_fold1"]})
    run.member(0, "a", 0).folder.mkdir(parents=True)
    position = {"phase": "train", "done": 10, "total": 40, "seconds": 5, "memory": 1, "gpu": None}
    write_json(run.member(0, "a", 0).progress, {**position, "written": 1025.0})
    remaining = Remaining(load_config(run.config), run, 1)
    assert remaining.seconds(0, statuses(run))
    assert remaining.start == 20.0
    run.member(0, "a", 0).progress.unlink()
    remaining.seconds(0, statuses(run))
    assert remaining.start == 20.0, "it is not forgotten"


def status(run: Run) -> str:
    """What `status` says of a run whose driver is alive."""
    with FileLock(run.lock):
        return status_text(run.folder)


def minutes_left(run: Run) -> float:
    """What `status` says is left, in minutes."""
    found = re.search(r"the run ends in about (?:(\d+)m)?(\d+)s", status(run))
    assert found
    return int(found[1] or 0) + int(found[2]) / 60


def test_status_tells_when_the_test_prediction_ends(run: Run) -> None:
    """Members that are not done do not train any more: the run was to end early."""
    for name in "ab":
        epochs(run, name, 0, 10, seconds=500.0, evaluation=1.0)
        mark_done(run.member(0, name, 0).done, {"score": 0.5, "oof_seconds": 10.0})
        epochs(run, name, 1, 5, seconds=500.0, evaluation=1.0)
    begin(run, "predict-test-0", ago=0.0)
    position = {"phase": "predict", "done": 20, "total": 80, "seconds": 9, "memory": 1, "gpu": None}
    write_json(run.predict_progress(0), {**position, "written": time.time() + 1})
    assert "test prediction: 20 of 80 images\nthe run ends in about 2" in status(run)
    assert minutes_left(run) < 1


def test_status_counts_what_follows_the_teachers(run: Run) -> None:
    """On as many slots as have trained; a member that was left out is waited for no more."""
    tree = {"name": "two", "members": {"a": {}, "b": {}},
            "rounds": [{"kind": "supervised"}, {"kind": "pseudo_label"}]}  # fmt: skip
    run.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    for name in "ab":
        for fold in (0, 1):
            epochs(run, name, fold, 10, seconds=60.0, evaluation=0.0)
            mark_done(run.member(0, name, fold).done, {"score": 0.5, "oof_seconds": 1.0})
            line = {"event": "job_started", "time": 1.0, "job": f"{name}_fold{fold}", "round": 0}
            slot = {"slot": 2 * fold + (name == "b"), "node": "", "members": [f"{name}_fold{fold}"]}
            append_line(run.ledger, {**line, **slot})
            append_line(run.ledger, {**line, "event": "job_done"})
    begin(run, "teach-round-1", ago=0.0)
    run.round(1).mkdir()  # it keeps its log there
    position = {"phase": "predict", "done": 1, "total": 11, "seconds": 60, "memory": 1, "gpu": None}
    write_json(run.teach_progress, {**position, "written": time.time() + 1})
    assert "teachers' prediction: 1 of 11 images" in status(run)
    assert 20 <= minutes_left(run) < 22, "ten minutes of teachers, ten of members side by side"
    append_line(run.ledger, {"event": "job_done", "job": "teach-round-1", "time": 1.0})
    assert 10 <= minutes_left(run) < 12
    for name in "ab":
        for fold in (0, 1):
            left_out = {"event": "member_left_out", "round": 1, "member": f"{name}_fold{fold}"}
            append_line(run.ledger, {**left_out, "kind": "error", "message": "killed"})
    assert "the run ends" not in status(run)


def test_a_machine_without_the_gpus_tells_no_pace_and_no_error(run: Run) -> None:
    tree = {"name": "x", "members": {"a": {}, "b": {}}, "compute": {"processes_per_job": 2}}
    config = parse_config(tree, "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remaining_module, "visible_gpus", lambda: [Gpu("0", "one alone", 1)])
        _gpus.cache_clear()
        assert Remaining(config, run, 1).seconds(0, statuses(run)) is None
    _gpus.cache_clear()


def test_status_of_a_run_that_has_ended_reads_no_manifest(run: Run) -> None:
    """One that is damaged is made again by the next start."""
    epochs(run, "a", 0, 4, seconds=5.0, evaluation=1.0)
    run.truth.write_text("id,image\n\0", encoding="utf-8")
    assert "not running" in status_text(run.folder)
