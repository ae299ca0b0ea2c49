"""Averages of a model's weights: of every step (EMA), or of the kept snapshots (SWA)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Exponential moving average of the parameters that a model learns, in float32 on their
    devices.

    Buffers (BatchNorm's statistics) are themselves averages: the model's current ones serve.
    The decay warms up as min(decay, (1 + n) / (10 + n)) over the updates n, so that the random
    start is soon forgotten in a short run.

    torch.optim.swa_utils.AveragedModel gives the same numbers, but makes the host wait for the GPU
    in every step: update_parameters() sends its counter to the device of the parameters before it
    calls the averaging function, or reads it from there, whichever device it lies on; and it
    copies every buffer each time. So only torch's averaging function is used here.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._shadow = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer update."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        current = [parameter.detach().float() for parameter in self._parameters(model)]
        get_ema_multi_avg_fn(decay)(list(self._shadow.values()), current, None)

    @contextmanager
    def swap(self, model: nn.Module) -> Iterator[None]:
        """Within the block, `model` has the averaged parameters; after it, its own again."""
        parameters = self._parameters(model)
        own = [parameter.detach().clone() for parameter in parameters]
        _copy(parameters, self._shadow.values())
        try:
            yield
        finally:
            _copy(parameters, own)

    def teacher(self, model: nn.Module) -> nn.Module:
        """`model` with the averages in the place of its parameters, in evaluation mode; it shares
        the tensors of both, so that it always is what the averages are and what `swap` evaluates:
        update() and load() move its parameters, and the model's training its buffers. What never
        learns is the model's own."""
        shared: dict[int, Tensor] = {id(t): t for t in (*model.buffers(), *model.parameters())}
        averages = zip(self._parameters(model), self._shadow.values(), strict=True)
        shared |= {id(own): nn.Parameter(mean, requires_grad=False) for own, mean in averages}
        return copy.deepcopy(model, shared).eval()

    def _parameters(self, model: nn.Module) -> list[Tensor]:
        named = dict(model.named_parameters())
        assert named.keys() >= self._shadow.keys(), "not the model of this average"
        return [named[name] for name in self._shadow]

    def tensors(self) -> dict[str, Tensor]:
        """For save_state: the averages by parameter name, and `ema.num_updates`. (Weights for
        a snapshot: clean_state_dict(model) within swap(model).)"""
        return {**self._shadow, "ema.num_updates": torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what tensors() gave."""
        self.num_updates = int(tensors["ema.num_updates"])
        for name, shadow in self._shadow.items():
            shadow.copy_(tensors[name])


@torch.no_grad()
def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
