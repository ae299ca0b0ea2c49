"""The one path from a canvas to native-size logits: normalize, views, dropout, tiles, heads."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distseg.config.data import InputConfig
from distseg.config.load import parse_config
from distseg.config.member import MemberConfig
from distseg.data.fit import Fit
from distseg.inference.forward import Normalizer, Predictor
from distseg.models.build import add_coordinates, build_model
from distseg.records.errors import UserError
from tests.tiny import tiny_tree


class AsItIs(Normalizer):
    """Hands float images on: what the networks below see is written in the test."""

    def __init__(self) -> None:
        super().__init__(InputConfig(), torch.device("cpu"), channels_last=False)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW


def predictor(*models: nn.Module, **input_config: Any) -> Predictor:
    return Predictor(models, Fit(InputConfig(**input_config)), AsItIs(), nullcontext)


class Net(nn.Module):
    """One convolution under dropout."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(4, 1, 1), nn.Dropout2d(rate)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.conv(self.drop(images)), None


def predict(models: list[nn.Module], tta: list[str]) -> Tensor:
    torch.manual_seed(1)
    return predictor(*models).canvas_logits(torch.randn(2, 4, 5, 6), tta)


def test_dropout_passes_are_averaged_and_repeat_themselves() -> None:
    torch.manual_seed(0)
    dropping, plain = Net(0.5).eval(), Net(0.0).eval()
    before = torch.get_rng_state()
    first, still = predict([dropping, plain], ["hflip", "dropout:3"])
    state = torch.get_rng_state()
    torch.manual_seed(1)
    torch.randn(2, 4, 5, 6)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left as it was"
    assert not torch.equal(state, before)
    assert torch.equal(first, predict([dropping], ["hflip", "dropout:3"])[0])
    assert not dropping.drop.training
    assert not torch.equal(first, predict([dropping], ["hflip"])[0])
    assert torch.equal(still, predict([plain], ["hflip"])[0])
    # many passes come near the network without dropout: it is linear here
    many, once = predict([dropping], ["dropout:1000"])[0], predict([dropping], [])[0]
    assert (many - once).abs().mean() < 0.1 * (
        predict([dropping], ["dropout:1"])[0] - once
    ).abs().mean()


@pytest.mark.parametrize("mode", ["dropout", "dropout:0", "dropout:x", "dropout:1001", "drop:2"])
def test_a_wrong_number_of_passes_is_named(mode: str) -> None:
    with pytest.raises(UserError, match="dropout:8"):
        parse_config(tiny_tree(predict={"tta": [mode]}), "t")


def test_the_median_of_each_image_becomes_zero() -> None:
    input_config = InputConfig(channels=2, normalize="median", std=[0.5, 0.25])
    images = torch.randint(0, 256, (3, 2, 5, 5), dtype=torch.uint8)
    found = Normalizer(input_config, torch.device("cpu"), channels_last=True)(images)
    assert (found.flatten(2).median(-1).values == 0).all()
    expected = (images.float() - images.float().flatten(2).median(-1).values[..., None, None]) / 255
    assert torch.allclose(found, expected / torch.tensor([0.5, 0.25]).view(1, 2, 1, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalize": "train", "mean": [0.5]}, "input.mean"),
        ({"normalize": "median", "mean": [0.5]}, "input.mean"),
        ({"normalize": "median", "fit": "crop"}, "is that of the canvas"),
        ({"normalize": "median", "fit": "pad", "pad_mode": "constant"}, "is that of the canvas"),
    ],
)
def test_inputs_that_contradict_themselves_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config(tiny_tree(input={**tiny_tree()["input"], **changes}), "t")


def test_channels_that_a_crop_or_a_median_would_spoil_are_refused() -> None:
    tree = tiny_tree(input={**tiny_tree()["input"], "fit": "crop"})
    tree["members"]["a"]["coordinates"] = True
    with pytest.raises(UserError, match=r"a\.coordinates: a crop does not know its place"):
        parse_config(tree, "t")
    tree = tiny_tree(input={**tiny_tree()["input"], "channels": 2, "normalize": "median"})
    tree["data"]["depths"] = "depths.csv"
    with pytest.raises(UserError, match="would make every depth 0"):
        parse_config(tree, "t")


def test_coordinates_do_not_flip_with_the_view() -> None:
    images = torch.zeros(1, 1, 2, 4)
    y, x = add_coordinates(images)[0, 1:]
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75] and y[:, 0].tolist() == [-0.5, 0.5]
    member = MemberConfig(arch="PlainUnet", encoder="none", coordinates=True,
                          decoder={"filters": 4, "depth": 2})  # fmt: skip
    model = build_model(member, 1, 1, (9, 11)).eval()
    assert model.net.down[0][0].in_channels == 3  # type: ignore
    flat = torch.zeros(1, 1, 9, 11)  # a flip changes nothing in it
    plain, flipped = (predictor(model).canvas_logits(flat, tta) for tta in ([], ["hflip"]))
    assert torch.allclose(flipped, (plain + plain.flip(-1)) / 2, atol=1e-6)


@pytest.mark.parametrize("arch", ["FPN", "UPerNet"])
def test_scaled_views_have_sides_that_every_network_takes(arch: str) -> None:
    member = MemberConfig(arch=arch, encoder="resnet18", encoder_weights=None)
    model = build_model(member, 1, 1, (64, 64), pretrained=False).eval()
    logits = predictor(model).canvas_logits(torch.zeros(1, 1, 64, 64), ["scale:0.75"])
    assert logits.shape == (1, 1, 1, 64, 64)


def test_whole_and_tiled_agree_in_the_interior() -> None:
    """A U-Net whose deepest pixel sees 16 around it, on tiles of 96 that share a third."""
    torch.manual_seed(0)
    member = MemberConfig(arch="PlainUnet", encoder="none", decoder={"filters": 4, "depth": 1})
    model = build_model(member, 4, 3, (96, 96)).eval()
    images = torch.randn(1, 4, 160, 224)
    crop = {"fit": "crop", "height": 96, "width": 96}
    whole = predictor(model, **crop).canvas_logits(images, ["hflip"])
    parts = predictor(model, **crop, overlap=0.33).canvas_logits(images, ["hflip"])
    # Tiles begin at 0, 64 (and 128): the first and last 48 pixels are seen by one tile alone.
    torch.testing.assert_close(parts[..., :48, :48], whole[..., :48, :48])
    torch.testing.assert_close(parts[..., -48:, -48:], whole[..., -48:, -48:])
    assert not torch.equal(parts, whole)


class TwoHeads(nn.Module):
    """Logits are the image times a factor, image logits the factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images * self.factor, torch.full(images.shape[:2], self.factor)


def test_the_mean_over_models_comes_back_at_each_images_own_size() -> None:
    """On a padded canvas: borders are cut away, and the two heads are averaged alike."""
    both = predictor(TwoHeads(1.0), TwoHeads(4.0), height=64, width=64, fit="pad")
    canvas = torch.arange(2 * 64 * 64, dtype=torch.float32).reshape(2, 1, 64, 64)
    assert torch.equal(both.canvas_logits(canvas, []), torch.stack([canvas, 4 * canvas]))
    natives = both.native_logits(canvas, [(60, 64), (32, 20)], [])
    assert torch.equal(natives[0], 2.5 * canvas[0, :, 2:62])
    assert torch.equal(natives[1], 2.5 * canvas[1, :, 16:48, 22:42])
    same = both.native_logits(canvas, [(60, 64), (60, 64)], ["hflip"])
    assert torch.equal(same[1], 2.5 * canvas[1, :, 2:62])
    assert torch.equal(both.image_logits(canvas).mean(0), torch.full((2, 1), 2.5))


class MeanHead(nn.Module):
    """Its head says the mean of what it is shown, which is at most so large."""

    def __init__(self, most: tuple[int, int]) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.shape[-2] <= self.most[0] and images.shape[-1] <= self.most[1]
        return images, images.mean((2, 3))


def test_a_head_is_shown_tiles_and_says_the_most_of_any() -> None:
    """A class in one corner of the image is in the image, whatever the rest is."""
    crop = {"fit": "crop", "height": 64, "width": 64}
    canvas = torch.zeros(2, 1, 160, 224)
    canvas[0, :, -64:, -64:] = 3.0
    tiles = predictor(MeanHead((64, 64)), MeanHead((64, 64)), **crop, overlap=0.25)
    assert tiles.image_logits(canvas).tolist() == [[[3.0], [0.0]]] * 2
    whole = predictor(MeanHead((160, 224)), **crop)
    assert whole.image_logits(canvas)[0, 0].item() < 0.5


def test_inputs_that_differ_in_their_normalization_share_a_canvas() -> None:
    one = predictor(height=64, width=64)
    assert one.canvas == predictor(height=64, width=64, mean=[0.1] * 3, std=[0.5] * 3).canvas
    assert one.canvas != predictor(height=64, width=96).canvas
