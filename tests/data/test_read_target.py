from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.data_helpers import config, gray, save

CE = [{"loss": {"cross_entropy": 1.0}}]
MULTI = {"task": "multiclass", "classes": ["background", "a", "b"], "stages": CE}
LABELS = {"task": "multilabel", "classes": ["a", "b"]}
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
