"""Concurrent spatial and channel squeeze & excitation (Roy et al. 2018, arXiv 1803.02579)."""

from __future__ import annotations

from torch import Tensor, nn


class SpatialChannelSE(nn.Module):
    """x * channel gate + x * pixel gate: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, width // reduction)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), nn.ReLU(),
            nn.Conv2d(inner, width, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.pixel = nn.Sequential(nn.Conv2d(width, 1, 1), nn.Sigmoid())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.channel(x_BCHW) + x_BCHW * self.pixel(x_BCHW)
