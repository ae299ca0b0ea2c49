"""The one path from an image's canvas to logits at its native size.

    canvas, uint8 -> normalize -> each view (TTA) -> each tile -> network (with Monte-Carlo dropout)
        -> back from the tiles -> back from the view -> mean over the views -> native size

Evaluation during training, out-of-fold prediction, test images and the teachers of a round all
call `Predictor`. Logits stay logits: nothing here takes a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distseg.config.data import InputConfig
from distseg.data.fit import STRIDE, Fit
from distseg.functional.tiles import highest_of_tiles, tiled
from distseg.functional.tta import views
from distseg.functional.tta_names import MAX_PASSES, dropout_passes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Autocast = Callable[[], AbstractContextManager[Any]]

DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip


class Normalizer:
    """uint8 (B, C, H, W) on any device -> float32, zero mean and unit variance per channel."""

    def __init__(
        self, input_config: InputConfig, device: torch.device, channels_last: bool
    ) -> None:
        mean, std = channel_statistics(input_config)
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1) * 255
        self.median = input_config.normalize == "median"
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        images = images_BCHW.to(memory_format=self.format)
        if self.median:
            middle = images_BCHW.flatten(2).float().median(-1).values[:, :, None, None]
            return (images.float() - middle) / self.std
        return (images.float() - self.mean) / self.std


def channel_statistics(input_config: InputConfig) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, 0..1: the config's own, else ImageNet's (the
    mean of its three channels where there are not three)."""
    mean, std = input_config.mean, input_config.std
    assert input_config.normalize != "train" or mean, "a member measures its train folds first"
    channels = input_config.channels
    rgb = channels == 3
    mean = mean or (list(IMAGENET_MEAN) if rgb else [sum(IMAGENET_MEAN) / 3] * channels)
    std = std or (list(IMAGENET_STD) if rgb else [sum(IMAGENET_STD) / 3] * channels)
    return list(mean), list(std)


@dataclass(frozen=True)
class Predictor:
    """The models of one member on a device, ready to predict. They share one input.

    models: in eval mode; each returns logits first, and the logits of its image head or None.
    autocast: makes the context of mixed precision for one forward pass.
    """

    models: Sequence[nn.Module]
    fit: Fit
    normalizer: Normalizer
    autocast: Autocast

    @property
    def canvas(self) -> str:
        """Names the uint8 canvas that images are laid on. Members of one name share it, and each
        image is decoded once for all of them: how they normalize it makes no difference."""
        same: dict[str, Any] = {"mean": None, "std": None, "normalize": "fixed"}
        return self.fit.config.model_copy(update=same).model_dump_json()

    @torch.inference_mode()
    def canvas_logits(self, canvas_BCHW: Tensor, tta: Sequence[str]) -> Tensor:
        """Logits of each model on the canvas, averaged over the views: float32 (M, B, C, H, W).

        Args:
            canvas_BCHW: uint8, on the models' device, of the size `fit.canvas` says.
            tta: names of views as in `predict.tta`; [] is the image alone. "dropout:N" averages
                each view over N passes with dropout kept on.
        """
        images, passes = self.normalizer(canvas_BCHW), dropout_passes(tta)
        # scaled views get sides of multiples of STRIDE, which every network takes
        all_views = views(tta, divisor=STRIDE)
        means: list[Tensor] = []
        for number, view in enumerate(all_views):
            seen = view.forward(images)
            for index, model in enumerate(self.models):
                logits = self._tiled(model, seen, passes, number)
                logits = view.inverse(logits, size=images.shape[-2:]) / len(all_views)
                if number == 0:
                    means.append(logits)
                else:
                    means[index] += logits
        return torch.stack(means)

    @torch.inference_mode()
    def image_logits(self, canvas_BCHW: Tensor) -> Tensor:
        """ "This class is in this image": float32 (M, B, C) of each model's image head. Of the
        image as it is, without views; all models have the head.

        Where the input says tiles, no network is shown more than one: a class is in the image
        where it is in a tile, which is the highest that the head says of any.
        """
        images = self.normalizer(canvas_BCHW)
        with self.autocast():
            return torch.stack([self._head(model, images) for model in self.models])

    def native(self, logits_BCHW: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Canvas logits of each image at its own (height, width): a list of float32 (C, h, w)."""
        if len(set(sizes)) == 1:
            return list(self.fit.inverse(logits_BCHW, *sizes[0]))
        pairs = zip(logits_BCHW, sizes, strict=True)
        return [self.fit.inverse(logits[None], *size)[0] for logits, size in pairs]

    def native_logits(
        self, canvas_BCHW: Tensor, sizes: Sequence[tuple[int, int]], tta: Sequence[str]
    ) -> list[Tensor]:
        """The mean over models and views for each image at its own size: float32 (C, h, w).
        Arguments as in `canvas_logits` and `native`."""
        return self.native(self.canvas_logits(canvas_BCHW, tta).mean(0), sizes)

    def _tiled(self, model: nn.Module, images_BCHW: Tensor, passes: int, view: int) -> Tensor:
        """Logits float32 (B, C, H, W) over the whole images, or over tiles where the input says
        so."""

        def network(tile_BCHW: Tensor) -> Tensor:
            return _mean_of_passes(model, tile_BCHW, passes, view)

        with self.autocast():
            if self.fit.tiles is None:
                return network(images_BCHW).float()
            return tiled(network, images_BCHW, *self.fit.tiles)

    def _head(self, model: nn.Module, images_BCHW: Tensor) -> Tensor:
        """What one model's image head says of the images, or the most of their tiles: float32
        (B, C)."""

        def head(tile_BCHW: Tensor) -> Tensor:
            return model(tile_BCHW)[1]

        if self.fit.tiles is None:
            return head(images_BCHW).float()
        return highest_of_tiles(head, images_BCHW, *self.fit.tiles)


def _mean_of_passes(model: nn.Module, images_BCHW: Tensor, passes: int, view: int) -> Tensor:
    """Logits (B, C, H, W) of one forward pass, or the mean of `passes` with dropout kept on
    (Monte-Carlo dropout, Gal & Ghahramani 2016).

    The seed is made of the view's number and the pass's: a batch gives the same logits whenever it
    is predicted, and the global generator stays as it was.
    """
    dropouts = dropout_layers(model) if passes else []
    if not dropouts:
        return model(images_BCHW)[0]
    device = images_BCHW.device
    total = torch.zeros((), device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for layer in dropouts:
            layer.train()
        for number in range(passes):
            torch.manual_seed(view * MAX_PASSES + number)
            total = total + model(images_BCHW)[0].float() / passes
        for layer in dropouts:
            layer.eval()
    return total


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that Monte-Carlo dropout keeps on. Stochastic depth is none of them."""
    return [m for m in model.modules() if isinstance(m, DROPOUTS) and m.p > 0]
