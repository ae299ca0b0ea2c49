"""The loss scale of fp16: its search is nothing bad, and a resumed member goes on with it.

Accelerate has a scaler for fp16, which it refuses on a CPU: here one scales float32, from so far up
that its search takes many steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from distseg.config.schema import Config
from distseg.distributed import make_accelerator
from distseg.models import checkpoint
from distseg.records.files import read_lines
from distseg.records.paths import MemberPaths, Run
from distseg.training import find_lr as finder
from distseg.training import train as trainer
from distseg.training.find_lr import find_lr
from distseg.training.stopping import NonFiniteLoss
from distseg.training.train import train_member
from tests.tiny import tiny_tree
from tests.training.tiny_training import assert_same_bits, losses, set_up, train_until

START = 2.0**117
LOSS = {"bce": 1e6}  # its gradients are infinite until the scale is some 2**8 lower
STAGE = {**tiny_tree()["stages"][0], "loss": LOSS}


def scaled(config: Config, start: float = START) -> Accelerator:
    accelerator = make_accelerator(config, cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=start)
    return accelerator


@pytest.fixture(autouse=True)
def _scales(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(trainer, "training_accelerator", scaled)
    monkeypatch.setattr(finder, "make_accelerator", scaled)


def ready(folder: Path, **changes: Any) -> tuple[Config, Run]:
    train = {"batch_size": 8, "steps_per_epoch": 16, "max_bad_steps": 4}
    plain = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2}}
    usual = {"stages": [STAGE], "train": train, "members": {"a": plain}}
    return set_up(folder, **{**usual, **changes})


def scale_of(paths: MemberPaths) -> float:
    tree, _ = checkpoint.load_state(paths.state) or ({}, {})
    return float(tree["scaler"]["scale"])


def test_its_search_takes_nothing_back(tmp_path: Path) -> None:
    config, run = ready(tmp_path)
    train_member(config, run.folder, 0, "a", 0)
    rows = read_lines(run.member(0, "a", 0).metrics)
    skipped = rows[0]["skipped_steps"]
    assert skipped > config.train.max_bad_steps
    assert rows[-1]["skipped_steps"] == skipped and rows[-1]["rollbacks"] == 0
    assert rows[0]["loss"] > 0, "steps of the same epoch were good"
    log = run.member(0, "a", 0).log(0).read_text()
    assert "rolled back" not in log and "non-finite" not in log


def test_a_resumed_member_has_its_scale(tmp_path: Path) -> None:
    """Cut off in the epoch after that of the search, and in the next stage: the same weights as
    without, step by step."""
    config, run = ready(tmp_path / "whole", stages=[STAGE, STAGE])
    train_member(config, run.folder, 0, "a", 0)
    config, other = ready(tmp_path / "cut", stages=[STAGE, STAGE])
    paths = other.member(0, "a", 0)
    found = []
    for steps in (18, 16 + 5):
        train_until(config, other, 0, steps=steps)
        found.append(scale_of(paths))
    assert max(found) < START
    train_member(config, other.folder, 0, "a", 0)
    whole = run.member(0, "a", 0)
    assert_same_bits(whole, paths)
    assert losses(whole) == losses(paths)
    told = [[row["skipped_steps"] for row in read_lines(one.metrics)] for one in (whole, paths)]
    assert told[0] == told[1]


def test_what_no_scale_helps_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a scale of 8 three steps are the search, and then four in a row too many."""
    monkeypatch.setattr(trainer, "training_accelerator", lambda c: scaled(c, 8.0))
    stage = {**STAGE, "optimizer": {"name": "sgd", "lr": 1e30}}
    config, run = ready(tmp_path, stages=[stage])
    with pytest.raises(NonFiniteLoss):
        train_member(config, run.folder, 0, "a", 0)
    log = run.member(0, "a", 0).log(0).read_text()
    assert log.count("rolled back") == 2 and "4 non-finite losses in a row" in log


def test_a_trial_of_rates_goes_through_the_search(tmp_path: Path) -> None:
    config, run = ready(tmp_path)
    record = find_lr(config, run, "a", 0, steps=30)
    assert len(record["rates"]) > 16
