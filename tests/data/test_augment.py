from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.config.augment import PRESETS, AugmentConfig, transforms
from distseg.data.augment import Augment, mistakes
from tests.data.data_helpers import steps

NAMES = [name for name in AugmentConfig.model_fields if name not in ("preset", "A")]
SOME: dict[str, dict[str, Any]] = {name: {"p": 1.0} for name in NAMES}
SOME["affine"] |= {"scale": [0.7, 1.4], "translate": 0.2, "rotate": 30, "shear": 10}


def pair(height: int = 40, width: int = 40, channels: int = 1, num: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, channels), dtype=np.uint8)
    target = rng.choice(np.array([0, 1, 255], np.uint8), (num, height, width))
    return image, target


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("height", "width", "channels", "num"), [(40, 40, 1, 1), (24, 40, 3, 4), (40, 24, 1, 6)]
)
def test_each_keeps_shapes_and_never_mixes_labels(
    name: str, height: int, width: int, channels: int, num: int
) -> None:
    image, target = pair(height, width, channels, num)
    before = image.copy(), target.copy()
    image.setflags(write=False)  # as the cache's views
    target.setflags(write=False)
    augment = Augment(steps({name: SOME[name]}))
    made = [augment(image, target, seed) for seed in range(4)]
    for new_image, new_target in made:
        assert new_image.shape == image.shape and new_image.dtype == np.uint8
        assert new_target.shape == target.shape and new_target.dtype == np.uint8
        assert set(np.unique(new_target)) <= {0, 1, 255}
    again = augment(image, target, 2)
    assert all(np.array_equal(a, b) for a, b in zip(again, made[2], strict=True))
    assert np.array_equal(before[0], image) and np.array_equal(before[1], target)
    if name not in ("transpose",) or height == width:
        assert any(not np.array_equal(m[0], image) for m in made)


def test_a_call_depends_on_its_seed_alone() -> None:
    specs = [{name: {**options, "p": 0.5}} for name, options in SOME.items()]
    image, target = pair()
    first, second = Augment(steps(*specs)), Augment(steps(*specs))
    forward = [first(image, target, s)[0] for s in range(12)]
    backward = [second(image, target, s)[0] for s in reversed(range(12))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert len({a.tobytes() for a in forward}) > 10


def test_two_transforms_are_drawn_apart() -> None:
    """albumentations' Compose, seeded, applies the second whenever the first is."""
    augment = Augment(steps({"hflip": {"p": 0.5}}, {"vflip": {"p": 0.5}}))
    image, target = pair()
    seen = [augment(image, target, s)[0] for s in range(200)]
    kinds = {"none": image, "h": image[:, ::-1], "v": image[::-1], "both": image[::-1, ::-1]}
    counts = {k: sum(np.array_equal(a, view) for a in seen) for k, view in kinds.items()}
    assert sum(counts.values()) == 200 and min(counts.values()) > 25, counts


def test_image_and_target_move_together() -> None:
    y, x = np.mgrid[:64, :64]
    disc = ((y - 20) ** 2 + (x - 36) ** 2 < 120).astype(np.uint8)
    moves = ["hflip", "vflip", "rot90", "transpose", "affine", "elastic", "grid_distortion"]
    for name in moves:
        augment = Augment(steps({name: SOME[name]}))
        for seed in range(5):
            image, target = augment(disc[..., None] * np.uint8(200), disc[None], seed)
            assert ((image[..., 0] > 100) != target[0]).mean() < 0.02, name


def test_gray_changes_leave_the_target_alone() -> None:
    image, target = pair()
    for name in ("brightness_contrast", "gamma", "blur", "noise", "cutout"):
        _, made = Augment(steps({name: SOME[name]}))(image, target, 1)
        assert np.array_equal(made, target), name


def test_a_depth_is_the_same_number_before_and_after() -> None:
    """The last channel is a depth: what changes gray values or punches holes must not reach it."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 2), dtype=np.uint8)
    image[..., 1] = 77
    specs = [{name: SOME[name]} for name in SOME]
    mask = (image[:, :, 0][None] & 1).astype(np.uint8)
    made, target = Augment(steps(*specs), depth=True)(image, mask, 5)
    assert made.shape == image.shape and (made[..., 1] == 77).all()
    plain, same = Augment(steps(*specs))(image[..., :1], mask, 5)
    assert np.array_equal(made[..., :1], plain) and np.array_equal(target, same)


def test_affine_options_do_what_they_say() -> None:
    image = np.zeros((101, 101, 1), np.uint8)
    image[40:61, 40:61] = 255
    target = (image > 0).astype(np.uint8).transpose(2, 0, 1)
    large = Augment(steps({"affine": {"scale": [2, 2], "p": 1}}))(image, target, 0)[1]
    assert abs(large.sum() / target.sum() - 4) < 0.3
    moving = steps({"affine": {"translate": 0.2, "p": 1}})
    moved = [Augment(moving)(image, target, s)[1] for s in range(30)]
    shifts = [np.argwhere(m[0]).mean(axis=0) - 50 for m in moved]
    assert np.abs(shifts).max() <= 21 and np.abs(shifts).max() > 10


def test_elastic_moves_pixels_by_what_the_page_says() -> None:
    """A ramp shows where each pixel came from; the first defaults moved it by half a pixel."""
    ramp = np.broadcast_to(np.arange(101, dtype=np.uint8)[None, :, None] * 2, (101, 101, 1))
    target = np.zeros((1, 101, 101), np.uint8)
    preset = dict(transforms(steps({"preset": "tgs_winners"})))["elastic"].model_dump()
    for spec in ({"elastic": {"p": 1.0}}, {"elastic": {**preset, "p": 1.0}}):
        warped = np.stack([Augment(steps(spec))(ramp, target, seed)[0] for seed in range(20)])
        moved = (warped.astype(float) - ramp)[:, 20:-20, 20:-20] / 2  # away from what is reflected
        assert 1.1 < moved.std() < 2.0
        assert np.abs(np.diff(moved, axis=2)).mean() < 0.3  # smooth: neighbors move alike


def test_defaults_and_short_ranges() -> None:
    ((name, options),) = transforms(steps({"hflip": None}))
    assert (name, options.p) == ("hflip", 0.5)
    assert steps({"affine": {"rotate": 10}})[0].given[1].rotate == (-10, 10)


def test_the_page_lists_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "augment.md").read_text()
    for name, options in transforms(steps(*({name: {}} for name in NAMES))):
        assert f"| `{name}` |" in page
        assert all(f"`{option}`" in page for option in type(options).model_fields)


def test_presets_stand_for_their_lists() -> None:
    specs = steps({"preset": "tgs_winners"}, {"vflip": {"p": 1.0}})
    assert [name for name, _ in transforms(specs)] == [
        "hflip", "affine", "brightness_contrast", "gamma", "elastic", "cutout", "vflip"
    ]  # fmt: skip
    for preset in PRESETS:
        assert list(transforms(steps({"preset": preset})))


BY_NAME: list[dict[str, Any]] = [
    {"A.CLAHE": {"clip_limit": [1, 4], "p": 1}},
    {"A.Sharpen": {"p": 1}},
    {"A.RandomShadow": {"p": 1}},
    {"A.MotionBlur": {"blur_limit": 7, "p": 1}},
    {"A.OpticalDistortion": {"distort_limit": 0.5, "p": 1}},
    {"A.Perspective": {"p": 1}},
    {"A.ThinPlateSpline": {"p": 1}},
    {"A.GridDropout": {"p": 1}},
]


@pytest.mark.parametrize("step", BY_NAME, ids=lambda step: next(iter(step)))
def test_transforms_by_the_names_of_albumentations(step: dict[str, Any]) -> None:
    """Drawn from our seed, shapes kept, no value of the mask mixed; written out as it was read."""
    image, target = pair(40, 56, 3, 2)
    augment = Augment(steps(step))
    made = [augment(image, target, seed) for seed in range(4)]
    again = augment(image, target, 2)
    assert all(np.array_equal(a, b) for a, b in zip(again, made[2], strict=True))
    for new_image, new_target in made:
        assert new_image.shape == image.shape and new_target.shape == target.shape
        assert set(np.unique(new_target)) <= {0, 1, 255}
    assert any(not np.array_equal(m[0], image) for m in made)
    (config,) = steps(step)
    assert AugmentConfig.model_validate(config.model_dump()) == config
    assert list(config.model_dump()) == list(step)
    assert list(mistakes([config], 3)) == []


@pytest.mark.parametrize(
    ("step", "channels", "text"),
    [
        ({"A.CLAH": {}}, 1, "0.A.CLAH: unknown transform 'CLAH'. Did you mean 'CLAHE'?"),
        ({"A.CLAHE": {"clip_limt": 2}}, 1, "Did you mean 'clip_limit'?"),
        ({"A.CLAHE": {"clip_limit": -3}}, 1, "A.CLAHE: clip_limit"),
        ({"A.GaussianBlur": {"sigma_limit": "much"}}, 1, "A.GaussianBlur: sigma_limit"),
        ({"A.RandomCrop": {"height": 32, "width": 32}}, 1, "changes the size of an image"),
        ({"A.Resize": {"height": 32, "width": 32}}, 1, "changes the size of an image"),
        ({"A.RandomRotate90": {}}, 1, "changes the size of an image"),
        ({"A.Normalize": {"mean": [0.5], "std": [0.5]}}, 1, "makes float32"),
        ({"A.ToRGB": {}}, 1, "makes uint8 of shape (97, 131, 3)"),
        ({"A.RandomSunFlare": {}}, 1, "cannot transform images of one channel"),
        ({"A.HistogramMatching": {"reference_images": ["x.png"]}}, 1, "unknown argument"),
        ({"A.Affine": {"rotate": 20, "mask_interpolation": 1}}, 1, "only 0, nearest"),
        ({"A.Affine": {"rotate": [20, 20], "fill_mask": 7}}, 1, "values that the mask does not"),
        ({"A.DualTransform": {}}, 1, "unknown transform"),
        ({"A.Lambda": {}}, 1, "A.Lambda"),
    ],
)
def test_transforms_that_cannot_be_used(step: dict[str, Any], channels: int, text: str) -> None:
    (line,) = mistakes(steps({"hflip": {}}, step)[1:], channels)
    assert text in line and "\n" not in line


def test_the_geometry_alone_puts_every_pixel_where_the_whole_does() -> None:
    """It is the whole with the steps on gray values left out: their draws move nobody else's."""
    gray = {"brightness_contrast", "gamma", "blur", "noise", "cutout", "A.CLAHE", "A.GridDropout"}
    specs = [{name: {**SOME.get(name, {}), "p": 0.6}} for name in [*NAMES, *BY_NAME_OF_BOTH]]
    without = [{n: {**o, "p": 0.0} if n in gray else o} for spec in specs for n, o in spec.items()]
    whole, plain = Augment(steps(*specs)), Augment(steps(*without))
    image, target = pair(40, 40, 3)
    changed = 0
    for seed in range(20):
        made, moved = whole(image, target, seed)
        view, same = whole.geometry(image, target, seed)
        assert np.array_equal(view, plain(image, target, seed)[0]) and np.array_equal(moved, same)
        changed += not np.array_equal(made, view)
    assert changed > 10


BY_NAME_OF_BOTH = ["A.CLAHE", "A.GridDropout", "A.OpticalDistortion", "A.Perspective"]
