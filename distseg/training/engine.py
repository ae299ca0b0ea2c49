"""What moves the weights of one stage: DDP (or one process) here, ZeRO in zero.py."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.training import OptimizerConfig
from distseg.models.optimizers import Lookahead
from distseg.training.optim import build_optimizer

LEAST_SCALE = 1.0  # of fp16: above it, gradients that are not finite lower the scale of the loss


class Update(NamedTuple):
    """What came of an update; int64 (), on the device, the same on all ranks.

    skipped: 1 if no weight has moved because a gradient was not finite, else 0.
    bad: 1 if it was skipped, and not for the search of fp16's loss scale: that halves a scale which
        is too large until the gradients fit, and begins at 65536.
    """

    skipped: Tensor
    bad: Tensor


class Engine(Protocol):
    """One optimizer and the model that it trains, on all ranks.

    `module` is the model that trains; the member's model is the one that is evaluated and saved.
    DDP has one for both. ZeRO has two: gather() copies the weights over.
    """

    module: nn.Module
    optimizer: Optimizer  # its groups take the learning rates

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch; `last` of its step."""

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        """What the model returns: logits (B, C, H, W), (B, C) of the image head or None, and the
        logits of each scale under deep supervision."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the mean of all ranks' losses."""

    def step(self, clip_norm: float | None) -> Update:
        """One update, after which the gradients are gone; skipped where one is not finite."""

    def gather(self) -> None:
        """All ranks: the member's model takes the weights and buffers that were trained."""

    def placed(self) -> AbstractContextManager[Any]:
        """Within the block, the member's model lies on the device, to be evaluated."""

    def state(self) -> dict[str, Any]:
        """The optimizer's state, of this rank where ranks differ."""

    def load(self, tree: dict[str, Any]) -> None:
        """All ranks: begin again with the weights of the member's model, and with the optimizer's
        state in `tree`, if it has one."""

    def close(self) -> None:
        """The stage is over: give its memory back."""


class DdpEngine(Engine):
    """DistributedDataParallel on several ranks, the bare model on one.

    The optimizer is not handed to Accelerate: what its wrapper adds (a scaler for fp16) is four
    lines of step(), and an Accelerator would keep the optimizers of all stages in memory.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, ddp: nn.Module, config: OptimizerConfig
    ) -> None:
        """ddp: `model` as Accelerate has prepared it."""
        self.accelerator, self.module, self.ddp = accelerator, model, ddp
        self.optimizer = build_optimizer(config, model)
        # Lookahead hands its steps to the optimizer inside it, whose kernels read the flags.
        optimizer = self.optimizer
        self.inside: Any = optimizer.inside if isinstance(optimizer, Lookahead) else optimizer
        self.fused = bool(self.inside.defaults.get("fused"))

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients cross the ranks once a step: with its last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(self.ddp)

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        return self.ddp(images_BCHW)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)  # fp16: of the scaled loss

    def step(self, clip_norm: float | None) -> Update:
        """A fused optimizer skips on the device, so that the host need not ask it for the norm."""
        scaler = self.accelerator.scaler  # fp16 only
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        limit = clip_norm if clip_norm is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(list(self.module.parameters()), limit)
        finite = torch.isfinite(norm)
        bad = ~finite
        if scaler is not None:
            scale = scaler.scale(torch.ones((), device=norm.device))  # asked of the device alone
            bad = bad & (scale <= LEAST_SCALE)
            scaler.step(self.optimizer)  # it skips by itself
            scaler.update()
        elif self.fused:
            # The attributes by which a GradScaler talks to the fused kernels of torch.
            self.inside.grad_scale, self.inside.found_inf = None, (~finite).float()
            self.optimizer.step()
        elif finite.item():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Update((~finite).long(), bad.long())

    def gather(self) -> None:
        """The member's model is what trains."""

    def placed(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load(self, tree: dict[str, Any]) -> None:
        if tree.get("optimizer"):
            self.optimizer.load_state_dict(tree["optimizer"])

    def close(self) -> None:
        """The next stage trains the same model."""
