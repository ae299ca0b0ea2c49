"""Convolutional block attention (Woo et al. 2018, arXiv 1807.06521).

By the paper's formula. timm's CBAM (`timm.layers.create_attn("cbam", ...)`) is another one: batch
norm in the pixel gate, no biases in the channel gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BlockAttention(nn.Module):
    """A gate per channel, and then one per pixel: (B, width, H, W) -> the same shape.

    The channel gate looks at the mean and at the maximum over the pixels through one small
    network, the pixel gate at the mean and the maximum over the channels.
    """

    def __init__(self, width: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        inner = max(1, width // reduction)
        self.channel = nn.Sequential(
            nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )
        self.pixel = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean, top = x_BCHW.mean((2, 3), keepdim=True), x_BCHW.amax((2, 3), keepdim=True)
        x = x_BCHW * (self.channel(mean) + self.channel(top)).sigmoid()
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.pixel(seen).sigmoid()
