"""Rounds of kind mean_teacher: the rows, a step by hand, resume, ranks, and a whole run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.distributed import make_accelerator
from distseg.models import checkpoint
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.select import select
from distseg.run.plan import plan
from distseg.training.engine import DdpEngine, Update
from distseg.training.member import Member
from distseg.training.stage import begin_epoch, set_up_stage, train_step
from distseg.training.train import train_member
from tests.tiny import PATIENCE_S, tiny_tree
from tests.training.tiny_training import assert_same_bits, losses, set_up

TEACHER = {"kind": "mean_teacher", "share": 0.25, "consistency": 4.0, "rampup_epochs": 1.5}
AUGMENT = [{"hflip": {}}, {"affine": {"scale": [0.9, 1.1]}}, {"noise": {"p": 1.0}}]
TESTS = 5  # of the made data
PLAIN = {"a": {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2}}}


def ready(folder: Path, **changes: Any) -> tuple[Config, Run]:
    """A run whose second round can be trained; it starts from scratch, and asks nothing of the
    first."""
    torch.set_num_threads(1)
    changes = {"rounds": [{}, TEACHER], "augment": AUGMENT, **changes}
    config, run = set_up(folder, **changes)
    select(config, run, 1)
    return config, run


def member_of(config: Config, run: Run) -> Member:
    return Member(config, run, 1, "a", 0, make_accelerator(config, cpu=True))


def test_test_images_are_rows_without_a_label(tmp_path: Path) -> None:
    config, run = ready(tmp_path, members=PLAIN)
    manifest, truth = Manifest.read(run.train_set(1, 0)), Manifest.read(run.truth)
    assert manifest.samples[: len(truth)] == truth.samples
    rows = manifest.samples[len(truth) :]
    assert [s.id for s in rows] == [f"unlabeled:{s.id}" for s in Manifest.read(run.unlabeled)]
    assert len(rows) == TESTS
    for sample in rows:
        assert (sample.origin, sample.fold, sample.target) == ("unlabeled", -1, "")
        assert not sample.teacher_folds
    assert config.flag(1) == "honest"
    assert read_json(run.select(1) / "rule.json")["score"] == "honest"
    assert set(manifest.val_rows(0)).isdisjoint(range(len(truth), len(manifest)))
    later = select_after(config, run, {"kind": "pseudo_label", "teacher": "fold"})
    assert [s.origin for s in later] == ["labeled"] * len(truth), "no teacher: no pseudo-labels"
    run.unlabeled.unlink()
    Manifest([]).write(run.unlabeled)
    run.train_set(1, 0).unlink()
    with pytest.raises(
        UserError, match=r"rounds\.1\.kind: mean_teacher: no test image to .* be read"
    ):
        select(config, run, 1)


def select_after(config: Config, run: Run, entry: dict[str, Any]) -> Manifest:
    """The train set of fold 0 in one round more."""
    rounds = [*config.rounds, type(config.rounds[0]).model_validate(entry)]
    select(config.model_copy(update={"rounds": rounds}), run, 2)
    return Manifest.read(run.train_set(2, 0))


def test_every_step_holds_its_share_of_unlabeled_images(tmp_path: Path) -> None:
    config, run = ready(tmp_path, members=PLAIN)
    member = member_of(config, run)
    batches, labeled = set_up_stage(member, 0).batches, len(Manifest.read(run.truth))
    for epoch in range(2):
        for loaded in batches.epoch(epoch):
            tests = [row >= labeled for row in loaded.rows]
            assert sum(tests) == 2 and len(tests) == 8
            weights = loaded.tensors["label_weight"].tolist()
            assert weights == pytest.approx([0.0 if one else 8 / 6 for one in tests])
            targets = loaded.tensors["target"].flatten(1)
            assert [bool((t == 255).all()) for t in targets] == tests
            assert not torch.equal(loaded.tensors["image"], loaded.tensors["view"])


def test_a_step_by_hand(tmp_path: Path) -> None:
    """The mean BCE of the labeled images and the ramped consistency of all, in numpy; then the
    teacher is the average of the weights before and after."""
    config, run = ready(tmp_path)
    member = member_of(config, run)
    stage = set_up_stage(member, 0)
    assert member.teacher is not None and member.ema is not None
    before = [p.detach().clone() for p in member.model.parameters()]
    for step in range(2):  # after the first, student and teacher differ
        loaded = next(iter(stage.batches.epoch(1, step)))
        batch = stage.batches.on_device(loaded.tensors)
        begin_epoch(stage, 0)
        with torch.no_grad():
            said = member.model(batch.images_BCHW)[0].double().numpy()
            taught = member.teacher(batch.view_BCHW)[0].double().numpy()
        s, t, y = 1 / (1 + np.exp(-said)), 1 / (1 + np.exp(-taught)), batch.target.numpy()
        bce = -(y * np.log(s) + (1 - y) * np.log(1 - s)).mean(axis=(1, 2, 3))
        has_label = np.array([member.manifest[row].origin != "unlabeled" for row in loaded.rows])
        way = min(1.0, (1 + step / stage.sampling.steps) / TEACHER["rampup_epochs"])  # type: ignore[operator]
        weight = 4.0 * np.exp(-5 * (1 - way) ** 2)
        expected = bce[has_label].mean() + weight * ((s - t) ** 2).mean()
        one = iter([loaded])
        result = train_step(member, stage, one, epoch=1, step=step, lr_factor=1.0)
        assert float(result.loss) / 8 == pytest.approx(expected, rel=1e-5)
        member.ema.update(member.model)
        if step == 0:
            assert way < 1 and np.abs(s - t).max() < 0.6
            pairs = zip(before, member.model.parameters(), strict=True)
            averages = [0.1 * a + 0.9 * b.detach() for a, b in pairs]  # the warm-up of the decay
            for own, average in zip(member.teacher.parameters(), averages, strict=True):
                torch.testing.assert_close(own, average, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_what_is_kept_and_a_signal_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in the middle of an epoch, and after one, and started again: the same bits, of a net
    with running statistics."""
    config, run = ready(tmp_path / "whole", members=PLAIN)
    train_member(config, run.folder, 1, "a", 0)
    whole = run.member(1, "a", 0)
    tensors, _ = checkpoint.load_state(whole.state) or ({}, None)
    last = read_json(whole.done)["snapshots"][-1]
    kept, _ = checkpoint.load_snapshot(whole.snapshots / last)
    averages, own = tensors["ema"], tensors["model"]
    names = [name for name in averages if name != "ema.num_updates"]
    assert all(torch.equal(kept[name], averages[name]) for name in names)
    assert any(not torch.equal(kept[name], own[name]) for name in names)

    config, run = ready(tmp_path / "cut", members=PLAIN)
    step, steps = DdpEngine.step, iter(range(100))
    at = {2, 4}

    def stop_after(engine: DdpEngine, clip_norm: float | None) -> Update:
        result = step(engine, clip_norm)
        if next(steps) in at:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(DdpEngine, "step", stop_after)
        for _ in at:
            with pytest.raises(SystemExit):
                train_member(config, run.folder, 1, "a", 0)
        train_member(config, run.folder, 1, "a", 0)
    assert_same_bits(whole, run.member(1, "a", 0))
    assert losses(whole) == losses(run.member(1, "a", 0))


def test_running_statistics_heads_and_bf16(tmp_path: Path) -> None:
    """What a teacher must not spoil: running statistics are the student's, which a frozen encoder
    leaves as they are; the loss against void is 0 for every head and term."""
    decoder = {"encoder_depth": 3, "decoder_channels": [16, 8, 8], "dropout": 0.1}
    member: dict[str, Any] = {"arch": "ComposedUnet", "encoder": "resnet18", "decoder": decoder}
    member |= {"image_head": 0.1, "deep_supervision": 0.1}
    stage = {"freeze_encoder": 1, "schedule": {"epochs_per_cycle": 1}}
    loss = {"loss": {"bce": 1.0, "lovasz": 1.0, "dice": 1.0, "boundary": 1.0}}
    config, run = ready(
        tmp_path, members={"a": member}, stages=[{**stage, **loss}], augment=[{"hflip": {}}],
        compute={**tiny_tree()["compute"], "precision": "bf16"},
    )  # fmt: skip
    train_member(config, run.folder, 1, "a", 0)
    paths = run.member(1, "a", 0)
    assert "student and teacher see the same image" in paths.log(0).read_text()
    assert all(np.isfinite(losses(paths)))
    kept, _ = checkpoint.load_snapshot(paths.snapshots / read_json(paths.done)["snapshots"][-1])
    names = [name for name in kept if ".encoder." in name and ("running" in name or "num_" in name)]
    fresh = {name: 1 if "var" in name else 0 for name in names}
    assert names and all((kept[name] == fresh[name]).all() for name in names)
    assert any((kept[n] != 0).any() for n in kept if "running_mean" in n and n not in names)


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path, launch: Any) -> None:
    found = []
    for ranks in (1, 2):
        _, run = ready(tmp_path / str(ranks), rounds=[{}, {**TEACHER, "share": 0.5}])
        process = launch(
            ranks, str(tmp_path / str(ranks) / "tiny.yaml"), "--member", "a", "--fold", "0",
            "--round", "1", "--out", str(run.folder),
        )  # fmt: skip
        output = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, output
        found.append(losses(run.member(1, "a", 0)))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_run_of_two_rounds(tmp_path: Path) -> None:
    """By the command line, from the plan's lines to the submission."""
    rounds = [{}, {**TEACHER, "init": "previous"}]
    data = {**tiny_tree()["data"], "folds": {"kind": "holdout", "fraction": 0.3}}
    tree = tiny_tree(rounds=rounds, augment=AUGMENT, members=PLAIN, data=data)
    tree["stages"][0]["schedule"] = {"kind": "cosine", "epochs_per_cycle": 1}
    path, run = tmp_path / "tiny.yaml", Run(tmp_path / "run")
    path.write_text(yaml.safe_dump(tree))
    planned = plan(parse_config(tree, "test"), run)
    assert "round 1: mean_teacher (honest)" in planned
    command = [sys.executable, "-m", "distseg", "run", str(path), "--out", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1: dice" in done.stdout and "(nested: honest)" in done.stdout
    report = read_json(run.report_json)
    kinds = [(one.get("kind"), one.get("teacher")) for one in report["rounds"]]
    assert kinds[:2] == [("supervised", None), ("mean_teacher", None)]
    assert report["flag"] == "honest" and run.submission.is_file()
    assert len(Manifest.read(run.train_set(1, 0))) == 37 + TESTS
    assert read_json(run.member(1, "a", 0).done)["trained_on"] == []
