"""Hypercolumns (Hariharan et al. 2015, arXiv 1411.5752) of a decoder's levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distseg.models.parts.layers import Size, conv_norm, resize


class Hypercolumn(nn.Module):
    """Maps (B, width, h, w) of all levels, side by side at full size -> (B, out, H, W).

    Each level is brought to `out` channels while it is still small: hundreds of channels at full
    size are what a hypercolumn would cost otherwise.
    """

    def __init__(self, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Conv2d(width, out, 1) for width in widths)
        self.merge = conv_norm(out * len(widths), out)

    def forward(self, levels: Sequence[Tensor], size: Size) -> Tensor:
        maps = [resize(conv(x), size) for conv, x in zip(self.narrow, levels, strict=True)]
        return self.merge(torch.cat(maps, dim=1))
