"""The network's input from a file: an image, and where the config says so its depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.data.depths import Depths
from distseg.data.image_file import BadFile, Decoded, decode, open_file

Pixels = NDArray | Image.Image
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_input(path: str | Path, channels: int, depths: Depths | None = None) -> NDArray[np.uint8]:
    """The image of a file as uint8 (H, W, channels), C-contiguous; see `to_input`.

    BadFile: it is not there, cannot be decoded, or cannot become an input.
    """
    with open_file(path) as file:
        return to_input(decode(file, path), channels, depths)


def pixels_input(
    pixels: Pixels, name: str, channels: int, depths: Depths | None = None
) -> NDArray[np.uint8]:
    """An image in memory as uint8 (H, W, channels): as if it were decoded from the file `name`.

    An array of uint8 or bool (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is what Pillow decodes from
    a gray, RGB or RGBA file; any other array is what a .npy file holds. BadFile as `to_input`.
    """
    if not isinstance(pixels, np.ndarray):
        return to_input(Decoded(name, pixels.mode, pixels), channels, depths)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise BadFile(name, f"an array of shape {pixels.shape} is no image")
    if pixels.dtype in (np.uint8, np.bool_) and (pixels.ndim == 2 or pixels.shape[2] in (1, 3, 4)):
        flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        image = Image.fromarray(np.ascontiguousarray(flat))
        return to_input(Decoded(name, image.mode, image), channels, depths)
    return to_input(Decoded(name, "npy", pixels), channels, depths)


def to_input(decoded: Decoded, channels: int, depths: Depths | None) -> NDArray[np.uint8]:
    """What a file holds as uint8 (H, W, channels), C-contiguous.

    16-bit values are scaled by 255 / 65535; gray becomes color by repetition, and color gray by
    the luma of ITU-R 601; alpha is dropped, except with 4 channels. A .npy file holds (H, W) or
    (H, W, channels) of uint8 or uint16; it is the only file for other numbers of channels. With
    depths the last channel is constant: the depth of the file's stem.

    BadFile: another number of channels, values that are no image, or a stem without a depth.
    """
    if depths is None:
        return _image(decoded, channels)
    name = Path(decoded.path).stem
    if name not in depths:
        raise BadFile(decoded.path, f"data.depths has no id {name!r}")
    image = _image(decoded, channels - 1)
    plane = np.full((*image.shape[:2], 1), depths[name], np.uint8)
    return np.concatenate([image, plane], axis=2)


def _image(decoded: Decoded, channels: int) -> NDArray[np.uint8]:
    """uint8 (H, W, channels), C-contiguous."""
    if isinstance(decoded.pixels, np.ndarray):
        array = _to_8_bit(decoded.pixels, decoded.path)
        array = array[:, :, None] if array.ndim == 2 else array
    else:
        array = _from_pillow(decoded.pixels, decoded.path, channels)
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise BadFile(decoded.path, f"has {array.shape[2]} channels; input.channels is {channels}")
    return np.ascontiguousarray(array)


def _from_pillow(image: Image.Image, path: str, channels: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 1, 3 or 4)."""
    if image.mode in _GRAY_16 or image.mode == "F":
        return _to_8_bit(np.asarray(image), path)[:, :, None]
    mode = {1: "L", 4: "RGBA"}.get(channels, "RGB")
    try:
        array = np.asarray(image.convert(mode))
    except ValueError as error:  # a color space that Pillow cannot convert, such as LAB
        raise BadFile(path, f"mode {image.mode} cannot become {mode}: {error}") from None
    return array[:, :, None] if array.ndim == 2 else array


def _to_8_bit(array: NDArray, path: str) -> NDArray[np.uint8]:
    """uint8 as it is, 16-bit scaled, floats in 0..1 times 255; BadFile for anything else."""
    if array.dtype == np.uint8:
        return array
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array * 255).astype(np.uint8)
    if array.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    raise BadFile(path, f"values {low}..{high} of type {array.dtype} are no image")
