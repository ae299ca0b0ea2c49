"""Pyramid pooling (Zhao et al. 2017, PSPNet, arXiv 1612.01105)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.parts.layers import conv_norm

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """(B, into, H, W) -> (B, out, H, W): means over 1, 2, 3 and 6 bins a side beside the input."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.pools = Pools(into)
        self.merge = conv_norm(into + into // len(BINS) * len(BINS), out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.merge(self.pools(x_BCHW))


class Pools(nn.Module):
    """(B, into, H, W) -> (B, into + 4 * (into // 4), H, W): the pooled maps, then the input."""

    def __init__(self, into: int) -> None:
        super().__init__()
        width = into // len(BINS)
        self.convs = nn.ModuleList(
            # batch norm fails on 1 x 1 maps of one image
            nn.Sequential(nn.Conv2d(into, width, 1), nn.ReLU())
            if bins == 1
            else conv_norm(into, width, 1)
            for bins in BINS
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        size = x_BCHW.shape[-2:]
        maps = [
            F.interpolate(
                conv(F.adaptive_avg_pool2d(x_BCHW, bins)), size, mode="bilinear", align_corners=True
            )
            for bins, conv in zip(BINS, self.convs, strict=True)
        ]
        return torch.cat([*maps, x_BCHW], dim=1)
