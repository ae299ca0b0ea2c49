from __future__ import annotations

import numpy as np
import pytest
import torch

from distseg.config.data import InputConfig
from distseg.data.fit import Fit

MODES = ["reflect", "edge", "constant"]


def fit(**options: object) -> Fit:
    return Fit(InputConfig(**{"height": 32, "width": 48, "channels": 1, **options}))


def picture(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, channels), dtype=np.uint8)


def as_logits(canvas_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(canvas_HWC.transpose(2, 0, 1).copy())[None].float()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(32, 48), (31, 47), (17, 20), (5, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_pad_comes_back_to_the_letter(mode: str, size: tuple[int, int], channels: int) -> None:
    image, f = picture(*size, channels), fit(pad_mode=mode)
    canvas = f.forward(image)
    assert canvas.shape == (32, 48, channels) == (*f.canvas(*size), channels)
    assert torch.equal(f.inverse(as_logits(canvas), *size), as_logits(image))


@pytest.mark.parametrize("size", [(31, 47), (64, 64), (5, 100)])
def test_crop_predicts_the_whole_image_on_a_multiple_of_32(size: tuple[int, int]) -> None:
    image, f = picture(*size), fit(fit="crop")
    canvas = f.forward(image)
    assert canvas.shape[0] % 32 == canvas.shape[1] % 32 == 0
    assert torch.equal(f.inverse(as_logits(canvas), *size), as_logits(image))


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "resize"},
        {"fit": "pad", "scale_to": (28, 44)},
        {"fit": "pad", "scale_to": (28, 44), "pad_mode": "constant"},
    ],
)
@pytest.mark.parametrize("size", [(20, 30), (64, 96), (15, 88)])
def test_stretching_shifts_nothing(options: dict[str, object], size: tuple[int, int]) -> None:
    """A ramp is what linear sampling keeps: off the rim it comes back where it was."""
    f = fit(**options)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([y * 240 / size[0], x * 240 / size[1]], axis=2).round().astype(np.uint8)
    back = f.inverse(as_logits(f.forward(image)), *size)
    assert back.shape == (1, 2, *size) and back.dtype == torch.float32
    rim_y, rim_x = 2 + size[0] // 16, 2 + size[1] // 16
    error = (back - as_logits(image))[..., rim_y:-rim_y, rim_x:-rim_x]
    assert abs(error.mean().item()) < 0.4  # half a source pixel would be 1.2 or more
    assert error.abs().max() <= 6.5


def test_image_and_target_stay_together() -> None:
    """The target is the image's own threshold, and still is after the fit."""
    y, x = np.mgrid[:40, :60]
    image = np.where((y - 15) ** 2 + (x - 30) ** 2 < 150, 200, 40).astype(np.uint8)[..., None]
    target = (image > 120).astype(np.uint8).transpose(2, 0, 1)
    for options in ({"fit": "resize"}, {"fit": "crop"}, {"scale_to": (30, 44)}):
        made, mask = fit(**options).train(image, target, np.random.default_rng(1))
        assert made.shape == (32, 48, 1) and mask.shape == (1, 32, 48)
        assert ((made[..., 0] > 120) != mask[0]).mean() < 0.01


@pytest.mark.parametrize("mode", MODES)
def test_the_border_of_a_target(mode: str) -> None:
    image, f = np.full((16, 16, 1), 9, np.uint8), fit(pad_mode=mode)
    _, target = f.train(image, np.ones((2, 16, 16), np.uint8), np.random.default_rng(0))
    assert (target[:, 8:24, 16:32] == 1).all()
    border = target.sum() - (target[:, 8:24, 16:32]).sum()
    expected = 255 if mode == "constant" else 1  # nobody knows what lies in a black border
    assert border == expected * 2 * (32 * 48 - 16 * 16)


def test_train_without_an_offset_is_what_is_predicted() -> None:
    image = picture(20, 31)
    for options in ({}, {"fit": "resize"}, {"scale_to": (30, 40)}):
        f = fit(**options)
        made, _ = f.train(image, np.zeros((1, 20, 31), np.uint8), np.random.default_rng(0))
        assert np.array_equal(made, f.forward(image))


def test_random_offsets_and_crops_reach_everywhere_and_repeat() -> None:
    image, target = picture(20, 20), np.zeros((1, 20, 20), np.uint8)
    f = fit(random_offset=True)
    made = [f.train(image, target, np.random.default_rng(s))[0] for s in range(60)]
    assert len({m.tobytes() for m in made}) > 50
    assert np.array_equal(made[3], f.train(image, target, np.random.default_rng(3))[0])
    row = np.arange(200, dtype=np.uint8)[None, :, None].repeat(200, 0)
    starts = {
        int(
            fit(fit="crop").train(row, np.zeros((1, 200, 200), np.uint8), np.random.default_rng(s))[
                0
            ][0, 0, 0]
        )
        for s in range(400)
    }
    assert min(starts) < 4 and max(starts) > 148 and max(starts) <= 152


def test_an_image_larger_than_a_padded_canvas_is_predicted_on_a_larger_one() -> None:
    image, f = picture(40, 50), fit()
    assert f.canvas(40, 50) == (64, 64)
    assert torch.equal(f.inverse(as_logits(f.forward(image)), 40, 50), as_logits(image))


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_share_of_crops_with_an_object(share: float) -> None:
    """Objects are two pixels in a corner of a large image, of classes 1 and 2."""
    image, target = picture(200, 300), np.zeros((1, 200, 300), np.uint8)
    target[0, 3, 290], target[0, 190, 5] = 1, 2
    f, rng = fit(fit="crop", foreground=share), np.random.default_rng(0)
    held = [set(np.unique(f.train(image, target, rng)[1])) - {0} for _ in range(400)]
    assert np.mean([bool(h) for h in held]) == pytest.approx(share, abs=0.08)
    if share:
        ones = np.mean([1 in h for h in held if h])
        assert ones == pytest.approx(0.5, abs=0.1)  # classes are drawn, not pixels


def test_soft_targets_draw_no_crop() -> None:
    """Their planes hold every value up to 254, nearly all of it background."""
    image, target = picture(200, 300), np.zeros((1, 200, 300), np.uint8)
    target[0, 3, 290] = 1
    soft = np.random.default_rng(1).integers(1, 255, (1, 200, 300), dtype=np.uint8)
    both = np.concatenate([target, soft])
    f = fit(fit="crop", foreground=1.0)
    for seed in range(20):
        found = f.train(image, both, np.random.default_rng(seed), num_hard=1)
        alone = f.train(image, target, np.random.default_rng(seed))
        assert found[1].shape[0] == 2 and np.array_equal(found[1][:1], alone[1])
        assert np.array_equal(found[0], alone[0])


def test_a_crop_for_an_object_is_any_that_holds_it() -> None:
    target = np.zeros((1, 64, 96), np.uint8)
    target[0, 30, 40] = 1
    f, rng = fit(fit="crop", foreground=1.0), np.random.default_rng(0)
    places = [np.argwhere(f.train(picture(64, 96), target, rng)[1][0])[0] for _ in range(600)]
    rows, columns = np.array(places).T
    assert (rows.min(), rows.max()) == (0, 30) and (columns.min(), columns.max()) == (0, 40)
