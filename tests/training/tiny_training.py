"""What the tests of training share: a prepared run, what a member left, a net of a few weights."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.config.training import OptimizerConfig
from distseg.data.prepare import prepare
from distseg.models import checkpoint
from distseg.records.files import read_json, read_lines
from distseg.records.paths import MemberPaths, Run
from distseg.training.engine import DdpEngine
from distseg.training.optim import build_optimizer
from distseg.training.train import train_member
from tests.tiny import PATIENCE_S, tiny_tree

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
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, output
    return run.member(0, "a", 0)


def arguments(folder: Path) -> list[str]:
    config = str(folder / "tiny.yaml")
    return [config, "--member", "a", "--fold", "0", "--out", str(folder / "run")]


def train_until(config: Config, run: Run, key: int, *, steps: int) -> None:
    """Train member a on fold 0 until a signal comes in the last of so many steps; its state is
    saved there."""
    step, seen = DdpEngine.step, iter(range(1, steps + 1))

    def stop_after(engine: DdpEngine, clip_norm: float | None) -> Any:
        result = step(engine, clip_norm)
        if next(seen) == steps:
            signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(DdpEngine, "step", stop_after)
        train_member(config, run.folder, key, "a", 0)


def losses(paths: MemberPaths, key: str = "loss") -> list[float]:
    return [row[key] for row in read_lines(paths.metrics)]


def weights(paths: MemberPaths) -> dict[str, torch.Tensor]:
    names = read_json(paths.done)["snapshots"]
    states = [checkpoint.load_snapshot(paths.snapshots / name)[0] for name in names]
    return {f"{i}.{key}": value for i, state in enumerate(states) for key, value in state.items()}


def assert_same_bits(left: MemberPaths, right: MemberPaths) -> None:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, first {different[0]}"


def kill_tree(pid: int, number: int) -> None:
    for child in psutil.Process(pid).children(recursive=True):
        os.kill(child.pid, number)
    if number == signal.SIGKILL:
        os.kill(pid, number)


class Net(nn.Module):
    """Encoder and decoder of a few weights, in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 2, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images).relu())


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def optimizer_of(model: nn.Module, name: str = "adamw", **cfg: Any) -> Optimizer:
    return build_optimizer(OptimizerConfig(name=name, **cfg), model)
