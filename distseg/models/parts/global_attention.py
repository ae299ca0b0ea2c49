"""Global attention upsample (Li et al. 2018, Pyramid Attention Network, arXiv 1805.10180).

smp's GAUBlock norms a 1 x 1 map, which fails on one image a device, and takes a deep map only that
has as many channels as it puts out.
"""

from __future__ import annotations

from torch import Tensor, nn

from distseg.models.parts.layers import conv_norm


class GlobalAttentionJoin(nn.Module):
    """What the deep map sees as a whole chooses the skip's channels; the two are then added.

    (B, into, H, W) and (B, skip, H, W) -> (B, out, H, W).
    """

    def __init__(self, into: int, skip: int, out: int) -> None:
        super().__init__()
        self.skip = conv_norm(skip, out)
        # of a 1 x 1 map: without norm
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(into, out, 1), nn.Sigmoid())
        self.deep = conv_norm(into, out, 1)

    def forward(self, x_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
        return self.deep(x_BCHW) + self.skip(skip_BCHW) * self.gate(x_BCHW)
