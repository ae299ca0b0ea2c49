"""CUDA graphs of training: the same numbers as kernels that are launched one by one.

ACCELERATE_USE_CPU=false python -m pytest -m gpu tests/training/test_graphs.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from distseg.distributed import make_accelerator
from distseg.records.files import read_lines
from distseg.training import graphs
from distseg.training.graphs import GraphedPass
from distseg.training.member import Member
from distseg.training.stage import begin_epoch, set_up_stage, train_step
from distseg.training.train import train_member
from tests.tiny import tiny_tree
from tests.training.tiny_training import set_up

UNET = {"arch": "Unet", "encoder": "resnet18", "encoder_weights": None}
COMPOSED = {**UNET, "arch": "ComposedUnet"}
STAGE = {"loss": {"bce": 1.0}, "optimizer": {"name": "sgd", "lr": 1e-2}}
CASES: dict[str, dict[str, Any]] = {
    "scse": {"members": {"a": {**UNET, "decoder": {"attention": "scse"}}}},
    "heads": {"members": {"a": {**COMPOSED, "image_head": 0.1, "deep_supervision": 0.1}}},
    "micro-batches": {"train": {"batch_size": 8, "accumulation": 2}},
    "frozen": {"members": {"a": UNET}, "stages": [{**STAGE, "freeze_encoder": 1}]},
    "lovasz": {"stages": [{**STAGE, "loss": {"bce": {"weight": 1, "pos_weight": 2}, "lovasz": 1}}]},
    "lookahead": {"stages": [{**STAGE, "optimizer": {"name": "lookahead_adamw", "lr": 1e-4}}]},
    "median": {"input": {**tiny_tree()["input"], "normalize": "median"}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_device() -> None:
    """Accelerate keeps the first device of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_cpu_launches_its_kernels_one_by_one(tmp_path: Path) -> None:
    config, run = set_up(tmp_path)
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    assert config.compute.cuda_graphs and set_up_stage(member, 0).graphs is None


def steps(folder: Path, cuda_graphs: bool, changes: dict[str, Any]) -> tuple[list[float], Any]:
    """Losses of the steps of two epochs, and the weights and statistics after them."""
    compute = {"precision": "fp32", "cuda_graphs": cuda_graphs}
    base = {"stages": [STAGE]} | changes
    base["stages"] = [{**stage, "schedule": {"epochs_per_cycle": 2}} for stage in base["stages"]]
    config, run = set_up(folder, **base, compute=compute)
    member = Member(config, run, 0, "a", 0, make_accelerator(config))
    stage, found = set_up_stage(member, 0), []
    # The kernels that are fastest differ from run to run, and in their last bits, which a batch
    # statistic over few pixels makes large within five steps.
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    assert (stage.graphs is not None) == cuda_graphs
    for epoch in range(2):
        frozen, batches = begin_epoch(stage, epoch), stage.batches.epoch(epoch)
        for step in range(stage.sampling.steps):
            result = train_step(
                member, stage, batches, epoch=epoch, step=step, lr_factor=1.0, frozen=frozen
            )
            found.append(float(result.loss))
    if stage.graphs:
        assert not stage.graphs.refused
        assert len(stage.graphs.captured) == 1  # that of the frozen encoder is gone
    state = {name: tensor.detach().clone() for name, tensor in member.model.state_dict().items()}
    stage.engine.close()
    return found, state


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_launched_kernels(case: str, tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    launched, weights = steps(tmp_path / "launched", False, CASES[case])
    graphed, again = steps(tmp_path / "graphed", True, CASES[case])
    assert graphed == pytest.approx(launched, rel=2e-3)
    for name, tensor in weights.items():
        torch.testing.assert_close(again[name], tensor, rtol=2e-2, atol=2e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_member_trains_to_its_end(precision: str, tmp_path: Path) -> None:
    compute = {"precision": precision}
    train = {"batch_size": 8, "ema_decay": 0.9}
    stages = [STAGE, {**tiny_tree()["stages"][0], "swa": True}]
    config, run = set_up(tmp_path, members={"a": UNET}, compute=compute, stages=stages, train=train)
    train_member(config, run.folder, 0, "a", 0)
    rows = read_lines(run.member(0, "a", 0).metrics)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["skipped_steps"] == 0
    assert "no CUDA graph" not in run.member(0, "a", 0).log(0).read_text()


class Noisy(nn.Module):
    """A model with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, rows_BF: Tensor) -> Tensor:
        return self.layers(rows_BF)


def noisy(asks: bool = False) -> GraphedPass:
    torch.manual_seed(0)
    device = torch.device("cuda")
    model = Noisy().to(device)

    def run(tensors: Mapping[str, Tensor]) -> Tensor:
        loss = model(tensors["rows"].to(device)).square().mean()
        if asks:
            loss.item()  # waits for the device, which a capture cannot
        loss.backward()
        return loss.detach()

    return GraphedPass(run, model, device)


def gradients(graphed: GraphedPass, seed: int) -> Tensor:
    rows = torch.arange(64.0).reshape(8, 8) / 64
    torch.manual_seed(seed)
    graphed({"rows": rows}, first=True, mode=False)
    found = torch.cat([p.grad.flatten() for p in graphed.parameters if p.grad is not None])
    for parameter in graphed.parameters:
        parameter.grad = None
    return found.clone()


@pytest.mark.gpu
def test_dropout_is_drawn_by_the_seed_of_the_step() -> None:
    graphed = noisy()
    first, second, other = (gradients(graphed, seed) for seed in (1, 1, 2))
    assert len(graphed.captured) == 1
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.gpu
@pytest.mark.parametrize("why", ["it waits", "it is too large"])
def test_what_cannot_be_captured_is_launched(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "it is too large":
        monkeypatch.setattr(graphs, "ROOM", 0.0)
    graphed = noisy(asks=why == "it waits")
    first, second, other = (gradients(graphed, seed) for seed in (1, 1, 2))
    assert graphed.refused and not graphed.captured
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.rand(4, device="cuda").isfinite().all()
