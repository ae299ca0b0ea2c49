"""How an image of any size gets onto the network's canvas, and how logits get exactly back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.data import InputConfig
from distseg.data.inpaint import biharmonic_border
from distseg.functional.metrics import VOID

if TYPE_CHECKING:
    import torch

STRIDE = 32  # what a canvas that follows the image is a multiple of
_BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "edge": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
}
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Place = tuple[int, int, int, int]  # top, left, height and width, in pixels


class Fit:
    """The geometry of one input config. The canvas is what the network is shown.

    pad: the image keeps its pixels, or is stretched to `scale_to`, and gets a border.
    resize: the image is stretched to the canvas.
    crop: random crops in training; at prediction the whole image, padded to a multiple of 32, in
    one piece or in `tiles`.

    All geometry has half-pixel centers (cv2's INTER_LINEAR and INTER_NEAREST_EXACT, torch's
    align_corners=False), so that nothing shifts on the way there and back.
    """

    def __init__(self, config: InputConfig) -> None:
        self.config = config
        self.size = (config.height, config.width)
        # what the image is stretched to before any border; None: it keeps its pixels
        self.stretch = {"resize": self.size, "pad": config.scale_to, "crop": None}[config.fit]
        # (height, width) and overlap of what the network is shown at once when it predicts
        self.tiles = (self.size, config.overlap) if config.overlap is not None else None
        self.border = _BORDERS.get(config.pad_mode)  # None: biharmonic

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input when an image of this size is predicted."""
        if self.config.fit == "resize":
            return self.size
        if self.config.fit == "crop":
            least = self.size if self.tiles else (0, 0)  # every tile is whole
            return max(least[0], _round_up(height)), max(least[1], _round_up(width))
        height, width = self.stretch or (height, width)
        if height <= self.size[0] and width <= self.size[1]:
            return self.size
        return max(self.size[0], _round_up(height)), max(self.size[1], _round_up(width))

    def predicted_pixels(self, height: int, width: int) -> int:
        """About how many pixels the network is shown when an image of this size is predicted once:
        tiles, all together, repeat what they share."""
        high, wide = self.canvas(height, width)
        if self.tiles is None:
            return high * wide
        (tile_high, tile_wide), overlap = self.tiles
        further = (1 / (1 - overlap) if length > tile else 1.0
                   for length, tile in ((high, tile_high), (wide, tile_wide)))  # fmt: skip
        return round(math.prod(further) * high * wide)

    def train(
        self,
        image_HWC: NDArray[np.uint8],
        target_KHW: NDArray[np.uint8],
        rng: np.random.Generator,
        num_hard: int | None = None,
    ) -> Pair:
        """A training sample on the canvas: image uint8 (h, w, C) and target uint8 (K, h, w).

        The target is VOID where a constant or a biharmonic border was added.
        See `placed` for the arguments.
        """
        return self.placed(image_HWC, target_KHW, rng, num_hard)[:2]

    def placed(
        self,
        image_HWC: NDArray[np.uint8],
        target_KHW: NDArray[np.uint8],
        rng: np.random.Generator,
        num_hard: int | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Place]:
        """`train`, and where on the canvas that lies which augmentation takes for the picture:
        under `pad` the image without its border, else all of the canvas.

        Args:
            rng: decides where a crop or a random offset lies; each draw counts, so that a sample
                is a pure function of its seed.
            num_hard: how many planes of the target are labels (None: all); soft ones follow them.
        """
        target_HWK = np.ascontiguousarray(target_KHW.transpose(1, 2, 0))
        assert image_HWC.shape[:2] == target_HWK.shape[:2]
        image, target = image_HWC, target_HWK
        if self.stretch:
            image = _resize(image, self.stretch, _method(image, self.stretch))
            target = _resize(target, self.stretch, cv2.INTER_NEAREST_EXACT)
        if self.config.fit != "resize":
            row, column = self._anchor(target[:, :, :num_hard], rng)
            top, bottom = self._margins(image.shape[0], self.size[0], rng, row)
            left, right = self._margins(image.shape[1], self.size[1], rng, column)
            image = _place(image, top, bottom, left, right, self.border, 0)
            # a surface that is made up has no mask
            border = cv2.BORDER_CONSTANT if self.border is None else self.border
            target = _place(target, top, bottom, left, right, border, VOID)
        place: Place = (0, 0, *self.size)
        if self.config.fit == "pad":
            place = (top, left, self.size[0] - top - bottom, self.size[1] - left - right)
        return image, target.transpose(2, 0, 1), place

    def _anchor(
        self, target_HWK: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[int | None, int | None]:
        """A pixel (row, column) that the crop must hold, or (None, None).

        The share `foreground` of the crops gets a pixel of an object: of the classes other than 0
        that the target holds, each is as likely, and so is each of its pixels.
        """
        share = self.config.foreground
        if not share or rng.random() >= share:
            return None, None
        planes = [
            target_HWK[:, :, k] == value
            for k in range(target_HWK.shape[2])
            for value in np.unique(target_HWK[:, :, k])
            if value not in (0, VOID)
        ]
        if not planes:
            return None, None
        pixels = np.flatnonzero(planes[rng.integers(len(planes))])
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), target_HWK.shape[1])
        return row, column

    def _margins(
        self, length: int, wanted: int, rng: np.random.Generator, anchor: int | None
    ) -> tuple[int, int]:
        """(before, after): how many pixels to add along one axis to get from `length` to
        `wanted`; negative numbers are pixels to cut away. The pixel `anchor` is never cut away."""
        room = wanted - length
        if room < 0:
            assert self.config.fit == "crop", "what is larger than a padded canvas is left out"
            first = 0 if anchor is None else max(0, anchor - wanted + 1)
            last = -room if anchor is None else min(-room, anchor)
            before = -int(rng.integers(first, last + 1))
        elif self.config.random_offset:
            before = int(rng.integers(room + 1))
        else:
            before = room // 2
        return before, room - before

    def forward(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image for prediction: uint8 (h, w, C) on `canvas(H, W)`, in its center."""
        height, width = self.canvas(*image_HWC.shape[:2])
        image = image_HWC
        if self.stretch:
            image = _resize(image, self.stretch, _method(image, self.stretch))
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        bottom, right = height - image.shape[0] - top, width - image.shape[1] - left
        return _place(image, top, bottom, left, right, self.border, 0)

    def inverse(self, logits_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Undo `forward`: logits on `canvas(height, width)` become float32 (B, C, height, width)
        at the image's native size."""
        from torch.nn import functional as F  # what reads tables and caches needs no torch

        logits = logits_BCHW.float()
        canvas = self.canvas(height, width)
        assert logits.shape[-2:] == canvas, f"{tuple(logits.shape)} on a canvas of {canvas}"
        inner = self.stretch or (height, width)
        top, left = (canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2
        logits = logits[..., top : top + inner[0], left : left + inner[1]]
        if inner == (height, width):
            return logits
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def _round_up(length: int) -> int:
    return -(-length // STRIDE) * STRIDE


def _method(image: NDArray[np.uint8], size: tuple[int, int]) -> int:
    """cv2's interpolation from an image to `size`: averaging where both sides shrink, which avoids
    aliasing, else linear."""
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def _resize(array_HWC: NDArray[np.uint8], size: tuple[int, int], method: int) -> NDArray[np.uint8]:
    """cv2.resize to (height, width) for any number of channels; the channel axis stays. cv2 takes
    at most four channels, so they go in groups."""
    if array_HWC.shape[:2] == tuple(size):
        return array_HWC
    groups = [
        cv2.resize(array_HWC[:, :, i : i + 4], size[::-1], interpolation=method).reshape(*size, -1)
        for i in range(0, array_HWC.shape[2], 4)
    ]
    return groups[0] if len(groups) == 1 else np.concatenate(groups, axis=2)


def _place(
    array_HWC: NDArray[np.uint8],
    top: int, bottom: int, left: int, right: int,
    border: int | None, fill: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """Cut pixels away where a margin is negative, then add a border where it is positive.

    border: cv2's kind of border, or None for the biharmonic one. fill: the value of a constant
    border.
    """
    height, width, channels = array_HWC.shape
    cut = array_HWC[max(0, -top) : height - max(0, -bottom), max(0, -left) : width - max(0, -right)]
    top, bottom, left, right = (max(0, m) for m in (top, bottom, left, right))
    if not (top or bottom or left or right):
        return cut
    if border is None:
        return biharmonic_border(cut, (top, bottom, left, right))
    groups = [
        cv2.copyMakeBorder(
            cut[:, :, i : i + 4], top, bottom, left, right, border, value=(fill,) * 4
        ).reshape(cut.shape[0] + top + bottom, cut.shape[1] + left + right, -1)
        for i in range(0, channels, 4)
    ]
    return groups[0] if len(groups) == 1 else np.concatenate(groups, axis=2)
