"""Image files, opened once, decoded with Pillow, which keeps palette indices and 16 bits.

cv2 turns a palette PNG into colors and a 1-bit PNG into 0/255; it decodes what Pillow would cut to
8 bits, colors of 16 bits. The EXIF orientation is applied, to images and masks alike. Everything
about a file comes from the one handle of `open_file`: its size, its pixels and its hash. What a
header claims is checked before memory is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from distseg.config.data import MAX_PIXELS
from distseg.records.errors import UserError, printable_path
from distseg.records.files import open_regular

# Pillow tries every format that it knows, whatever a file's name: EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")
MAX_CHANNELS = 64
MAX_SIDE = 1_000_000  # pixels; what libpng writes
Image.MAX_IMAGE_PIXELS = None  # `data.max_pixels` is the limit; Pillow's own lets 12 GB through

# By EXIF orientation: what makes the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadFile(UserError):
    """A file that cannot be used, and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{printable_path(path)}: {reason}")
        self.path, self.reason = str(path), reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a file holds, before it is an image or a mask.

    mode: Pillow's mode of the file, with ";16" for colors of 16 bits, or with ";N pages"; or "npy".
    pixels: a Pillow image; for colors of 16 bits an array (H, W, C) of uint16, for a TIFF with a
        fourth channel that has no name (mode "RGBX") of uint8; for N pages an array (H, W, N); for
        a .npy file a mapped array (H, W) or (H, W, C), or see `is_channels_first`, of any dtype.
    """

    path: str
    mode: str
    pixels: Image.Image | NDArray

    @property
    def is_stack(self) -> bool:
        """Whether it is pages of a TIFF, as channels."""
        return self.mode.endswith(" pages")


@contextlib.contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """The file, open for reading; BadFile when it is not there, may not be read or is no file."""
    try:
        file = open_regular(Path(path))  # an error of the caller's block is not ours
    except FileNotFoundError:
        raise BadFile(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with file:
        yield file


def decode(file: BufferedReader, path: str | Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an open file; BadFile for whatever a broken one makes Pillow or NumPy raise, and,
    before anything is decoded, for one whose header claims more than `max_pixels`."""
    if _is_array(path):
        return Decoded(str(path), "npy", _map_array(file, path, max_pixels))
    try:
        with Image.open(file, formats=FORMATS) as image:
            check_pixels(image.height, image.width, path, max_pixels)
            pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if pages > 1:  # a camera's MPO holds the picture and its preview
                return _stack(image, path, pages)
            mode, turn = image.mode, _orientation(image)
            if image.format == "JPEG2000":
                _check_jpeg_2000(file, image, path)
            if _is_deep_color(file, image):
                return Decoded(str(path), f"{mode};16", _by_cv2(file, image, turn))
            if _has_more_channels(image):
                return Decoded(str(path), "RGBX", _by_cv2(file, image, turn))
            image.load()
            upright = image.transpose(_TURNS[turn]) if turn in _TURNS else image
            return Decoded(str(path), mode, upright)
    except BadFile:
        raise
    except Exception as error:  # noqa: BLE001 (decoders raise OSError, SyntaxError, struct.error..)
        raise _unreadable(path, error) from None


def _stack(image: Image.Image, path: str | Path, pages: int) -> Decoded:
    """The pages of a TIFF as the channels of one picture. BadFile: they are no channels."""
    told = f"has {pages} pages"
    if image.format != "TIFF":
        raise BadFile(path, f"{told}; give each page a file of its own")
    if pages > MAX_CHANNELS:
        raise BadFile(path, f"{told}; an image has at most {MAX_CHANNELS} channels")
    first, planes = (image.size, image.mode), []
    for number in range(pages):
        image.seek(number)
        if (image.size, image.mode) != first or not _is_gray(image):
            size, mode = image.size, image.mode
            raise BadFile(
                path,
                f"{told}, and page {number + 1} is {size[1]}x{size[0]} of mode {mode}: pages are "
                "channels where all are gray and of one size; give each page a file of its own",
            )
        planes.append(np.asarray(image.convert("L") if image.mode == "1" else image))
    return Decoded(str(path), f"{first[1]};{pages} pages", np.stack(planes, axis=2))


def _is_gray(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;")


def image_size(
    path: str | Path, max_pixels: int = MAX_PIXELS, channels: int | None = None
) -> tuple[int, int]:
    """(height, width) in pixels from the file's header, without decoding; BadFile without one, or
    for more than `max_pixels`: an empty mask of that size would fill the memory.

    channels: of the image, where they are known; see `is_channels_first`.
    """
    with open_file(path) as file:
        if _is_array(path):
            shape = _read_header(file, path).shape
            height, width = shape[1:] if is_channels_first(shape, channels) else shape[:2]
        else:
            try:
                with Image.open(file, formats=FORMATS) as image:
                    height, width = image.height, image.width
                    check_pixels(height, width, path, max_pixels)
                    if _orientation(image) >= 5:
                        height, width = width, height
            except BadFile:
                raise
            except Exception as error:  # noqa: BLE001 (as above)
                raise _unreadable(path, error) from None
    check_pixels(height, width, path, max_pixels)
    return height, width


def check_pixels(height: int, width: int, path: str | Path, max_pixels: int) -> None:
    """BadFile for a picture that is larger than the config allows, or that has no pixel."""
    if height < 1 or width < 1:
        raise BadFile(path, f"a picture of {height}x{width} pixels is no image")
    if max(height, width) > MAX_SIDE:
        size = f"{height}x{width} pixels"
        raise BadFile(path, f"its header claims {size}; a side has at most {MAX_SIDE}")
    if height * width > max_pixels:
        raise BadFile(
            path,
            f"its header claims {height}x{width} pixels, more than data.max_pixels: {max_pixels}",
        )


def _orientation(image: Image.Image) -> int:
    """1..8: how the picture is to be turned or mirrored (5 to 8: height and width change places).
    1 where the header does not say, and for TIFF, which Pillow and cv2 turn themselves."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # Pillow would decode a PNG to look for EXIF behind its pixels
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in _TURNS else 1


def _is_deep_color(file: BufferedReader, image: Image.Image) -> bool:
    """Whether a file has colors of more than 8 bits, of which Pillow keeps the upper 8."""
    tiles = getattr(image, "tile", [])
    if len(image.getbands()) == 1 or not tiles:
        return False
    if image.format == "JPEG2000":
        return max(_jpeg_2000_depths(file), default=0) > 8
    arguments = tiles[0].args
    raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    is_ppm = tiles[0].codec_name.startswith("ppm") and rest
    return ";16" in str(raw) or bool(is_ppm and int(rest[0]) > 255)


def _check_jpeg_2000(file: BufferedReader, image: Image.Image, path: str | Path) -> None:
    """BadFile for what no decoder here keeps whole: more than 16 bits, or numbers below 0."""
    depths = _jpeg_2000_depths(file)
    if not depths or max(depths) > 16:
        raise BadFile(path, f"JPEG 2000 of {max(depths, default=0)} bits; at most 16 are read")
    if min(depths) < 0:
        raise BadFile(path, "JPEG 2000 of numbers below 0 is not read; write it as TIFF or .npy")


def _jpeg_2000_depths(file: BufferedReader) -> list[int]:
    """Bits of each channel by the marker SIZ of the code stream (ISO/IEC 15444-1, A.5.1); below 0
    for signed numbers; [] where the marker is not found."""
    file.seek(0)
    head = file.read(1 << 16)  # boxes of a JP2 file stand before it; they are short
    start = head.find(b"\xff\x4f\xff\x51")
    sizes = head[start + 4 :] if start >= 0 else b""
    num = int.from_bytes(sizes[36:38], "big")
    bits = sizes[38 : 38 + 3 * num : 3]
    return [-((one & 127) + 1) if one & 128 else one + 1 for one in bits]


def _has_more_channels(image: Image.Image) -> bool:
    """Whether a TIFF has channels without a name, which Pillow leaves out."""
    tiles = getattr(image, "tile", [])
    return image.format == "TIFF" and any("X" in str(tile.args[0]) for tile in tiles)


def _by_cv2(file: BufferedReader, image: Image.Image, turn: int) -> NDArray:
    """The pixels of a color file, uint8 or uint16 (H, W, C), upright; ValueError where cv2 cannot
    decode it either."""
    file.seek(0)
    array = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3 or array.shape[:2] != (image.height, image.width):
        raise ValueError("its colors of 16 bits or its further channels cannot be decoded")
    array = array[..., [2, 1, 0, *range(3, array.shape[2])]]  # cv2 has blue first
    array = array.swapaxes(0, 1) if turn >= 5 else array
    array = array[::-1] if turn in (3, 4, 7, 8) else array
    return array[:, ::-1] if turn in (2, 3, 6, 7) else array


def file_hash(file: BufferedReader) -> str:
    """SHA-1 of an open file's bytes, in hexadecimal: equal for byte-identical files."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def pixel_hash(*arrays: NDArray[np.uint8]) -> str:
    """SHA-1 of the shapes and values of arrays, in hexadecimal."""
    digest = hashlib.sha1(usedforsecurity=False)
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def is_constant(image_HWC: NDArray[np.uint8]) -> bool:
    """Whether all pixels of the image have one value."""
    return bool((image_HWC == image_HWC[0, 0]).all())


def _is_array(path: str | Path) -> bool:
    return str(path).lower().endswith(".npy")


class _Header(NamedTuple):
    """What a .npy file says of its array, before its values."""

    shape: tuple[int, ...]  # (H, W), (H, W, C) or (C, H, W)
    is_fortran: bool
    dtype: np.dtype


def _read_header(file: BufferedReader, path: str | Path) -> _Header:
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format holds no image")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        header = _Header(*read(file))
    except (OSError, ValueError, EOFError) as error:
        raise _no_array(path, error) from None
    is_plane = len(header.shape) == 2
    is_stack = len(header.shape) == 3 and min(header.shape[0], header.shape[2]) <= MAX_CHANNELS
    if not (is_plane or is_stack) or min(header.shape) < 1:
        raise BadFile(path, f"an array of shape {_short(str(header.shape))} is no image")
    if header.dtype.kind not in "biuf":  # objects would be unpickled
        raise BadFile(path, f"an array of type {header.dtype} is no image")
    return header


def _map_array(file: BufferedReader, path: str | Path, max_pixels: int) -> NDArray:
    """The array of a .npy file, mapped: a file may claim any size, so nothing is allocated here.
    (`np.load` maps a path only, which would open the file twice more.)"""
    shape, is_fortran, dtype = _read_header(file, path)
    is_last = len(shape) == 2 or shape[2] <= MAX_CHANNELS
    height, width = shape[:2] if is_last else shape[1:]
    check_pixels(height, width, path, max_pixels)
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    try:
        return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape, order=order)
    except (OSError, ValueError, OverflowError) as error:
        raise _no_array(path, error) from None


def is_channels_first(shape: tuple[int, ...], channels: int | None) -> bool:
    """Whether an array is (C, H, W), and not (H, W, C): its first side is the number of channels
    that the input has, and its last is not. Nothing else tells the two apart."""
    return len(shape) == 3 and shape[0] == channels != shape[2]


def _no_array(path: str | Path, error: Exception) -> BadFile:
    return BadFile(path, f"cannot be read as an array: {_short(error)}")


def _unreadable(path: str | Path, error: Exception) -> BadFile:
    if isinstance(error, UnidentifiedImageError):  # its own text shows the handle, not the path
        name = printable_path(path)
        return BadFile(path, f"cannot be read as an image: cannot identify image file {name!r}")
    return BadFile(path, f"cannot be read as an image: {_short(error)}")


def _short(error: Exception | str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
