"""Pyramid pooling (Zhao et al. 2017, PSPNet, arXiv 1612.01105).

smp's own module pools; it norms no 1 x 1 map, where batch norm fails on one image.
"""

from __future__ import annotations

from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from torch import Tensor, nn

from distseg.models.parts.layers import accept_old_names, conv_norm

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """(B, into, H, W) -> (B, out, H, W): means over 1, 2, 3 and 6 bins a side beside the input."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.pools = PSPModule(into, BINS)  # (B, into + 4 * (into // 4), H, W)
        self.merge = conv_norm(into + into // len(BINS) * len(BINS), out)
        names = {f"convs.{i}.": f"blocks.{i}.pool.1." for i in range(len(BINS))}
        accept_old_names(self.pools, names)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.merge(self.pools(x_BCHW))
