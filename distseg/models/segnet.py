"""SegNet (Badrinarayanan et al. 2017, arXiv 1511.00561): upsampling by the pooling's places."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.parts.layers import ImageHead, conv_norm, size_of

CONVS = (2, 2, 3, 3, 3)  # of each level, as in VGG16


class SegNet(nn.Module):
    """An encoder as VGG16's, and its mirror: what was a maximum goes back to where it was.

    Any image size goes through: halves are rounded down, and each way back knows its size.

    Args:
        channels: of the images.
        classes: of the logits.
        filters: of the first level; each doubles them up to 8 times as many, as in VGG16.
        depth: levels, 1..5.
        dropout: rate at the three deepest levels, as in Bayesian SegNet (arXiv 1511.02680).
        image_head: a second output (B, classes) from the lowest level.
    """

    def __init__(
        self, channels: int, classes: int, *, filters: int = 64, depth: int = 5,
        dropout: float = 0.0, image_head: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= depth <= len(CONVS):
            raise ValueError(f"depth: {depth}; valid: 1..{len(CONVS)}")
        widths = [filters * 2 ** min(level, 3) for level in range(depth)]
        into = [channels, *widths[:-1]]
        back = [filters, *widths[:-1]]  # what a level's way back ends with
        self.down = nn.ModuleList(
            _level([a, *[b] * n]) for a, b, n in zip(into, widths, CONVS, strict=False)
        )
        self.up = nn.ModuleList(
            _level([*[b] * n, a]) for a, b, n in zip(back, widths, CONVS, strict=False)
        )
        rates = [dropout if level >= depth - 3 else 0.0 for level in range(depth)]
        self.drop = nn.ModuleList(nn.Dropout(rate) for rate in rates)
        self.logits = nn.Conv2d(filters, classes, 3, padding=1)
        self.image_head = ImageHead(widths[-1], classes) if image_head else None

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, classes, H, W), and image logits (B, classes) or None."""
        x, places = images_BCHW, []
        for down, drop in zip(self.down, self.drop, strict=True):
            x = down(x)
            size = size_of(x)
            x, index = F.max_pool2d(x, 2, return_indices=True)
            places.append((index, size))
            x = drop(x)
        lowest = x
        for up, drop in reversed(list(zip(self.up, self.drop, strict=True))):
            index, size = places.pop()
            x = drop(up(F.max_unpool2d(x, index, (2, 2), output_size=size)))
        return self.logits(x), None if self.image_head is None else self.image_head(lowest)


def _level(widths: list[int]) -> nn.Sequential:
    """Convolutions from widths[0] to widths[-1] channels."""
    return nn.Sequential(*(conv_norm(a, b) for a, b in pairwise(widths)))
