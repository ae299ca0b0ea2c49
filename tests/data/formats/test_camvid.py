"""CamVid: its own validation part, and void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.detect import detect
from distseg.data.folds import assign_folds
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.formats.layout_helpers import config_of, save_image, tianchi


def camvid(root: Path) -> None:
    for part, num in (("train", 4), ("val", 2), ("test", 1)):
        for number in range(num):
            seed = number + 10 * len(part)
            save_image(root / part / f"{part}{number}.png", seed=seed)
            if part != "test":
                labels = np.random.default_rng(seed).integers(0, 4, (16, 24), dtype=np.uint8)
                labels[labels == 3] = 11
                path = root / f"{part}annot" / f"{part}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(path)


def test_camvid_validates_its_own_part_and_void_counts_nowhere(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"})
    rows = layout("camvid").train(config)
    folds = assign_folds(config, rows, np.zeros((6, 3)), [""] * 6, [row.id for row in rows])
    assert folds == [-1] * 4 + [0] * 2
    labels = np.asarray(Image.open(rows[0].target.removeprefix("file:")))
    target = read_target(rows[0].target, config, 16, 24)[0]
    assert np.array_equal(target == 255, labels == 11) and target.min() == 0
    assert np.array_equal(target[labels < 3], labels[labels < 3])
    assert layout("camvid").submission(config).ids == ["test0"]


def test_a_limit_cuts_each_part_of_camvid(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"}, limit=1)
    rows = layout("camvid").train(config)
    assert [(row.id, row.validates) for row in rows] == [("train0", False), ("val0", True)]
    ids = [row.id for row in rows]
    assert assign_folds(config, rows, np.zeros((2, 3)), [""] * 2, ids) == [-1, 0]


def test_a_duplicate_of_a_validated_image_does_not_train(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"})
    rows = layout("camvid").train(config)
    keys = [row.id for row in rows]
    keys[0] = keys[-1]  # byte-identical images
    assert assign_folds(config, rows, np.zeros((6, 3)), [""] * 6, keys)[0] == 0


def test_split_needs_a_validation_part(tmp_path: Path) -> None:
    tianchi(tmp_path)
    config = config_of("tianchi", tmp_path, folds={"kind": "split"})
    rows = layout("tianchi").train(config)
    with pytest.raises(UserError, match="no validation part"):
        assign_folds(config, rows, np.zeros((3, 1)), [""] * 3, ["1", "2", "3"])


def with_values(root: Path, values: int) -> None:
    """The folders of CamVid; the masks of train hold so many values."""
    camvid(root)
    for number, path in enumerate(sorted((root / "trainannot").iterdir())):
        labels = np.random.default_rng(number).integers(0, values, (16, 24), dtype=np.uint8)
        Image.fromarray(labels).save(path)


@pytest.mark.parametrize(
    ("values", "further", "expected"),
    [
        (12, "testannot", "camvid"),
        (12, "other", "folder"),
        (2, "testannot", "folder"),
        (40, "testannot", "folder"),
    ],
)
def test_camvid_is_known_by_its_folders_and_its_classes(
    tmp_path: Path, values: int, further: str, expected: str
) -> None:
    with_values(tmp_path, values)
    (tmp_path / further).mkdir()
    found = detect(tmp_path).keys
    assert found["data"]["format"] == expected and found["data"]["folds"] == {"kind": "split"}
