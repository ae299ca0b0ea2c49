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
    rows = tile_starts(height, tile[0], overlap)
    columns = tile_starts(width, tile[1], overlap)
    if len(rows) == len(columns) == 1:
        return forward(images_BCHW).float()
    h, w = min(tile[0], height), min(tile[1], width)
    weight = tile_weight(h, w).to(images_BCHW.device)
    total = torch.zeros((), device=images_BCHW.device)
    norm = torch.zeros(height, width, device=images_BCHW.device)
    for top in rows:
        for left in columns:
            logits = forward(images_BCHW[..., top : top + h, left : left + w]).float()
            if not total.ndim:
                total = logits.new_zeros((*logits.shape[:2], height, width))
            total[..., top : top + h, left : left + w] += logits * weight
            norm[top : top + h, left : left + w] += weight
    return total / norm
