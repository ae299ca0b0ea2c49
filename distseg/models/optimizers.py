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


def lookahead(optimizer: Optimizer, options: dict[str, Any]) -> Optimizer:
    """Lookahead (Zhang et al. 2019) around `optimizer`; options alpha (0..1) and k (steps).

    The slow weights and the step counter live in the state and the groups of `optimizer`, and
    so in its state_dict(). timm takes the slow weights' start at the first synchronization:
    it changes nothing, the k-th step after it does.
    """
    return timm.optim.Lookahead(optimizer, **options)
