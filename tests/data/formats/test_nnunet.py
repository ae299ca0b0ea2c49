"""nnU-Net's raw data sets: which keys a dataset.json becomes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.detect import detect
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.data_helpers import gray, save

FOLDER = layout("folder")
HEIGHT, WIDTH = 12, 16
TWO = {"background": 0, "cell": 1}


def mask(*values: int) -> np.ndarray:
    """The background, and a column of four pixels of each value."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, value in enumerate(values):
        labels[2:6, 1 + 2 * place] = value
    return labels


def raw(root: Path, labels: Any, *values: int, ending: str = ".png") -> Path:
    """A data set of four cases and two test images, whose masks hold the values."""
    for number in range(4):
        save(root / f"imagesTr/c_{number:03d}_0000{ending}", gray(number, HEIGHT, WIDTH))
        save(root / f"labelsTr/c_{number:03d}{ending}", mask(*values))
    for number in range(4, 6):
        save(root / f"imagesTs/c_{number:03d}_0000{ending}", gray(number, HEIGHT, WIDTH))
    describe(root, labels=labels, file_ending=ending)
    return root


def describe(root: Path, **keys: Any) -> None:
    tree = {"channel_names": {"0": "gray"}, "labels": TWO, "file_ending": ".png", **keys}
    (root / "dataset.json").write_text(json.dumps(tree))


def detected(root: Path) -> Config:
    keys = detect(root).keys
    loss = "cross_entropy" if keys["task"] == "multiclass" else "bce"
    tree = {"name": "t", "members": {"a": {}}, "stages": [{"loss": {loss: 1.0}}], **keys}
    return parse_config({**tree, "data": {**keys["data"], "root": str(root)}}, "t")


def target(config: Config) -> np.ndarray:
    row = FOLDER.train(config)[0]
    assert not row.problem
    return read_target(row.target, config, HEIGHT, WIDTH)[0]


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_one_label_is_binary(tmp_path: Path, ending: str) -> None:
    config = detected(raw(tmp_path, TWO, 1, ending=ending))
    assert (config.task, config.classes) == ("binary", ["cell"])
    assert [row.id for row in FOLDER.train(config)] == [f"c_{n:03d}" for n in range(4)]
    assert [row.id for row in FOLDER.test(config)] == ["c_004", "c_005"]
    assert FOLDER.test_truth(config) is None
    assert np.array_equal(target(config), mask(1))


def test_a_mask_of_other_values_than_its_labels_is_refused(tmp_path: Path) -> None:
    config = detected(raw(tmp_path, TWO, 255))
    with pytest.raises(UserError, match="value 255 has no meaning; known: 0, 1"):
        target(config)


def test_several_labels_are_classes(tmp_path: Path) -> None:
    """In the order of their values; `ignore` counts nowhere."""
    labels = {"ignore": 3, "big cell": 2, "background": 0, "cell": 1}
    config = detected(raw(tmp_path, labels, 1, 2, 3))
    assert (config.task, config.classes) == ("multiclass", ["background", "cell", "big_cell"])
    assert np.array_equal(target(config), mask(1, 2, 255))


def test_a_label_of_several_values_is_their_union(tmp_path: Path) -> None:
    config = detected(raw(tmp_path, {"background": 0, "whole": [1, 2]}, 1, 2))
    assert (config.task, config.classes) == ("binary", ["whole"])
    assert np.array_equal(target(config), mask(1, 1))
    config = detected(raw(tmp_path / "b", {"background": 0, "a": [1, 3], "b": 2}, 1, 2, 3))
    assert (config.task, config.classes) == ("multiclass", ["background", "a", "b"])
    assert np.array_equal(target(config), mask(1, 2, 1))


def test_masks_of_test_images_are_their_truth(tmp_path: Path) -> None:
    root = raw(tmp_path, TWO, 1)
    for number in range(4, 6):
        save(root / f"labelsTs/c_{number:03d}.png", mask(1))
    truth = FOLDER.test_truth(detected(root))
    assert truth is not None and [row.id for row in truth] == ["c_004", "c_005"]
    assert all(row.target and not row.problem for row in truth)


def test_without_test_images(tmp_path: Path) -> None:
    root = raw(tmp_path, TWO, 1)
    for path in (root / "imagesTs").iterdir():
        path.unlink()
    assert not FOLDER.test(detected(root))


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    """nnU-Net's own reader of PNG takes three channels from a file."""
    root = raw(tmp_path, TWO, 1)
    describe(root, channel_names={"0": "R", "1": "G", "2": "B"})
    assert detected(root).data.folder.images == "imagesTr"


@pytest.mark.parametrize("part", ["imagesTr", "imagesTs"])
def test_a_file_for_each_channel_is_refused(tmp_path: Path, part: str) -> None:
    root = raw(tmp_path, TWO, 1)
    first = sorted((root / part).iterdir())[0]
    save(first.with_name(first.name.replace("_0000", "_0001")), gray(0, HEIGHT, WIDTH))
    with pytest.raises(UserError, match=rf"{part}: c_00\d has a file for each channel \(c_00\d_00"):
        detect(root)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "volumes": ({"file_ending": ".nii.gz"}, r"file_ending: files of '\.nii\.gz' are not read"),
    "regions that overlap": (
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}},
        "labels.core: the value 2 is of whole, too: a mask file of regions that overlap",
    ),
    "no background": ({"labels": {"cell": 1, "other": 2}}, "valid: the background 0, and others"),
    "no label": ({"labels": {"background": 0}}, "valid: the background 0, and others"),
    "a text": ({"labels": {"background": 0, "cell": "1"}}, r"labels.cell: '1'; valid: 0\.\.254"),
    "a large value": ({"labels": {"background": 0, "cell": 300}}, "labels.cell: 300; valid"),
    "a list": ({"labels": [0, 1]}, r"labels: \[0, 1\]; valid: `name: value`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_one_line(tmp_path: Path, name: str) -> None:
    keys, said = REFUSED[name]
    root = raw(tmp_path, TWO, 1)
    describe(root, **keys)
    with pytest.raises(UserError, match=said) as raised:
        detect(root)
    assert len(str(raised.value).splitlines()) == 1


def test_the_first_nnunet_had_volumes_alone(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}})
    )
    with pytest.raises(UserError, match="images are 2-D here"):
        detect(tmp_path)


@pytest.mark.parametrize("below", ["", "nnUNet_raw"])
def test_a_folder_of_data_sets_names_them(tmp_path: Path, below: str) -> None:
    for name in ("Dataset001_Cells", "Dataset027_Roads"):
        raw(tmp_path / below / name, TWO, 1)
    said = r"holds data sets of nnU-Net \(Dataset001_Cells, Dataset027_Roads\): name one, as .*001"
    with pytest.raises(UserError, match=said):
        detect(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": {"a": 1}}', '{"name": "other"}'])
def test_another_dataset_json_is_none_of_its(tmp_path: Path, text: str) -> None:
    for kind, pixels in (("images", gray(0, HEIGHT, WIDTH)), ("masks", mask(255))):
        save(tmp_path / kind / "a.png", pixels)
    (tmp_path / "dataset.json").write_text(text)
    assert detect(tmp_path).why.startswith("images/a.png and masks/a.png")


def test_palettes_and_colors_do_not_matter(tmp_path: Path) -> None:
    """A mask that looks black holds 0 and 1; a palette of grays is only a way to store them."""
    root = raw(tmp_path, TWO, 1)
    image = Image.fromarray(mask(1)).convert("P")
    image.putpalette([v for v in range(256) for _ in range(3)])
    image.save(root / "labelsTr/c_000.png")
    assert np.array_equal(target(detected(root)), mask(1))
