"""How many channels images have: from some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats.row import Row
from distseg.data.image_file import MAX_CHANNELS, Decoded, decode, image_size, open_file
from distseg.data.threads import in_threads
from distseg.records.errors import UserError

MAX_IMAGES = 64  # whose channels are compared
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa", "RGBA;16")


class _Kind(NamedTuple):
    """channels: without alpha; is_gray: whether they are equal; varies: whether alpha does."""

    channels: int
    is_gray: bool
    varies: bool
    path: str


def find_channels(rows: Sequence[Row], config: Config) -> tuple[int, dict[str, str]]:
    """(`input.channels`, why). UserError: what only a person can judge, alpha that varies, or an
    array whose first and last side could both be its channels."""
    if "channels" in config.input.model_fields_set:
        return config.input.channels, {}
    depth = int(config.data.depths is not None)  # a channel more
    kinds = [kind for kind in in_threads(lambda row: _kind(row, config), rows) if kind is not None]
    for kind in kinds:
        if kind.varies and not config.data.drop_alpha:
            raise UserError(
                f"{kind.path}: its alpha channel varies. Say input.channels="
                f"{kind.channels + 1 + depth} to read it, or data.drop_alpha=true"
            )
    channels = Counter(kind.channels for kind in kinds)
    if not channels.keys() <= {1, 3}:
        return max(channels) + depth, {"input.channels": "as the files have them"}
    is_gray = all(kind.is_gray for kind in kinds)
    told = "all images are gray" if is_gray else "images have colors"
    told += ", and the depth" if depth else ""
    return (1 if is_gray else 3) + depth, {"input.channels": told}


def _kind(row: Row, config: Config) -> _Kind | None:
    decoded = try_decode(row.image, config.data.max_pixels)
    if decoded is None:
        return None
    image = decoded.pixels
    if isinstance(image, Image.Image):
        alpha = np.asarray(image.getchannel("A")) if image.mode in ("LA", "RGBA") else None
        varies = alpha is not None and bool((alpha != alpha[0, 0]).any())
        if image.mode in ("P", "CMYK", "YCbCr", "RGB", "RGBA", "PA"):
            array = np.asarray(image.convert("RGB"))
            return _Kind(3, bool((array == array[..., :1]).all()), varies, decoded.path)
        return _Kind(1, True, varies, decoded.path)
    num = 1 if image.ndim == 2 else image.shape[2]
    if decoded.mode == "npy" and image.ndim == 3:
        num = _channels_of_array(image.shape, row, config)
    has_alpha = decoded.mode in _ALPHA
    varies = has_alpha and bool((image[..., -1] != image[0, 0, -1]).any())
    return _Kind(num - has_alpha, num - has_alpha == 1, varies, decoded.path)


def _channels_of_array(shape: tuple[int, ...], row: Row, config: Config) -> int:
    """Of an array (H, W, C) or (C, H, W). Where both ends could be channels, the mask's size says
    which; without one, a single end of 1 or 3. UserError: they do not."""
    first, last = shape[0], shape[2]
    if first == last or first > MAX_CHANNELS:
        return last
    if last > MAX_CHANNELS:
        return first
    size = _mask_size(row, config)
    by_size = [num for num, own in ((last, shape[:2]), (first, shape[1:])) if own == size]
    by_number = [num for num in (last, first) if num in (1, 3)]
    for fitting in (by_size, by_number):
        if len(fitting) == 1:
            return fitting[0]
    raise UserError(
        f"{row.image}: its shape {shape} may be {first} channels of {shape[1]}x{last} pixels or "
        f"{last} of {first}x{shape[1]}. Say input.channels={first} or input.channels={last}"
    )


def _mask_size(row: Row, config: Config) -> tuple[int, int] | None:
    """(height, width) of the row's mask file; None without one that can be read."""
    try:
        return image_size(mask_files(row.target)[0], config.data.max_pixels)
    except (UserError, OSError, IndexError):
        return None


def try_decode(path: str, max_pixels: int) -> Decoded | None:
    try:
        with open_file(path) as file:
            return decode(file, path, max_pixels)
    except (UserError, OSError, MemoryError):
        return None  # the check of the row says so
