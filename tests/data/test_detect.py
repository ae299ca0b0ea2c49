"""distseg.data.detect: which layout a folder has, by names and heads of tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.detect import detect
from distseg.data.layouts import layout
from distseg.records.errors import UserError
from tests.data.data_helpers import assert_doubt
from tests.init.made_sets import folder


def detected(root: Path) -> Config:
    """The config that reads what is detected."""
    keys = detect(root).keys
    tree = {**keys, "data": {**keys["data"], "root": str(root)}}
    return parse_config({"name": "any", "members": {"any": {}}, **tree}, "any")


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
        (("images/a.jpg", "annotations/trimaps/a.png", "annotations/trainval.txt"), "oxford_pet"),
        (("train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png"), "folder"),
        (("images/a.png", "masks/a.png"), "folder"),
        (("train/images/a.png", "train/masks/a.png", "test/images/b.png"), "folder"),
    ],
)  # fmt: skip
def test_names_say_the_layout(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    found = detect(files(tmp_path, *names))
    assert found.keys["data"]["format"] == expected and found.why


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a.jpg\t1 3\n", "tianchi"),
        ("a.jpg\t\n", "tianchi"),
        ("a.jpg\n", "tianchi"),  # no building, and no tab behind it
        ("id,rle_mask\na.jpg,1 3\n", "table"),
        ("id\trle_mask\na.jpg\t1 3\n", "table"),
        ("a.jpg,1 3\n", "table"),
        ('"id","rle_mask"\n"a.jpg","1 3"\n', "table"),
    ],
)
def test_a_table_of_tianchi_has_no_header_and_no_commas(
    tmp_path: Path, lines: str, expected: str
) -> None:
    files(tmp_path, "train/a.jpg", "test_a/b.jpg")
    (tmp_path / "train_mask.csv").write_text(lines)
    assert detect(tmp_path).keys["data"]["format"] == expected


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


# -- parts, and what could be several things -------------------------------------------------------


def part(root: Path, name: str, *, masks: bool = True, first: int = 0) -> None:
    """Images, each with its mask beside it: NAME/000.png, NAME/000_mask.png, ..."""
    folder(root, num=4, places=(name, name), suffix="_mask", names=f"{first}{{}}")
    if not masks:
        for path in (root / name).glob("*_mask.png"):
            path.unlink()


def test_parts_with_masks_beside_their_images(tmp_path: Path) -> None:
    """Roboflow's folders: what validates does so, and a mask is no image to predict."""
    for number, name in enumerate(("train", "valid", "test")):
        part(tmp_path, name, first=number)
    config = detected(tmp_path)
    rows = layout("folder").train(config)
    assert [row.id for row in rows if not row.validates] == ["00", "01", "02", "03"]
    assert [row.id for row in rows if row.validates] == ["10", "11", "12", "13"]
    assert all(row.target and not row.problem for row in rows)
    assert config.data.folds.kind == "split"
    assert [row.id for row in layout("folder").test(config)] == ["20", "21", "22", "23"]
    truth = layout("folder").test_truth(config)
    assert [Path(row.target).name for row in truth] == [f"2{i}_mask.png" for i in range(4)]


def test_test_images_of_which_some_have_masks_have_no_truth(tmp_path: Path) -> None:
    part(tmp_path, "train")
    part(tmp_path, "test", first=2)
    (tmp_path / "test" / "22_mask.png").unlink()
    config = detected(tmp_path)
    assert [row.id for row in layout("folder").test(config)] == ["20", "21", "22", "23"]
    assert config.data.folder.test_masks is None


@pytest.mark.parametrize("inside", [("JPEGImages", "SegmentationClass"), ("Frames", "Labels")])
def test_parts_of_other_names(tmp_path: Path, inside: tuple[str, str]) -> None:
    for number, name in enumerate(("Train", "Val", "Test")):
        folder(tmp_path / name, num=3, places=inside, names=f"{number}{{}}")
        (tmp_path / name / "Annotations").mkdir()  # of another task, without an image
    config = detected(tmp_path)
    rows = layout("folder").train(config)
    assert [row.id for row in rows if row.validates] == ["10", "11", "12"]
    assert len(rows) == 6 and not any(row.problem for row in rows)
    assert [row.id for row in layout("folder").test(config)] == ["20", "21", "22"]
    assert layout("folder").test_truth(config)


def test_folders_of_classes(tmp_path: Path) -> None:
    """One class, and an empty folder, which is said; none of a program's own."""
    folder(tmp_path, num=3, places=("imgs", "masks/road"))
    (tmp_path / "masks" / "car").mkdir()
    folder(tmp_path, num=3, places=("imgs", "masks/.ipynb_checkpoints"))
    config = detected(tmp_path)
    assert (config.task, config.classes) == ("multilabel", ["road"])
    assert "car is empty" in detect(tmp_path).why
    rows = layout("folder").train(config)
    assert all(row.target.endswith("|") and not row.problem for row in rows)


def doubtful(*places: str) -> Callable[[Path], None]:
    """Images of the same names in each folder."""

    def make(root: Path) -> None:
        for place in places:
            folder(root, num=3, places=(place, place))

    return make


def suffixes(root: Path) -> None:
    folder(root, num=3, places=("data", "data"), suffix="_mask")
    folder(root, num=3, places=("train", "train"), suffix="_mask")
    folder(root, num=3, places=("train", "train"), suffix="_label")


def parts_beside(*names: str, bare: str = "") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            part(root, name, masks=name != bare)

    return make


DOUBTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "masks and labels of a part": (
        doubtful("train/images", "train/masks", "train/labels", "val/images", "val/masks"),
        "train/images and train/labels; train/images and train/masks; say which",
    ),
    "labels and annotations": (
        doubtful("imgs", "labels", "annotations"), "imgs and annotations; imgs and labels",
    ),
    "names that only detection knows": (
        doubtful("frames", "masks", "labels"), "frames and labels; frames and masks",
    ),
    "at the top and in a part": (
        doubtful("frames", "masks", "train/frames", "train/masks"),
        "frames and masks; train/frames and train/masks",
    ),
    "two words behind the names": (
        suffixes, "several kinds of masks, {id}_label and {id}_mask: say with data.folder.mask",
    ),
    "val and valid": (parts_beside("train", "val", "valid"), "val, valid: say with data.folder"),
    "valid without masks": (
        parts_beside("train", "valid", bare="valid"), "no folder of masks beside it.*val_images",
    ),
    "two folders of test images": (
        doubtful("imgs", "labels", "test", "testing"),
        "test, testing: say with data.folder.test_images",
    ),
    "parts with several test folders": (
        parts_beside("train", "test", "testing"),
        "test, testing: say with data.folder.test_images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTS)
def test_what_could_be_several_things_is_refused_with_the_key(tmp_path: Path, name: str) -> None:
    make, says = DOUBTS[name]
    make(tmp_path)
    assert_doubt(tmp_path, says)


def test_one_pair_of_several_that_fits_is_clear(tmp_path: Path) -> None:
    """Masks of other names, and a folder without an image, are no doubt."""
    folder(tmp_path, num=3, places=("frames", "masks"))
    folder(tmp_path, num=3, places=("labels", "labels"), names="other{}")
    (tmp_path / "annotations").mkdir()
    assert detected(tmp_path).data.folder.masks == "masks"
