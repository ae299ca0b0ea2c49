"""A frozen encoder apart from what learns: its feature maps as one row of float16 numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(Exception):
    """The encoder is done, and what comes after it is not wanted."""


@dataclass(frozen=True)
class Layout:
    """How the maps of an encoder lie in a row.

    shown: (C, H, W) of what the encoder is shown. shapes: (C, h, w) of each map; None: it is what
    the encoder is shown, which no decoder reads, and is not kept. dtypes, formats: of each, also in
    memory.
    """

    shown: tuple[int, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    dtypes: tuple[torch.dtype, ...]
    formats: tuple[torch.memory_format, ...]

    @property
    def sizes(self) -> list[int]:
        """Numbers of each map that is kept."""
        return [torch.Size(shape).numel() for shape in self.shapes if shape is not None]

    @property
    def values(self) -> int:
        """Numbers of an image."""
        return sum(self.sizes)

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """float16 (B, values)."""
        kept = [x for x, shape in zip(maps, self.shapes, strict=True) if shape is not None]
        return torch.cat([x.flatten(1).half() for x in kept], dim=1)

    def unpack(self, flat_BL: Tensor) -> list[Tensor]:
        """The maps again; zeros for what the encoder is shown."""
        batch, found = len(flat_BL), iter(flat_BL.split(self.sizes, dim=1))
        return [
            flat_BL.new_zeros(1, dtype=dtype).expand(batch, *self.shown)
            if shape is None
            else next(found).reshape(batch, *shape).to(dtype, memory_format=memory_format)
            for shape, dtype, memory_format in zip(
                self.shapes, self.dtypes, self.formats, strict=True
            )
        ]


def _format_of(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if x.is_contiguous() or not last else torch.channels_last


@contextmanager
def given(encoder: nn.Module, maps: Sequence[Tensor]) -> Iterator[None]:
    """Within the block the encoder computes nothing: whoever calls it gets `maps`."""
    encoder.__dict__["forward"] = lambda *_: list(maps)
    try:
        yield
    finally:
        del encoder.__dict__["forward"]


@torch.no_grad()
def maps_of(model: nn.Module, encoder: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, Any]:
    """What `model` shows its encoder, and what that makes of it. The decoder is not run."""

    def leave(_module: nn.Module, inputs: tuple[Tensor, ...], maps: object) -> None:
        found.append((inputs[0], maps))
        raise _Reached

    found: list[tuple[Tensor, Any]] = []
    hook = encoder.register_forward_hook(leave)
    try:
        model(images_BCHW)
    except _Reached:
        pass
    finally:
        hook.remove()
    (one,) = found
    return one


@torch.no_grad()
def layout_of(model: nn.Module, encoder: nn.Module, images_BCHW: Tensor) -> Layout | None:
    """The layout of the encoder's maps, of a model in evaluation mode; None where they alone do not
    make the model's outputs: other things than maps, or a decoder that also reads the images."""
    shown, maps = maps_of(model, encoder, images_BCHW)
    if not isinstance(maps, list | tuple) or not all(isinstance(x, Tensor) for x in maps):
        return None
    shapes = tuple(None if x is shown else tuple(x.shape[1:]) for x in maps)
    formats = tuple(map(_format_of, maps))
    layout = Layout(tuple(shown.shape[1:]), shapes, tuple(x.dtype for x in maps), formats)
    blind = [torch.zeros_like(x) if x is shown else x for x in maps]
    expected = model(images_BCHW)
    with given(encoder, blind):
        found = model(torch.zeros_like(images_BCHW))
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a is not None]
    same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in pairs)
    return layout if same else None


def fingerprint(encoder: nn.Module) -> str:
    """A hash of an encoder's layers and weights."""
    digest = hashlib.sha256(repr(encoder).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        if plain.numel():
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
