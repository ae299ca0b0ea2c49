"""Fully convolutional network (Long et al. 2015, arXiv 1411.4038) on any encoder."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from distseg.models.parts.layers import ImageHead, resize, size_of


class FCN(nn.Module):
    """Scores of the deepest map, enlarged at once.

    Args:
        encoder_name, encoder_weights, in_channels, classes, kwargs: as smp takes them.
        encoder_depth: stages of the encoder.
        output_stride: 8 as in torchvision: the last stages are dilated instead of strided; 32 for
            encoders that cannot be dilated.
        skips: shallower maps whose scores are added on the way up: with output_stride 32, 1 is
            the paper's FCN-16s and 2 its FCN-8s.
        dropout: rate before the scores of the deepest map.
        image_head: image logits from the deepest map.
    """

    def __init__(
        self, encoder_name: str, *, encoder_weights: str | None = None, in_channels: int = 3,
        classes: int = 1, encoder_depth: int = 5, output_stride: int = 8, skips: int = 0,
        dropout: float = 0.1, image_head: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= skips < encoder_depth - 1:
            raise ValueError(f"skips: {skips}: valid: 0..{encoder_depth - 2}")
        self.encoder = smp.encoders.get_encoder(
            encoder_name, in_channels=in_channels, depth=encoder_depth, weights=encoder_weights,
            output_stride=output_stride, **kwargs,
        )  # fmt: skip
        widths = list(self.encoder.out_channels)
        self.head = FCNHead(widths[-1], classes, dropout)
        self.skips = nn.ModuleList(
            nn.Conv2d(width, classes, 1) for width in widths[-2 : -2 - skips : -1]
        )
        self.image_head = ImageHead(widths[-1], classes) if image_head else None

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, classes, H, W), and image logits (B, classes) or None."""
        maps = self.encoder(images_BCHW)
        logits = self.head(maps[-1])
        for score, skip in zip(self.skips, reversed(maps[:-1]), strict=False):
            logits = resize(logits, size_of(skip)) + score(skip)
        image_logits = None if self.image_head is None else self.image_head(maps[-1])
        return resize(logits, size_of(images_BCHW)), image_logits


class FCNHead(nn.Sequential):
    """(B, into, h, w) -> scores (B, classes, h, w): the layers of torchvision's FCNHead."""

    def __init__(self, into: int, classes: int, dropout: float = 0.1) -> None:
        inner = max(1, into // 4)
        super().__init__(
            nn.Conv2d(into, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Dropout(dropout), nn.Conv2d(inner, classes, 1),
        )  # fmt: skip
