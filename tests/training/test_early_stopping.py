"""A stage that ends where it no longer gains: what is kept, and that all who count epochs know."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.prepare import prepare
from distseg.distributed import make_accelerator
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.finished_member import is_done, outdate
from distseg.records.paths import MemberPaths, Run
from distseg.run.changes import find_changes
from distseg.run.folder import open_run
from distseg.run.member_status import member_status
from distseg.run.plan import plan
from distseg.run.remaining import Remaining
from distseg.run.status import status_text
from distseg.training.engine import DdpEngine, Update
from distseg.training.member import Member
from distseg.training.patience import Patience
from distseg.training.stage import set_up_stage
from distseg.training.train import train_member, trained_before
from tests.run.in_process import config_of, small_tree
from tests.tiny import PATIENCE_S
from tests.training.tiny_training import assert_same_bits

NO_GAIN = {"patience": 2, "min_gain": 5.0}  # no score gains as much over the first one
SIX = {"kind": "constant", "epochs_per_cycle": 6}


def tree_of(**early: Any) -> dict[str, Any]:
    """Two stages: six epochs at most, then two epochs whose share of positives slides."""
    tree = small_tree()
    tree["members"].pop("b")
    first = {"schedule": SIX, "early_stopping": {**NO_GAIN, **early}}
    second = {"schedule": {"kind": "cosine", "epochs_per_cycle": 2}, "positive_share": [0.9, 0.4]}
    tree["stages"] = [first, second]
    return tree


def trained(folder: Path, tree: dict[str, Any]) -> tuple[Config, Run, MemberPaths]:
    torch.set_num_threads(1)
    config, run = config_of(tree), Run(folder / "run")
    open_run(config, run)
    prepare(config, run)
    train_member(config, run.folder, 0, "a", 0)
    return config, run, run.member(0, "a", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run, MemberPaths]:
    return trained(tmp_path_factory.mktemp("whole"), tree_of())


def test_values_without_a_gain_are_counted() -> None:
    patience = Patience(rises=True, min_gain=0.1)
    assert [patience.observe(v) for v in (0.5, 0.6, 0.61, math.nan, 0.9)] == [0, 1, 0, 1, 0]
    again = Patience(rises=False)
    again.load({"best": 0.5, "bad": 1})
    assert [again.observe(v) for v in (0.5, 0.4)] == [2, 0]
    assert again.state() == {"best": 0.4, "bad": 0}


def test_a_stage_ends_early_and_the_next_begins(whole: tuple[Config, Run, MemberPaths]) -> None:
    config, _, paths = whole
    rows = read_lines(paths.metrics)
    assert [row["stage"] for row in rows] == [0, 0, 0, 1, 1]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["epochs"] for row in rows] == [8, 8, 5, 5, 5]
    assert [row.get("epochs_left_out") for row in rows] == [None, None, 3, 3, 3]
    assert rows[-1]["eta_s"] == 0 and rows[2]["eta_s"] > 0
    done = read_json(paths.done)
    assert (done["epochs"], done["planned_epochs"]) == (5, config.epochs_of("a")) == (5, 8)
    assert done["snapshots"] == ["stage1_epoch0002.safetensors"]
    ends = "stage 0 ends after 3 of 6 epochs: score has gained nothing over"
    assert ends in paths.log(0).read_text()


def test_who_counts_epochs_counts_those_that_there_are(
    whole: tuple[Config, Run, MemberPaths], tmp_path: Path
) -> None:
    config, first, _ = whole
    shutil.copytree(first.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    paths = run.member(0, "a", 0)
    status = member_status(config, run, 0, "a", 0)
    assert (status.epoch, status.epochs, status.state) == (5, 5, "done")
    assert "epoch 5/5" in status_text(run.folder)
    assert find_changes(config, run).changes == [] and is_done(paths)
    assert "images to train on, at most: early_stopping may end a before" in plan(config, run)

    outdate(paths.done, "predict.tta")  # predicted again, and not trained again
    before = trained_before(paths, config.epochs_of("a"))
    assert before is not None and before.total_epochs == 5
    open_run(config, run)
    train_member(config, run.folder, 0, "a", 0)
    done = read_json(paths.done)
    assert (done["epochs"], done["planned_epochs"]) == (5, 8) and is_done(paths)

    rows = paths.metrics.read_text().splitlines(keepends=True)
    paths.done.unlink()
    remaining = Remaining(config, run, 1)
    left = []
    for number in (2, 3, 5):  # epochs to come: 6, then 2, then 0
        paths.metrics.write_text("".join(rows[:number]))
        status = member_status(config, run, 0, "a", 0)
        left.append(status.epochs - status.epochs_done)
        assert remaining.seconds(0, [status]) is not None
    assert left == [6, 2, 0]


def test_the_slide_of_a_later_stage_begins_with_it(
    whole: tuple[Config, Run, MemberPaths],
) -> None:
    config, run, _ = whole
    member = Member(config, run, 0, "a", 1, make_accelerator(config, cpu=True))
    shares = []
    for first in (None, 3):
        slide = set_up_stage(member, 1, first).sampling.slide
        assert slide is not None
        shares.append([slide.at(epoch) for epoch in (3, 4)])
    assert shares == [[0.9, 0.9], [0.9, 0.4]]


@pytest.mark.parametrize("at", [5, 7, 9])
def test_stopped_around_an_early_end_changes_nothing(
    whole: tuple[Config, Run, MemberPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Two steps an epoch: in the last epoch of the first stage, at its end, and after it."""
    config, _, undisturbed = whole
    run, step, done = Run(tmp_path / "run"), DdpEngine.step, []
    open_run(config, run)
    prepare(config, run)

    def stop_after(engine: DdpEngine, clip_norm: float | None) -> Update:
        result = step(engine, clip_norm)
        done.append(result)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(DdpEngine, "step", stop_after)
        train_member(config, run.folder, 0, "a", 0)
    paths = run.member(0, "a", 0)
    assert len(done) == at and not paths.done.is_file()
    train_member(config, run.folder, 0, "a", 0)
    assert_same_bits(undisturbed, paths)
    assert [row["epochs"] for row in read_lines(paths.metrics)] == [8, 8, 5, 5, 5]


def test_the_best_snapshot_stays_where_the_last_stage_ends_early(tmp_path: Path) -> None:
    tree = tree_of()
    tree["stages"] = [{"schedule": SIX, "keep": "best", "early_stopping": {**NO_GAIN}}]
    config, run, paths = trained(tmp_path, tree)
    rows, done = read_lines(paths.metrics), read_json(paths.done)
    best = max(range(3), key=lambda epoch: rows[epoch]["score"])
    assert len(rows) == 3 and done["snapshots"] == [f"stage0_epoch{best + 1:04d}.safetensors"]
    assert done["epochs"] == 3 and not paths.state.exists() and config.flag(0) == "indirect"
    longer = config_of({**tree, "stages": [{**tree["stages"][0], "schedule": {
        "kind": "constant", "epochs_per_cycle": 9}}]})  # fmt: skip
    with pytest.raises(UserError, match="what a has trained would have been otherwise"):
        open_run(longer, run)
    other = config_of({**tree, "train": {**tree["train"], "evaluate_every": 2}})
    with pytest.raises(UserError, match="follows the score of each evaluation"):
        open_run(other, run)


def test_the_train_loss_is_watched_without_a_word_on_the_score(tmp_path: Path) -> None:
    tree = tree_of()
    tree["stages"] = [{"schedule": SIX, "early_stopping": {**NO_GAIN, "metric": "loss"}}]
    config, _, paths = trained(tmp_path, tree)
    assert read_json(paths.done)["epochs"] == 3 and config.flag(0) == "honest"
    assert "stage 0 ends after 3 of 6 epochs: loss has gained" in paths.log(0).read_text()


def test_what_has_no_value_is_not_followed_and_the_log_says_so(tmp_path: Path) -> None:
    """No row that watches the member is without an object. Evaluations are rare, too: after the
    fourth of six epochs, and the last."""
    tree = tree_of()
    tree["data"]["synthetic"]["empty"] = 0.0
    schedule = {"kind": "plateau", "metric": "negatives", "epochs_per_cycle": 6, "patience": 0}
    tree["stages"] = [
        {"schedule": schedule, "early_stopping": {"patience": 3, "metric": "negatives"}}
    ]
    tree["train"] = {**tree["train"], "evaluate_every": "auto"}
    _, _, paths = trained(tmp_path, tree)
    rows, log = read_lines(paths.metrics), paths.log(0).read_text()
    assert [row["epoch"] for row in rows if "score" in row] == [3, 5]
    assert {row.get("negatives") for row in rows} == {None}
    assert len({row["lr"] for row in rows}) == 1 and read_json(paths.done)["epochs"] == 6
    for key in ("schedule", "early_stopping"):
        said = f"a, fold 0: {key}.metric: negatives has no value on the 12 rows that watch it"
        assert log.count(said) == 1
    rare = "early_stopping.patience: 3 evaluations of 6 epochs, of which 2 are evaluated"
    assert log.count(rare) == 1 and "schedule.patience" not in log


def test_the_loss_of_the_watched_rows_can_be_watched(tmp_path: Path) -> None:
    """It is less that is better; that it was the fold's is said."""
    tree = tree_of()
    early = {"patience": 1, "metric": "val_loss"}
    tree["stages"] = [{"schedule": SIX, "optimizer": {"lr": 1e-2}, "early_stopping": early}]
    config, _, paths = trained(tmp_path, tree)
    values = [row["val_loss"] for row in read_lines(paths.metrics)]
    best = [min(values[:place]) for place in range(1, len(values))]
    gains = [value < least for value, least in zip(values[1:], best, strict=True)]
    assert gains[:-1] and all(gains[:-1]) and (len(values) == 6 or not gains[-1])
    assert config.flag(0) == "indirect"


@pytest.mark.slow
def test_two_ranks_end_together(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    config, run = config_of(tree_of()), Run(tmp_path / "run")
    run.folder.mkdir()
    prepare(config, run)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree_of()))
    arguments = [str(tmp_path / "tiny.yaml"), "--member", "a", "--fold", "0"]
    process = launch(2, *arguments, "--out", str(run.folder))
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, output
    paths = run.member(0, "a", 0)
    done = read_json(paths.done)
    assert (done["ranks"], done["epochs"], done["planned_epochs"]) == (2, 5, 8)
    for rank in (0, 1):
        assert "stage 0 ends after 3 of 6 epochs" in paths.log(rank).read_text()


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"schedule": {"cycles": 3}}, r"early_stopping: schedule\.cycles: 3: the score falls"),
        ({"keep": "cycles"}, r"early_stopping: keep: cycles: .*valid: last, best, top_k"),
        ({"early_stopping": {"patience": 10}}, r"patience: 10 evaluations of 10 epochs"),
        (
            {"early_stopping": {"patience": 0}},
            r"early_stopping\.patience: needs a number from 1 up",
        ),
        ({"early_stopping": {"metric": "dice"}}, r"early_stopping\.metric: 'dice'"),
        ({"early_stopping": {"patients": 3}}, r"did you mean 'patience'"),
    ],
)
def test_what_cannot_be_together_is_refused(stage: dict[str, Any], said: str) -> None:
    tree = tree_of()
    tree["stages"] = [{"early_stopping": {"patience": 3}, **stage}]
    with pytest.raises(UserError, match=f"(?i){said}"):
        parse_config(tree, "test")
