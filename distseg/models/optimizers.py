"""timm's optimizers, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import timm.optim
import torch
from torch.optim import Optimizer

# They need a closure or second derivatives, or a package that is not installed with timm.
EXCLUDED = ("adahessian", "bnb", "fused", "lbfgs")
SLOW = "lookahead_slow_buff"  # timm's name for the slow weights in the state


def timm_optimizers() -> list[str]:
    """Names of timm's optimizers that a plain training loop can step."""
    return [n for n in timm.optim.list_optimizers() if not n.startswith(EXCLUDED)]


def timm_optimizer(name: str) -> Callable[..., Optimizer]:
    """The class of a name of `timm_optimizers()`, with the defaults that timm's factory gives."""
    make = timm.optim.get_optimizer_class(name, bind_defaults=True)
    parameters = inspect.signature(make).parameters
    if timm.optim.get_optimizer_info(name).has_momentum:
        make = partial(make, momentum=0.9)
    if "momentum_dtype" in parameters:  # load_state_dict() makes bfloat16 float32: not the same
        make = partial(make, momentum_dtype=torch.float32)
    return make


class Lookahead(timm.optim.Lookahead):
    """Zhang et al. 2019, arXiv 1907.08610: every k steps the weights go back to the slow weights,
    which first go `alpha` (0..1) of the way to them.

    It is timm's, but for where the slow weights begin: here with the weights before the first step,
    as in the paper. timm's take the fast weights at the first synchronization, which then changes
    nothing. Slow weights and step counter live in the state and the groups of the optimizer inside,
    and so in its state_dict().
    """

    def __init__(self, inside: Optimizer, **options: Any) -> None:
        """options: alpha and k. ValueError: one is out of range."""
        super().__init__(inside, **options)
        self.inside = inside

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        inside = self.inside
        # Kept aside until the step is done: an optimizer takes a parameter whose state is empty for
        # one that it has not begun with, and the slow weights would make it not empty.
        starts = {
            parameter: parameter.detach().clone()
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and SLOW not in inside.state.get(parameter, {})
        }
        loss = inside.step(closure)
        for parameter, start in starts.items():
            inside.state[parameter][SLOW] = start
        for group in self.param_groups:
            group["lookahead_step"] += 1
            if group["lookahead_step"] % group["lookahead_k"] == 0:
                self.update_slow(group)
        return loss
