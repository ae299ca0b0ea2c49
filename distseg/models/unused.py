"""Parts of a network that no output depends on: taken out, so that they are not kept in memory, not
saved and not counted.

An encoder whose `encoder_depth` is under 5 keeps its last stages (smp's resnet18 8.4 of 11.2
million parameters), and smp's efficientnet the convolution before its classifier.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn


class Unused(nn.Identity):
    """In the place of a module that no output depends on. Weights that a file has for it, of a
    version that saved them or of a whole encoder, are passed over."""

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        """It has nothing to load, and nothing is missing or too much."""


def unused_modules(model: nn.Module, unused: Collection[str]) -> list[str]:
    """Dotted names of the largest modules all of whose parameters are in `unused`."""
    return list(_largest(model, "", frozenset(unused)))


def _largest(module: nn.Module, prefix: str, unused: frozenset[str]) -> Iterator[str]:
    for name, child in module.named_children():
        own = [f"{prefix}{name}.{parameter}" for parameter, _ in child.named_parameters()]
        if own and unused.issuperset(own):
            yield f"{prefix}{name}"
        elif not unused.isdisjoint(own):
            yield from _largest(child, f"{prefix}{name}.", unused)


def take_out(model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """Replace modules, in place; returns what stood there."""
    taken = {name: model.get_submodule(name) for name in names}
    for name in names:
        model.set_submodule(name, Unused())
    return taken


def put_back(model: nn.Module, taken: dict[str, nn.Module]) -> None:
    """Undo `take_out`."""
    for name, module in taken.items():
        model.set_submodule(name, module)
