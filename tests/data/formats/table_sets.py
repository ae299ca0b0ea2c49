"""Small tables of RLEs and of mask paths with planted truth, in the forms that people have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.load import parse_config
from distseg.config.schema import Config
from tests.data.data_helpers import save

Mask = NDArray[np.uint8]
HEIGHT, WIDTH = 16, 40  # what is not square says which way its RLEs go
D4 = ("d1", "d2", "d3", "d4")
CLOUDS = ("Fish", "Flower", "Gravel", "Sugar")


@dataclass(frozen=True)
class MadeSet:
    """truth: masks (K, H, W) by id. options: keys of `data` that the set needs. tests: ids to
    predict, in order. header: the first line of the submission; None: it has none. said: how its
    RLEs count."""

    truth: Mapping[str, Mask]
    classes: Sequence[str] = ("object",)
    task: str = "binary"
    options: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    header: str | None = None
    said: tuple[str, int, str] = ("column", 1, "")

    def config(self, root: Path, **data: Any) -> Config:
        return table_config(root, self.task, self.classes, **{**self.options, **data})


def table_config(
    root: Path, task: str = "binary", classes: Sequence[str] = ("object",), **data: Any
) -> Config:
    tree: dict[str, Any] = {
        "name": "t",
        "task": task,
        "classes": list(classes),
        "data": {"format": "table", "root": str(root), "folds": {"num": 2}, **data},
        "input": {"height": 32, "width": 64, "fit": "resize"},
        "members": {"a": {}},
        "stages": [{"loss": {"cross_entropy" if task == "multiclass" else "bce": 1.0}}],
    }
    return parse_config(tree, "t")


def runs(mask: Mask, order: str = "column", base: int = 1) -> str:
    """The RLE of a mask, pixel by pixel."""
    flat = list(mask.T.ravel() if order == "column" else mask.ravel())
    text, start = [], None
    for place, value in enumerate([*flat, 0]):
        if value and start is None:
            start = place
        elif not value and start is not None:
            text += [start + base, place - start]
            start = None
    return " ".join(map(str, text))


def pixels(text: str, height: int, width: int, order: str = "column", base: int = 1) -> Mask:
    """What an RLE means, pixel by pixel."""
    mask = np.zeros((height, width), np.uint8)
    numbers = [int(part) for part in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for place in range(start - base, start - base + length):
            assert 0 <= place < height * width
            if order == "column":
                mask[place % height, place // height] = 1
            else:
                mask[place // width, place % width] = 1
    return mask


def box(top: int, bottom: int, left: int, right: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def blobs(number: int) -> list[Mask]:
    """The objects of an image: none, one or two; the last pixel of image 2 is an object's."""
    if number % 3 == 0:
        return []
    first = box(2 + number % 4, 8, 3 + number, 14 + number)
    second = box(10, HEIGHT, WIDTH - 6, WIDTH) if number == 2 else box(10, 14, 1, 9)
    return [first, second][: 1 + number % 2 + (number == 2)]


def whole(masks: Sequence[Mask]) -> Mask:
    return np.bitwise_or.reduce([box(0, 0, 0, 0), *masks])


def image(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    save(path, rng.integers(1, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def images(folder: Path, names: Sequence[str]) -> list[str]:
    for seed, name in enumerate(names):
        image(folder / name, seed + sum(map(ord, folder.name)))
    return list(names)


def write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def airbus(root: Path) -> MadeSet:
    """A row for each ship."""
    names = images(root / "train_v2", [f"{n}.jpg" for n in range(6)])
    lines, truth = ["ImageId,EncodedPixels"], {}
    for number, name in enumerate(names):
        ships = blobs(number)
        truth[name] = whole(ships)[None]
        lines += [f"{name},{runs(ship)}" for ship in ships] or [f"{name},"]
    write(root / "train_ship_segmentations_v2.csv", lines)
    tests = images(root / "test_v2", ["b.jpg", "a.jpg"])
    write(root / "sample_submission_v2.csv", ["ImageId,EncodedPixels", "b.jpg,1 2", "a.jpg,1 2"])
    return MadeSet(truth, tests=tuple(tests), header="ImageId,EncodedPixels")


def _by_class(number: int, count: int) -> Mask:
    """Masks of `count` classes, of which one or two have an object; they never overlap."""
    planes = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    planes[number % count] = box(1, 6, 2 + number, 12 + number)
    if number % 2:
        planes[(number + 1) % count] = box(9, HEIGHT, WIDTH - 9, WIDTH)
    return planes


def joined(root: Path, column: str, ids: Sequence[str], classes: Sequence[str]) -> MadeSet:
    """A row for each class of each image, both in one cell."""
    names = images(root / "train_images", [f"i{n}.jpg" for n in range(6)])
    tests = images(root / "test_images", ["z.jpg", "y.jpg"])
    truth = {name: _by_class(number, len(ids)) for number, name in enumerate(names)}
    lines = [f"{column},EncodedPixels"]
    for name, planes in truth.items():
        lines += [f"{name}_{one},{runs(plane)}" for one, plane in zip(ids, planes, strict=True)]
    write(root / "train.csv", lines)
    sample = [f"{name}_{one},1 1" for name in tests for one in ids]
    write(root / "sample_submission.csv", [f"{column},EncodedPixels", *sample])
    return MadeSet(
        truth, classes, "multilabel", tests=tuple(tests), header=f"{column},EncodedPixels"
    )


def severstal_like(root: Path) -> MadeSet:
    return joined(root, "ImageId_ClassId", ["1", "2", "3", "4"], D4)


def clouds(root: Path) -> MadeSet:
    return joined(root, "Image_Label", CLOUDS, CLOUDS)


def nerve(root: Path) -> MadeSet:
    """Images and masks in one folder; img counts within a subject."""
    lines, truth = ["subject,img,pixels"], {}
    for number in range(6):
        subject, img = 1 + number // 3, 1 + number % 3
        image(root / "train" / f"{subject}_{img}.tif", number)
        mask = whole(blobs(number))
        save(root / "train" / f"{subject}_{img}_mask.tif", mask * np.uint8(255))
        lines.append(f"{subject},{img},{runs(mask)}")
        truth[f"{subject}_{img}"] = mask[None]
    write(root / "train_masks.csv", lines)
    images(root / "test", ["1.tif", "2.tif"])
    write(root / "sample_submission.csv", ["img,pixels", "2,1 1", "1,1 1"])
    return MadeSet(truth, tests=("2", "1"), header="img,pixels")


def rows_from_0(root: Path) -> MadeSet:
    """A column of classes, RLEs along the rows and from 0, another name of the column in the
    sample (UW-Madison)."""
    classes = ("large", "small")
    names = [f"case{n}" for n in range(6)]
    images(root / "train", [f"{name}.png" for name in names])
    truth = {name: _by_class(number, 2) for number, name in enumerate(names)}
    truth["case3"][0, 0, 0:5] = 1
    truth["case3"][1] = box(4, 14, 20, 30)
    lines = ["id,class,segmentation"]
    for name, planes in truth.items():
        for one, plane in zip(classes, planes, strict=True):
            lines.append(f"{name},{one},{runs(plane, 'row', 0)}")
    write(root / "train.csv", lines)
    images(root / "test", ["t1.png", "t0.png"])
    sample = [f"{name},{one}," for name in ("t1", "t0") for one in classes]
    write(root / "sample_submission.csv", ["id,class,predicted", *sample])
    return MadeSet(
        truth, classes, "multilabel", tests=("t1", "t0"), header="id,class,predicted",
        said=("row", 0, ""),
    )  # fmt: skip


def no_header(root: Path) -> MadeSet:
    """Tabs and no header; the same names in train and test (Tianchi)."""
    names = images(root / "train", [f"B{n}.jpg" for n in range(6)])
    truth = {name: whole(blobs(number))[None] for number, name in enumerate(names)}
    write(root / "train_mask.csv", [f"{name}\t{runs(mask[0])}" for name, mask in truth.items()])
    tests = images(root / "test_a", ["B1.jpg", "B0.jpg"])
    write(root / "test_a_samplesubmit.csv", [f"{name}\t" for name in tests])
    return MadeSet(truth, tests=tuple(tests))


def odd_names(root: Path) -> MadeSet:
    """A column that is nearly called as usual, semicolons, `-` for no object, and no sample."""
    images(root / "pictures", [f"r{n}.png" for n in range(6)])
    lines, truth = ["Record_ID;Width;Encoded_Pixel"], {}
    for number in range(6):
        mask = whole(blobs(number))
        truth[f"r{number}"] = mask[None]
        lines.append(f"r{number};{WIDTH};{runs(mask) or '-'}")
    write(root / "labels.csv", lines)
    images(root / "test", ["u.png"])
    return MadeSet(truth, tests=("u",), header="Record_ID;Encoded_Pixel", said=("column", 1, "-"))


def sparse(root: Path) -> MadeSet:
    """Rows for objects alone; the classes are numbers, and images without a row have no object."""
    names = images(root / "train", [f"s{n}.jpg" for n in range(6)])
    lines, truth = ["ImageId,ClassId,EncodedPixels"], {}
    for number, name in enumerate(names):
        planes = _by_class(number, 2) if number % 3 else np.zeros((2, HEIGHT, WIDTH), np.uint8)
        truth[name] = planes
        lines += [f"{name},{k},{runs(p)}" for k, p in enumerate(planes, 1) if p.any()]
    write(root / "train.csv", lines)
    return MadeSet(truth, ("a", "b"), "multilabel", {"csv": {"unlisted": "empty"}})


def multiclass(root: Path) -> MadeSet:
    """Numbers of classes from 1, 0 is the background that the table does not name."""
    names = images(root / "train", [f"m{n}.jpg" for n in range(6)])
    lines, truth = ["ImageId,ClassId,EncodedPixels"], {}
    for number, name in enumerate(names):
        planes = _by_class(number, 2)
        truth[name] = (planes[0] + 2 * planes[1])[None]
        lines += [f"{name},{k},{runs(p)}" for k, p in enumerate(planes, 1)]
    write(root / "train.csv", lines)
    tests = images(root / "test", ["t.jpg"])
    sample = ["ImageId,ClassId,EncodedPixels", "t.jpg,1,", "t.jpg,2,"]
    write(root / "sample_submission.csv", sample)
    return MadeSet(
        truth, ("background", "car", "road"), "multiclass", tests=tuple(tests), header=sample[0]
    )


def mask_paths(root: Path) -> MadeSet:
    """Paths of masks, below the root; two for one image are a union."""
    lines, truth = ["image,mask"], {}
    for number in range(6):
        image(root / "data" / "img" / f"{number}.png", number)
        parts = blobs(number) or [box(0, 0, 0, 0)]
        for place, part in enumerate(parts):
            save(root / "data" / "mask" / f"{number}_{place}.png", part * np.uint8(255))
            lines.append(f"data/img/{number}.png,data/mask/{number}_{place}.png")
        truth[f"data/img/{number}.png"] = whole(parts)[None]
    write(root / "list.csv", lines)
    return MadeSet(truth)


def mask_names(root: Path) -> MadeSet:
    """Names of masks by class, in a folder of their own where images have the same names."""
    lines, truth = ["img,label,mask_file"], {}
    for number in range(6):
        image(root / "images" / f"{number}.png", number)
        planes = _by_class(number, 2)
        truth[f"{number}.png"] = planes
        for one, plane in zip(("x", "y"), planes, strict=True):
            save(root / "masks" / f"{number}{one}.png", plane * np.uint8(255))
            lines.append(f"{number}.png,{one},{number}{one}.png")
    write(root / "list.csv", lines)
    return MadeSet(truth, ("x", "y"), "multilabel")


SETS: dict[str, Callable[[Path], MadeSet]] = {
    one.__name__: one
    for one in (
        airbus, severstal_like, clouds, nerve, rows_from_0, no_header, odd_names, sparse,
        multiclass, mask_paths, mask_names,
    )
}  # fmt: skip
