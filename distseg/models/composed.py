"""A U-shaped decoder put together from the parts, for any encoder and any image size.

Every part combines with every other; their names are `config/member.py: PARTS`. Maps are resized to
their skip's size, so that sides need not be multiples of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import Tensor, nn

from distseg.models.parts.cbam import BlockAttention
from distseg.models.parts.feature_pyramid_attention import FeaturePyramidAttention
from distseg.models.parts.global_attention import GlobalAttentionJoin
from distseg.models.parts.global_convolution import GlobalConvolutionJoin
from distseg.models.parts.guided_upsampling import GuidedUpsampling
from distseg.models.parts.hypercolumn import Hypercolumn
from distseg.models.parts.layers import ImageHead, Size, conv_norm, resize, size_of
from distseg.models.parts.object_context import PyramidObjectContext
from distseg.models.parts.pyramid_pooling import PyramidPooling
from distseg.models.parts.scse import SpatialChannelSE
from distseg.models.parts.stem import keep_full_size
from distseg.models.pyramid import PyramidEncoder

CENTERS = {"fpa": FeaturePyramidAttention, "aspp_oc": PyramidObjectContext, "ppm": PyramidPooling}
JOINS = {"gcn": GlobalConvolutionJoin, "gau": GlobalAttentionJoin}
ATTENTIONS = {"none": nn.Identity, "scse": SpatialChannelSE, "cbam": BlockAttention}
FUSED = 64  # channels of the image-level feature that deep supervision fuses into the pixels


class ComposedUnet(nn.Module):
    """Encoder, center, decoder blocks, and heads.

    Args:
        encoder_name, encoder_weights, in_channels, classes, kwargs: as smp takes them.
        encoder_depth: stages of the encoder.
        decoder_channels: of each block, from the deepest up; as many as stages.
        center, block, upsample, attention: see `config/member.py: PARTS`.
        hypercolumn: the last map is made of all blocks' maps.
        stride1_stem: the encoder's first stage keeps the image's size.
        dropout: rate over whole channels, before the logits.
        image_head: image logits from the center; with deep supervision also fused into the pixels.
        deep_supervision: logits of every block's map, in training only.
    """

    def __init__(
        self, encoder_name: str, *, encoder_weights: str | None = None, in_channels: int = 3,
        classes: int = 1, encoder_depth: int = 5,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16), center: str = "none",
        block: str = "unet", upsample: str = "bilinear", attention: str = "none",
        hypercolumn: bool = False, stride1_stem: bool = False, dropout: float = 0.0,
        image_head: bool = False, deep_supervision: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(decoder_channels) != encoder_depth:
            raise ValueError(
                f"decoder_channels: {', '.join(map(str, decoder_channels))}: needs encoder_depth "
                f"= {encoder_depth} of them"
            )
        self.encoder = smp.encoders.get_encoder(
            encoder_name, in_channels=in_channels, depth=encoder_depth, weights=encoder_weights,
            **kwargs,
        )  # fmt: skip
        if stride1_stem and isinstance(self.encoder, PyramidEncoder):
            raise ValueError("stride1_stem: an encoder with one stride has no such stem")
        if stride1_stem:
            keep_full_size(self.encoder)
        widths, outs = list(self.encoder.out_channels), list(decoder_channels)
        deepest = widths[-1]
        if center != "none":
            self.center: nn.Module = CENTERS[center](widths[-1], outs[0])
            deepest = outs[0]
        else:
            self.center = nn.Identity()
        self.skips = [*reversed(widths[1:-1]), 0]  # 0: no map of that size (the image itself)
        self.blocks = nn.ModuleList(
            DecoderBlock(into, skip, out, block, upsample, attention)
            for into, skip, out in zip([deepest, *outs[:-1]], self.skips, outs, strict=True)
        )
        self.hypercolumn = Hypercolumn(outs, outs[-1]) if hypercolumn else None
        fuses = image_head and deep_supervision
        self.fusion = nn.Sequential(nn.Linear(deepest, FUSED), nn.ReLU()) if fuses else None
        self.image_head = ImageHead(deepest, classes) if image_head else None
        self.deep = nn.ModuleList(
            nn.Conv2d(out, classes, 3, padding=1) for out in (outs if deep_supervision else [])
        )
        self.dropout = nn.Dropout2d(dropout)
        self.logits = nn.Conv2d(outs[-1] + FUSED * fuses, classes, 3, padding=1)
        self._start()

    def _start(self) -> None:
        """Random weights as smp's decoders have them."""
        for part in (self.center, self.blocks, self.hypercolumn):
            if part is not None:
                initialize_decoder(part)
        for head in (self.image_head, self.fusion, self.deep, self.logits):
            if head is not None:
                initialize_head(head)
        for module in self.modules():
            if isinstance(module, GuidedUpsampling):
                module.start()

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        """Logits (B, classes, H, W), image logits (B, classes) or None, and while training with
        deep supervision logits (B, classes, h, w) of each block, the deepest first."""
        size = size_of(images_BCHW)
        maps = self.encoder(images_BCHW)
        deepest = x = self.center(maps[-1])
        levels: list[Tensor] = []
        found = [*reversed(maps[1:-1]), None]
        skips = [skip if width else None for skip, width in zip(found, self.skips, strict=True)]
        for block, skip in zip(self.blocks, skips, strict=True):
            last = len(levels) == len(self.blocks) - 1
            x = block(x, skip, _next_size(x, skip, size, last))
            levels.append(x)
        if self.hypercolumn is not None:
            x = self.hypercolumn(levels, size)
        if self.fusion is not None:
            feature = self.fusion(deepest.mean((2, 3)))[:, :, None, None]
            x = torch.cat([x, feature.expand(-1, -1, *size)], dim=1)
        logits = self.logits(self.dropout(x))
        image_logits = None if self.image_head is None else self.image_head(deepest)
        deep = zip(self.deep, levels, strict=True) if self.deep and self.training else ()
        return (logits, image_logits, *(head(level) for head, level in deep))


class DecoderBlock(nn.Module):
    """A deep map brought to `size`, joined with its skip: (B, into, h, w) -> (B, out, *size)."""

    def __init__(
        self, into: int, skip: int, out: int, block: str, upsample: str, attention: str
    ) -> None:
        super().__init__()
        self.upsample = GuidedUpsampling(into) if upsample == "guided" else None
        kind = JOINS.get(block, ConcatJoin) if skip else ConcatJoin
        self.join = kind(into, skip, out)
        self.attention = ATTENTIONS[attention](out)

    def forward(self, x_BCHW: Tensor, skip_BCHW: Tensor | None, size: Size) -> Tensor:
        x = resize(x_BCHW, size) if self.upsample is None else self.upsample(x_BCHW, size)
        return self.attention(self.join(x, skip_BCHW))


class ConcatJoin(nn.Module):
    """The join of the U-Net (Ronneberger et al. 2015): both maps side by side, then two
    convolutions."""

    def __init__(self, into: int, skip: int, out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_norm(into + skip, out), conv_norm(out, out))

    def forward(self, x_BCHW: Tensor, skip_BCHW: Tensor | None) -> Tensor:
        both = x_BCHW if skip_BCHW is None else torch.cat([x_BCHW, skip_BCHW], dim=1)
        return self.convs(both)


def _next_size(x_BCHW: Tensor, skip_BCHW: Tensor | None, image: Size, last: bool) -> Size:
    """The size that a block brings its map to: that of its skip; without a skip twice the map's
    own, at most the image's; of the last block the image's."""
    if skip_BCHW is not None:
        return size_of(skip_BCHW)
    height, width = size_of(x_BCHW)
    return image if last else (min(image[0], 2 * height), min(image[1], 2 * width))
