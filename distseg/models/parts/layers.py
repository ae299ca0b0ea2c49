"""What the parts share: convolution with normalization, resizing, the image-level head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]  # (height, width) in pixels


def conv_norm(into: int, out: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU: (B, into, H, W) -> (B, out, H, W)."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(into, out, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def resize(x_BCHW: Tensor, size: Size) -> Tensor:
    """Bilinear, half-pixel centers; nothing where the size is right."""
    if tuple(x_BCHW.shape[-2:]) == tuple(size):
        return x_BCHW
    return F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)


def size_of(x_BCHW: Tensor) -> Size:
    """(height, width) of a map."""
    return int(x_BCHW.shape[-2]), int(x_BCHW.shape[-1])


def accept_old_names(module: nn.Module, new_by_old: Mapping[str, str]) -> None:
    """Let `load_state_dict` take weights that were saved under other names.

    Snapshots of runs from before a part became smp's have that part's old names. new_by_old: how
    the names begin, below the module; the rest of a name is the same.
    """

    def rename(_: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for old, new in new_by_old.items():
            for name in [name for name in state if name.startswith(prefix + old)]:
                state[prefix + new + name.removeprefix(prefix + old)] = state.pop(name)

    module.register_load_state_dict_pre_hook(rename)


class ImageHead(nn.Module):
    """Is a class anywhere in the image: (B, into, h, w) -> logits (B, classes), from the mean."""

    def __init__(self, into: int, classes: int) -> None:
        super().__init__()
        self.logits = nn.Linear(into, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.logits(x_BCHW.mean((2, 3)))
