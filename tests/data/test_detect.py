"""distseg.data.detect: which layout a folder has, by names and heads of tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.config.load import parse_config
from distseg.data.detect import detect
from distseg.data.layouts import layout
from distseg.records.errors import UserError
from tests.init.made_sets import folder


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name.endswith(".csv") * "id,rle_mask\n")
    return root


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/images/a.png", "train/masks/a.png", "test/images/b.png", "train.csv",
          "depths.csv"), "tgs"),
        (("train/a.jpg", "train_mask.csv", "test_a/b.jpg"), "tianchi"),
        (("images/a.jpg", "annotations/trimaps/a.png", "annotations/trainval.txt"), "oxford_pet"),
        (("train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png"), "camvid"),
        (("images/a.png", "masks/a.png"), "folder"),
        (("train/images/a.png", "train/masks/a.png", "test/images/b.png"), "folder"),
    ],
)  # fmt: skip
def test_names_say_the_layout(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    found = detect(files(tmp_path, *names))
    assert found.keys["data"]["format"] == expected and found.why


@pytest.mark.parametrize(
    "table",
    [
        "ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,1 3\na.jpg_3,\n",
        "ImageId,ClassId,EncodedPixels\na.jpg,3,1 3\n",
    ],
)
def test_a_table_says_how_many_classes_there_are(tmp_path: Path, table: str) -> None:
    files(tmp_path, "train_images/a.jpg")
    (tmp_path / "train.csv").write_text(table)
    found = detect(tmp_path)
    assert found.keys["data"]["format"] == "severstal"
    assert found.keys["classes"] == ["defect_1", "defect_2", "defect_3"]


@pytest.mark.parametrize("places", [("imgs", "labels"), ("train/Images", "train/Masks")])
def test_folders_of_other_names(tmp_path: Path, places: tuple[str, str]) -> None:
    root = folder(tmp_path / "set", num=3, places=places)
    data = {**detect(root).keys["data"], "root": str(root)}
    config = parse_config({"name": "any", "members": {"any": {}}, "data": data}, "any")
    rows = layout("folder").train(config)
    assert [row.problem for row in rows] == [""] * 3 and all(row.target for row in rows)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it holds nothing"):
        detect(tmp_path)
    files(tmp_path, "images/a.png", "masks/other.png", "notes.txt")
    with pytest.raises(UserError, match=r"images, masks, notes.txt.*data.folder.images=DIR"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.csv", b"id,rle\n", "data.format=table.*train.csv: has no rows"),
        ("train.csv", b"id\na\n", "data.format=table.*no column is known to hold the mask"),
        ("train.csv", "id,rle\na,1 2\n".encode("utf-16"), "train.csv.*no text in UTF-8"),
        ("labels/train.json", b'{"images": [', "data.format=coco.*train.json.*as JSON"),
    ],
)
def test_labels_that_cannot_be_read_say_why(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = files(tmp_path, "images/a.png") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"(?s)no layout is recognized.*{reason}"):
        detect(tmp_path)
