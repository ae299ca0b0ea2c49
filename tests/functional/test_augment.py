"""The device augments as the host does: the same draws, pixel by pixel."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distseg.config.data import InputConfig
from distseg.data.augment import Augment
from distseg.data.fit import Fit
from distseg.functional.augment import Augmented, augment
from tests.data.data_helpers import steps

AFFINE: dict[str, Any] = {
    "affine": {"scale": [0.7, 1.4], "translate": 0.2, "rotate": 30, "shear": 10, "p": 1}
}
GRAY: list[dict[str, Any]] = [
    {"brightness_contrast": {"p": 1}},
    {"gamma": {"gamma": [0.5, 2], "p": 1}},
]
EXACT: list[list[dict[str, Any]]] = [  # nothing is interpolated: every bit is the host's
    [],
    [{"hflip": {"p": 1}}],
    [{"vflip": {"p": 1}}],
    [{"rot90": {"p": 1}}],
    [{"transpose": {"p": 1}}],
    [{name: {"p": 0.5}} for name in ("hflip", "rot90", "transpose", "vflip")],
    GRAY,
    [{"cutout": {"holes": 3, "size": [0.1, 0.4], "fill": 90, "p": 1}}],
    [{"hflip": {"p": 1}}, GRAY[0], {"cutout": {"holes": 2, "fill": 7, "p": 1}}, GRAY[1]],
]
INPUTS: dict[str, dict[str, Any]] = {
    "resize": {"fit": "resize"},
    "crop": {"fit": "crop"},
    "reflect": {"fit": "pad", "pad_mode": "reflect", "random_offset": True},
    "edge": {"fit": "pad", "pad_mode": "edge"},
    "constant": {"fit": "pad", "pad_mode": "constant", "random_offset": True},
}
SEEDS = range(6)


def smooth(height: int, width: int, channels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A cloudy image, of which a sampled value hardly depends on the sampler, and two planes."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (6, 6, channels), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    image = image.reshape(height, width, channels)
    target = np.stack([image[..., 0] > 120, image[..., 0] > 180]).astype(np.uint8)
    target[1, : height // 4] = 255
    return image, target


def on_host(
    made: Augment, fit: Fit, image: NDArray, target: NDArray, seed: int
) -> tuple[NDArray, NDArray]:
    """As TrainSet.draw."""
    rng = np.random.default_rng(seed)
    if fit.config.fit == "pad":
        image, target = made(image, target, seed)
    image, target = fit.train(image, target, rng)
    return (image, target) if fit.config.fit == "pad" else made(image, target, seed)


def on_device(
    made: Augment, fit: Fit, image: NDArray, target: NDArray, seeds: Any, depth: bool = False
) -> Augmented:
    """A batch of one image, drawn by several seeds."""
    canvases, planes, places, numbers = [], [], [], []
    for seed in seeds:
        canvas, plane, place = fit.placed(image, target, np.random.default_rng(seed))
        canvases.append(canvas.transpose(2, 0, 1))
        planes.append(plane)
        places.append(np.array(place, np.float32))
        numbers.append(made.numbers(*place[2:], seed))
    stacked, targets, where = (torch.tensor(np.stack(a)) for a in (canvases, planes, places))
    drawn: dict[str, Tensor] = {"place": where}
    drawn |= {name: torch.tensor(np.stack([one[name] for one in numbers])) for name in numbers[0]}
    border: Any = fit.config.pad_mode if fit.config.fit == "pad" else "reflect"
    return augment(stacked, targets, drawn, border=border, depth=depth)


def fitted(kind: str, height: int = 64, width: int = 48) -> Fit:
    return Fit(InputConfig.model_validate({"height": height, "width": width, **INPUTS[kind]}))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("specs", EXACT)
@pytest.mark.parametrize("size", [(41, 41), (40, 33)])
def test_flips_and_gray_values_are_the_hosts_bit_by_bit(
    specs: list[dict[str, Any]], kind: str, size: tuple[int, int]
) -> None:
    made, fit = Augment(steps(*specs)), fitted(kind)
    image, target = smooth(*size, 3)
    found = on_device(made, fit, image, target, SEEDS)
    for number, seed in enumerate(SEEDS):
        expected = on_host(made, fit, image, target, seed)
        assert np.array_equal(found.images_BCHW[number].numpy().transpose(1, 2, 0), expected[0])
        assert np.array_equal(found.planes_BKHW[number].numpy(), expected[1])


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_affine_map_is_the_hosts_but_for_rounding(kind: str, channels: int) -> None:
    """cv2 rounds coordinates to 1/32 of a pixel; a wrong border or shift shows at once."""
    made, fit = Augment(steps({"hflip": {"p": 0.5}}, AFFINE, *GRAY)), fitted(kind)
    image, target = smooth(41, 37, channels)
    found = on_device(made, fit, image, target, SEEDS)
    for number, seed in enumerate(SEEDS):
        expected = on_host(made, fit, image, target, seed)
        image_HWC = found.images_BCHW[number].numpy().transpose(1, 2, 0)
        away = np.abs(image_HWC.astype(int) - expected[0])
        assert away.mean() < 0.6 and (away > 8).mean() < 0.002
        assert (found.planes_BKHW[number].numpy() != expected[1]).mean() < 0.02
        assert set(np.unique(found.planes_BKHW[number])) <= {0, 1, 255}


def test_two_affine_maps_are_applied_in_order() -> None:
    made = Augment(steps(AFFINE, {"rot90": {"p": 1}}, AFFINE))
    fit, (image, target) = fitted("resize", 48, 48), smooth(48, 48, 1)
    found = on_device(made, fit, image, target, SEEDS)
    for number, seed in enumerate(SEEDS):
        expected = made(image, target, seed)[0]
        away = np.abs(found.images_BCHW[number].numpy().transpose(1, 2, 0).astype(int) - expected)
        assert away.mean() < 2, "the host samples twice"


@pytest.mark.parametrize("kind", ["resize", "reflect"])
def test_noise_has_the_drawn_strength_and_is_another_each_time(kind: str) -> None:
    made = Augment(steps({"noise": {"std": [0.02, 0.08], "p": 0.7}}))
    fit, image = fitted(kind, 96, 96), np.full((80, 80, 3), 128, np.uint8)
    target, seeds = np.zeros((1, 80, 80), np.uint8), range(40)
    found = on_device(made, fit, image, target, seeds).images_BCHW.numpy().astype(float) - 128
    host = [on_host(made, fit, image, target, seed)[0].astype(float) - 128 for seed in seeds]
    for own, other in zip(found, host, strict=True):
        assert abs(own.std() - other.std()) < 0.05 * other.std() + 1e-9
        assert abs(own.mean()) < 0.6
        assert own.any() == other.any()
    noisy = [one for one in found if one.any()]
    assert 20 < len(noisy) < 36
    for first, second in pairwise(noisy):
        apart = np.corrcoef(first[0].ravel(), second[0].ravel())[0, 1]
        channels = np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]
        beside = np.corrcoef(first[0, 5:-5, 5:-5].ravel(), first[0, 5:-5, 6:-4].ravel())[0, 1]
        assert max(abs(apart), abs(beside), abs(channels)) < 0.06


def test_an_image_does_not_depend_on_its_batch() -> None:
    specs = [{"hflip": {}}, AFFINE, *GRAY, {"cutout": {}}, {"noise": {"p": 1}}]
    made, fit = Augment(steps(*specs)), fitted("reflect")
    image, target = smooth(41, 37, 3)
    whole = on_device(made, fit, image, target, SEEDS)
    for number, seed in enumerate(SEEDS):
        alone = on_device(made, fit, image, target, [seed])
        for all_of_them, one in zip(whole, alone, strict=True):
            assert torch.equal(all_of_them[number], one[0])


def test_a_teachers_view_is_moved_alike_and_keeps_its_gray_values() -> None:
    moving = [{"hflip": {"p": 0.5}}, AFFINE]
    both = Augment(steps(*moving, *GRAY, {"cutout": {"p": 1}}))
    fit, (image, target) = fitted("constant"), smooth(41, 37, 3)
    found = on_device(both, fit, image, target, SEEDS)
    plain = on_device(Augment(steps(*moving)), fit, image, target, SEEDS)
    assert torch.equal(found.moved_BCHW, plain.images_BCHW)
    assert torch.equal(found.planes_BKHW, plain.planes_BKHW)
    assert not torch.equal(found.images_BCHW, found.moved_BCHW)


def test_a_depth_keeps_its_value() -> None:
    specs = [{"hflip": {"p": 1}}, *GRAY, {"cutout": {"p": 1}}, {"noise": {"p": 1}}]
    made, fit = Augment(steps(*specs), depth=True), fitted("reflect")
    image, target = smooth(41, 37, 2)
    image[..., 1] = 77
    found = on_device(made, fit, image, target, SEEDS, depth=True).images_BCHW
    assert (found[:, 1] == 77).all() and (found[:, 0] != 77).any()


def test_a_picture_of_one_pixel() -> None:
    made, fit = Augment(steps(AFFINE, {"rot90": {"p": 1}})), fitted("reflect")
    image, target = np.full((1, 1, 1), 9, np.uint8), np.ones((1, 1, 1), np.uint8)
    found = on_device(made, fit, image, target, SEEDS)
    assert (found.images_BCHW == 9).all() and (found.planes_BKHW == 1).all()
