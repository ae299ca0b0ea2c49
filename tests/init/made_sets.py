"""Small data sets of the kinds that people have, each with what `init` has to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.schema import Config
from distseg.init.make import Written
from distseg.records.paces import Pace

PACE = Pace(
    batch_size=4, step_s=0.1, first_step_s=0.1, spread=0.1, evaluate_s=0.01, predict_s=0.02,
    save_s=0.1, start_s=5.0, prepare_s=0.001, memory=10**9, saved=10**7,
)  # fmt: skip
Make = Callable[..., tuple[Config, Written]]
Mask = Callable[[NDArray[np.bool_], int], NDArray]


def blobs(height: int, width: int, size: int, number: int, seed: int) -> NDArray[np.bool_]:
    """(H, W): `number` squares of `size` pixels."""
    rng, mask = np.random.default_rng(seed), np.zeros((height, width), np.bool_)
    for _ in range(number):
        y, x = rng.integers(height - size), rng.integers(width - size)
        mask[y : y + size, x : x + size] = True
    return mask


def picture(mask: NDArray[np.bool_], seed: int) -> NDArray[np.uint8]:
    """A gray picture in which the mask can be seen."""
    noise = np.random.default_rng(seed).integers(0, 80, mask.shape)
    return (noise + 120 * mask).astype(np.uint8)


def as_255(mask: NDArray[np.bool_], _number: int) -> NDArray:
    return (mask * 255).astype(np.uint8)


def as_index(mask: NDArray[np.bool_], number: int) -> NDArray:
    """Classes 0, 1 and 2; every image holds two of them."""
    return (mask * (1 + number % 2)).astype(np.uint8)


def as_colors(mask: NDArray[np.bool_], number: int) -> NDArray:
    """Black, and red or green."""
    color = np.array([(255, 0, 0), (0, 255, 0)][number % 2], np.uint8)
    return mask[..., None] * color


def folder(
    root: Path, mask: Mask = as_255, *, num: int = 12, size: tuple[int, int] = (48, 64),
    objects: tuple[int, int] = (14, 2), names: str = "{:03d}", suffix: str = "",
    image: Callable[[NDArray[np.uint8]], NDArray] = lambda array: array,
    places: tuple[str, str] = ("images", "masks"), extension: str = ".png", tests: int = 0,
) -> Path:  # fmt: skip
    """A folder of images and masks. objects: their width and number."""
    for place in {*places}:
        (root / place).mkdir(parents=True, exist_ok=True)
    for number in range(num):
        held = blobs(*size, *objects, seed=number)
        name = names.format(number)
        Image.fromarray(image(picture(held, number))).save(root / places[0] / f"{name}.png")
        target = Image.fromarray(mask(held, number))
        target.save(root / places[1] / f"{name}{suffix}{extension}")
    if tests:
        (root / "test_images").mkdir()
        for number in range(tests):
            held = blobs(*size, *objects, seed=1000 + number)
            Image.fromarray(picture(held, number)).save(root / f"test_images/t{number}.png")
    return root
