"""distseg.data.formats.words and patterns: what names say."""

from __future__ import annotations

import pytest

from distseg.data.formats.patterns import namings, namings_beside
from distseg.data.formats.words import said_by, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GroundTruth", "ground truth"),
        ("img_dir", "img dir"),
        ("images_png", "images png"),
        ("JPEGImages", "jpeg images"),
        ("leftImg8bit", "left img bit"),
        ("ISIC2018_Task1-2_Training_Input", "isic task training input"),
        ("trainannot", "train annot"),
        ("1st_manual", "manual"),
        ("stage1_train", "stage train"),
        ("2023", ""),
        ("background", "background"),
    ],
)
def test_the_words_of_a_name(name: str, words: str) -> None:
    assert list(words_of(name)) == words.split()


@pytest.mark.parametrize(
    ("path", "part", "kind", "is_plain"),
    [
        ("train", "train", "", True),
        ("train_masks", "train", "mask", True),
        ("img_dir/val", "val", "image", True),
        ("SegmentationClass", "", "mask", True),
        ("SegmentationObject", "", "mask", False),
        ("segmentation/images", "", "image", True),  # the word next to the files
        ("image_masks", "", "mask", True),
        ("Train/Urban/images_png", "train", "image", False),
        ("patient_01", "", "", False),
    ],
)
def test_what_a_folder_is(path: str, part: str, kind: str, is_plain: bool) -> None:
    said = said_by(tuple(path.split("/")))
    assert (said.part, said.kind, said.is_plain) == (part, kind, is_plain)


def test_the_parts_of_a_set_are_alike_but_for_their_word() -> None:
    one, other = said_by(("Train", "Urban", "images")), said_by(("Val", "Rural", "Images"))
    assert one.like == other.like and one.shape == ("Train", "**", "images")
    assert said_by(("train", "images")).like != said_by(("train_images",)).like


def test_what_images_and_masks_share_is_a_part_of_the_id() -> None:
    """Up to the end of a word: _019 of both, not the _ima of _image and _imask."""
    images, masks = ({f"a{i}_019_{word}" for i in range(4)} for word in ("left", "gt"))
    assert namings(images, masks) == [{"image": "{id}_left", "mask": "{id}_gt"}]
    images, masks = ({f"a{i}_{word}" for i in range(4)} for word in ("image", "imask"))
    assert namings(images, masks) == [{"image": "{id}_image", "mask": "{id}_imask"}]


def test_a_mask_beside_its_image_has_a_word_of_masks() -> None:
    images = {f"a{i}" for i in range(4)}
    assert namings_beside(images | {f"{one}_mask" for one in images}) == [{"mask": "{id}_mask"}]
    assert namings_beside(images | {f"{one}_x" for one in images}) == []
