from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data.image_file import BadFile, image_size
from distseg.data.read_input import Reading, pixels_input, read_input
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.data_helpers import config, gray, save

CE = [{"loss": {"cross_entropy": 1.0}}]
MULTI = {"task": "multiclass", "classes": ["background", "a", "b"], "stages": CE}


def test_16_bit_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768], [65535, 255, 25700]], dtype=np.uint16)
    path = save(tmp_path / "a.png", values)
    full = (0, 65535)
    found = read_input(path, Reading(1, levels=full))[..., 0]
    assert found.tolist() == [[0, 1, 128], [255, 1, 100]]
    assert read_input(path, Reading(3, levels=full)).shape == (2, 3, 3)
    with pytest.raises(UserError, match="the train images have 8 bits"):
        read_input(path, Reading(1))


def test_a_palette_image_has_its_colors_and_a_palette_mask_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    image.save(tmp_path / "p.png")
    assert read_input(tmp_path / "p.png", Reading(3))[0].tolist() == [[10, 20, 30], [200, 0, 0]]
    target = read_target(f"file:{tmp_path / 'p.png'}", config(tmp_path, **MULTI), 2, 2)
    assert target.tolist() == [[[0, 1], [2, 0]]]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp", ".npy"])
def test_any_lossless_kind_of_file(tmp_path: Path, suffix: str) -> None:
    array, path = gray(1, 9, 14), tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(array).save(path, **options)
    assert np.array_equal(read_input(path, Reading(1))[..., 0], array)
    assert read_input(path, Reading(3)).shape == (9, 14, 3) and image_size(path) == (9, 14)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_the_channels_asked_for(tmp_path: Path, mode: str, channels: int) -> None:
    source = Image.fromarray(np.full((4, 5), 255, dtype=np.uint8))
    if mode == "I":
        source = Image.fromarray(np.full((4, 5), 65535, dtype=np.int32))
    image = Image.fromarray(np.ones((4, 5), np.float32)) if mode == "F" else source.convert(mode)
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "F": "tif", "I": "tif"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    levels = {"I": (0, 65535), "F": (0, 1)}.get(mode)
    array = read_input(path, Reading(channels, levels=levels))
    assert array.shape == (4, 5, channels) and array.dtype == np.uint8
    assert array.min() >= 254 and array.flags.c_contiguous


def test_color_becomes_luma_and_equal_channels_stay(tmp_path: Path) -> None:
    array = gray(3)
    path = save(tmp_path / "a.png", np.stack([array] * 3, axis=2))
    assert np.array_equal(read_input(path, Reading(1))[..., 0], array)  # TGS: gray stored as RGB


def test_other_numbers_of_channels(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (4, 4, 4), dtype=np.uint8)
    assert np.array_equal(read_input(save(tmp_path / "a.png", rgba), Reading(4)), rgba)
    np.save(tmp_path / "a.npy", rgba[..., :2].astype(np.uint16) * 257)
    assert np.array_equal(
        read_input(tmp_path / "a.npy", Reading(2, levels=(0, 65535))), rgba[..., :2]
    )
    with pytest.raises(UserError, match=r"has 2 channels; input\.channels is 5"):
        read_input(tmp_path / "a.npy", Reading(5, levels=(0, 65535)))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_an_array_is_what_its_file_is(
    tmp_path: Path, channels: int, shape: tuple[int, ...], dtype: type
) -> None:
    array: Any = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    array = array.astype(np.uint16) * 257 if dtype == np.uint16 else array
    array = array > 127 if dtype == np.bool_ else array
    if dtype != np.uint8 and len(shape) == 3:
        pytest.skip("Pillow has no such picture")
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)

    reading = Reading(channels, levels=(0, 65535) if dtype == np.uint16 else None)

    def outcome(read: Any) -> Any:
        try:
            return read().tolist()
        except BadFile as error:
            return error.reason

    expected = outcome(lambda: read_input(path, reading))
    assert outcome(lambda: pixels_input(array, "a", reading)) == expected
    assert outcome(lambda: pixels_input(Image.open(path), "a", reading)) == expected


def test_arrays_of_other_numbers_of_channels_are_as_in_npy_files(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 6), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(
        pixels_input(array, "a", Reading(6)), read_input(tmp_path / "a.npy", Reading(6))
    )
    assert pixels_input(array[:, :, :1], "a", Reading(1)).shape == (5, 7, 1)
    for bad in (np.zeros(4, np.uint8), np.zeros((0, 3), np.uint8), np.zeros((2, 2), object)):
        with pytest.raises(BadFile):
            pixels_input(bad, "a", Reading(1))
