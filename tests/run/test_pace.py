"""Measuring: a real process that trains a few steps; and what a plan makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.config.load import dump_config, parse_config
from distseg.config.losses import LossConfig
from distseg.config.schema import Config
from distseg.jobs.hardware import Slot
from distseg.records.files import append_line, atomic_write, mark_done, read_lines
from distseg.records.manifest import Manifest, Sample
from distseg.records.paces import SAVING_SHARE, Pace, parse_pace, read_paces
from distseg.records.paths import Run
from distseg.run.forecast import member_seconds
from distseg.run.measure import DataSize, ModelSize
from distseg.run.pace import (
    RESULTS,
    known_paces,
    measure_here,
    measured_paces,
    measuring,
    pace_key,
    remember,
    shown_by,
)
from distseg.run.plan import plan_text
from distseg.run.work import work_of
from tests.tiny import tiny_tree

SIZE = DataSize(37, 5, 32, 32)
SLOT = Slot(0, (), 1, 1)
PACE = Pace(8, 0.5, 0.1, 0.01, 0.02, 0.1, 5.0, 0.001, 10**9, 10**7, 0.5)


def config_of(**changes: object) -> Config:
    return parse_config(tiny_tree(**changes), "test")


def trees() -> Config:
    """A model, its twin of another seed, and one that cannot be built."""
    tree = tiny_tree()
    tree["members"]["twin"] = {**tree["members"]["a"], "seed": 1}
    tree["members"]["wrong"] = dict(tree["members"]["a"])
    tree["members"]["wrong"]["decoder"] = {"encoder_depth": 3, "decoder_channels": [8]}
    return parse_config(tree, "test")


def test_a_measurement_trains_evaluates_and_predicts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    atomic_write(run.config, dump_config(measuring(trees(), SIZE)))
    measure_here(run, 0.0)
    lines = {line["name"]: line for line in read_lines(run.folder / RESULTS)}
    assert "UserError" in lines["wrong"]["problem"]  # and hides nothing of the others
    pace = parse_pace(lines["a"])
    assert pace is not None and pace.batch_size == 8 and 0 < pace.step_s < 60
    assert pace.evaluate_s > 0 and pace.predict_s > 0 and pace.memory > 10**7 and pace.saved > 0
    assert pace.start_s > 0 and pace.save_s > 0 and pace.prepare_s > 0
    text = plan_text(
        config_of(), Run(tmp_path / "other"), [SLOT], SIZE, {"a": ModelSize(1000, 4000)},
        {"a": pace},
    )  # fmt: skip
    assert "time: about" in text and "test prediction" in text and "GB at the highest" in text


@pytest.mark.slow
def test_a_process_of_its_own_measures_and_what_it_finds_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTSEG_PACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = trees()
    assert known_paces(config, SIZE, SLOT, []) == {}
    dice = LossConfig.model_validate({"dice": 1.0})
    stages = [*config.stages, config.stages[0].model_copy(update={"loss": dice})]
    config = config.model_copy(update={"stages": stages})
    found = measured_paces(config, SIZE, [SLOT, SLOT], [], 1.0)
    assert set(found) == {"a", "twin"}
    assert found["twin"] is found["a"]  # from another seed: measured once
    assert found["a"].step_s > 0 and found["a"].first_step_s > 0, "the losses differ"
    assert known_paces(config, SIZE, SLOT, []) == found


def test_what_is_measured_are_few_images_without_what_needs_many() -> None:
    config = config_of(data={"format": "folder", "root": "x", "strict": True})
    stages = [s.model_copy(update={"positive_share": (0.5, 0.5)}) for s in config.stages]
    config = config.model_copy(update={"stages": stages})
    small = measuring(config, DataSize(10_000, 10, 4000, 4000))
    assert small.data.limit == 4 and not small.data.strict and small.data.allow_bad
    assert small.data.folds.kind == "holdout" and small.stages[0].positive_share is None
    assert measuring(config, SIZE, ranks=4).batch_size_of("a") == 2
    assert measuring(config, SIZE).data.limit == 16


def test_the_key_holds_what_a_pace_depends_on() -> None:
    def key(size: DataSize = SIZE, slot: Slot = SLOT, **changes: object) -> str:
        return pace_key(config_of(**changes), "a", size, slot, [])

    first = key()
    assert key(name="other", seed=7, rounds=[{"kind": "supervised"}] * 2) == first
    assert key(DataSize(9000, 1, 32, 32)) == first  # how many images there are is counted apart
    assert key(DataSize(37, 5, 64, 32)) != first
    assert key(slot=Slot(0, (), 1, 2)) != first
    assert key(train={"batch_size": 4}) != first
    assert key(compute={"precision": "bf16"}) != first
    assert key(input={"height": 64, "width": 32, "channels": 1}) != first
    assert key(augment=[]) != first


def test_work_counts_what_a_config_says() -> None:
    stage = {
        "loss": {"bce": 1.0},
        "schedule": {"kind": "cosine", "cycles": 2, "epochs_per_cycle": 6},
    }
    config = config_of(
        input={"height": 64, "width": 64, "channels": 1, "fit": "resize"},
        stages=[{**stage, "input_size": [32, 32]}, {**stage, "keep": "cycles"}],
        train={"batch_size": 8, "evaluate_every": 4},
    )
    work = work_of(config, "a", images=480, val_images=10)
    # 60 updates, half of them on a quarter of the pixels
    assert work.updates == pytest.approx(60 * (0.5 * 0.25 + 0.5))
    assert (work.epochs, work.snapshots, work.val_images) == (24, 2, 10)
    assert work.evaluations == 8  # in each stage after epochs 4, 6, 8 and 12
    # auto: 20 images an epoch; 10 of 64 x 64 are twice as many pixels as 20 of 32 x 32
    train = config.train.model_copy(update={"evaluate_every": "auto"})
    config = config.model_copy(update={"train": train})
    evaluations = work_of(config, "a", images=480, val_images=10).evaluations
    assert evaluations == 3 + 6  # every 8th epoch and the ends of cycles; every second


def test_what_a_run_has_shown_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTSEG_PACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, run = config_of(compute={}), Run(tmp_path / "run")
    rows = [
        Sample(f"{i}", f"{i}.png", "file:m.png", fold=i % 2, height=32, width=32) for i in range(40)
    ]
    Manifest(rows).write(run.truth)
    Manifest(rows[:3]).write(run.data / "test.csv")
    assert shown_by(config, run) == {}
    paths = run.member(0, "a", 0)
    append_line(paths.metrics, {"epoch": 0, "images_per_s": 16.0, "seconds": 2.0,
                                "epoch_seconds": 3.0, "score": 0.5})  # fmt: skip
    mark_done(paths.done, {"snapshots": ["s.safetensors", "t.safetensors"], "oof_seconds": 6.0,
                           "files": {"s.safetensors": 1000}})  # fmt: skip
    pace = shown_by(config, run)["a"]
    assert (pace.batch_size, pace.step_s, pace.saved) == (8, 0.5, 1000)
    assert pace.first_step_s == 0.5
    assert pace.evaluate_s == pytest.approx(1 / 20)  # a second for 20 images
    assert pace.predict_s == pytest.approx(6 / 40 - 1 / 20)  # 20 images, two snapshots
    remember(config, run)
    monkeypatch.setattr("distseg.run.pace.shown_by", lambda *_: {"a": PACE})
    remember(config, run)  # what is known stays
    assert list(read_paces().values()) == [pace]


def test_what_is_remembered_adds_up_to_what_a_member_took(tmp_path: Path) -> None:
    """Two stages with one loss, at two paces, short epochs; but for what the first took more."""
    stage = {"loss": {"bce": 1.0}, "schedule": {"kind": "cosine", "epochs_per_cycle": 6}}
    config, run = config_of(stages=[stage, stage]), Run(tmp_path / "run")
    rows = [
        Sample(f"{i}", f"{i}.png", "file:m.png", fold=i % 2, height=32, width=32) for i in range(32)
    ]
    Manifest(rows).write(run.truth)
    Manifest([]).write(run.data / "test.csv")
    paths, took = run.member(0, "a", 0), 0.0
    for epoch, seconds in enumerate([9.0, 1.1, 0.9, 1.0, 3.0, 1.0, 2.0, 2.0, 1.9, 2.1, 2.0, 2.0]):
        row = {"stage": epoch // 6, "epoch": epoch, "images_per_s": 16 / seconds, "score": 0.5}
        append_line(paths.metrics, {**row, "seconds": seconds, "epoch_seconds": seconds + 0.2})
        took += (seconds if epoch else 19 / 11) + 0.2
    mark_done(paths.done, {"snapshots": ["s.safetensors"], "oof_seconds": 0.7, "files": {}})
    pace = shown_by(config, run)["a"]
    work = work_of(config, "a", images=12 * 16, val_images=16)
    seconds = member_seconds(work, pace)
    assert took + 0.7 <= seconds <= (took + 0.7) * (1 + 2 * SAVING_SHARE)
