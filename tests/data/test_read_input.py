from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.image_file import image_size
from distseg.data.read_input import read_input
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.data_helpers import config, gray, save

CE = [{"loss": {"cross_entropy": 1.0}}]
MULTI = {"task": "multiclass", "classes": ["ground", "a", "b"], "stages": CE}
LABELS = {"task": "multilabel", "classes": ["a", "b"]}


def test_16_bit_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768], [65535, 255, 25700]], dtype=np.uint16)
    path = save(tmp_path / "a.png", values)
    assert read_input(path, 1)[..., 0].tolist() == [[0, 1, 128], [255, 1, 100]]
    assert read_input(path, 3).shape == (2, 3, 3)


def test_a_palette_image_has_its_colors_and_a_palette_mask_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    image.save(tmp_path / "p.png")
    assert read_input(tmp_path / "p.png", 3)[0].tolist() == [[10, 20, 30], [200, 0, 0]]
    target = read_target(f"file:{tmp_path / 'p.png'}", config(tmp_path, **MULTI), 2, 2)
    assert target.tolist() == [[[0, 1], [2, 0]]]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp", ".npy"])
def test_any_lossless_kind_of_file(tmp_path: Path, suffix: str) -> None:
    array, path = gray(1, 9, 14), tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_input(path, 1)[..., 0], array)
    assert read_input(path, 3).shape == (9, 14, 3) and image_size(path) == (9, 14)


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
    array = read_input(path, channels)
    assert array.shape == (4, 5, channels) and array.dtype == np.uint8
    assert array.min() >= 254 and array.flags.c_contiguous


def test_color_becomes_luma_and_equal_channels_stay(tmp_path: Path) -> None:
    array = gray(3)
    path = save(tmp_path / "a.png", np.stack([array] * 3, axis=2))
    assert np.array_equal(read_input(path, 1)[..., 0], array)  # TGS: gray stored as RGB


def test_other_numbers_of_channels(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (4, 4, 4), dtype=np.uint8)
    assert np.array_equal(read_input(save(tmp_path / "a.png", rgba), 4), rgba)
    np.save(tmp_path / "a.npy", rgba[..., :2].astype(np.uint16) * 257)
    assert np.array_equal(read_input(tmp_path / "a.npy", 2), rgba[..., :2])
    with pytest.raises(UserError, match=r"has 2 channels; input\.channels is 5"):
        read_input(tmp_path / "a.npy", 5)


MASK = (gray(5) > 100).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (MASK, {}),
        (MASK * 255, {}),
        (MASK.astype(np.uint16) * 65535, {}),  # TGS mixes these two
        (MASK.astype(np.uint16) * 256, {}),  # a mask that a cut to 8 bits would lose
        (MASK.astype(bool), {}),
        (np.stack([MASK * 255] * 3, axis=2), {}),
        ((1 - MASK) * 255, {"inverted": True}),
        (MASK * 200 + 30, {"threshold": 127}),
        (MASK + 1, {"threshold": 1}),
    ],
)
def test_binary_masks(tmp_path: Path, values: np.ndarray, options: dict[str, object]) -> None:
    path = save(tmp_path / "m.png", values)
    target = read_target(f"file:{path}", config(tmp_path, data__folder=options), 16, 16)
    assert target.dtype == np.uint8 and np.array_equal(target, MASK[None])


def test_a_jpeg_mask_needs_a_threshold(tmp_path: Path) -> None:
    big = np.kron(MASK, np.ones((9, 9), np.uint8)) * 255
    path = save(tmp_path / "m.jpg", big, quality=60)
    with pytest.raises(UserError, match="JPEG masks: 127"):
        read_target(f"file:{path}", config(tmp_path), 144, 144)
    target = read_target(
        f"file:{path}", config(tmp_path, data__folder={"threshold": 127}), 144, 144
    )
    assert (target[0] != big // 255).mean() < 0.01


def test_void_is_255_in_every_class(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 1, 2, 9]], dtype=np.uint8))
    spec = f"file:{path}"
    assert read_target(spec, config(tmp_path, void=9, **MULTI), 1, 4).tolist() == [[[0, 1, 2, 255]]]
    assert read_target(spec, config(tmp_path, void=9, **LABELS), 1, 4).tolist() == [
        [[0, 1, 0, 255]],
        [[0, 0, 1, 255]],
    ]
    # Oxford-IIIT Pet: 1 pet, 2 background, 3 border
    pets = save(tmp_path / "p.png", np.array([[1, 2, 3]], dtype=np.uint8))
    options = {"threshold": 1, "inverted": True}
    target = read_target(f"file:{pets}", config(tmp_path, void=3, data__folder=options), 1, 3)
    assert target.tolist() == [[[1, 0, 255]]]


def test_a_file_per_class(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", MASK * 255)
    target = read_target(f"file:{path}|", config(tmp_path, **LABELS), 16, 16)
    assert np.array_equal(target, np.stack([MASK, MASK * 0]))


def test_rle_targets(tmp_path: Path) -> None:
    assert read_target("rle:1 2 5 1", config(tmp_path), 2, 3).tolist() == [[[1, 0, 1], [1, 0, 0]]]
    assert read_target("rle:", config(tmp_path), 2, 3).sum() == 0
    several = read_target("rle:1 1|2 1", config(tmp_path, **LABELS), 2, 1)
    assert several.tolist() == [[[1], [0]], [[0], [1]]]
    assert read_target("rle:|1 1|2 1", config(tmp_path, **MULTI), 2, 1).tolist() == [[[1], [2]]]
    with pytest.raises(UserError, match="1 RLEs for 2 classes"):
        read_target("rle:1 1", config(tmp_path, **LABELS), 2, 1)


def test_no_target_is_void(tmp_path: Path) -> None:
    assert (read_target("", config(tmp_path, **LABELS), 2, 3) == 255).all()
