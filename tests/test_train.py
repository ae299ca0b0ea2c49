"""Training: ranks, accumulation, resume and faults, with the real launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distseg import checkpoint
from distseg.config import Config, parse_config
from distseg.data.prepare import prepare
from distseg.member import Member, Progress, make_accelerator, seed_of
from distseg.runs import MemberPaths, Run, read_json, read_lines
from distseg.stage import StageTrainer
from distseg.train import NonFiniteLoss, train_member
from tests.conftest import tiny_tree

Launch = Callable[..., subprocess.Popen[str]]


def set_up(folder: Path, **changes: Any) -> tuple[Config, Run]:
    config = parse_config(tiny_tree(**changes), "test")
    run = Run(folder / "run")
    run.folder.mkdir(parents=True)
    prepare(config, run)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_tree(**changes)))
    return config, run


def train_here(folder: Path, **changes: Any) -> MemberPaths:
    torch.set_num_threads(1)
    config, run = set_up(folder, **changes)
    train_member(config, run.folder, 0, "a", 0)
    return run.member(0, "a", 0)


def train_there(launch: Launch, folder: Path, ranks: int, **changes: Any) -> MemberPaths:
    _, run = set_up(folder, **changes)
    process = launch(ranks, *arguments(folder))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return run.member(0, "a", 0)


def arguments(folder: Path) -> list[str]:
    config = str(folder / "tiny.yaml")
    return [config, "--member", "a", "--fold", "0", "--out", str(folder / "run")]


def losses(paths: MemberPaths) -> list[float]:
    return [row["loss"] for row in read_lines(paths.metrics)]


def weights(paths: MemberPaths) -> dict[str, torch.Tensor]:
    names = read_json(paths.done)["snapshots"]
    states = [checkpoint.load_snapshot(paths.snapshots / name)[0] for name in names]
    return {f"{i}.{key}": value for i, state in enumerate(states) for key, value in state.items()}


def assert_same_bits(left: MemberPaths, right: MemberPaths) -> None:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, first {different[0]}"


def test_what_fills_the_last_step_does_not_count(tmp_path: Path) -> None:
    """As the loop reads it: progress moves on between two batches."""
    config, run = set_up(tmp_path)
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    progress = Progress()
    trainer = StageTrainer(member, member.stages[0], progress)
    seen = []
    for number, _batch, counts in trainer.micro_batches(progress):
        seen.append(int(counts.sum()))
        progress.step = number + 1
    left = len(member.rows) % member.batch_size
    assert left and seen == [8] * (len(seen) - 1) + [left]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_signal_after_any_step_of_an_epoch_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = train_here(tmp_path / "whole")
    config, run = set_up(tmp_path / "cut")
    step, done = StageTrainer.step, []

    def stop_after(trainer: StageTrainer, clip_norm: float | None) -> torch.Tensor:
        result = step(trainer, clip_norm)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(result)
        return result

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(StageTrainer, "step", stop_after)
        train_member(config, run.folder, 0, "a", 0)
    assert len(done) == at + 1
    train_member(config, run.folder, 0, "a", 0)
    assert_same_bits(whole, run.member(0, "a", 0))


def test_two_ranks_train_and_evaluate_as_one(tmp_path: Path, launch: Launch) -> None:
    two = train_there(launch, tmp_path / "two", 2)
    one = train_here(tmp_path / "one")
    assert read_json(two.done)["ranks"] == 2
    assert len(losses(two)) == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)

    scores = read_json(two.folder / "oof_scores.json")
    assert len(scores["ids"]) % 2 == 1, "the point is a count that two ranks cannot share evenly"
    for path in (one.folder / "oof_scores.json", one.done):
        path.unlink()
    for snapshot in two.snapshots.iterdir():  # the same weights, evaluated by one rank
        (one.snapshots / snapshot.name).write_bytes(snapshot.read_bytes())
    counts = evaluate_here(tmp_path / "one")
    assert counts["variants"] == scores["variants"]


def evaluate_here(folder: Path) -> dict[str, Any]:
    from distseg.member import Member, make_accelerator
    from distseg.oof import predict_out_of_fold

    config, run = parse_config(tiny_tree(), "test"), Run(folder / "run")
    accelerator = make_accelerator(config)
    member = Member(config, run, 0, "a", 0, accelerator)
    files = sorted(member.paths.snapshots.glob("*.safetensors"))
    snapshots = [{"file": path.name} for path in files]
    predict_out_of_fold(
        config, member.paths, member.evaluator, member.manifest, member.val_rows, snapshots
    )
    return read_json(member.paths.folder / "oof_scores.json")


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    whole = train_here(tmp_path / "whole")
    split = train_here(tmp_path / "split", train={"batch_size": 8, "accumulation": 4})
    assert losses(split) == pytest.approx(losses(whole), abs=1e-5)


def test_two_ranks_without_the_variable_are_refused(tmp_path: Path, launch: Launch) -> None:
    set_up(tmp_path)
    process = launch(2, *arguments(tmp_path), env={"ACCELERATE_USE_CPU": "false"})
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "ACCELERATE_USE_CPU" in output
    assert not (tmp_path / "run/round_0/members/a_fold0/DONE").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_is_bit_equal(tmp_path: Path, launch: Launch, number: int) -> None:
    whole = train_here(tmp_path / "whole")
    _, run = set_up(tmp_path / "cut")
    paths = run.member(0, "a", 0)
    process = launch(1, *arguments(tmp_path / "cut"))
    wait_for(lambda: len(read_lines(paths.metrics)) >= 1, 120)
    kill_tree(process.pid, number)
    process.wait(60)
    assert not paths.done.exists(), "it ended before it was killed: the test shows nothing"
    again = launch(1, *arguments(tmp_path / "cut"))
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert "resumes at epoch" in output
    assert_same_bits(paths, whole)
    assert losses(paths) == pytest.approx(losses(whole), abs=1e-7)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def kill_tree(pid: int, number: int) -> None:
    import psutil

    for child in psutil.Process(pid).children(recursive=True):
        os.kill(child.pid, number)
    if number == signal.SIGKILL:
        os.kill(pid, number)


def test_non_finite_loss_rolls_back_then_names_the_samples(tmp_path: Path) -> None:
    stage = tiny_tree()["stages"][0]
    stage["optimizer"] = {"name": "sgd", "lr": 1e30}
    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step \d+, samples \w+"):
        train_here(tmp_path, stages=[stage], train={"batch_size": 4, "max_bad_steps": 2})
    failure = read_json(tmp_path / "run/round_0/members/a_fold0/failure.json")
    assert failure["kind"] == "non_finite"
    log = (tmp_path / "run/round_0/members/a_fold0/train.log").read_text()
    assert log.count("rolled back") == 2


def test_features_train_together(tmp_path: Path) -> None:
    """EMA, SWA, two stages, image head, plateau, bootstrap, top-k: each leaves what it should."""
    tree = tiny_tree()
    member = {**tree["members"]["a"], "image_head": 0.1}
    first = {"schedule": {"kind": "plateau", "epochs_per_cycle": 2, "patience": 0, "factor": 0.1}}
    second = {"loss": {"bce": 0.5, "lovasz": 0.5}, "keep": "top_k", "top_k": 2, "swa": True}
    second |= {"optimizer": {"name": "radam", "lr": 1e-3}, "schedule": {"epochs_per_cycle": 3}}
    paths = train_here(
        tmp_path,
        members={"a": member},
        stages=[first, second],
        train={"batch_size": 8, "ema_decay": 0.9},
        data={**tree["data"], "folds": {"kind": "bootstrap", "num": 2}},
    )
    done = read_json(paths.done)
    assert done["epochs"] == 5
    assert done["snapshots"] == ["stage1_swa.safetensors"]
    _, record = checkpoint.load_snapshot(paths.snapshots / done["snapshots"][0])
    assert len(record["average_of"]) == 2
    assert [row["stage"] for row in read_lines(paths.metrics)] == [0, 0, 1, 1, 1]
    assert not paths.state.exists()


def test_seeds_are_pure_functions() -> None:
    assert seed_of(1, "a") == seed_of(1, "a") != seed_of(1, "b")
