"""Sliding windows: images larger than what a network is shown at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STRIDE = 32  # tiles begin at multiples of it, where an encoder's poolings begin on the whole image


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin on one axis, pixels: multiples of 32, the last tile flush with the end.

    length, tile: pixels, both multiples of 32. overlap: share of a tile that its neighbor covers
    too, at least, in [0, 1).
    """
    if tile >= length:
        return [0]
    step = max(STRIDE, int(tile * (1 - overlap)) // STRIDE * STRIDE)
    return [*range(0, length - tile, step), length - tile]


def tile_weight(height: int, width: int) -> Tensor:
    """float32 (height, width): 1 in the middle of a tile, falling linearly to nearly 0 at its
    edges, where a network sees the least around a pixel."""

    def ramp(length: int) -> Tensor:
        position = torch.arange(length) + 0.5
        return torch.minimum(position, length - position) / (length / 2)

    return ramp(height)[:, None] * ramp(width)[None, :]


def windows(
    height: int, width: int, tile: tuple[int, int], overlap: float
) -> list[tuple[slice, slice]]:
    """Rows and columns of each tile of an image, all of one size. Arguments as in `tiled`."""
    starts = [
        tile_starts(length, own, overlap) for length, own in zip((height, width), tile, strict=True)
    ]
    h, w = min(tile[0], height), min(tile[1], width)
    return [(slice(top, top + h), slice(left, left + w)) for top in starts[0] for left in starts[1]]


def tiled(
    forward: Callable[[Tensor], Tensor], images_BCHW: Tensor, tile: tuple[int, int], overlap: float
) -> Tensor:
    """`forward` on tiles, blended by weight: float32 (B, K, H, W) of what it returns.

    Args:
        forward: (B, C, h, w) -> (B, K, h, w).
        images_BCHW: H and W multiples of 32.
        tile: (height, width) in pixels, multiples of 32; an axis that is no longer is taken whole.
        overlap: as in `tile_starts`.
    """
    height, width = images_BCHW.shape[-2:]
    places = windows(height, width, tile, overlap)
    if len(places) == 1:
        return forward(images_BCHW).float()
    weight = tile_weight(min(tile[0], height), min(tile[1], width)).to(images_BCHW.device)
    total = torch.zeros((), device=images_BCHW.device)
    norm = torch.zeros(height, width, device=images_BCHW.device)
    for rows, columns in places:
        logits = forward(images_BCHW[..., rows, columns]).float()
        if not total.ndim:
            total = logits.new_zeros((*logits.shape[:2], height, width))
        total[..., rows, columns] += logits * weight
        norm[rows, columns] += weight
    return total / norm


def highest_of_tiles(
    forward: Callable[[Tensor], Tensor], images_BCHW: Tensor, tile: tuple[int, int], overlap: float
) -> Tensor:
    """The highest of what `forward`, (B, C, h, w) -> (B, K), says of the tiles of each image:
    float32 (B, K). Other arguments as in `tiled`."""
    height, width = images_BCHW.shape[-2:]
    places = windows(height, width, tile, overlap)
    found = [forward(images_BCHW[..., rows, columns]).float() for rows, columns in places]
    return torch.stack(found).amax(0)
