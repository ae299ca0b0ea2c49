"""Training: ranks, accumulation, resume and faults, with the real launcher."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from distseg.config.load import parse_config
from distseg.data.prepare import open_cache
from distseg.distributed import make_accelerator
from distseg.inference.load import load_snapshot_model
from distseg.inference.out_of_fold import predict_out_of_fold
from distseg.models import checkpoint
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import Predictions
from distseg.training import train as trainer
from distseg.training.engine import DdpEngine, Update
from distseg.training.member import Member, seed_of
from distseg.training.stage import Stage, begin_epoch, make_engine, set_up_stage, train_step
from distseg.training.stopping import NonFiniteLoss
from distseg.training.train import train_member
from tests.tiny import PATIENCE_S, tiny_tree, wait_until
from tests.training.tiny_training import (
    Launch,
    arguments,
    assert_same_bits,
    kill_tree,
    losses,
    set_up,
    train_here,
    train_there,
)


def test_what_fills_the_last_step_does_not_count(tmp_path: Path) -> None:
    config, run = set_up(tmp_path)
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    batches = set_up_stage(member, 0).batches
    seen, again = (
        [int(batch.tensors["weight"].sum()) for batch in batches.epoch(0, first_step=first)]
        for first in (0, 1)
    )
    assert again == seen[1:]
    left = len(member.rows) % member.batch_size
    assert left and seen == [8] * (len(seen) - 1) + [left]


def test_a_frozen_encoder_stays_for_the_first_epochs(tmp_path: Path) -> None:
    stage = {"freeze_encoder": 1, "schedule": {"epochs_per_cycle": 2}}
    stage |= {"optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}}
    config, run = set_up(tmp_path, stages=[stage])
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    trained = set_up_stage(member, 0)
    states = [checkpoint.clean_state_dict(member.model)]
    for epoch in range(2):
        frozen, batches = begin_epoch(trained, epoch), trained.batches.epoch(epoch)
        for step in range(trained.sampling.steps):
            train_step(
                member, trained, batches, epoch=epoch, step=step, lr_factor=1.0, frozen=frozen
            )
        states.append(checkpoint.clean_state_dict(member.model))
    inside = [name for name in states[0] if name.startswith("net.encoder.")]
    changed = [{n for n in a if not torch.equal(a[n], b[n])} for a, b in pairwise(states)]
    assert inside and not changed[0].intersection(inside) and changed[0]
    assert changed[1].intersection(inside)


def test_each_members_mean_and_std_are_those_of_its_train_folds(tmp_path: Path) -> None:
    """A snapshot's record holds the numbers: prediction needs no train set."""
    size = {**tiny_tree()["input"], "normalize": "train"}
    paths = train_here(tmp_path, input=size)
    _, record = checkpoint.load_snapshot(next(paths.snapshots.glob("*.safetensors")))
    config, run = parse_config(tiny_tree(input=size), "test"), Run(tmp_path / "run")
    manifest, cache = Manifest.read(run.truth), open_cache(config, run)
    seen = np.stack([cache.image(s.id) for s in manifest if s.fold != 0]) / 255
    assert record["input"]["mean"] == pytest.approx([seen.mean()], abs=1e-5)
    assert record["input"]["std"] == pytest.approx([seen.std()], abs=1e-5)


def test_a_stage_slides_its_share_of_positives(tmp_path: Path) -> None:
    stage = {**tiny_tree()["stages"][0], "positive_share": [0.9, 0.4]}
    config, run = set_up(tmp_path, stages=[stage])
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    sampling = member.sampling(0)
    assert 0 < len(sampling.positives) < len(sampling.rows) and sampling.slide is not None
    assert (sampling.slide.at(0), sampling.slide.at(1)) == (0.9, 0.4)


def test_hard_rows_are_drawn_by_the_scores_of_the_round_before(tmp_path: Path) -> None:
    rounds = [{"kind": "supervised"}, {"kind": "supervised", "hard_mining": 3.0}]
    config, run = set_up(tmp_path, rounds=rounds)
    assert (config.flag(0), config.flag(1)) == ("honest", "indirect")
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    assert member.sampling(0).draw == []
    member.round, member.recipe = 1, config.recipe(1)
    with pytest.raises(UserError, match=r"oof\.csv"):
        member.sampling(0)
    path = run.oof_table(0)
    path.parent.mkdir(parents=True)
    first, second = (member.manifest[row].id for row in member.rows[:2])
    path.write_text(f"id,score\n{first},0.0\n{second},0.5\n")
    assert list(member.sampling(0).draw) == [4.0, 2.5, *[1.0] * (len(member.rows) - 2)]
    with pytest.raises(UserError, match=r"rounds\.0\.hard_mining"):
        parse_config(tiny_tree(rounds=[{"hard_mining": 1.0}]), "t")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_signal_after_any_step_of_an_epoch_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = train_here(tmp_path / "whole")
    config, run = set_up(tmp_path / "cut")
    step = DdpEngine.step
    done: list[Update] = []

    def stop_after(engine: DdpEngine, clip_norm: float | None) -> Update:
        result = step(engine, clip_norm)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(result)
        return result

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(DdpEngine, "step", stop_after)
        train_member(config, run.folder, 0, "a", 0)
    assert len(done) == at + 1
    saved = f"signal 15: saved at step {at + 1} of epoch 0, leaving"
    assert saved in run.member(0, "a", 0).log(0).read_text()
    train_member(config, run.folder, 0, "a", 0)
    assert_same_bits(whole, run.member(0, "a", 0))


def test_two_ranks_train_and_evaluate_as_one(tmp_path: Path, launch: Launch) -> None:
    two = train_there(launch, tmp_path / "two", 2)
    one = train_here(tmp_path / "one")
    assert read_json(two.done)["ranks"] == 2
    assert len(losses(two)) == 2
    for key in ("loss", "val_loss"):
        assert losses(two, key) == pytest.approx(losses(one, key), abs=1e-5)

    scores = read_json(two.folder / "oof_scores.json")
    assert len(scores["ids"]) % 2 == 1, "the point is a count that two ranks cannot share evenly"
    for path in (one.folder / "oof_scores.json", one.done):
        path.unlink()
    for snapshot in two.snapshots.iterdir():  # the same weights, evaluated by one rank
        (one.snapshots / snapshot.name).write_bytes(snapshot.read_bytes())
    counts = evaluate_here(tmp_path / "one")
    assert counts["variants"] == scores["variants"]


@pytest.mark.parametrize("kept", ["search", "all"])
def test_a_members_logits_are_the_mean_of_its_snapshots(tmp_path: Path, kept: str) -> None:
    paths = train_here(tmp_path, ensemble={"snapshots": kept})
    names = [Path(file).stem for file in read_json(paths.done)["snapshots"]]
    assert len(names) == 2 and not list(paths.folder.glob("oof_part*"))
    mean = Predictions(paths.oof)
    if kept == "all":
        assert not paths.oof_snapshots.exists()
        return
    each = [Predictions(paths.oof_snapshots / name) for name in names]
    assert [one.ids for one in each] == [mean.ids] * 2 and len(mean) > 1
    for row in range(len(mean)):
        both = np.stack([one[row].astype(np.float32) for one in each])
        assert np.ptp(both, axis=0).max() > 0
        assert np.allclose(mean[row], both.mean(axis=0), rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_two_ranks_freeze_an_encoder_as_one(tmp_path: Path, launch: Launch) -> None:
    """Parameters without a gradient in the first epoch, with Lookahead, which they join late."""
    optimizer = {"name": "lookahead_adamw", "lr": 1e-3, "options": {"lookahead_k": 2}}
    stage = {**tiny_tree()["stages"][0], "freeze_encoder": 1, "optimizer": optimizer}
    two = train_there(launch, tmp_path / "two", 2, stages=[stage])
    one = train_here(tmp_path / "one", stages=[stage])
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)


def evaluate_here(folder: Path) -> dict[str, Any]:
    config, run = parse_config(tiny_tree(), "test"), Run(folder / "run")
    accelerator = make_accelerator(config)
    member = Member(config, run, 0, "a", 0, accelerator)
    files = sorted(member.paths.snapshots.glob("*.safetensors"))
    snapshots = [{"file": path.name} for path in files]
    predict_out_of_fold(
        config, member.paths, member.evaluator, member.manifest, member.val_rows, snapshots,
        each=False,
    )  # fmt: skip
    return read_json(member.paths.folder / "oof_scores.json")


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    whole = train_here(tmp_path / "whole")
    split = train_here(tmp_path / "split", train={"batch_size": 8, "accumulation": 4})
    assert losses(split) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_two_ranks_without_the_variable_are_refused(tmp_path: Path, launch: Launch) -> None:
    set_up(tmp_path)
    process = launch(2, *arguments(tmp_path), env={"ACCELERATE_USE_CPU": "false"})
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode != 0
    assert "ACCELERATE_USE_CPU" in output
    assert not (tmp_path / "run/round_0/members/a_fold0/DONE").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_is_bit_equal(tmp_path: Path, launch: Launch, number: int) -> None:
    whole = train_here(tmp_path / "whole")
    _, run = set_up(tmp_path / "cut")
    paths = run.member(0, "a", 0)
    process = launch(1, *arguments(tmp_path / "cut"))
    wait_until(lambda: len(read_lines(paths.metrics)) >= 1, "an epoch is trained")
    kill_tree(process.pid, number)
    process.wait(PATIENCE_S)
    assert not paths.done.exists(), "it ended before it was killed: the test shows nothing"
    again = launch(1, *arguments(tmp_path / "cut"))
    output = again.communicate(timeout=PATIENCE_S)[0]
    assert again.returncode == 0, output
    assert "resumes at epoch" in output
    assert_same_bits(paths, whole)
    assert losses(paths) == pytest.approx(losses(whole), abs=1e-7)


def test_a_stages_first_epoch_rolls_back_to_its_own_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an optimizer that remembers nothing of the epoch that failed."""
    stage = tiny_tree()["stages"][0]
    stage |= {"schedule": {"kind": "constant", "epochs_per_cycle": 1}, "keep": "last"}
    step = DdpEngine.step
    states: dict[DdpEngine, list[int]] = {}  # of each stage's optimizer, before every step

    def fail_once(engine: DdpEngine, clip_norm: float | None) -> Update:
        states.setdefault(engine, []).append(len(engine.optimizer.state))
        if len(states) == 2 and len(states[engine]) in (3, 4):
            for parameter in engine.module.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(float("nan"))
        return step(engine, clip_norm)

    monkeypatch.setattr(DdpEngine, "step", fail_once)
    train_here(tmp_path, stages=[stage, stage], train={"batch_size": 4, "max_bad_steps": 2})
    _, second, again = states.values()
    log = (tmp_path / "run/round_0/members/a_fold0/train.log").read_text()
    assert log.count("rolled back") == 1
    assert second[0] == 0 and second[3] > 0 and again[0] == 0


def test_a_rollback_does_not_depend_on_when_the_state_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that are saved seldom, as where an epoch is faster than its state is written."""
    stage = {**tiny_tree()["stages"][0], "schedule": {"epochs_per_cycle": 3}}
    stage["optimizer"] = {"name": "sgd", "lr": 1e-2}
    real, states = trainer.train_step, []

    def spoil_once(member: Member, stage: Stage, *given: Any, **options: Any) -> Any:
        epoch, step = options["epoch"], options["step"]
        if (epoch, step) == (2, 1) and options["lr_factor"] == stage.lr_factor(epoch, step):
            options["lr_factor"] = 1e30
            position = read_json(member.paths.state / "state.json")["record"]
            states.append(position["total_epochs"])
        return real(member, stage, *given, **options)

    monkeypatch.setattr(trainer, "train_step", spoil_once)
    paths = []
    for name, share in (("often", 1e9), ("seldom", 0.0)):
        monkeypatch.setattr("distseg.training.state.SAVING_SHARE", share)
        train = {"batch_size": 4, "max_bad_steps": 2}
        paths.append(train_here(tmp_path / name, stages=[stage], train=train))
    assert states == [2, 0]
    for each in paths:
        assert [row["rollbacks"] for row in read_lines(each.metrics)] == [0, 0, 1]
    assert losses(paths[0]) == losses(paths[1])
    assert_same_bits(*paths)


def test_a_signal_after_a_skipped_step_leaves_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = set_up(tmp_path)
    step = DdpEngine.step
    done: list[Update] = []

    def spoil_and_stop(engine: DdpEngine, clip_norm: float | None) -> Update:
        if len(done) == 1:
            gradient = next(engine.module.parameters()).grad
            assert gradient is not None
            gradient.fill_(float("nan"))
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(step(engine, clip_norm))
        return done[-1]

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(DdpEngine, "step", spoil_and_stop)
        train_member(config, run.folder, 0, "a", 0)
    assert int(done[1].skipped) == 1
    assert read_json(run.member(0, "a", 0).state / "state.json")["record"]["step"] == 0
    left = "signal 15: leaving with the last state that was saved"
    assert left in run.member(0, "a", 0).log(0).read_text()


def test_a_member_that_is_done_leaves_no_loader(tmp_path: Path) -> None:
    """Several members of a job would have the processes of all before them."""
    before = set(psutil.Process().children())
    compute = {**tiny_tree()["compute"], "workers": 2}
    whole = train_here(tmp_path / "whole", compute=compute)
    assert set(psutil.Process().children()) == before
    assert_same_bits(whole, train_here(tmp_path / "alone"))


def test_two_jobs_never_train_one_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = set_up(tmp_path)
    monkeypatch.setattr("distseg.training.train.LEAVING_S", 0.1)
    paths = run.member(0, "a", 0)
    paths.folder.mkdir(parents=True)
    with FileLock(paths.lock), pytest.raises(RuntimeError, match="another process trains this"):
        train_member(config, run.folder, 0, "a", 0)


def test_non_finite_loss_rolls_back_then_names_the_samples(tmp_path: Path) -> None:
    stage = tiny_tree()["stages"][0]
    stage["optimizer"] = {"name": "sgd", "lr": 1e30}
    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step \d+, samples \w+"):
        train_here(tmp_path, stages=[stage], train={"batch_size": 4, "max_bad_steps": 2})
    failure = read_json(tmp_path / "run/round_0/members/a_fold0/failure.json")
    assert failure["kind"] == "non_finite"
    log = (tmp_path / "run/round_0/members/a_fold0/train.log").read_text()
    assert log.count("rolled back") == 2


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["adamw", "lookahead_adamw", "lookahead_radam"])
def test_a_gradient_that_is_not_finite_moves_nothing(
    name: str, scaled: bool, tmp_path: Path
) -> None:
    """Fused and not, with an optimizer inside another, and with the loss scale of fp16."""
    stage = {**tiny_tree()["stages"][0], "optimizer": {"name": name, "lr": 1e-2}}
    config, run = set_up(tmp_path, stages=[stage])
    accelerator = make_accelerator(config, cpu=True)
    if scaled:  # as Accelerate has it for fp16, which it refuses on a CPU
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    member = Member(config, run, 0, "a", 0, accelerator)
    engine = make_engine(member, member.stages[0].optimizer)
    images = torch.rand(2, 1, 32, 32)
    states = [checkpoint.clean_state_dict(member.model)]
    for bad in (1.0, float("inf"), 1.0):
        engine.backward((engine(images)[0] * bad).sum())
        update = engine.step(None)
        assert int(update.skipped) == int(bad != 1.0)
        assert int(update.bad) == int(bad != 1.0 and not scaled)
        states.append(checkpoint.clean_state_dict(member.model))
    names = [n for n, _ in member.model.named_parameters()]
    moved = [any(not torch.equal(a[n], b[n]) for n in names) for a, b in pairwise(states)]
    assert moved == [True, False, True]
    assert not scaled or accelerator.scaler.get_scale() == 2.0**7
    assert all(torch.isfinite(states[-1][n]).all() for n in names)


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


def test_every_head_and_dropout_views_from_training_to_prediction(tmp_path: Path) -> None:
    decoder = {"encoder_depth": 3, "decoder_channels": [16, 8, 8], "hypercolumn": True}
    decoder |= {"dropout": 0.3, "attention": "scse", "center": "ppm"}
    member: dict[str, Any] = {"arch": "ComposedUnet", "encoder": "resnet18", "decoder": decoder}
    member |= {"image_head": 0.1, "deep_supervision": 0.1, "coordinates": True}
    stage = {"schedule": {"epochs_per_cycle": 1}}
    changes = {"members": {"a": member}, "stages": [stage], "predict": {"tta": ["dropout:2"]}}
    paths = train_here(tmp_path, **changes)
    snapshot = next(paths.snapshots.glob("*.safetensors"))
    model, _ = load_snapshot_model(snapshot, torch.device("cpu"), False)
    assert len(model(torch.zeros(1, 1, 32, 32))) == 2
    variants = read_json(paths.folder / "oof_scores.json")["variants"]
    assert variants["mean_tta"] != variants["mean_plain"]
    plain = {**member, "deep_supervision": 0.0}
    other = train_here(tmp_path / "other", **{**changes, "members": {"a": plain}})
    assert losses(other)[0] < losses(paths)[0], "a weight of 0 adds no loss"


def test_seeds_are_pure_functions() -> None:
    assert seed_of(1, "a") == seed_of(1, "a") != seed_of(1, "b")
