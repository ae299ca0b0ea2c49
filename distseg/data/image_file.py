"""Image files, opened once, decoded with Pillow, which keeps palette indices and 16 bits.

cv2 turns a palette PNG into colors and a 1-bit PNG into 0/255. The EXIF orientation is not
applied, to images or to masks. Everything about a file comes from the one handle of `open_file`:
its size, its pixels and its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from distseg.records.errors import UserError


class BadFile(UserError):
    """A file that cannot be used, and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a file holds, before it is an image or a mask.

    mode: Pillow's mode of the file, or "npy".
    pixels: a Pillow image, or for a .npy file a mapped array (H, W) or (H, W, C) of any dtype.
    """

    path: str
    mode: str
    pixels: Image.Image | NDArray


@contextlib.contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """The file, open for reading; BadFile when it is not there or may not be read."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (an error of the caller's block is not ours)
    except FileNotFoundError:
        raise BadFile(path, "there is no such file") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        yield file


def decode(file: BufferedReader, path: str | Path) -> Decoded:
    """Decode an open file; BadFile for whatever a broken one makes Pillow or NumPy raise."""
    if _is_array(path):
        return Decoded(str(path), "npy", _map_array(file, path))
    try:
        with Image.open(file) as image:
            mode = image.mode
            image.load()
            # a copy of the first of several pictures: to seek the next would need the file again
            one = image.copy() if getattr(image, "is_animated", False) else image
            return Decoded(str(path), mode, one)
    except Exception as error:  # noqa: BLE001 (decoders raise OSError, SyntaxError, struct.error..)
        raise _unreadable(path, error) from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels from the file's header, without decoding; BadFile without one."""
    with open_file(path) as file:
        if _is_array(path):
            height, width = _read_header(file, path).shape[:2]
            return height, width
        try:
            with Image.open(file) as image:
                return image.height, image.width
        except Exception as error:  # noqa: BLE001 (as above)
            raise _unreadable(path, error) from None


def file_hash(file: BufferedReader) -> str:
    """SHA-1 of an open file's bytes, in hexadecimal: equal for byte-identical files."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _is_array(path: str | Path) -> bool:
    return str(path).endswith(".npy")


class _Header(NamedTuple):
    """What a .npy file says of its array, before its values."""

    shape: tuple[int, ...]  # (H, W) or (H, W, C)
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
    if len(header.shape) not in (2, 3) or 0 in header.shape:
        raise BadFile(path, f"an array of shape {header.shape} is no image")
    if header.dtype.kind not in "biuf":  # objects would be unpickled
        raise BadFile(path, f"an array of type {header.dtype} is no image")
    return header


def _map_array(file: BufferedReader, path: str | Path) -> NDArray:
    """The array of a .npy file, mapped: a file may claim any size, so nothing is allocated here.
    (`np.load` maps a path only, which would open the file twice more.)"""
    shape, is_fortran, dtype = _read_header(file, path)
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    try:
        return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape, order=order)
    except (OSError, ValueError, OverflowError) as error:
        raise _no_array(path, error) from None


def _no_array(path: str | Path, error: Exception) -> BadFile:
    return BadFile(path, f"cannot be read as an array: {_short(error)}")


def _unreadable(path: str | Path, error: Exception) -> BadFile:
    if isinstance(error, UnidentifiedImageError):  # its own text shows the handle, not the path
        return BadFile(
            path, f"cannot be read as an image: cannot identify image file {str(path)!r}"
        )
    return BadFile(path, f"cannot be read as an image: {_short(error)}")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
