"""Augmentation: the one module that knows albumentations. Its names: docs/augment.md.

Three traps of albumentations 2.0.8 are closed here. Left alone it repeats itself in every worker
and every epoch: each call is seeded. `Compose.set_random_seed` gives all transforms the same
seed, so that with p .5 and .7 the second always comes with the first: each one gets a seed of its
own. And it goes online at import, unless told not to.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.records.errors import UserError, unknown

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Option:
    """default; pair: a range [low, high] (one number s: [-s, s]); low, high: what is valid."""

    default: Any
    low: float
    high: float
    pair: bool = False
    integer: bool = False


P = Option(0.5, 0, 1)
OPTIONS: dict[str, dict[str, Option]] = {
    "hflip": {"p": P},
    "vflip": {"p": P},
    "rot90": {"p": P},
    "transpose": {"p": P},
    "affine": {
        "scale": Option([1.0, 1.0], 0.05, 20, pair=True),
        "translate": Option(0.0, -1, 1, pair=True),
        "rotate": Option(0.0, -180, 180, pair=True),
        "shear": Option(0.0, -80, 80, pair=True),
        "p": P,
    },
    "brightness_contrast": {
        "brightness": Option(0.2, -1, 1, pair=True),
        "contrast": Option(0.2, -1, 1, pair=True),
        "p": P,
    },
    "gamma": {"gamma": Option([0.8, 1.2], 0.01, 10, pair=True), "p": P},
    "cutout": {
        "holes": Option(1, 1, 64, integer=True),
        "size": Option([0.1, 0.25], 0.001, 1, pair=True),
        "fill": Option(0, 0, 255, integer=True),
        "p": P,
    },
    # albumentations shrinks its noise to -1..1 and blurs it before alpha: 120 moves by 2 pixels
    "elastic": {"alpha": Option(120.0, 0, 10000), "sigma": Option(6.0, 1, 1000), "p": P},
    "grid_distortion": {
        "steps": Option(5, 1, 64, integer=True),
        "distort": Option(0.3, -1, 1, pair=True),
        "p": P,
    },
    "blur": {"sigma": Option([0.5, 1.5], 0.01, 50, pair=True), "p": P},
    "noise": {"std": Option([0.02, 0.08], 0, 1, pair=True), "p": P},
}


# `{preset: NAME}` stands for these: what the recipes say (docs/augment.md).
PRESETS: dict[str, list[dict[str, Any]]] = {
    "severstal": [{"hflip": {}}],
    "oxford_pet": [{"hflip": {}}, {"vflip": {}}],
    "tianchi": [{"hflip": {}}, {"vflip": {}}, {"rot90": {}}],
    "tgs_winners": [
        {"hflip": {}},
        {"affine": {"scale": [0.4, 1.6], "translate": 0.16, "p": 0.5}},
        {"brightness_contrast": {"brightness": 0.2, "contrast": 0.2, "p": 0.5}},
        {"gamma": {"p": 0.2}},
        {"elastic": {"p": 0.2}},
        {"cutout": {"p": 0.2}},
    ],
}


def expand_presets(specs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`specs` with every `{preset: NAME}` replaced by what it stands for. UserError: unknown."""
    expanded: list[dict[str, Any]] = []
    for number, spec in enumerate(specs):
        if not isinstance(spec, dict) or set(spec) != {"preset"}:
            expanded.append(spec)
            continue
        if spec["preset"] not in PRESETS:
            raise unknown("preset", spec["preset"], PRESETS, f"augment.{number}: ")
        expanded += PRESETS[spec["preset"]]
    return expanded


def check_augment(specs: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """[(name, every option)] of a config's list; UserError names what is wrong. Imports nothing."""
    checked = []
    for number, spec in enumerate(expand_presets(specs)):
        where = f"augment.{number}"
        if not isinstance(spec, dict) or len(spec) != 1:
            raise UserError(f"{where}: {spec!r}: write it as {{hflip: {{p: 0.5}}}}")
        ((name, given),) = spec.items()
        if name not in OPTIONS:
            raise unknown("augmentation", name, OPTIONS, f"{where}: ")
        if not isinstance(given, dict | None):
            raise UserError(f"{where}.{name}: {given!r}: write it as {{{name}: {{p: 0.5}}}}")
        for key in given or {}:
            if key not in OPTIONS[name]:
                raise unknown("option", key, OPTIONS[name], f"{where}.{name}: ")
        values = {key: (given or {}).get(key, o.default) for key, o in OPTIONS[name].items()}
        options = {
            key: _value(value, OPTIONS[name][key], f"{where}.{name}.{key}")
            for key, value in values.items()
        }
        checked.append((name, options))
    return checked


def _value(value: Any, option: Option, where: str) -> Any:
    """A number, or (low, high) for a pair, checked against the valid range."""
    numbers = value if isinstance(value, list | tuple) else [value]
    valid = f"valid: {option.low:g}..{option.high:g}"
    kinds = (int,) if option.integer else (int, float)
    if any(isinstance(n, bool) or not isinstance(n, kinds) for n in numbers):
        kind = "whole number" if option.integer else "number"
        raise UserError(
            f"{where}: {value!r} is no {kind}{' or pair' if option.pair else ''}; {valid}"
        )
    if option.pair and len(numbers) == 1:
        if option.low >= 0:
            raise UserError(f"{where}: {value!r}: needs a pair [low, high]; {valid}")
        numbers = [-abs(numbers[0]), abs(numbers[0])]
    if len(numbers) != 1 + option.pair or list(numbers) != sorted(numbers):
        raise UserError(
            f"{where}: {value!r}: needs {'[low, high]' if option.pair else 'one number'}"
        )
    if not all(option.low <= n <= option.high for n in numbers):
        raise UserError(f"{where}: {value!r} is out of range; {valid}")
    return tuple(numbers) if option.pair else numbers[0]


class Augment:
    """Transforms in order, each applied with its p; a call is a pure function of its arguments."""

    def __init__(self, specs: Sequence[dict[str, Any]], depth: bool = False) -> None:
        """depth: the last channel is `data.depths`, the same at every pixel. No geometry changes
        it, and what changes gray values must not."""
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read by the import below
        import albumentations as A

        self.depth = int(depth)
        self.steps: list[tuple[float, str, Any]] = [
            (options["p"], name, _transform(A, name, options))
            for name, options in check_augment(specs)
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


def _transform(A: Any, name: str, o: dict[str, Any]) -> Any:
    """The albumentations transform of a name; p is ours. Masks are never interpolated, and what
    comes in from outside is the picture's reflection."""
    import cv2

    warp = {
        "border_mode": cv2.BORDER_REFLECT_101,
        "interpolation": cv2.INTER_LINEAR,
        "mask_interpolation": cv2.INTER_NEAREST,
        "p": 1.0,
    }
    if name == "affine":
        return A.Affine(
            scale=o["scale"],
            translate_percent=o["translate"],
            rotate=o["rotate"],
            shear=o["shear"],
            keep_ratio=True,
            **warp,
        )
    if name == "elastic":
        return A.ElasticTransform(alpha=o["alpha"], sigma=o["sigma"], **warp)
    if name == "grid_distortion":
        return A.GridDistortion(num_steps=o["steps"], distort_limit=o["distort"], **warp)
    if name == "brightness_contrast":
        return A.RandomBrightnessContrast(o["brightness"], o["contrast"], p=1.0)
    if name == "gamma":
        return A.RandomGamma(tuple(100 * g for g in o["gamma"]), p=1.0)
    if name == "cutout":  # the image alone: what a hole hides must still be found
        holes, size = (1, o["holes"]), tuple(map(float, o["size"]))
        return A.CoarseDropout(holes, size, size, fill=o["fill"], p=1.0)
    if name == "blur":
        return A.GaussianBlur(blur_limit=0, sigma_limit=o["sigma"], p=1.0)
    if name == "noise":
        return A.GaussNoise(std_range=o["std"], p=1.0)
    assert name in _SYMMETRIES, name
    return None
