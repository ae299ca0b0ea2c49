"""The plain U-Net, and the residual one of the first TGS kernels, for any input size.

Sizes are halved with rounding down (101 -> 50 -> 25 -> 12 -> 6), and on the way back a transposed
convolution makes 2 n + 1 pixels of n, of which as many stay as the skip connection has: so
101 x 101 goes through without padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlainUnet(nn.Module):
    """Ronneberger et al. 2015 with batch normalization: two convolutions a level.

    Args:
        channels: of the images.
        classes: of the logits.
        filters: of the first level; each level doubles them.
        depth: number of times that the size is halved.
        dropout: rate after each pooling (half of it after the first) and each concatenation.
        image_head: a second output (B, classes) from the lowest level.
    """

    def __init__(
        self, channels: int, classes: int, *, filters: int = 32, depth: int = 4,
        dropout: float = 0.0, image_head: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [filters * 2**level for level in range(depth + 1)]
        into = [channels, *widths[:-1]]
        self.down = nn.ModuleList(self.level(a, b) for a, b in zip(into, widths, strict=True))
        rates = [dropout / 2, *[dropout] * depth][:depth]
        self.pool = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), nn.Dropout(r)) for r in rates)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 3, stride=2) for width in reversed(widths[:-1])
        )
        self.drop = nn.Dropout(dropout)
        self.merge = nn.ModuleList(self.level(2 * width, width) for width in reversed(widths[:-1]))
        self.logits = nn.Conv2d(filters, classes, 1)
        self.head = nn.Linear(widths[-1], classes) if image_head else None

    def level(self, into: int, out: int) -> nn.Module:
        """The convolutions of one level: (B, into, H, W) -> (B, out, H, W)."""
        return nn.Sequential(
            nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip

    def forward(self, images_BCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, classes, H, W); with an image head also (B, classes)."""
        skips, x = [], images_BCHW
        for level, pool in zip(self.down[:-1], self.pool, strict=True):
            x = level(x)
            skips.append(x)
            x = pool(x)
        x = self.down[-1](x)
        lowest = x
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x)[..., : skip.shape[-2], : skip.shape[-1]]
            x = merge(self.drop(torch.cat([x, skip], dim=1)))
        logits = self.logits(x)
        return logits if self.head is None else (logits, self.head(lowest.mean((2, 3))))


class ResidualUnet(PlainUnet):
    """Each level is a convolution and two residual blocks with pre-activation (He et al. 2016)."""

    def __init__(
        self, channels: int, classes: int, *, filters: int = 16, depth: int = 4,
        dropout: float = 0.5, image_head: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            channels, classes, filters=filters, depth=depth, dropout=dropout, image_head=image_head
        )

    def level(self, into: int, out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(into, out, 3, padding=1), ResidualBlock(out), ResidualBlock(out),
            nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip


class ResidualBlock(nn.Module):
    """x + conv(norm-relu(conv(norm-relu(x)))), all with `width` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.body(x_BCHW)
