"""The network's input from a file: an image, and where the config says so its depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.data import MAX_PIXELS
from distseg.config.schema import Config
from distseg.data.depths import Depths, load_depths
from distseg.data.formats.row import plain
from distseg.data.image_file import (
    BadFile,
    Decoded,
    check_pixels,
    decode,
    is_channels_first,
    open_file,
)

Pixels = NDArray | Image.Image
Levels = tuple[float, float]  # the values that become 0 and 255
_BLOCK_VALUES = 1 << 22
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa", "RGBA;16")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the images of a data set become inputs.

    channels: of the input, with the depth where there are `depths`.
    levels: the values of files of more than 8 bits that become 0 and 255; what lies outside is
        cut. None: the set has 8 bits, and a file with other values is refused.
    drop_alpha: alpha that varies is dropped, too, where the input has no channel for it.
    max_pixels: a file whose header claims more is refused.
    """

    channels: int
    depths: Depths | None = None
    levels: Levels | None = None
    drop_alpha: bool = False
    max_pixels: int = MAX_PIXELS


def reading_of(config: Config) -> Reading:
    """How a config's images are read. UserError: its table of depths cannot be read."""
    data = config.data
    depths = load_depths(config)
    return Reading(config.input.channels, depths, data.levels, data.drop_alpha, data.max_pixels)


def image_channels(config: Config) -> int:
    """The channels that an image file has: those of the input, without the depth."""
    return config.input.channels - (config.data.depths is not None)


def how_read(decoded: Decoded, channels: int) -> str:
    """The mode of a file, and what of it is taken for channels. channels: `image_channels`."""
    shape = decoded.pixels.shape if isinstance(decoded.pixels, np.ndarray) else ()
    if is_channels_first(shape, channels):
        return f"npy, {channels} channels first"
    return f"{decoded.mode} as channels" if decoded.is_stack else decoded.mode


def read_input(path: str | Path, reading: Reading) -> NDArray[np.uint8]:
    """The image of a file as uint8 (H, W, channels), C-contiguous; see `to_input`.

    BadFile: it is not there, cannot be decoded, is too large, or cannot become an input.
    """
    with open_file(path) as file:
        return to_input(decode(file, path, reading.max_pixels), reading)


def pixels_input(pixels: Pixels, name: str, reading: Reading) -> NDArray[np.uint8]:
    """An image in memory as uint8 (H, W, channels): as if it were decoded from the file `name`.

    An array of uint8 or bool (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is what Pillow decodes from
    a gray, RGB or RGBA file; any other array is what a .npy file holds. BadFile as `to_input`.
    """
    if not isinstance(pixels, np.ndarray):
        return to_input(Decoded(name, pixels.mode, pixels), reading)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise BadFile(name, f"an array of shape {pixels.shape} is no image")
    if pixels.dtype in (np.uint8, np.bool_) and (pixels.ndim == 2 or pixels.shape[2] in (1, 3, 4)):
        flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        image = Image.fromarray(np.ascontiguousarray(flat))
        return to_input(Decoded(name, image.mode, image), reading)
    return to_input(Decoded(name, "npy", pixels), reading)


def to_input(decoded: Decoded, reading: Reading) -> NDArray[np.uint8]:
    """What a file holds as uint8 (H, W, channels), C-contiguous.

    Values of more than 8 bits are scaled by `reading.levels`; gray becomes color by repetition,
    and color gray by the luma of ITU-R 601. No channel is made up, and none is lost: alpha is
    dropped where it is the same all over, and is read with 4 channels (2 beside gray). A .npy file
    holds (H, W), (H, W, channels) or (channels, H, W), and the gray pages of a TIFF are channels;
    these are the only files for other numbers of channels. With depths the last channel is
    constant: the depth of the file's stem.

    BadFile: another number of channels, values that are no image, or a stem without a depth.
    """
    if reading.depths is None:
        return _image(decoded, reading)
    name = plain(Path(decoded.path).stem)
    if name not in reading.depths:
        raise BadFile(decoded.path, f"data.depths has no id {name!r}")
    image = _image(decoded, replace(reading, channels=reading.channels - 1))
    plane = np.full((*image.shape[:2], 1), reading.depths[name], np.uint8)
    return np.concatenate([image, plane], axis=2)


def deep_range(decoded: Decoded) -> tuple[float, float, bool] | None:
    """(lowest value, highest value, whether they are real numbers) of a file of more than 8 bits;
    None for one of 8. BadFile: values that are no image."""
    pixels = decoded.pixels
    if isinstance(pixels, Image.Image):
        if pixels.mode not in _GRAY_16:
            return None
        pixels = np.asarray(pixels)
    if pixels.dtype in (np.uint8, np.bool_):
        return None
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadFile(decoded.path, f"values {low}..{high} of type {pixels.dtype} are no image")
    return low, high, pixels.dtype.kind == "f"


def _image(decoded: Decoded, reading: Reading) -> NDArray[np.uint8]:
    """uint8 (H, W, channels), C-contiguous."""
    channels = reading.channels
    array, has_alpha = _own_channels(decoded, reading)
    num = array.shape[2] - has_alpha
    if has_alpha and channels in (1, 3):
        alpha = array[..., -1]
        if not reading.drop_alpha and (alpha != alpha[0, 0]).any():
            raise BadFile(
                decoded.path,
                f"its alpha channel varies: set input.channels to {num + 1} to read it, or "
                "data.drop_alpha: true",
            )
        array = array[..., :-1]
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    elif array.shape[2] == 3 and channels == 1 and not _is_array(decoded):
        array = np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))[..., None]
    if array.shape[2] != channels:
        what = "pages, which are channels" if decoded.is_stack else "channels"
        raise BadFile(decoded.path, f"has {array.shape[2]} {what}; input.channels is {channels}")
    return np.ascontiguousarray(array)


def _own_channels(decoded: Decoded, reading: Reading) -> tuple[NDArray[np.uint8], bool]:
    """The channels that the file itself has, uint8 (H, W, C), and whether the last is alpha."""
    image, path, levels = decoded.pixels, decoded.path, reading.levels
    if decoded.mode == "npy":
        image = _channels_last(np.asarray(image), path, reading)
    if isinstance(image, Image.Image) and image.mode not in _GRAY_16:
        has_alpha = decoded.mode in _ALPHA or "transparency" in image.info
        array = np.asarray(_plain(image, path, has_alpha))
    else:
        has_alpha = decoded.mode in _ALPHA
        array = _to_8_bit(np.asarray(image), path, levels)
    return (array[:, :, None] if array.ndim == 2 else array), has_alpha


def _is_array(decoded: Decoded) -> bool:
    """Whether the channels are those of an array, and not red, green and blue."""
    return decoded.mode == "npy" or decoded.is_stack


def _channels_last(array: NDArray, path: str, reading: Reading) -> NDArray:
    """(H, W) or (H, W, C), of what may be (C, H, W). BadFile: it is larger than it seemed."""
    if not is_channels_first(array.shape, reading.channels):
        return array
    check_pixels(array.shape[1], array.shape[2], path, reading.max_pixels)
    return np.moveaxis(array, 0, 2)


def _plain(image: Image.Image, path: str, has_alpha: bool) -> Image.Image:
    """A picture of 8 bits as gray or color, with alpha where it has that."""
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    gray = image.mode in ("1", "L", "La")
    mode = ("LA" if gray else "RGBA") if has_alpha else ("L" if gray else "RGB")
    try:
        return image.convert(mode)
    except ValueError as error:  # a color space that Pillow cannot convert, such as LAB
        raise BadFile(path, f"mode {image.mode} cannot become {mode}: {error}") from None


def _to_8_bit(array: NDArray, path: str, levels: Levels | None) -> NDArray[np.uint8]:
    """uint8 as it is, others scaled so that `levels` become 0 and 255; BadFile for anything that is
    no image."""
    if array.dtype == np.uint8:
        return array
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    is_image = array.dtype.kind in "iuf" and bool(np.isfinite(low) and np.isfinite(high))
    if levels is None and is_image and array.dtype.kind != "f" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if levels is None or not is_image:
        told = "; the train images have 8 bits: data.levels says otherwise" if is_image else ""
        raise BadFile(path, f"values {low}..{high} of type {array.dtype} are no image{told}")
    first, scale = np.float32(levels[0]), np.float32(255 / (levels[1] - levels[0]))

    def leveled(rows: NDArray) -> NDArray:
        return np.round(np.clip((rows.astype(np.float32) - first) * scale, 0, 255))

    return _by_rows(array, leveled)


def _by_rows(array: NDArray, scale: Callable[[NDArray], NDArray]) -> NDArray[np.uint8]:
    """`scale` of some rows after another: the steps between hold 8 bytes a value, for few rows."""
    scaled = np.empty(array.shape, np.uint8)
    step = max(1, _BLOCK_VALUES * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        scaled[start : start + step] = scale(array[start : start + step])
    return scaled
