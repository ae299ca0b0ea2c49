from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

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


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_several_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pictures = [Image.fromarray(gray(seed)) for seed in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    with open_file(path) as file, pytest.raises(BadFile, match="has 3 pages"):
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
