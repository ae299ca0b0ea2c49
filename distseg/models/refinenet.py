"""RefineNet (Lin et al. 2017, arXiv 1611.06612) on any encoder."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.parts.layers import ImageHead, resize, size_of

LEVELS = 4  # the maps of strides 4, 8, 16 and 32


class RefineNet(nn.Module):
    """Four refinement blocks, from the deepest map up: the paper's 4-cascaded form.

    Args:
        encoder_name, encoder_weights, in_channels, classes, kwargs: as smp takes them.
        width: channels of all blocks (the paper's deepest has 512).
        dropout: rate over whole channels, before the logits.
        image_head: image logits from the deepest map.
    """

    def __init__(
        self, encoder_name: str, *, encoder_weights: str | None = None, in_channels: int = 3,
        classes: int = 1, width: int = 256, dropout: float = 0.0, image_head: bool = False,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = smp.encoders.get_encoder(
            encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights, **kwargs
        )
        widths = list(self.encoder.out_channels)[-LEVELS:]
        self.adapt = nn.ModuleList(nn.Conv2d(w, width, 3, padding=1, bias=False) for w in widths)
        self.blocks = nn.ModuleList(
            RefineBlock(width, inputs=1 if level == LEVELS - 1 else 2) for level in range(LEVELS)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.image_head = ImageHead(widths[-1], classes) if image_head else None

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, classes, H, W), and image logits (B, classes) or None."""
        maps = self.encoder(images_BCHW)[-LEVELS:]
        x: Tensor | None = None
        for adapt, block, level in reversed(list(zip(self.adapt, self.blocks, maps, strict=True))):
            own = adapt(level)
            x = block([own] if x is None else [own, x])
        logits = resize(self.logits(self.dropout(x)), size_of(images_BCHW))
        return logits, None if self.image_head is None else self.image_head(maps[-1])


class RefineBlock(nn.Module):
    """1 or 2 maps (B, width, h, w) -> (B, width, H, W), the size of the first: residual units on
    each, their fusion, chained pooling, one more unit."""

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(ResidualUnit(width), ResidualUnit(width)) for _ in range(inputs)
        )
        self.fuse = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(inputs)
        )
        self.pool = ChainedPooling(width)
        self.out = ResidualUnit(width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = size_of(maps[0])
        adapted = [
            resize(fuse(unit(x)), size)
            for fuse, unit, x in zip(self.fuse, self.units, maps, strict=True)
        ]
        return self.out(self.pool(sum(adapted[1:], adapted[0])))


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))): (B, width, H, W) -> the same shape, without normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.body(x_BCHW)


class ChainedPooling(nn.Module):
    """relu(x) plus pooled and convolved copies of it, each made of the one before."""

    def __init__(self, width: int, links: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(links)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        total = link = x_BCHW.relu()
        for conv in self.convs:
            link = conv(F.max_pool2d(link, 5, stride=1, padding=2))
            total = total + link
        return total
