"""distseg.data.formats.arrangement: data sets as the field publishes them are found by the words in
the names of their folders; what could be several things is refused with the key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.detect import detect
from distseg.data.layouts import layout
from distseg.data.passed_over import passed_over
from distseg.records.errors import UserError
from tests.data.data_helpers import assert_doubt, gray, save
from tests.data.made_data import shape

Make = Callable[[Path], None]
NUM = 4


@dataclass(frozen=True)
class Case:
    """files: (image, mask) with `{}` for a number, by numbers; a mask of "" is none. keys: of
    `data.folder` that are found. ids: by id, the mask below the root. val: ids that validate."""

    files: tuple[tuple[str, str, Iterable[int]], ...]
    keys: dict[str, str]
    ids: dict[str, str]
    val: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    truths: dict[str, str] = field(default_factory=dict)

    def make(self, root: Path) -> None:
        for image, mask, numbers in self.files:
            for i in numbers:
                save(root / image.format(i), gray(i))
                if mask:
                    save(root / mask.format(i), shape(i))


FIRST, LAST = range(NUM), range(NUM, NUM + 2)


def by_number(name: str, mask: str, numbers: Iterable[int] = FIRST) -> dict[str, str]:
    return {name.format(i): mask.format(i) for i in numbers}


ISIC = "ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"
CITY = ("leftImg8bit/{0}/{1}/{1}_{{0:02}}_019_leftImg8bit.png",
        "gtFine/{0}/{1}/{1}_{{0:02}}_019_gtFine_labelIds.png")  # fmt: skip
CASES = {
    "carvana": Case(
        (("train/c{}.jpg", "train_masks/c{}_mask.png", FIRST), ("test/c{}.jpg", "", LAST)),
        {"images": "train", "masks": "train_masks", "mask": "{id}_mask", "test_images": "test"},
        by_number("c{}", "train_masks/c{}_mask.png"), tests=("c4", "c5"),
    ),
    "mmseg": Case(
        (("img_dir/train/{}.png", "ann_dir/train/{}.png", FIRST),
         ("img_dir/val/{}.png", "ann_dir/val/{}.png", LAST)),
        {"images": "img_dir/train", "masks": "ann_dir/train", "val_images": "img_dir/val",
         "val_masks": "ann_dir/val"},
        by_number("{}", "ann_dir/train/{}.png") | by_number("{}", "ann_dir/val/{}.png", LAST),
        val=("4", "5"),
    ),
    "isic": Case(
        tuple((f"{ISIC[0].format(part)}/I_{{}}.jpg", f"{ISIC[1].format(part)}/I_{{}}_seg.png", rows)
              for part, rows in (("Training", FIRST), ("Validation", LAST), ("Test", (8, 9)))),
        {"images": ISIC[0].format("Training"), "masks": ISIC[1].format("Training"),
         "val_images": ISIC[0].format("Validation"), "val_masks": ISIC[1].format("Validation"),
         "test_images": ISIC[0].format("Test"), "test_masks": ISIC[1].format("Test"),
         "mask": "{id}_seg"},
        by_number("I_{}", f"{ISIC[1].format('Training')}/I_{{}}_seg.png")
        | by_number("I_{}", f"{ISIC[1].format('Validation')}/I_{{}}_seg.png", LAST),
        val=("I_4", "I_5"), tests=("I_8", "I_9"),
        truths=by_number("I_{}", f"{ISIC[1].format('Test')}/I_{{}}_seg.png", (8, 9)),
    ),
    "of the folders of CamVid": Case(
        (("train/r{}.png", "trainannot/r{}.png", FIRST), ("val/r{}.png", "valannot/r{}.png", LAST)),
        {"images": "train", "masks": "trainannot", "val_images": "val", "val_masks": "valannot"},
        by_number("r{}", "trainannot/r{}.png") | by_number("r{}", "valannot/r{}.png", LAST),
        val=("r4", "r5"),
    ),
    "voc": Case(
        (("JPEGImages/v{}.jpg", "SegmentationClass/v{}.png", FIRST),
         ("SegmentationObject/v{}.png", "", FIRST)),
        {"images": "JPEGImages", "masks": "SegmentationClass"},
        by_number("v{}", "SegmentationClass/v{}.png"),
    ),
    "images in the root": Case(
        (("a{}.png", "masks/a{}.png", FIRST),), {"images": ".", "masks": "masks"},
        by_number("a{}", "masks/a{}.png"),
    ),
    "masks of no part": Case(
        (("train/a{}.png", "masks/a{}.png", FIRST), ("test/b{}.png", "", LAST)),
        {"images": "train", "masks": "masks", "test_images": "test"},
        by_number("a{}", "masks/a{}.png"), tests=("b4", "b5"),
    ),
    "city": Case(
        tuple((CITY[0].format(part, city), CITY[1].format(part, city), rows)
              for part, rows in (("train", FIRST), ("val", LAST)) for city in ("ulm", "aachen")),
        {"images": "leftImg8bit/train/**", "masks": "gtFine/train/**",
         "val_images": "leftImg8bit/val/**", "val_masks": "gtFine/val/**",
         "image": "{id}_leftImg8bit", "mask": "{id}_gtFine_labelIds"},
        {f"{city}_{i:02}_019": CITY[1].format(part, city).format(i)
         for part, rows in (("train", FIRST), ("val", LAST)) for city in ("ulm", "aachen")
         for i in rows},
        val=("aachen_04_019", "aachen_05_019", "ulm_04_019", "ulm_05_019"),
    ),
    "lgg": Case(
        tuple((f"kaggle_3m/{p}/{p}_{{}}.tif", f"kaggle_3m/{p}/{p}_{{}}_mask.tif", FIRST)
              for p in ("T_1", "T_2")),
        {"images": "kaggle_3m/**", "masks": "kaggle_3m/**", "mask": "{id}_mask"},
        {f"{p}_{i}": f"kaggle_3m/{p}/{p}_{i}_mask.tif" for p in ("T_1", "T_2") for i in FIRST},
    ),
    "lgg, counted in each folder": Case(
        tuple((f"all/{p}/{{}}.tif", f"all/{p}/{{}}_mask.tif", FIRST) for p in ("p1", "p2")),
        {"images": "all/**", "masks": "all/**", "mask": "{id}_mask"},
        {f"{p}_{i}": f"all/{p}/{i}_mask.tif" for p in ("p1", "p2") for i in FIRST},
    ),
    "loveda": Case(
        (*((f"Train/{place}/images_png/{{}}.png", f"Train/{place}/masks_png/{{}}.png", FIRST)
           for place in ("Rural", "Urban")),
         ("Val/Rural/images_png/{}.png", "Val/Rural/masks_png/{}.png", LAST)),
        {"images": "Train/**/images_png", "masks": "Train/**/masks_png",
         "val_images": "Val/Rural/images_png", "val_masks": "Val/Rural/masks_png"},
        {f"{place}_{i}": f"Train/{place}/masks_png/{i}.png"
         for place in ("Rural", "Urban") for i in FIRST}
        | by_number("{}", "Val/Rural/masks_png/{}.png", LAST),
        val=("4", "5"),
    ),
    "busi": Case(
        (("benign/benign ({}).png", "benign/benign ({})_mask.png", FIRST),
         ("malignant/malignant ({}).png", "malignant/malignant ({})_mask.png", FIRST)),
        {"images": "**", "masks": "**", "mask": "{id}_mask"},
        {f"{name} ({i})": f"{name}/{name} ({i})_mask.png"
         for name in ("benign", "malignant") for i in FIRST},
    ),
}  # fmt: skip


def config_of(root: Path, **folder: Any) -> Config:
    """A config of what is detected; with keys of `data.folder`, of these."""
    if folder:
        keys: Any = {"data": {"format": "folder", "folder": folder}}
    else:
        keys = detect(root).keys
    tree = {**keys, "data": {**keys["data"], "root": str(root)}}
    return parse_config({"name": "any", "members": {"any": {}}, **tree}, "any")


def masks_of(rows: Iterable[Any], root: Path) -> dict[str, str]:
    return {row.id: str(Path(row.target.removeprefix("file:")).relative_to(root)) for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_each_image_has_its_mask(tmp_path: Path, name: str) -> None:
    one = CASES[name]
    one.make(tmp_path)
    assert detect(tmp_path).keys["data"].get("folder") == one.keys
    config = config_of(tmp_path)
    rows = layout("folder").train(config)
    assert [row.problem for row in rows] == [""] * len(rows)
    assert masks_of(rows, tmp_path) == one.ids
    assert {row.id for row in rows if row.validates} == set(one.val)
    assert tuple(row.id for row in layout("folder").test(config)) == one.tests
    assert masks_of(layout("folder").test_truth(config) or [], tmp_path) == one.truths
    unread = ["SegmentationObject"] if name == "voc" else []
    assert [line.partition(":")[0].rpartition("/")[2] for line in passed_over(config)] == unread
    assert masks_of(layout("folder").train(config_of(tmp_path, **one.keys)), tmp_path) == one.ids


# -- doubts ----------------------------------------------------------------------------------------


def files(*names: str) -> Make:
    """Files of the numbers 0 to 3."""

    def make(root: Path) -> None:
        for name in names:
            for i in FIRST:
                save(root / name.format(i), gray(i))

    return make


def kinds_of_city(root: Path) -> None:
    CASES["city"].make(root)
    for path in [*root.glob("gtFine/*/*/*")]:
        for kind in ("color", "instanceIds"):
            save(path.with_name(path.name.replace("labelIds", kind)), gray(1))


DOUBTS: dict[str, tuple[Make, str]] = {
    "kinds of masks": (
        kinds_of_city,
        r"gtFine/train/\*\*: several kinds of masks, {id}_gtFine_color and {id}_gtFine_instanceIds "
        r"and {id}_gtFine_labelIds: say with data.folder.mask which count, and "
        r"data.folder.image={id}_leftImg8bit beside it",
    ),
    "masks of two observers": (
        files("scans/a{}.png", "expert1_masks/a{}.png", "expert2_masks/a{}.png"),
        "scans and expert1_masks; scans and expert2_masks; say which",
    ),
    "two folders that may be the images": (
        files("train/a{}.png", "train_hq/a{}.png", "masks_of_it/a{}.png"),
        "train and masks_of_it; train_hq and masks_of_it; say which",
    ),
    "mvtec": (
        files("train/good/{:03}.png", "test/good/{:03}.png", "test/cut/{:03}.png",
              "ground_truth/cut/{:03}_mask.png"),
        r"no images of a train part have masks, but others have: test/\*\* and ground_truth/cut; "
        "where these shall train, say so with data.folder.images",
    ),
    "a validation part without masks": (
        files("img_dir/train/a{}.png", "ann_dir/train/a{}.png", "img_dir/val/b{}.png"),
        "img_dir/val: no folder of masks beside it, as ann_dir/train beside img_dir/train",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_names_the_folders_and_the_key(tmp_path: Path, name: str) -> None:
    make, says = DOUBTS[name]
    make(tmp_path)
    assert_doubt(tmp_path, says)


def test_the_key_that_a_doubt_names_ends_it(tmp_path: Path) -> None:
    kinds_of_city(tmp_path)
    keys = {"image": "{id}_leftImg8bit", "mask": "{id}_gtFine_labelIds"}
    config = config_of(tmp_path, **keys)
    rows = layout("folder").train(config)
    assert masks_of(rows, tmp_path) == CASES["city"].ids
    assert {row.id for row in rows if row.validates} == set(CASES["city"].val)
    assert any("color" in line and "not read" in line for line in passed_over(config))


@pytest.mark.parametrize(
    "names",
    [
        # one place of defects, and images of the same numbers without one
        ("train/good/{}.png", "ground_truth/cut/{}_mask.png"),
        ("a/images/{}.png", "b/masks/{}.png"),  # two data sets
        ("train/a{}.png", "train_notes/a{}.png"),  # nothing says that they are masks
        ("train/a{}.png", "train_masks/b9{}.png"),
        ("all/p1/{}.png", "all/p1/{}x.png"),  # what x means is not known
        ("all/images/p1/{}.png", "all/p2/{}_mask.png", "all/p3/{}.png"),
    ],
)
def test_what_is_not_sure_is_not_taken(tmp_path: Path, names: tuple[str, ...]) -> None:
    files(*names)(tmp_path)
    with pytest.raises(UserError, match=r"no layout is recognized|no mask has the name"):
        detect(tmp_path)


# -- images in subfolders --------------------------------------------------------------------------


def test_a_mask_is_that_of_the_same_place(tmp_path: Path) -> None:
    """b/1 has none, and does not take that of a/1; deeper folders count, hidden ones do not."""
    for name in ("a/1", "b/1", "b/deep/2", ".hidden/3"):
        save(tmp_path / "images" / f"{name}.png", gray(1))
    for name in ("a/1", "b/deep/2", "c/9"):
        save(tmp_path / "masks" / f"{name}.png", shape(1))
    rows = layout("folder").train(config_of(tmp_path, images="images/**", masks="masks/**"))
    found = {row.id: (row.target.rpartition("masks/")[2], row.problem) for row in rows}
    assert found == {
        "a_1": ("a/1.png", ""),
        "b_1": ("", f"no mask of this stem in {tmp_path}/masks/**"),
        "b_deep_2": ("b/deep/2.png", ""),
        "c_9": ("", "a mask without an image"),
    }


@pytest.mark.parametrize(("masks", "where"), [("masks", "masks"), ("masks/**", "masks/x")])
def test_masks_in_other_folders_belong_by_the_id(tmp_path: Path, masks: str, where: str) -> None:
    for name in ("a/1", "b/2"):
        save(tmp_path / "images" / f"{name}.png", gray(1))
        save(tmp_path / where / f"{name[-1]}.png", shape(1))
    rows = layout("folder").train(config_of(tmp_path, images="images/**", masks=masks))
    assert masks_of(rows, tmp_path) == {"1": f"{where}/1.png", "2": f"{where}/2.png"}


def test_links_do_not_lead_elsewhere(tmp_path: Path) -> None:
    """A file that leads out of its folder, and a folder that leads anywhere, are bad rows."""
    save(tmp_path / "other" / "9.png", gray(1))
    root = tmp_path / "set"
    for i in FIRST:
        save(root / "images" / "a" / f"{i}.png", gray(i))
        save(root / "masks" / "a" / f"{i}.png", shape(i))
    (root / "images" / "a" / "8.png").symlink_to(tmp_path / "other" / "9.png")
    (root / "images" / "up").symlink_to(root)
    rows = layout("folder").train(config_of(root, images="images/**", masks="masks/**"))
    bad = {row.id: row.problem for row in rows if row.problem}
    assert len(rows) == NUM + 2 and len(bad) == 2
    assert "is a link that leaves its folder" in bad["8"] and "link to a folder" in bad["up"]


def test_a_limit_leaves_the_ids_as_they_are(tmp_path: Path) -> None:
    one = CASES["loveda"]
    one.make(tmp_path)
    config = config_of(tmp_path)
    few = config.model_copy(update={"data": config.data.model_copy(update={"limit": 1})})
    assert [row.id for row in layout("folder").train(few)] == ["Rural_0", "4"]


@pytest.mark.parametrize("folder", ["a/**/b/**", "a**", "{id}/**", "*"])
def test_stars_stand_for_one_name(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError, match=r"one name of a folder may be `\*\*`"):
        config_of(tmp_path, images=folder)
