"""Concurrent spatial and channel squeeze & excitation (Roy et al. 2018, arXiv 1803.02579).

smp's own block.
"""

from __future__ import annotations

from segmentation_models_pytorch.base.modules import SCSEModule

from distseg.models.parts.layers import accept_old_names


class SpatialChannelSE(SCSEModule):
    """x * channel gate + x * pixel gate: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        # smp divides the width by the reduction: of fewer channels nothing would be left.
        super().__init__(width, min(width, reduction))
        accept_old_names(self, {"channel.": "cSE.", "pixel.": "sSE."})
