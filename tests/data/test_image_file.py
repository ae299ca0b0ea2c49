from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from distseg.data.image_file import BadFile, decode, file_hash, image_size, open_file
from tests.data.data_helpers import gray, save


def test_pixels_and_hash_come_from_one_handle(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gray(1, 9, 14))
    with open_file(path) as file:
        path.unlink()  # nothing is opened by its name again
        decoded = decode(file, path)
        digest = file_hash(file)
    assert decoded.mode == "L" and np.array_equal(np.asarray(decoded.pixels), gray(1, 9, 14))
    save(path, gray(1, 9, 14))
    assert digest == hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def in_pages(path: Path, *pages: np.ndarray) -> Path:
    pictures = [Image.fromarray(page) for page in pages]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


COLOR = np.dstack([gray(3)] * 3)
PAGES = {
    "moving": ("a.gif", [gray(0), gray(1), gray(2)], "has 3 pages; give"),
    "sizes": ("a.tif", [gray(0), gray(1, 8, 8)], "page 2 is 8x8 of mode L"),
    "modes": ("a.tif", [gray(0), gray(1).astype(np.uint16)], "page 2 is 16x16 of mode I;16"),
    "colors": ("a.tif", [COLOR, COLOR], "page 1 is 16x16 of mode RGB"),
    "too many": ("a.tif", [gray(0)] * 65, "has 65 pages; an image has at most 64 channels"),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_no_channels_are_refused(tmp_path: Path, name: str) -> None:
    file_name, pages, says = PAGES[name]
    path = in_pages(tmp_path / file_name, *pages)
    with open_file(path) as file, pytest.raises(BadFile, match=says):
        decode(file, path)


def test_pages_of_gray_are_channels(tmp_path: Path) -> None:
    pages = [gray(seed).astype(np.uint16) * 9 for seed in range(5)]
    path = in_pages(tmp_path / "a.tif", *pages)
    with open_file(path) as file:
        decoded = decode(file, path)
    assert decoded.mode == "I;16;5 pages" and decoded.is_stack
    assert np.array_equal(np.asarray(decoded.pixels), np.dstack(pages))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_2000_keeps_16_bits(tmp_path: Path, channels: int) -> None:
    """Pillow keeps 8 bits of its colors."""
    values = np.dstack([gray(s, 64, 64).astype(np.uint16) * 250 + s for s in range(channels)])
    path = tmp_path / "a.jp2"
    options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    assert cv2.imwrite(str(path), values[..., ::-1].squeeze(), options)
    with open_file(path) as file:
        pixels = np.asarray(decode(file, path).pixels)
    assert pixels.dtype == np.uint16 and np.array_equal(pixels, values.squeeze())


@pytest.mark.parametrize(("bits", "says"), [(0x80 | 11, "below 0"), (23, "of 24 bits")])
def test_jpeg_2000_that_no_decoder_keeps_is_refused(tmp_path: Path, bits: int, says: str) -> None:
    """The byte that says the bits of the one channel, in the marker SIZ."""
    path = save(tmp_path / "a.jp2", gray(1))
    data = bytearray(path.read_bytes())
    data[data.find(b"\xff\x4f\xff\x51") + 4 + 38] = bits
    path.write_bytes(data)
    with open_file(path) as file, pytest.raises(BadFile, match=says):
        decode(file, path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_mapped(
    tmp_path: Path, version: tuple[int, int], order: Literal["C", "F"]
) -> None:
    path, array = tmp_path / "a.npy", np.asarray(gray(2, 5, 7).astype(np.uint16), order=order)
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    assert image_size(path) == (5, 7)
    with open_file(path) as opened:
        decoded = decode(opened, path)
    assert decoded.mode == "npy" and isinstance(decoded.pixels, np.memmap)
    assert np.array_equal(decoded.pixels, array)


def test_a_file_that_claims_a_huge_array_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    header = {"descr": "|u1", "fortran_order": False, "shape": (1_000_000, 1_000_000)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with open_file(path) as opened, pytest.raises(BadFile, match=r"more than data\.max_pixels"):
        decode(opened, path)
    with open_file(path) as opened, pytest.raises(BadFile, match="cannot be read as an array"):
        decode(opened, path, max_pixels=1 << 41)
    os.truncate(path, 10**12 + 128)  # a sparse file of a terabyte
    with open_file(path) as opened:
        assert decode(opened, path, max_pixels=1 << 41).pixels[-1, -1] == 0  # type: ignore[index]


def test_what_cannot_be_read_is_named_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for name, reason in (
        ("none.png", "there is no such file"),
        ("text.png", f"cannot identify image file '{tmp_path}/text.png'"),
        (".", "cannot be read as an image: .*directory"),
    ):
        with pytest.raises(BadFile, match=reason):
            image_size(tmp_path / name)
