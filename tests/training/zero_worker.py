"""A rank of tests/training/test_zero.py: zero_worker.py snapshot|optimizers|skip FOLDER."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.config.training import OptimizerConfig
from distseg.config.zero import ZERO_OPTIMIZERS
from distseg.inference.load import load_snapshot_model
from distseg.models import checkpoint
from distseg.records.paths import Run
from distseg.training.member import Member
from distseg.training.optim import build_optimizer, set_lr
from distseg.training.stage import begin_epoch, set_up_stage, train_step
from distseg.training.zero import ZeroEngine, make_zero_accelerator


def snapshot(config: Config, folder: Path, accelerator: Accelerator) -> None:
    """The live engine and the file on disk give the same logits."""
    member = Member(config, Run(folder / "run"), 0, "a", 0, accelerator)
    stage = set_up_stage(member, 0)
    begin_epoch(stage, 0)
    batches = stage.batches.epoch(0)
    for step in range(stage.sampling.steps):
        result = train_step(member, stage, batches, epoch=0, step=step, lr_factor=1.0)
        assert not int(result.skipped)
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    stage.engine.module.eval()
    with torch.no_grad():
        live = stage.engine(images)[0]
    stage.engine.gather()
    path = folder / f"rank{accelerator.process_index}.safetensors"  # each rank has all weights
    checkpoint.save_snapshot(path, checkpoint.clean_state_dict(member.model), member.record())
    model, _ = load_snapshot_model(path, accelerator.device, channels_last=True)
    with torch.no_grad():
        plain = model(images)[0]
    if accelerator.is_main_process:  # running statistics: rank 0's are kept
        assert float((plain - live).abs().max()) <= 1e-6
    names = [name for name, _ in model.named_parameters()]
    total = torch.stack([model.get_parameter(n).detach().double().sum() for n in names])
    assert torch.equal(accelerator.reduce(total, "mean"), total), "ranks gathered different weights"


def optimizers(config: Config, folder: Path, accelerator: Accelerator) -> None:
    """Every optimizer that is allowed: five steps, of two micro-batches each, equal those on whole
    weights."""
    for name in ZERO_OPTIMIZERS:
        cfg = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)
        model = small_net()
        plain = copy.deepcopy(model)
        engine = engine_of(config, accelerator, model, cfg)
        optimizer = build_optimizer(cfg, plain)
        for step in range(5):
            batches = [data(2 * step), data(2 * step + 1)]
            mine = slice(accelerator.process_index, None, accelerator.num_processes)
            set_lr(engine.optimizer, 1 / (step + 1))
            set_lr(optimizer, 1 / (step + 1))
            for last, (images, target) in zip((False, True), batches, strict=True):
                with engine.micro_batch(last=last):
                    engine.backward(loss_of(engine(images[mine]), target[mine]))
                loss_of(plain(images), target).backward()
            engine.step(None)
            nn.utils.clip_grad_norm_(plain.parameters(), config.train.clip_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
        engine.gather()
        assert_near(model, plain, name)


def skip(config: Config, folder: Path, accelerator: Accelerator) -> None:
    """A NaN on one rank: no rank moves, and the step after it is as if nothing had been."""
    model = small_net()
    before = copy.deepcopy(model)
    engine = engine_of(config, accelerator, model, OptimizerConfig(lr=0.01))
    images, target = data(0)
    bad = images * float("nan") if accelerator.process_index == 0 else images
    for number, (batch, skipped) in enumerate([(images, 0), (bad, 1), (images, 0)]):
        with engine.micro_batch(last=True):
            engine.backward(loss_of(engine(batch), target))
        assert int(engine.step(None).skipped) == skipped, number
        engine.gather()
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        pairs = zip(parameters(model), parameters(before), strict=True)
        same = all(torch.equal(p, q) for p, q in pairs)
        assert same == bool(skipped), number
        before.load_state_dict(model.state_dict())


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def engine_of(
    config: Config, accelerator: Accelerator, model: nn.Module, cfg: OptimizerConfig
) -> ZeroEngine:
    return ZeroEngine(accelerator, model, cfg, config.compute.zero)


def small_net() -> nn.Module:
    """Weights, biases and a norm: two parameter groups, whose sizes two ranks cannot halve."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.GroupNorm(1, 5), nn.ReLU(), nn.Conv2d(5, 1, 3))


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 1, 12, 12, generator=generator)
    return images, torch.rand(4, 1, 8, 8, generator=generator).round()


def loss_of(logits: Any, target: Tensor) -> Tensor:
    """The net here is bare: an engine, too, returns its logits alone."""
    return nn.functional.binary_cross_entropy_with_logits(logits, target)


def assert_near(model: nn.Module, plain: nn.Module, name: str) -> None:
    pairs = zip(parameters(model), parameters(plain), strict=True)
    largest = max(float((p - q).abs().max()) for p, q in pairs)
    limit = 1e-6 if name == "sgd" else 2e-5  # the others divide by the size of the gradient
    assert largest < limit, f"{name}: {largest}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, root = sys.argv[1], Path(sys.argv[2])
    loaded = load_config(root / "tiny.yaml")
    made = make_zero_accelerator(loaded)
    {"snapshot": snapshot, "optimizers": optimizers, "skip": skip}[what](loaded, root, made)
    made.wait_for_everyone()
    made.free_memory()
