"""How a folder's files are arranged and named: found where names leave no doubt, else refused with
the key to write. Each case goes through what a run goes through, and has planted truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.api import checked_config
from distseg.cli import main
from distseg.config.load import dump_config
from distseg.data.check import mistakes
from distseg.data.formats.names import Name
from distseg.data.inspect import inspect, report
from distseg.data.layouts import layout
from distseg.data.passed_over import passed_over
from distseg.data.prepare import open_cache, prepare
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.data.data_helpers import config, gray, save
from tests.data.made_data import CE, NUM, SIZE, Array, classes, shape

Names = Callable[[str], str]
LABELS: dict[str, Any] = {"task": "multilabel", "classes": ["car", "road"]}
Targets = dict[str, Array]


def write(
    root: Path, images: str, masks: str, image: str = "{}.png", mask: str = "{}.png",
    rows: range = range(NUM), prefix: str = "a",
) -> Targets:  # fmt: skip
    """Images and masks of planted shapes; the ids are a0, a1, ..."""
    found = {}
    for i in rows:
        name = f"{prefix}{i}"
        save(root / images / image.format(name), gray(i, SIZE, SIZE))
        save(root / masks / mask.format(name), shape(i) * np.uint8(255))
        found[name] = shape(i)[None]
    return found


def renamed(targets: Targets, name: Names) -> Targets:
    return {name(key): target for key, target in targets.items()}


@dataclass(frozen=True)
class Case:
    """make: writes the files, returns the truth by id. says: of the refusal, or what is said of
    what was found. val: ids that validate. tests: ids of test images."""

    make: Callable[[Path], Targets]
    says: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    is_refused: bool = False
    val: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


# -- how files are named ---------------------------------------------------------------------------


def drive(root: Path) -> Targets:
    """DRIVE: 21_training.tif, 21_manual1.gif, and test images of other names."""
    found = write(root, "training/images", "training/1st_manual", "{}_training.tif",
                  "{}_manual1.gif", prefix="2")  # fmt: skip
    for i in range(2):
        save(root / "test" / "images" / f"0{i}_test.tif", gray(90 + i))
    return found


DRIVE = {
    "images": "training/images", "masks": "training/1st_manual", "test_images": "test/images",
    "image": "{id}_training.tif", "mask": "{id}_manual1.gif", "test_image": "{id}_test.tif",
}  # fmt: skip


def extra(root: Path) -> Targets:
    """A field of view beside each image, which the pattern leaves out."""
    found = write(root, "images", "masks", "{}_img.png", "{}_gt.png")
    for i in range(NUM):
        save(root / "images" / f"a{i}_fov.png", gray(i))
    return found


def objects(root: Path) -> Targets:
    """a0_mask_1, a0_mask_2: the left and the right half of each object."""
    found = write(root, "images", "masks", "{}.png", "{}_mask_1.png")
    for i in range(NUM):
        left, right = shape(i), shape(i)
        left[:, 10:], right[:, :10] = 0, 0
        save(root / "masks" / f"a{i}_mask_1.png", left * 255)
        save(root / "masks" / f"a{i}_mask_2.png", right * 255)
    return found


def objects_beside(root: Path) -> Targets:
    """a0.png, a0_mask.png, a0_mask_1.png: none of the masks is an image."""
    found = objects(root)
    for path in (root / "masks").iterdir():
        path.rename(root / "images" / path.name.replace("_mask_1", "_mask").replace("_2", "_1"))
    return found


def beside(root: Path) -> Targets:
    return write(root, "images", "images", "{}.png", "{}_mask.png")


def strangers(root: Path) -> Targets:
    """Names that have nothing to do with each other."""
    found = write(root, "images", "masks")
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        path.rename(path.with_name(f"label{'xyz'[number % 3] * (number + 1)}.png"))
    return found


def shifted(root: Path) -> Targets:
    """img_10, img_20, ... and mask_1, mask_2, ...: digits are no suffix."""
    for i in range(1, 9):
        save(root / "images" / f"img_{10 * i}.png", gray(i))
        save(root / "masks" / f"mask_{i}.png", shape(i) * np.uint8(255))
    return {}


def two_kinds(root: Path) -> Targets:
    found = write(root, "images", "masks", "{}.png", "{}_mask.png")
    for i in range(NUM):
        save(root / "masks" / f"a{i}_edge.png", shape(i + 1) * np.uint8(255))
    return found


CASES: dict[str, Case] = {
    "patterns": Case(drive, "masks as {id}_manual1.gif", {"data__folder": DRIVE},
                     tests=("00", "01")),
    "a pattern leaves others out": Case(
        extra, settings={"data__folder": {"image": "{id}_img.png", "mask": "{id}_gt.*"}},
        says="images as {id}_img.png",
    ),
    "a pattern that nothing has": Case(
        extra, r"none of 24 files is named \{id\}_pic.png", is_refused=True,
        settings={"data__folder": {"image": "{id}_pic.png", "mask": "{id}_gt.png"}},
    ),
    "a pattern beside a suffix": Case(
        extra, "data.folder.mask_suffix: data.folder.mask says it already", is_refused=True,
        settings={"data__folder": {"mask_suffix": "_gt", "mask": "{id}_gt.png"}},
    ),
    "a suffix": Case(lambda root: write(root, "images", "masks", mask="{}_mask.png"),
                     "masks as {id}_mask: of a0.png (id a0) it is a0_mask.png"),
    "a prefix": Case(lambda root: write(root, "images", "masks", mask="mask_{}.png"),
                     "masks as mask_{id}"),
    "both": Case(lambda root: write(root, "images", "masks", mask="gt-{}-v2.png"),
                 "masks as gt-{id}-v2"),
    "numbers that hold each other": Case(
        lambda root: write(root, "images", "masks", mask="{}_mask.png", prefix=""),
        "masks as {id}_mask",
    ),
    "images have one, too": Case(
        lambda root: write(root, "images", "masks", "{}_training.png", "{}_manual1.png"),
        "images as {id}_training, masks as {id}_manual1",
    ),
    "other words before": Case(
        lambda root: write(root, "images", "masks", "img_{}.png", "lbl_{}.png", prefix=""),
        "images as img_{id}, masks as lbl_{id}",
    ),
    "in one folder": Case(beside, "masks as {id}_mask", {"data__folder": {"masks": "images"}}),
    "in one folder, names alone": Case(
        lambda root: write(root, "images", "images", mask="{}x.bmp", image="{}.png"),
        "masks as {id}x", {"data__folder": {"masks": "images"}},
    ),
    "in one folder, strangers": Case(
        lambda root: write(root, "images", "masks"), "images and masks lie in one folder",
        {"data__folder": {"masks": "images"}}, is_refused=True,
    ),
    "a mask for each object": Case(objects, "two masks: a0_mask_1.png and a0_mask_2.png",
                                   is_refused=True),
    "a mask for each object, in one folder": Case(
        objects_beside, "masks as {id}_mask",
        {"data__folder": {"masks": "images", "mask_suffix": "_mask", "several": "union"}},
    ),
    "a mask for each object, said": Case(objects, "masks as {id}_mask",
                                         {"data__folder": {"several": "union"}}),
    "strangers": Case(strangers, "no mask has the name of an image.*data.folder.mask",
                      is_refused=True),
    "digits are no suffix": Case(shifted, "no mask has the name of an image", is_refused=True),
    "two kinds of masks": Case(two_kinds, "no mask has the name of an image", is_refused=True),
}  # fmt: skip


# -- parts -----------------------------------------------------------------------------------------


def parts(train: str, val: str, test: str, **names: str) -> Callable[[Path], Targets]:
    """`{}` of each stands for images or masks."""

    def make(root: Path) -> Targets:
        found: Targets = {}
        for part, rows in ((train, range(8)), (val, range(8, NUM))):
            found |= write(root, part.format("images"), part.format("masks"), rows=rows, **names)
        for i in range(2):
            save(root / test.format("images") / f"t{i}.png", gray(90 + i))
        return found

    return make


def counted_twice(root: Path) -> Targets:
    """Both parts count from 0."""
    found = write(root, "train/images", "train/masks", rows=range(8))
    val = write(root, "val/images", "val/masks", rows=range(20, 24))
    for path in (*root.glob("val/*/a2?.png"),):
        path.rename(path.with_name(path.name.replace("a2", "a")))
    return found | renamed(val, lambda name: name.replace("a2", "val_a"))


def capitals(root: Path) -> Targets:
    found = parts("Train/{}", "Val/{}", "Test/{}")(root)
    for part in ("Train", "Val", "Test"):
        (root / part / "images").rename(root / part / "Images")
    return found


def lonely(root: Path) -> Targets:
    found = parts("train/{}", "val/{}", "test/{}")(root)
    (root / "val" / "masks").rename(root / "val" / "other")
    return found


def two_trains(root: Path) -> Targets:
    write(root, "train/images", "train/masks")
    return write(root, "images/train", "masks/train")


def two_vals(root: Path) -> Targets:
    found = parts("train/{}", "valid/{}", "test/{}")(root)
    write(root, "val/images", "val/masks", rows=range(2))
    return found


def masks_among_tests(root: Path) -> Targets:
    """Test images with their masks beside them, as some tools export them."""
    for i in range(2):
        save(root / "test_images" / f"t{i}.png", gray(90 + i))
        save(root / "test_images" / f"t{i}_mask.png", shape(i) * np.uint8(255))
    return write(root, "images", "masks", mask="{}_mask.png")


def fields_of_view(root: Path) -> Targets:
    """DRIVE: `mask` is what the camera sees, the same in all images."""
    found = drive(root)
    for i in range(NUM):
        whole = np.full((SIZE, SIZE), 255, np.uint8)
        save(root / "training" / "mask" / f"2{i}_training_mask.gif", whole)
    return found


VAL = tuple(f"a{i}" for i in range(8, NUM))
TESTS = ("t0", "t1")
SPLIT = r"8 images in .*, 4 in .*: they validate"
CASES |= {
    "images and labels": Case(
        lambda root: write(root, "images", "labels"), "train images in images, masks in labels",
    ),
    "imgs and Masks": Case(
        lambda root: write(root, "imgs", "Masks", mask="{}_m.png"), "masks as {id}_m",
    ),
    "two kinds of labels": Case(
        lambda root: write(root, "images", "labels") | write(root, "images", "annotations"),
        "images and annotations; images and labels; say which", is_refused=True,
    ),
    "train/images": Case(parts("train/{}", "val/{}", "test/{}"), SPLIT, val=VAL, tests=TESTS),
    "images/train": Case(parts("{}/train", "{}/val", "{}/test"), SPLIT, val=VAL, tests=TESTS),
    "train_images": Case(parts("train_{}", "val_{}", "test_{}"), SPLIT, val=VAL, tests=TESTS),
    "training and validation": Case(
        parts("training/{}", "validation/{}", "testing/{}"), SPLIT, val=VAL, tests=TESTS,
    ),
    "in capitals": Case(capitals, SPLIT, val=VAL, tests=TESTS),
    "parts and suffix": Case(
        parts("train/{}", "val/{}", "test/{}", mask="{}_mask.png"), "masks as {id}_mask",
        val=VAL, tests=TESTS,
    ),
    "parts that count alike": Case(
        counted_twice, SPLIT, val=tuple(f"val_a{i}" for i in range(4)),
    ),
    "parts, said": Case(
        parts("one/{}", "two/{}", "three/{}"), SPLIT, {"data__folder": {
            "images": "one/images", "masks": "one/masks", "val_images": "two/images",
            "val_masks": "two/masks", "test_images": "three/images",
        }}, val=VAL, tests=TESTS,
    ),
    "parts, divided anew": Case(
        parts("train/{}", "val/{}", "test/{}"), "divided with the others, kind: stratified",
        {"data__folds": {"kind": "stratified", "num": 2}}, tests=TESTS,
    ),
    "a part without masks": Case(lonely, "data.folder.val_images and val_masks", is_refused=True),
    "two validation parts": Case(
        two_vals, "val/images, valid/images: say with data.folder.val_images", is_refused=True,
    ),
    "two validation parts, said": Case(
        two_vals, SPLIT, {"data__folder": {
            "val_images": "valid/images", "val_masks": "valid/masks",
        }}, val=VAL, tests=TESTS,
    ),
    "masks among the test images": Case(
        masks_among_tests, "masks as {id}_mask", tests=TESTS,
    ),
    "a field of view beside the truth": Case(
        fields_of_view, "training/images and training/1st_manual; training/images and training/m",
        is_refused=True,
    ),
    "a field of view beside the truth, said": Case(
        fields_of_view, "images as {id}_training, masks as {id}_manual1", {"data__folder": {
            "images": "training/images", "masks": "training/1st_manual", "test_images": None,
        }},
    ),
    "two train parts": Case(
        two_trains, "several folders of images and masks: images/train and masks/train",
        is_refused=True,
    ),
    "val_images alone": Case(
        parts("train/{}", "val/{}", "test/{}"), "val_images: needs val_masks", is_refused=True,
        settings={"data__folder": {
            "images": "train/images", "masks": "train/masks", "val_images": "val/images",
        }},
    ),
}  # fmt: skip


# -- folders of classes, and of images -------------------------------------------------------------


def class_folders(root: Path, where: str = "masks", rows: range = range(NUM)) -> Targets:
    found = {}
    for i in rows:
        planes = np.stack([shape(i), shape(i + 1)])
        save(root / where.replace("masks", "images") / f"a{i}.png", gray(i, SIZE, SIZE))
        for name, plane in zip(("car", "road"), planes, strict=True):
            save(root / where / name / f"a{i}.png", plane * np.uint8(255))
        found[f"a{i}"] = planes
    return found


def class_parts(root: Path) -> Targets:
    return class_folders(root, "train/masks", range(8)) | class_folders(
        root, "val/masks", range(8, NUM)
    )


def one_class(root: Path) -> Targets:
    """masks/road/a0.png, ..., of 0 and 255."""
    return write(root, "images", "masks/road")


def empty_class(root: Path) -> Targets:
    (root / "masks" / "bicycle").mkdir(parents=True)
    return class_folders(root)


def empty_class_of_the_config(root: Path) -> Targets:
    """An empty folder is as one that is not there: no image holds the class."""
    found = empty_class(root)
    zeros = np.zeros((1, SIZE, SIZE), np.uint8)
    return {key: np.concatenate([zeros, target]) for key, target in found.items()}


def nuclei(root: Path, train: str = "stage1_train", rows: range = range(NUM)) -> Targets:
    """DSB2018: a folder for each image, and in it one mask for each object."""
    found = {}
    for i in rows:
        mask = shape(i if i % 3 else 1)
        save(root / train / f"n{i}" / "images" / f"n{i}.png", gray(i, SIZE, SIZE))
        for number, column in enumerate(np.flatnonzero(mask.any(axis=0))):
            own = np.zeros_like(mask)
            own[:, column] = mask[:, column]
            save(root / train / f"n{i}" / "masks" / f"{number:03d}.png", own * np.uint8(255))
        found[f"n{i}"] = mask[None]
    for i in range(2):
        save(root / "stage1_test" / f"t{i}" / "images" / f"t{i}.png", gray(80 + i))
    return found


def nuclei_parts(root: Path) -> Targets:
    return nuclei(root, "train", range(8)) | nuclei(root, "val", range(8, NUM))


def without_masks(root: Path) -> Targets:
    """One image's folder of masks is empty: whether it has no object is not known."""
    found = nuclei(root)
    for path in (root / "stage1_train" / "n4" / "masks").iterdir():
        path.unlink()
    del found["n4"]
    return found


def two_images(root: Path) -> Targets:
    found = nuclei(root)
    save(root / "stage1_train" / "n4" / "images" / "again.png", gray(4))
    del found["n4"]
    return found


def two_tests(root: Path) -> Targets:
    save(root / "stage2_test" / "u0" / "images" / "u0.png", gray(80))
    return nuclei(root)


NUCLEI = r"of 12 images in stage1_train/\{id\}/masks, one per object: joined"
CASES |= {
    "class folders": Case(class_folders, settings=LABELS),
    "class folders of parts": Case(class_parts, SPLIT, LABELS, val=VAL),
    "one class folder": Case(one_class, settings={"task": "multilabel", "classes": ["road"]}),
    "one class folder of a binary set": Case(
        one_class, r"folders of masks, road: .*task: multilabel and classes: \[road\]",
        is_refused=True,
    ),
    "an empty class folder": Case(empty_class, settings=LABELS),
    "an empty class folder of a class": Case(
        empty_class, "class bicycle is in no image", is_refused=True,
        settings={**LABELS, "classes": ["bicycle", "car", "road"]},
    ),
    "an empty class folder of a class, allowed": Case(empty_class_of_the_config, settings={
        **LABELS, "classes": ["bicycle", "car", "road"], "data__allow_bad": True,
    }),
    "class folders of a binary set": Case(
        class_folders, r"folders of masks, car, road: .*task: multilabel and classes: \[car, ro",
        is_refused=True,
    ),
    "a folder for each image": Case(nuclei, NUCLEI, tests=TESTS),
    "a folder for each image, said": Case(nuclei, NUCLEI, {"data__folder": {
        "images": "stage1_train/{id}/images", "masks": "stage1_train/{id}/masks",
        "test_images": "stage1_test/{id}/images",
    }}, tests=TESTS),
    "a folder for each image of parts": Case(
        nuclei_parts, SPLIT, val=tuple(f"n{i}" for i in range(8, NUM)), tests=TESTS,
    ),
    "a folder without masks": Case(without_masks, "of 11 images in stage1_train", tests=TESTS),
    "a folder of two images": Case(two_images, "of 11 images in stage1_train", tests=TESTS),
    "two folders of test images": Case(
        two_tests, "say with data.folder.test_images which counts", is_refused=True,
    ),
    "two folders of test images, said": Case(
        two_tests, NUCLEI, {"data__folder": {"test_images": "stage2_test/{id}/images"}},
        tests=("u0",),
    ),
}  # fmt: skip


# -- stacks ----------------------------------------------------------------------------------------


def stacks(suffix: str, num: int = 5, first: bool = True) -> Callable[[Path], Targets]:
    def make(root: Path) -> Targets:
        found = write(root, "images", "masks")
        for i in range(NUM):
            (root / "images" / f"a{i}.png").unlink()
            planes = stack(i, num)
            path = root / "images" / f"a{i}{suffix}"
            if suffix == ".npy":
                np.save(path, planes if first else np.moveaxis(planes, 0, 2))
            else:
                pages = [Image.fromarray(plane) for plane in planes]
                pages[0].save(path, save_all=True, append_images=pages[1:])
        return found

    return make


def stack(i: int, num: int = 5) -> Array:
    return np.stack([gray(100 * i + page, SIZE, SIZE) for page in range(num)])


FIVE = {"input__channels": 5}
SHOUTED = stacks(".npy")


def shouted(root: Path) -> Targets:
    found = SHOUTED(root)
    for path in (root / "images").iterdir():
        path.rename(path.with_suffix(".NPY"))
    return found


STACKS: dict[str, Case] = {
    "pages": Case(stacks(".tif"), r"L;5 pages as channels \(12\)", FIVE),
    "npy, channels first": Case(stacks(".npy"), r"npy, 5 channels first \(12\)", FIVE),
    "npy, in capitals": Case(shouted, r"npy, 5 channels first \(12\)", FIVE),
    "npy, channels last": Case(stacks(".npy", first=False), r"modes: npy \(12\)", FIVE),
    "pages of other channels": Case(
        stacks(".tif"), "has 5 pages, which are channels; input.channels is 3", is_refused=True,
        settings={"input__channels": 3},
    ),
    "three pages are no gray": Case(
        stacks(".tif", 3), "has 3 pages, which are channels; input.channels is 1", is_refused=True,
    ),
    "npy of other channels": Case(
        stacks(".npy", first=False), "has 5 channels; input.channels is 3", is_refused=True,
        settings={"input__channels": 3},
    ),
    "npy of no such side": Case(
        stacks(".npy"), "has 16 channels; input.channels is 3", is_refused=True,
        settings={"input__channels": 3},
    ),
}  # fmt: skip


def made(tmp_path: Path, one: Case) -> tuple[Targets, Any, Run]:
    root = tmp_path / "data"
    root.mkdir()
    settings = {**one.settings}
    if not any(key.startswith("data__folds") for key in settings):
        settings["data__folds"] = {}  # nobody has said how to divide
    return one.make(root), config(root, **settings), Run(tmp_path / "run")


@pytest.mark.parametrize("name", CASES)
def test_what_training_is_given(tmp_path: Path, name: str) -> None:
    one = CASES[name]
    if one.is_refused:
        with pytest.raises(UserError, match=one.says) as refused:
            _, c, run = made(tmp_path, one)
            prepare(c, run)
        assert len(str(refused.value).splitlines()) == 1
        return
    targets, c, run = made(tmp_path, one)
    assert not mistakes(c)
    resolved = prepare(c, run)
    cache, manifest = open_cache(resolved, run), Manifest.read(run.truth)
    assert set(cache.index) == set(targets)
    for key, target in targets.items():
        assert np.array_equal(cache.target(key), target), key
    held = {sample.id for sample in manifest if sample.fold == 0}
    if one.val:
        assert held == set(one.val) and resolved.data.folds.kind == "split"
        assert {sample.fold for sample in manifest} == {0, -1}
    else:
        assert resolved.data.folds.kind == "stratified"
    assert {sample.id for sample in Manifest.read(run.data / "test.csv")} == set(one.tests)
    text = report(resolved, inspect(resolved, layout("folder").train(resolved)))
    found = [line for line in text.splitlines() if line.startswith("found: ")]
    assert bool(found) == bool(one.says)
    if one.says:
        assert any(matches(one.says, line) for line in found), found


def matches(says: str, line: str) -> bool:
    import re

    return says in line or re.search(says, line) is not None


@pytest.mark.parametrize("name", STACKS)
def test_stacks_are_channels(tmp_path: Path, name: str) -> None:
    one = STACKS[name]
    targets, c, run = made(tmp_path, one)
    if one.is_refused:
        with pytest.raises(UserError, match=one.says):
            prepare(c, run)
        return
    cache = open_cache(prepare(c, run), run)
    assert set(cache.index) == set(targets)
    for i in range(NUM):
        assert np.array_equal(cache.image(f"a{i}"), np.moveaxis(stack(i), 0, 2))
    assert matches(one.says, report(c, inspect(c, layout("folder").train(c))))
    sample = Manifest.read(run.truth)[0]
    assert (sample.height, sample.width) == (SIZE, SIZE)


def test_a_config_of_python_keeps_the_own_split(tmp_path: Path) -> None:
    """As the same keys in a mapping or a file do."""
    _, c, _ = made(tmp_path, CASES["train/images"])
    settings = {"members": {"a": {"encoder": "resnet18", "encoder_weights": None}}}
    c = config(tmp_path / "data", data__folds={}, input__fit="resize", **settings)
    assert checked_config(c, default=None).data.folds.kind == "split"
    said = config(tmp_path / "data", data__folds={"kind": "stratified"}, input__fit="resize",
                  **settings)  # fmt: skip
    assert checked_config(said, default=None).data.folds.kind == "stratified"


def test_each_object_is_named_in_the_manifest(tmp_path: Path) -> None:
    _, c, run = made(tmp_path, CASES["a folder for each image"])
    prepare(c, run)
    for sample in Manifest.read(run.truth):
        files = sample.target.removeprefix("file:").split(";")
        folder = tmp_path / "data" / "stage1_train" / sample.id / "masks"
        assert sorted(files) == sorted(map(str, folder.iterdir())) and len(files) > 1


def test_what_a_pattern_leaves_out_is_said(tmp_path: Path) -> None:
    _, c, _ = made(tmp_path, CASES["a pattern leaves others out"])
    (line,) = passed_over(c)
    assert "images: 12 files (a0_fov.png, a10_fov.png, a11_fov.png, ...) are not read" in line


def test_a_folder_that_is_left_out_has_a_reason(tmp_path: Path) -> None:
    for name, says in (
        ("a folder without masks", "no image files in"),
        ("a folder of two images", "2 images of one id: again.png, n4.png"),
    ):
        place = tmp_path / name
        place.mkdir()
        _, c, run = made(place, CASES[name])
        prepare(c, run)
        lines = (run.data / "quarantine.csv").read_text().splitlines()[1:]
        assert len(lines) == 1 and lines[0].startswith("n4,") and says in lines[0]


def test_a_color_without_a_name_is_an_error_with_its_count(tmp_path: Path) -> None:
    colors = {"ground": (0, 0, 0), "a": (255, 0, 0)}
    table = np.array([*colors.values(), (0, 128, 0)], np.uint8)
    for i in range(NUM):
        save(tmp_path / "images" / f"a{i}.png", gray(i))
        save(tmp_path / "masks" / f"a{i}.png", table[classes(i)])
    c = config(tmp_path, task="multiclass", classes=["ground", "a"], stages=CE, data__colors=colors)
    with pytest.raises(UserError, match=r"color \[0, 128, 0\] \(\d+ pixels\) is not in"):
        inspect(c, layout("folder").train(c))


def test_the_command_line_divides_by_the_own_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` counts one fold, and `config.yaml` says so in every job."""
    _, c, _ = made(tmp_path, CASES["train/images"])
    settings = {"members": {"a": {"encoder": "resnet18", "encoder_weights": None}}}
    c = config(tmp_path / "data", data__folds={}, input__fit="resize", **settings)
    text = dump_config(c).replace("    kind: stratified\n", "")
    (tmp_path / "c.yaml").write_text(text)
    assert main(["inspect", str(tmp_path / "c.yaml")]) == 0
    assert "4 in val/images (data.folds.kind: split): they validate" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "c.yaml"), "data.folds.use=[1]"]) == 2
    assert "data.folds.use: fold 1 does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("{id}_m.png", "a_m.png", "a"),
        ("{id}_m.png", "a_m.PNG", "a"),
        ("{id}_m.png", "a_m.tif", None),
        ("{id}_m.*", "a_m.tif", "a"),
        ("{id}_m", "a_m.tif", "a"),
        ("x{id}", "xa.b.png", "a.b"),
        ("x{id}", "x.png", None),
        ("ab{id}bc", "abc.png", None),
    ],
)
def test_the_id_in_a_name(pattern: str, name: str, found: str | None) -> None:
    assert Name(pattern).id_in(name) == found
