"""What moves the weights of one stage: DDP (or one process) here, ZeRO in zero.py."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.training import OptimizerConfig
from distseg.training.member import Member
from distseg.training.optim import build_optimizer


class Engine(Protocol):
    """One optimizer and the model that it trains, on all ranks.

    `module` is the model that trains; `member.model` is the one that is evaluated and saved.
    DDP has one for both. ZeRO has two: gather() copies the weights over.
    """

    module: nn.Module
    optimizer: Optimizer  # its groups take the learning rates

    def part(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch; `last` of its step."""

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        """What the model returns: logits (B, C, H, W), (B, C) of the image head or None, and the
        logits of each scale under deep supervision."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean of all ranks' losses."""

    def step(self, clip_norm: float | None) -> Tensor:
        """One update. Returns 1 (int64, on the device) if it was skipped: a gradient was not
        finite."""

    def gather(self) -> None:
        """All ranks: member.model takes the weights and buffers that were trained."""

    def placed(self) -> AbstractContextManager[Any]:
        """While it lasts, member.model lies on the device, to be evaluated."""

    def state(self) -> dict[str, Any]:
        """The optimizer's state, of this rank where ranks differ."""

    def load(self, tree: dict[str, Any]) -> None:
        """All ranks: member.model's weights, and the optimizer's state in `tree`, if it has one."""

    def close(self) -> None:
        """The stage is over: give its memory back."""


class DdpEngine(Engine):
    """DistributedDataParallel on several ranks, the bare model on one."""

    def __init__(self, member: Member, config: OptimizerConfig) -> None:
        self.member, self.accelerator = member, member.accelerator
        self.module: nn.Module = member.model
        optimizer = build_optimizer(config, member.model)
        # Lookahead hands its steps to the optimizer inside it, whose kernels read the flags
        self.base: Any = getattr(optimizer, "_base_optimizer", optimizer)
        self.fused = bool(self.base.defaults.get("fused"))
        self.accelerator._optimizers.clear()  # the stage before this one is over
        self.optimizer = self.accelerator.prepare(optimizer)

    def part(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.accelerator.no_sync(self.member.ddp)

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        return self.member.ddp(images_BCHW)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def step(self, clip_norm: float | None) -> Tensor:
        accelerator, parameters = self.accelerator, list(self.module.parameters())
        accelerator.unscale_gradients()
        limit = clip_norm if clip_norm is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        finite = torch.isfinite(norm)
        inner = self.optimizer.optimizer
        if accelerator.scaler is not None:  # fp16: the scaler skips by itself
            self.optimizer.step()
        elif self.fused:  # the fused kernels read this flag on the device
            self.base.grad_scale, self.base.found_inf = None, (~finite).float()
            inner.step()
        elif finite.item():
            inner.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (~finite).long()

    def gather(self) -> None:
        pass  # member.model is what trains

    def placed(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load(self, tree: dict[str, Any]) -> None:
        if tree.get("optimizer"):
            self.optimizer.load_state_dict(tree["optimizer"])

    def close(self) -> None:
        pass  # the next stage trains the same model
