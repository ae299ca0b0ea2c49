"""Feature-pyramid attention (Li et al. 2018, Pyramid Attention Network, arXiv 1805.10180).

smp's FPABlock takes no map under 8 x 8 (it halves three times, rounding down), where the deepest
map of an image of 128 x 128 is 4 x 4; it norms a 1 x 1 map, which fails on one image a device; and
its pyramid has a single channel.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.parts.layers import conv_norm, resize, size_of


class FeaturePyramidAttention(nn.Module):
    """(B, into, H, W) -> (B, out, H, W): features times a pyramid of attention, plus the mean.

    Convolutions of 7, 5 and 3 at a half, a quarter and an eighth of the size see most of the
    picture. Sizes are rounded up, so that maps of 4 x 4 go through; batch norm at 1 x 1 needs
    two images a device.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        inner = max(1, out // 8)
        self.middle = conv_norm(into, out, 1)
        self.down = nn.ModuleList(
            conv_norm(width, inner, kernel) for width, kernel in ((into, 7), (inner, 5), (inner, 3))
        )
        self.across = nn.ModuleList(conv_norm(inner, inner, kernel) for kernel in (7, 5, 3))
        self.attention = nn.Conv2d(inner, out, 1)
        self.whole = nn.Conv2d(into, out, 1)  # of a 1 x 1 map: without norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        levels, x = [], x_BCHW
        for conv, across in zip(self.down, self.across, strict=True):
            x = conv(F.max_pool2d(x, 2, ceil_mode=True))
            levels.append(across(x))
        pyramid = levels.pop()
        for level in reversed(levels):
            pyramid = level + resize(pyramid, size_of(level))
        pyramid = self.attention(resize(pyramid, size_of(x_BCHW)))
        mean = self.whole(x_BCHW.mean((2, 3), keepdim=True))
        return self.middle(x_BCHW) * pyramid + mean
