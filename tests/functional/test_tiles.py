from __future__ import annotations

import pytest
import torch
from torch import nn

from distseg.functional.tiles import highest_of_tiles, tile_starts, tile_weight, tiled


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "starts"),
    [
        (64, 64, 0.5, [0]),
        (64, 96, 0.5, [0]),
        (128, 64, 0.0, [0, 64]),
        (128, 64, 0.5, [0, 32, 64]),
        (160, 64, 0.0, [0, 64, 96]),
        (480, 256, 0.25, [0, 192, 224]),
    ],
)
def test_tiles_cover_the_image(length: int, tile: int, overlap: float, starts: list[int]) -> None:
    found = tile_starts(length, tile, overlap)
    assert found == starts
    covered = {p for s in found for p in range(s, min(s + tile, length))}
    assert covered == set(range(length))


def test_blending_changes_nothing_where_tiles_agree() -> None:
    images = torch.randn(2, 3, 96, 160)
    found = tiled(lambda x: 2 * x[:, :1] + 1, images, (64, 64), 0.5)
    torch.testing.assert_close(found, 2 * images[:, :1] + 1)


@pytest.mark.parametrize("tile", [(64, 64), (96, 160), (128, 64)])
def test_the_highest_of_all_tiles(tile: tuple[int, int]) -> None:
    """Of the mean of each channel in a tile, counted by hand; a channel, an image and an axis that
    is shorter than the tile are each by themselves."""
    torch.manual_seed(0)
    images, sizes = torch.randn(2, 3, 96, 160), []

    def means(tile_BCHW: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tile_BCHW.shape[-2:]))
        return tile_BCHW.mean((2, 3))

    found = highest_of_tiles(means, images, tile, 0.25)
    high, wide = min(tile[0], 96), min(tile[1], 160)
    assert set(sizes) == {(high, wide)}
    expected = torch.full((2, 3), -torch.inf)
    for top in tile_starts(96, tile[0], 0.25):
        for left in tile_starts(160, tile[1], 0.25):
            own = images[:, :, top : top + high, left : left + wide].mean((2, 3))
            expected = torch.maximum(expected, own)
    torch.testing.assert_close(found, expected)


def test_weight_is_positive_and_symmetric() -> None:
    weight = tile_weight(32, 64)
    assert weight.min() > 0
    torch.testing.assert_close(weight, weight.flip(0, 1))


def test_whole_and_tiled_agree_in_the_interior() -> None:
    """A net with poolings: pixels that every covering tile sees with all of their surroundings."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(4), nn.Conv2d(4, 4, 3, padding=1),
        nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(4, 5, 3, padding=1),
    ).eval()  # fmt: skip
    images = torch.randn(1, 3, 128, 192)
    with torch.no_grad():
        whole, parts = net(images), tiled(net, images, (64, 96), 0.25)
    reach = 16  # pixels: 1 + 4 (1 + 2) + 1, rounded up to the pooling's grid
    inside = torch.ones(128, 192, dtype=torch.bool)
    for top in tile_starts(128, 64, 0.25):
        for left in tile_starts(192, 96, 0.25):
            near = torch.zeros(128, 192, dtype=torch.bool)
            near[top : top + 64, left : left + 96] = True
            near[
                top + reach * (top > 0) : top + 64 - reach * (top + 64 < 128),
                left + reach * (left > 0) : left + 96 - reach * (left + 96 < 192),
            ] = False
            inside &= ~near
    assert inside.sum() > 2000
    torch.testing.assert_close(parts[..., inside], whole[..., inside])
    assert not torch.allclose(parts, whole)
