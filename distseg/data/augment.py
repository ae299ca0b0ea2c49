"""Augmentation: the one module that knows albumentations. Names and options: config/augment.py.

Three traps of albumentations 2.0.8 are closed here. Left alone it repeats itself in every worker
and every epoch: each call is seeded. `Compose.set_random_seed` gives all transforms the same
seed, so that with p .5 and .7 the second always comes with the first: each one gets a seed of its
own. And it goes online at import, unless told not to.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.augment import AugmentConfig, transforms

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Augment:
    """Transforms in order, each applied with its p; a call is a pure function of its arguments."""

    def __init__(self, steps: Sequence[AugmentConfig], depth: bool = False) -> None:
        """depth: the last channel is `data.depths`, the same at every pixel. No geometry changes
        it, and what changes gray values must not."""
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read by the import below
        import albumentations as A

        self.depth = int(depth)
        self.steps: list[tuple[float, str, Any]] = [
            (options.p, name, _transform(A, name, options)) for name, options in transforms(steps)
        ]

    def __call__(
        self, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8], seed: int
    ) -> Pair:
        """Image uint8 (H, W, C) and target uint8 (K, H, W), both of unchanged shape."""
        draw = random.Random(seed)
        image, target = image_HWC, target_KHW.transpose(1, 2, 0)
        image, depth = np.split(image, [image.shape[2] - self.depth], axis=2)
        for p, name, transform in self.steps:
            # both drawn always: one transform's p does not change what the others do
            applies, own_seed = draw.random() < p, draw.getrandbits(32)
            if not applies:
                continue
            if name in _SYMMETRIES:
                image, target = (_SYMMETRIES[name](a, own_seed) for a in (image, target))
                continue
            transform.set_random_seed(own_seed)
            done = transform(image=_contiguous(image), mask=_contiguous(target))
            image, target = done["image"], done["mask"]
        assert image.shape[:2] == image_HWC.shape[:2]
        height, width, channels = image_HWC.shape
        image = image.reshape(height, width, channels - self.depth)
        image = np.concatenate([image, depth], axis=2) if self.depth else image
        target = target.reshape(height, width, -1)
        return _contiguous(image), target.transpose(2, 0, 1)


def _contiguous(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array)


def _rot90(array: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """One to three quarter turns; a half turn where the sides differ, to keep the shape."""
    square = array.shape[0] == array.shape[1]
    return np.rot90(array, 1 + seed % 3 if square else 2)


def _transpose(array: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    return array.transpose(1, 0, 2) if array.shape[0] == array.shape[1] else array


# Views, in place of albumentations' copies: 20 times faster, and nothing in them is random.
_SYMMETRIES: dict[str, Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]] = {
    "hflip": lambda array, _: array[:, ::-1],
    "vflip": lambda array, _: array[::-1],
    "rot90": _rot90,
    "transpose": _transpose,
}


def _transform(A: Any, name: str, o: Any) -> Any:
    """The albumentations transform of a name, with the options `o` of its model in
    config/augment.py; the probability is ours. Masks are never interpolated, and what comes in
    from outside is the picture's reflection."""
    import cv2

    warp = {
        "border_mode": cv2.BORDER_REFLECT_101,
        "interpolation": cv2.INTER_LINEAR,
        "mask_interpolation": cv2.INTER_NEAREST,
        "p": 1.0,
    }
    if name == "affine":
        return A.Affine(
            scale=o.scale,
            translate_percent=o.translate,
            rotate=o.rotate,
            shear=o.shear,
            keep_ratio=True,
            **warp,
        )
    if name == "elastic":
        return A.ElasticTransform(alpha=o.alpha, sigma=o.sigma, **warp)
    if name == "grid_distortion":
        return A.GridDistortion(num_steps=o.steps, distort_limit=o.distort, **warp)
    if name == "brightness_contrast":
        return A.RandomBrightnessContrast(o.brightness, o.contrast, p=1.0)
    if name == "gamma":
        return A.RandomGamma(tuple(100 * g for g in o.gamma), p=1.0)
    if name == "cutout":  # the image alone: what a hole hides must still be found
        holes, size = (1, o.holes), tuple(map(float, o.size))
        return A.CoarseDropout(holes, size, size, fill=o.fill, p=1.0)
    if name == "blur":
        return A.GaussianBlur(blur_limit=0, sigma_limit=o.sigma, p=1.0)
    if name == "noise":
        return A.GaussNoise(std_range=o.std, p=1.0)
    assert name in _SYMMETRIES, name
    return None
