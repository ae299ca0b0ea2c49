"""Sweeps: the space, what a trial reports, what is left; and, marked `ray`, the real thing."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distseg.cli import main
from distseg.config.load import load_config, parse_config
from distseg.config.schema import Config
from distseg.data.prepare import prepare
from distseg.jobs.hardware import Slot
from distseg.jobs.job import RUN_MARK, find_processes
from distseg.records.errors import UserError
from distseg.records.files import (
    append_line,
    mark_done,
    read_lines,
    write_json,
)
from distseg.tune.search import _resources, make_sampler, shared_config, slot_here
from distseg.tune.space import (
    grid,
    longest_epochs,
    space_mistakes,
    suggest,
    with_setting,
)
from distseg.tune.table import SweepFolder, Trial, best_trial, write_results
from distseg.tune.trial import TrialFailed, run_trial
from tests.jobs.driver import worker_command
from tests.tiny import Found, wait_until

LR, NAME = "stages.0.optimizer.lr", "stages.0.optimizer.name"
MOMENTUM = "stages.0.optimizer.options.momentum"
SPACE: dict[str, Any] = {
    LR: {"loguniform": [1e-4, 1e-1]},
    NAME: {"choice": ["adamw", "sgd"]},
    MOMENTUM: {"quniform": [0.0, 0.9, 0.45], "when": {NAME: "sgd"}},
    "members.a.decoder.filters": {"randint": [2, 4]},
}


def sweep_config(space: dict[str, Any] = SPACE, epochs: int = 2, **tune: Any) -> Config:
    """A member of a few hundred weights on tiny images, and a sweep over `space`."""
    tree = {
        "name": "swept",
        "data": {
            "format": "synthetic",
            "synthetic": {"num_train": 64, "num_test": 2, "height": 32, "width": 32, "empty": 0.0},
            "folds": {"num": 2},
        },
        "input": {"height": 32, "width": 32, "channels": 1},
        "metric": "dice",
        "members": {
            "a": {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2}}
        },
        "stages": [
            {
                "loss": {"bce": 1.0, "dice": 1.0},
                "optimizer": {"lr": 0.01, "weight_decay": 0.0},
                "schedule": {"epochs_per_cycle": epochs},
            }
        ],
        "train": {"batch_size": 4},
        "compute": {"precision": "fp32", "cpu_threads": 1, "workers": 0},
        "tune": {"space": space, **tune},
    }
    return parse_config(tree, "swept")


# -- the space ------------------------------------------------------------------------------------


def drawn(config: Config, number: int) -> list[dict[str, Any]]:
    """The first settings of a search that is told nothing."""
    optuna = pytest.importorskip("optuna")
    assert config.tune is not None
    study, space = optuna.create_study(sampler=make_sampler(config.tune)), config.tune.space
    return [suggest(space, study.ask()) for _ in range(number)]


def test_a_random_search_draws_all_of_the_space() -> None:
    config = sweep_config(search="random", seed=3)
    settings = drawn(config, 60)
    assert settings == drawn(config, 60)
    for setting in settings:
        assert 1e-4 <= setting[LR] <= 1e-1
        assert setting["members.a.decoder.filters"] in (2, 3, 4)
        assert (MOMENTUM in setting) == (setting[NAME] == "sgd")
        assert setting.get(MOMENTUM, 0.0) in (0.0, 0.45, 0.9)
    assert {setting.get(MOMENTUM) for setting in settings} == {None, 0.0, 0.45, 0.9}
    below = sum(setting[LR] < math.sqrt(1e-5) for setting in settings)
    assert 18 <= below <= 42  # half of them, in logarithms


def test_optuna_draws_from_the_same_space() -> None:
    optuna = pytest.importorskip("optuna")
    tune, study = sweep_config().tune, optuna.create_study()
    assert tune is not None
    for _ in range(20):
        trial = study.ask()
        setting = suggest(tune.space, trial)
        assert setting == trial.params
        assert (MOMENTUM in setting) == (setting[NAME] == "sgd")


def test_a_grid_has_every_combination_once() -> None:
    config = sweep_config({k: v for k, v in SPACE.items() if k != LR}, search="grid")
    assert config.tune is not None
    settings = grid(config.tune.space)
    assert len(settings) == (1 + 3) * 3
    assert len({tuple(s.items()) for s in settings}) == len(settings)


def test_a_setting_makes_a_complete_config() -> None:
    config = sweep_config()
    own = with_setting(config, {LR: 0.5, MOMENTUM: 0.9, NAME: "sgd"})
    assert own.stages[0].optimizer.lr == 0.5
    assert own.stages[0].optimizer.options == {"momentum": 0.9}
    assert own.tune is None
    assert config.stages[0].optimizer.lr == 0.01


def test_the_space_is_checked_with_what_a_key_depends_on() -> None:
    """PlainUnet is valid with encoder none only, and the other way round."""
    both = {
        "members.a.arch": {"choice": ["PlainUnet", "Unet"]},
        "members.a.encoder": {"choice": ["resnet18"], "when": {"members.a.arch": "Unet"}},
        "members.a.decoder": {"choice": [{}], "when": {"members.a.arch": "Unet"}},
    }
    config = sweep_config(both, epochs=3)
    assert space_mistakes(config, {}) == [] and longest_epochs(config) == 3
    (line,) = space_mistakes(sweep_config({"members.a.arch": both["members.a.arch"]}), {})
    assert line.startswith("tune.space.members.a.arch: 'Unet'") and "needs an encoder" in line


@pytest.mark.parametrize(
    "space, message",
    [
        ({"stages.0.optimizer.lrr": {"choice": [1]}}, "unknown key 'lrr'. Did you mean 'lr'?"),
        ({"stages.1.optimizer.lr": {"choice": [1]}}, "unknown item '1'"),
        ({"members.b.seed": {"choice": [1]}}, "unknown member 'b'"),
        ({"members.a.stages.0.keep": {"choice": ["last"]}}, "members.a.stages is None here"),
        ({"metric": {"choice": ["iou"]}}, "'metric' is what the trials are compared by"),
        ({"postprocess.threshold": {"uniform": [0, 1]}}, "--postprocess` searches it"),
        ({LR: {"uniform": [0.0, 1.0]}}, f"tune.space.{LR}: 0.0 is not valid"),
        ({"stages.0.loss": {"choice": [{"bce": 1}, {"lovas": 1}]}}, "lovas"),
        ({NAME: {"choice": ["adamw", 3]}}, f"tune.space.{NAME}: 3 is not valid"),
    ],
)
def test_mistakes_of_the_space(space: dict[str, Any], message: str) -> None:
    (line,) = space_mistakes(sweep_config(space), {})
    assert message in line


@pytest.mark.parametrize(
    "tune, message",
    [
        ({"space": {LR: {"choice": [1], "uniform": [0, 1]}}}, "needs one of uniform"),
        ({"space": {LR: {}}}, "needs one of uniform"),
        ({"space": {LR: {"uniform": [1, 0]}}}, "low must be less than high"),
        ({"space": {LR: {"choice": [1], "when": {NAME: "sgd"}}}}, "unknown key above it"),
        ({"space": SPACE, "members": ["c"]}, "tune.members: unknown member 'c'"),
        ({"space": SPACE, "search": "grid"}, "a grid takes choice, randint or quniform"),
        (
            {"space": {NAME: {"choice": ["sgd"]}, LR: {"choice": [1], "when": {NAME: "sdg"}}}},
            "Did you mean 'sgd'?",
        ),
    ],
)
def test_mistakes_of_the_section(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        sweep_config(**tune)
    assert message in str(error.value)


def test_only_a_sweep_needs_its_folds() -> None:
    (line,) = space_mistakes(sweep_config(SPACE, folds=[2]), {})
    assert line == "tune.folds: fold 2 does not exist; valid: 0..1"


def test_tune_needs_a_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("{name: plain, members: {a: {}}}")
    assert main(["tune", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "tune: this key is required" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -- a trial, with real processes as training -----------------------------------------------------


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    """A prepared sweep; its trials are scripted by `script` below."""
    sweep = SweepFolder(tmp_path / "sweep")
    sweep.folder.mkdir()
    config = sweep_config(folds=[0, 1])
    tree = config.model_dump(mode="json")
    tree["data"]["cache_dir"] = str(tmp_path / "cache")
    sweep.run.config.write_text(yaml.safe_dump(tree, sort_keys=False))
    prepare(shared_config(sweep), sweep.run)
    return sweep


def start(
    sweep: SweepFolder, report: Callable[[dict[str, Any]], None], **script: list[str]
) -> None:
    run = sweep.trial("t1")
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / "script.json", script)
    config, slot = shared_config(sweep), Slot(0, (), 1, 1)
    run_trial(config, sweep, "t1", {LR: 0.1}, slot, report, worker_command(run))


def test_a_trial_reports_the_running_mean(sweep: SweepFolder) -> None:
    """The second fold was begun before: two epochs are there, one of them without a score."""
    run = sweep.trial("t1")
    seen: list[dict[str, Any]] = []
    for epoch, score in enumerate([0.2, None, 0.6]):
        append_line(run.member(0, "a", 0).metrics, {"epoch": epoch, "score": score})
    mark_done(run.member(0, "a", 0).done, {"score": 0.7, "epochs": 3})
    start(sweep, seen.append)
    assert [(r["epoch"], r["finished"]) for r in seen[:-1]] == [(1, False), (3, False), (4, False)]
    assert [r["score"] for r in seen[:-1]] == pytest.approx([0.2, 0.6, (0.7 + 0.5) / 2])
    assert seen[-1] == {"score": pytest.approx(0.6), "epoch": 4, "finished": True}
    own = load_config(run.config)
    assert own.stages[0].optimizer.lr == 0.1
    assert run.folds.read_bytes() == sweep.run.folds.read_bytes()
    assert run.truth.read_bytes() == sweep.run.truth.read_bytes()


def test_a_finished_trial_is_not_trained_again(sweep: SweepFolder) -> None:
    run = sweep.trial("t1")
    seen: list[dict[str, Any]] = []
    for fold, score in enumerate([0.5, 0.7]):
        mark_done(run.member(0, "a", fold).done, {"score": score, "epochs": 2})
    start(sweep, seen.append)
    assert seen == [{"score": pytest.approx(0.6), "epoch": 4, "finished": True}]
    assert not run.ledger.is_file()


def test_a_trial_whose_training_fails(sweep: SweepFolder) -> None:
    with pytest.raises(TrialFailed, match="non_finite: it is fail:non_finite"):
        start(sweep, lambda record: None, a0=["fail:non_finite"] * 9)


def test_a_report_that_raises_ends_deaf_training(sweep: SweepFolder) -> None:
    """As Ray ends a trial: SystemExit out of tune.report."""
    run = sweep.trial("t1")

    def report(record: dict[str, Any]) -> None:
        wait_until((run.member(0, "a", 0).folder / "ready").exists, "the member trains")
        raise SystemExit(0)

    append_line(run.member(0, "a", 0).metrics, {"epoch": 0, "score": 0.5})
    with pytest.raises(SystemExit):
        start(sweep, report, a0=["sleep"])
    assert find_processes(RUN_MARK, str(run.folder)) == []
    assert not run.member(0, "a", 0).done.exists()  # it was ended, not waited for


# -- what is left ---------------------------------------------------------------------------------


def test_the_best_is_a_finished_trial() -> None:
    stopped = Trial("s", {}, "stopped", 0.9, 1, 1.0)
    finished = [Trial(str(n), {}, "finished", n / 10, 3, 1.0) for n in (3, 5, 4)]
    failed = Trial("f", {}, "failed", None, 0, 1.0, "a hole")
    assert best_trial([stopped, *finished, failed]) is finished[1]
    assert best_trial([stopped, failed]) is stopped
    assert best_trial([failed]) is None


@pytest.mark.parametrize("number", [6, 12])  # with 11 scores: which keys matter is drawn, too
def test_the_results_are_written(tmp_path: Path, number: int) -> None:
    pytest.importorskip("matplotlib")
    space = {**SPACE, "augment": {"choice": [[], [{"hflip": {"p": 0.5}}]]}}
    config, sweep = sweep_config(space, search="random"), SweepFolder(tmp_path)
    settings = drawn(config, number)
    trials = [
        Trial(f"t{i}", setting, "finished", i / 10, 2, 1.5) for i, setting in enumerate(settings)
    ]
    trials[5] = Trial("t5", settings[5], "failed", None, 0, 0.1, "no")
    winner = trials[4 if number == 6 else 11]
    assert write_results(config, sweep, trials) is winner
    best = load_config(sweep.best)
    assert best == with_setting(config, winner.setting)
    with sweep.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"t{i}" for i in range(number)]
    assert float(rows[4][LR]) == trials[4].setting[LR]
    assert rows[5]["score"] == "" and rows[5]["error"] == "no"
    assert sweep.picture.read_bytes().startswith(b"\x89PNG")


# -- real Ray, real training ----------------------------------------------------------------------

# Of `sweep_config(epochs=4)`, measured at 13 rates from 1e-4 to 1, three a decade: dice .79 at
# .01, .835 at .0215, .833 at .046, .71 at .1, and less on both sides.
BEST_LR = 0.03

DEAF = """
import os, signal
if "ACCELERATE_DYNAMO_BACKEND" in os.environ:  # a rank
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""


def tune_command(config: Config, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return [sys.executable, "-m", "distseg", "tune", str(path), "--out", str(folder / "out")]


def deaf_environment(folder: Path) -> dict[str, str]:
    """Ranks that start with it never see a SIGTERM."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DEAF)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def at_work(found: Found, driver: subprocess.Popen[bytes]) -> Found:
    """What was found while the sweep goes on."""
    assert driver.poll() is None, "the sweep ended too early"
    return found


def starts(sweep: SweepFolder) -> dict[str, int]:
    """Jobs started by trial."""
    trials = sorted((sweep.folder / "trials").iterdir())
    events = {trial.name: read_lines(sweep.trial(trial.name).ledger) for trial in trials}
    return {name: sum(e["event"] == "job_started" for e in own) for name, own in events.items()}


@pytest.mark.ray
def test_a_trial_uses_the_gpus_that_ray_gives_it() -> None:
    """Ray takes our word that there are GPUs; nothing runs on them."""
    import ray

    compute = sweep_config().compute.model_copy(update={"cpu_threads": None})
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False)
    try:
        assert _resources(compute) == {"CPU": 2, "GPU": 1.0}
        shared = compute.model_copy(update={"gpus_per_job": 0.25})
        assert _resources(shared) == {"CPU": 1, "GPU": 0.25}
        both, half, none = (
            ray.get(ray.remote(num_gpus=number)(slot_here).remote(compute, 4))
            for number in (2, 0.5, 0)
        )
    finally:
        ray.shutdown()
    assert both == Slot(0, ("0", "1"), 2, 2)
    assert half.devices in [("0",), ("1",)] and (half.processes, half.threads) == (1, 4)
    assert none == Slot(0, (), 1, 4)


@pytest.mark.ray
def test_the_best_learning_rate_is_found(tmp_path: Path) -> None:
    """Optuna and ASHA over four decades; then what best.yaml is for."""
    config = sweep_config(
        {LR: {"loguniform": [1e-4, 1.0]}}, epochs=4, scheduler="asha", grace_epochs=2,
        num_trials=14,
    )  # fmt: skip
    assert subprocess.run(tune_command(config, tmp_path / "s"), check=False).returncode == 0
    sweep = SweepFolder(tmp_path / "s" / "out")
    rows = list(csv.DictReader(sweep.table.open(newline="")))
    assert len(rows) == 14
    assert {row["status"] for row in rows} == {"finished", "stopped"}
    best = load_config(sweep.best)
    assert BEST_LR / 2 <= best.stages[0].optimizer.lr <= BEST_LR * 2
    assert (
        best.model_dump()
        == config.model_copy(update={"tune": None, "stages": best.stages}).model_dump()
    )
    assert len(list((sweep.folder / "cache").glob("*.key"))) == 1  # one cache for all trials
    assert list(sweep.ray.glob("sweep/*/events.out.tfevents*"))
    run = [sys.executable, "-m", "distseg", "run", str(sweep.best), "--out", str(tmp_path / "run")]
    assert subprocess.run(run, check=False).returncode == 0
    assert (tmp_path / "run" / "report.json").is_file()


@pytest.mark.ray
def test_a_killed_sweep_goes_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """kill -9 of the driver while the second of three trials trains, which is deaf to SIGTERM."""
    space, epochs = {name: SPACE[name] for name in (NAME, MOMENTUM)}, 240
    config = sweep_config(space, epochs=epochs, search="random", num_trials=3, seed=1)
    command = tune_command(config, tmp_path / "s")
    sweep, environment = SweepFolder(tmp_path / "s" / "out"), deaf_environment(tmp_path / "deaf")
    driver = subprocess.Popen(command, env=environment)
    request.addfinalizer(driver.kill)

    def second_trains() -> list[Path]:
        done = list(sweep.folder.glob("trials/*/round_0/members/*/DONE"))
        begun = list(sweep.folder.glob("trials/*/round_0/members/*/metrics.jsonl"))
        return begun if len(done) == 1 and len(begun) == 2 else []

    wait_until(lambda: at_work(second_trains(), driver), "the second trial trains")
    first, second = starts(sweep), find_trials_at_work(sweep)
    time.sleep(3)  # Tune notes the end of the first trial within two seconds
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not find_trials_at_work(sweep), "no deaf rank outlives the driver")
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    after = starts(sweep)
    assert set(first) <= set(after) and len(after) == 3
    assert after == {name: 2 if name in second else 1 for name in after}
    rows = list(csv.DictReader(sweep.table.open(newline="")))
    assert {row["id"] for row in rows} == set(after)
    assert [row["status"] for row in rows] == ["finished"] * 3
    # Each setting was drawn, and a condition held: also by the search that was restored.
    assert all((row[MOMENTUM] != "") == (row[NAME] == "sgd") for row in rows)
    resumed = sweep.trial(second[0]).member(0, "a", 0)
    assert [row["epoch"] for row in read_lines(resumed.metrics)] == list(range(epochs))


def find_trials_at_work(sweep: SweepFolder) -> list[str]:
    """Trials that have processes."""
    trials = [path.name for path in (sweep.folder / "trials").iterdir()]
    return [t for t in trials if find_processes(RUN_MARK, str(sweep.trial(t).folder))]


@pytest.mark.ray
def test_a_stopped_trial_leaves_no_process(tmp_path: Path) -> None:
    """ASHA stops the second of three trials after 10 epochs of 5,000: it learns nothing. Its rank
    is deaf to SIGTERM."""
    good = sweep_config(epochs=12).stages[0].model_dump(mode="json")
    bad = {**good, "optimizer": {"lr": 1e-9}, "schedule": {"epochs_per_cycle": 5000}}
    config = sweep_config(
        {"stages.0": {"choice": [good, bad, {**good, "optimizer": {"lr": 0.02}}]}},
        search="grid", scheduler="asha", grace_epochs=10, reduction_factor=2.0,
    )  # fmt: skip
    command, sweep = tune_command(config, tmp_path / "s"), SweepFolder(tmp_path / "s" / "out")
    driver = subprocess.Popen(command, env=deaf_environment(tmp_path / "deaf"))

    def reported() -> list[str]:
        trials = [path.parent.name for path in sweep.folder.glob("trials/*/config.yaml")]
        bad = [t for t in trials if "e-09" in sweep.trial(t).config.read_text()]
        return [t for t in bad if len(read_lines(sweep.trial(t).member(0, "a", 0).metrics)) >= 10]

    try:
        name = wait_until(lambda: at_work(reported(), driver), "the bad trial has learned")[0]
        folder = str(sweep.trial(name).folder)
        wait_until(lambda: not find_processes(RUN_MARK, folder), "the stopped trial has ended")
        assert driver.poll() is None  # the third trial is still to come
        assert driver.wait(timeout=600) == 0
    finally:
        driver.kill()
    rows = {row["id"]: row for row in csv.DictReader(sweep.table.open(newline=""))}
    assert len(rows) == 3
    assert rows[name]["status"] == "stopped"
    assert 10 <= int(rows[name]["epochs"]) < 100
