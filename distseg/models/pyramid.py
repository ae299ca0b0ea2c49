"""Encoders without a pyramid of their own (plain vision transformers) under every decoder.

smp's decoders take maps of the strides 2, 4, 8, 16 and 32. A plain ViT has one stride, its patch.
The simple feature pyramid (Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object
Detection", arXiv 2203.16527) makes the others of its last map, by transposed convolutions and max
pooling. The same serves encoders with strides that smp's patterns lack (VOLO, LeViT).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from distseg.models.parts.layers import Size, resize, size_of
from distseg.models.unused import Unused

WIDTH = 256  # channels of each map, as in the paper
ENCODER = "net.encoder"  # where a SegmentationNet has its encoder
HALF = 2  # the stride that the paper's pyramid lacks
# Decoders of smp that need a map of stride 2; for the others it is empty, as for Swin.
NEEDS_HALF = frozenset(("UnetPlusPlus", "MAnet", "Linknet"))
# Ways to tell timm's models the size of their images, the best first: position embeddings of that
# size that are resized for others; of that size only; models without any.
SIZE_OPTIONS = (("img_size", "dynamic_img_size"), ("img_size",), ())
# What timm's models raise that have no maps, or cannot be made here.
NO_MAPS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ImportError,
)  # fmt: skip
WRONG_OPTION = (TypeError, ValueError, RuntimeError, AssertionError)


@functools.cache
def strides(encoder: str) -> tuple[int, ...]:
    """Strides of the maps that timm's model tu-NAME gives, in pixels; () where it gives none, and
    for encoders of smp."""
    if not encoder.startswith("tu-"):
        return ()
    try:
        return _strides(_on_meta(encoder.removeprefix("tu-"), {}))
    except NO_MAPS:  # smp's own building says why
        return ()


@functools.cache
def needs_pyramid(encoder: str) -> bool:
    """Whether timm's model tu-NAME gives maps, but not those that smp's decoders take."""
    found = strides(encoder)
    patterns = [tuple(2 ** (i + first) for i in range(len(found))) for first in range(3)]
    return bool(found) and found not in patterns


@functools.cache
def takes_any_size(encoder: str) -> bool:
    """Whether an encoder that needs a pyramid takes images of other sizes than it was made for."""
    name = encoder.removeprefix("tu-")
    return "img_size" not in (given := size_options(name, {}, (224, 224))) or (
        "dynamic_img_size" in given
    )


def size_options(name: str, options: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """What tells a model of timm the size of its images, among what it accepts. An option that the
    config gives stands. size: of the images, brought to a multiple of its patch.

    Raises: what timm raises where no way is accepted.
    """
    plain = _on_meta(name, options)
    shown = shown_size(size, multiple_of(_strides(plain)))
    values: dict[str, Any] = {"img_size": shown, "dynamic_img_size": True}
    for keys in SIZE_OPTIONS[:-1]:
        found = {key: values[key] for key in keys if key not in options}
        try:
            _on_meta(name, {**options, **found})
        except WRONG_OPTION:
            continue
        return found
    return {}


def multiple_of(found: Sequence[int]) -> int:
    """What the sides of an encoder's images must be multiples of: its patch, or its deepest stride
    up to 32."""
    return max([stride for stride in found if stride <= 32], default=min(found))


def shown_size(size: Size, multiple: int) -> Size:
    """The nearest size whose sides are multiples: what an encoder is shown of an image."""
    height, width = (max(multiple, (side + multiple // 2) // multiple * multiple) for side in size)
    return height, width


def trunk(encoder: nn.Module) -> nn.Module:
    """The part of an encoder that weights of the hub fill: all of it, but for a pyramid."""
    return encoder.model if isinstance(encoder, PyramidEncoder) else encoder


class PyramidEncoder(nn.Module):
    """A model of timm as smp's decoders take an encoder: `model`, and `pyramid` on its maps.

    Args:
        name: timm's, with a tag where `pretrained`.
        in_channels: of the images.
        size: (height, width) of the canvas, for the position embeddings.
        options: of timm's model.
        pretrained: take the hub's weights, or those of `pretrained_cfg_overlay` in the options.
        half: a map of stride 2 too.
        depth: the deepest stride is 2 ** depth, 2..5.
        output_stride: deeper maps keep this stride (8, 16 or 32), where others are dilated.

    Images whose sides are not multiples of the patch are resized to the nearest multiples (patches
    of 14 pixels see 252 x 252 of an image of 256 x 256), and the maps to what the decoder expects.
    Prefix tokens (class, registers) take part in the attention and are in no map.
    """

    def __init__(
        self, name: str, in_channels: int, size: Size, options: Mapping[str, Any], *,
        pretrained: bool = False, half: bool = False, depth: int = 5, output_stride: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 2 <= depth <= 5:
            raise ValueError(f"encoder_depth: {depth}; valid for an encoder like {name}: 2..5")
        own = {key: value for key, value in options.items() if key != "pretrained_cfg_overlay"}
        given = {**size_options(name, own, size), **options}
        maps = _on_meta(name, own)
        found, places = _strides(maps), list(maps.feature_info.out_indices)
        self.multiple = multiple_of(found)
        # The size that its position embeddings have; None: it takes any.
        fixed = "img_size" in given and not given.get("dynamic_img_size")
        self.fixed_size = shown_size(size, self.multiple) if fixed else None
        self.strides = [min(2**level, output_stride) for level in range(2, depth + 1)]
        if half:
            self.strides.insert(0, HALF)
        sources = [_source(found, stride) for stride in self.strides]
        # timm counts a model's own blocks, of which it gives the last ones where it is not asked.
        indices = sorted({places[source] for source in sources})
        self.sources = [indices.index(places[source]) for source in sources]
        self.model = timm.create_model(
            name, features_only=True, out_indices=indices, in_chans=in_channels,
            pretrained=pretrained, **given,
        )  # fmt: skip
        widths = list(self.model.feature_info.channels())
        self.channels_last = str(getattr(self.model, "output_fmt", "")).endswith("NHWC")
        self.pyramid = nn.ModuleList(
            Level(widths[index], round(math.log2(found[source] / stride)))
            for index, source, stride in zip(self.sources, sources, self.strides, strict=True)
        )
        self._depth, self._output_stride = depth, output_stride
        empty = [] if half else [0]
        self.out_channels = [in_channels, *empty, *[WIDTH] * len(self.strides)]

    @property
    def output_stride(self) -> int:
        """The deepest map's."""
        return min(self._output_stride, 2**self._depth)

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """smp asks for it; the model was made with its channels."""

    def make_dilated(self, output_stride: int) -> None:
        """smp asks for it; the levels were made with their strides."""

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the images, and maps (B, out_channels[i], ceil(H / 2 ** i), ...)."""
        size = size_of(images_BCHW)
        shown = shown_size(size, self.multiple)
        if self.fixed_size is not None and shown != self.fixed_size:
            raise ValueError(f"it takes images of {self.fixed_size[0]}x{self.fixed_size[1]} only")
        maps = self.model(resize(images_BCHW, shown))
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        batch, _, height, width = images_BCHW.shape
        features = [images_BCHW]
        if self.strides[0] != HALF:
            features.append(images_BCHW.new_empty((batch, 0, height // HALF, width // HALF)))
        for level, source, stride in zip(self.pyramid, self.sources, self.strides, strict=True):
            wanted = (-(-height // stride), -(-width // stride))
            if isinstance(level, Unused):
                features.append(images_BCHW.new_empty((batch, 0, *wanted)))
            else:
                features.append(resize(level(maps[source]), wanted))
        return features


class Level(nn.Sequential):
    """One map of the pyramid: (B, width, h, w) -> (B, WIDTH, h * 2 ** doublings, ...).

    The layers of the paper's code: transposed convolutions that halve the channels, or max pooling,
    then convolutions of 1 and 3 pixels, all with layer normalization over the channels. The first
    normalization is the one that timm's maps lack: the transformer's last.
    """

    def __init__(self, width: int, doublings: int) -> None:
        layers: list[nn.Module] = [LayerNorm2d(width)]
        for number in range(doublings):
            half = max(width // 2, 1)
            layers.append(nn.ConvTranspose2d(width, half, 2, stride=2))
            if number < doublings - 1:
                layers += [LayerNorm2d(half), nn.GELU()]
            width = half
        layers += [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doublings)]
        layers += [
            nn.Conv2d(width, WIDTH, 1, bias=False), LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), LayerNorm2d(WIDTH),
        ]  # fmt: skip
        super().__init__(*layers)


@contextmanager
def known_to_smp(
    encoder: str, arch: str, in_channels: int, size: Size, options: Mapping[str, Any],
    pretrained: bool,
) -> Iterator[str]:  # fmt: skip
    """Within the block, smp's architectures find a `PyramidEncoder` under the name that this
    gives: in smp's table, where encoders of one's own belong. Other arguments: see there."""
    params = {"name": encoder.removeprefix("tu-"), "in_channels": in_channels, "size": size,
              "options": dict(options), "pretrained": pretrained,
              "half": arch in NEEDS_HALF}  # fmt: skip
    name = f"pyramid-{encoder}"
    entry = {"encoder": PyramidEncoder, "pretrained_settings": {}, "params": params}
    smp.encoders.encoders[name] = entry
    try:
        yield name
    finally:
        del smp.encoders.encoders[name]


def _on_meta(name: str, options: Mapping[str, Any]) -> Any:
    """timm's model without weights, as a maker of maps."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, features_only=True, **options)
    except NotImplementedError:  # it computes with its numbers while it is made
        return timm.create_model(name, features_only=True, **options)


def _strides(model: Any) -> tuple[int, ...]:
    return tuple(int(stride) for stride in model.feature_info.reduction())


def _source(found: Sequence[int], stride: int) -> int:
    """The map that a level is made of: the last of those with the nearest stride that is no
    larger, else of those with the smallest."""
    nearest = max([one for one in found if one <= stride], default=min(found))
    return max(index for index, one in enumerate(found) if one == nearest)
