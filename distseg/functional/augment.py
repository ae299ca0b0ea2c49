"""Augmentation on the images' device: what has been drawn for each image, done to a whole batch.

Every image of a batch lies on a canvas of one size. `place_B4` says where its picture lies there:
top, left, height and width in pixels; around it is a border. All coordinates are of pixel centers,
as cv2's: (x, y) of the first pixel is (0, 0). Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Border = Literal["reflect", "edge", "constant"]
MIX, MASK = (0x85EBCA6B, 0xC2B2AE35), 0xFFFFFFFF  # of murmur3's finalizer; 32 bits
GOLDEN = 0x9E3779B1


class Augmented(NamedTuple):
    """Images and planes after augmentation, uint8, of the shapes that came in.

    moved_BCHW: the images before their gray values were changed, pixel by pixel beside images_BCHW.
    """

    images_BCHW: Tensor
    planes_BKHW: Tensor
    moved_BCHW: Tensor


def augment(
    images_BCHW: Tensor, planes_BKHW: Tensor, drawn: Mapping[str, Tensor], *, border: Border,
    depth: bool = False,
) -> Augmented:  # fmt: skip
    """Move each picture, and then change its gray values.

    Pictures are sampled bilinearly, planes at the nearest pixel, each once however many moves there
    are; what comes in from outside a picture is its reflection without the edge itself.

    Args:
        images_BCHW, planes_BKHW: uint8; planes are masks and what else lies beside an image.
        drawn: what `data.augment.Augment.numbers` gives of each image, stacked: "place" float32
            (B, 4); "moves" float32 (B, M, 2, 3), each from (x, y, 1) of a result to (x, y) of what
            it is made of, the last move first; "table" uint8 (B, 256), the new value of each gray
            value; "holes" float32 (B, N, 5): x and y of the first pixel, of the one after the last,
            and the gray value; "noise" float32 (B,), its standard deviation as a share of 255, and
            "noise_seed" int64 (B,), of 32 bits.
        border: reflect and edge are made anew of the result; a constant border stays as it is.
        depth: the last channel keeps its gray values.
    """
    height, width = images_BCHW.shape[2:]
    place_B4 = drawn["place"][:, :, None, None].unbind(1)  # each (B, 1, 1)
    x, y, inside = _on_picture(height, width, place_B4, border)
    own_x, own_y = x, y
    for move_B23 in drawn["moves"].unbind(1):
        x, y = _moved(x, y, move_B23, place_B4)
    moved, planes = images_BCHW, planes_BKHW
    if drawn["moves"].shape[1]:
        top, left = place_B4[:2]
        moved = _bilinear(images_BCHW, x + left, y + top)
        planes = _nearest(planes_BKHW, x + left, y + top)
    gray, kept = moved, moved[:, :0]
    if depth:
        gray, kept = moved[:, :-1], moved[:, -1:]
    gray = _changed(gray, own_x, own_y, place_B4[3], drawn)
    images = torch.cat([gray, kept], 1) if depth else gray
    if border == "constant":
        images, moved = (torch.where(inside[:, None], a, images_BCHW) for a in (images, moved))
        planes = torch.where(inside[:, None], planes, planes_BKHW)
    return Augmented(images, planes, moved)


def _on_picture(
    height: int, width: int, place_B4: tuple[Tensor, ...], border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y) float32 (B, H, W) of what each pixel of the canvas shows of its picture, and whether
    it lies on it, bool (B, H, W)."""
    top, left, high, wide = place_B4
    device = top.device
    rows = torch.arange(height, device=device, dtype=torch.float32)[None, :, None] - top
    columns = torch.arange(width, device=device, dtype=torch.float32)[None, None, :] - left
    inside = (rows >= 0) & (rows < high) & (columns >= 0) & (columns < wide)
    if border == "edge":
        y, x = (torch.minimum(at.clamp(min=0), n - 1) for at, n in ((rows, high), (columns, wide)))
    else:
        y, x = _reflected(rows, high - 1), _reflected(columns, wide - 1)
    return x.expand_as(inside), y.expand_as(inside), inside


def _moved(
    x: Tensor, y: Tensor, move_B23: Tensor, place_B4: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Where the pixels at (x, y) of a move's result come from."""
    a = move_B23[:, :, :, None, None]  # products of single numbers: no matrix product in bf16
    high, wide = place_B4[2:]
    return (
        _reflected(a[:, 0, 0] * x + a[:, 0, 1] * y + a[:, 0, 2], wide - 1),
        _reflected(a[:, 1, 0] * x + a[:, 1, 1] * y + a[:, 1, 2], high - 1),
    )


def _reflected(at: Tensor, last: Tensor) -> Tensor:
    """Coordinates brought to 0..last by reflection about the centers of the first and last pixel,
    as cv2.BORDER_REFLECT_101."""
    at = at.abs() % (2 * last).clamp(min=1)
    return torch.minimum(at, 2 * last - at).clamp(min=0)


def _bilinear(images_BCHW: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = images_BCHW.shape[2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    made = F.grid_sample(
        images_BCHW.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return _uint8(made)


def _nearest(planes_BKHW: Tensor, x: Tensor, y: Tensor) -> Tensor:
    width = planes_BKHW.shape[3]
    # half up, as cv2 rounds; torch's nearest sampling rounds halves to even numbers
    at = ((y + 0.5).floor() * width + (x + 0.5).floor()).long().flatten(1)
    flat = planes_BKHW.flatten(2)
    return flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1)).view_as(planes_BKHW)


def _changed(
    images_BCHW: Tensor, x: Tensor, y: Tensor, wide: Tensor, drawn: Mapping[str, Tensor]
) -> Tensor:
    """Other gray values. x, y: of each pixel on its picture, of width `wide` (B, 1, 1)."""
    if "table" in drawn:
        flat = images_BCHW.flatten(1).long()
        images_BCHW = drawn["table"].gather(1, flat).view_as(images_BCHW)
    for hole_B5 in drawn["holes"].unbind(1) if "holes" in drawn else ():
        x0, y0, x1, y1, fill = hole_B5[:, :, None, None].unbind(1)
        hidden = (x > x0 - 0.5) & (x < x1 - 0.5) & (y > y0 - 0.5) & (y < y1 - 0.5)
        value = fill[:, None].to(torch.uint8)
        images_BCHW = torch.where(hidden[:, None], value, images_BCHW)
    if "noise" in drawn:
        at = (y.round() * wide + x.round()).long()
        noise = _normals(drawn["noise_seed"], at, images_BCHW.shape[1])
        noise = noise * (255 * drawn["noise"][:, None, None, None])
        images_BCHW = _uint8(images_BCHW.float() + noise.trunc())  # as albumentations adds it
    return images_BCHW


def _uint8(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _normals(seed_B: Tensor, index_BHW: Tensor, channels: int) -> Tensor:
    """Standard normal numbers, float32 (B, channels, H, W): a pure function of an image's seed, the
    channel and a pixel's number, whatever the device and the batch (Box and Muller 1958)."""
    channel_C = torch.arange(channels, device=seed_B.device)
    index_B1HW = (index_BHW * GOLDEN)[:, None]
    first, second = (
        (_mixed(seed_BC[:, :, None, None] ^ index_B1HW).float() + 0.5) / 2**32
        for seed_BC in (_mixed(_mixed(seed_B + salt)[:, None] + channel_C) for salt in (0, 1))
    )
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def _mixed(number: Tensor) -> Tensor:
    """The low 32 bits of an int64, well mixed: murmur3's finalizer (Appleby, public domain)."""
    number = number & MASK
    number = ((number ^ (number >> 16)) * MIX[0]) & MASK
    number = ((number ^ (number >> 13)) * MIX[1]) & MASK
    return number ^ (number >> 16)
