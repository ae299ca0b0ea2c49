"""How many channels images have, and of how many bits: from some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from distseg.config.schema import Config
from distseg.data.formats.row import Row
from distseg.data.image_file import Decoded, decode, open_file
from distseg.data.read_input import deep_range
from distseg.data.threads import in_threads
from distseg.records.errors import UserError

MAX_IMAGES = 64  # whose channels are compared
MAX_RANGES = 16  # whose values are
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa", "RGBA;16")


def find_channels(
    rows: Sequence[Row], config: Config
) -> tuple[int, tuple[float, float] | None, dict[str, str]]:
    """(channels, range of values over 8 bits, why). UserError: alpha that varies, which only a
    person can judge."""
    if "channels" in config.input.model_fields_set:
        return config.input.channels, _range(rows), {}
    seen: Counter[tuple[int, bool]] = Counter()
    for result in in_threads(_kind, rows):
        if result is not None:
            seen[result[:2]] += 1
            if result[2] and not config.data.drop_alpha:
                raise UserError(
                    f"{result[3]}: its alpha channel varies. Say input.channels={result[0] + 1} to "
                    "read it, or data.drop_alpha=true"
                )
    kinds = {number for number, _ in seen}
    if not kinds <= {1, 3}:
        return max(kinds), _range(rows), {"input.channels": "as the files have them"}
    gray = all(is_gray for _, is_gray in seen)
    told = "all images are gray" if gray else "images have colors"
    return 1 if gray else 3, _range(rows), {"input.channels": told}


def _kind(row: Row) -> tuple[int, bool, bool, str] | None:
    """(channels without alpha, whether they are equal, whether alpha varies, path)."""
    decoded = try_decode(row.image)
    if decoded is None:
        return None
    image = decoded.pixels
    if isinstance(image, Image.Image):
        alpha = np.asarray(image.getchannel("A")) if image.mode in ("LA", "RGBA") else None
        varies = alpha is not None and bool((alpha != alpha[0, 0]).any())
        if image.mode in ("P", "CMYK", "YCbCr", "RGB", "RGBA", "PA"):
            array = np.asarray(image.convert("RGB"))
            return 3, bool((array == array[..., :1]).all()), varies, decoded.path
        return 1, True, varies, decoded.path
    num = 1 if image.ndim == 2 else image.shape[2]
    has_alpha = decoded.mode in _ALPHA
    varies = has_alpha and bool((image[..., -1] != image[0, 0, -1]).any())
    return num - has_alpha, num - has_alpha == 1, varies, decoded.path


def try_decode(path: str) -> Decoded | None:
    try:
        with open_file(path) as file:
            return decode(file, path)
    except (UserError, OSError, MemoryError):
        return None  # the check of the row says so


def _range(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Lowest and highest value, where images have more than 8 bits."""

    def measure(row: Row) -> tuple[float, float, bool] | None:
        decoded = try_decode(row.image)
        try:
            return None if decoded is None else deep_range(decoded)
        except UserError:
            return None  # not a number; the check of the row says so

    found = [one for one in in_threads(measure, rows[:: max(1, len(rows) // MAX_RANGES)]) if one]
    return (min(o[0] for o in found), max(o[1] for o in found)) if found else None
