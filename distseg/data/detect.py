"""Which layout a folder has: the first whose `detect` recognizes it.

A layout is detected where its module of data/formats/ has a function `detect(root)`, which returns
`Detected`, or None where the folder is none of its own. It reads names and heads of tables only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import IMAGE_SUFFIXES, Row
from distseg.data.layouts import FORMATS
from distseg.records.errors import UserError, printable_path
from distseg.records.files import path_problem
from distseg.records.log import counted

IMAGES = ("images", "image", "imgs", "img", "train_images", "jpegimages", "pictures", "frames")
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "gt", "groundtruth", "ground_truth"),
    *("train_masks", "train_labels", "segmentations", "segmentationclass", "targets", "trainannot"),
)
TESTS = ("test_images", "images_test", "test", "testing", "test/images")
SUFFIXES = ("_mask", "-mask", "_label", "_labels", "_gt", "_seg", "_segmentation", "_manual1")
LOOKED_AT = 2000  # names of a folder
PARTS = ("", "train", "training")  # where images and masks may lie


def detect(root: Path) -> Detected:
    """The layout of a folder. UserError: it is no folder, or no layout recognizes it."""
    if problem := path_problem(root, "folder"):
        raise UserError(f"{printable_path(root)}: {problem}")
    for module in FORMATS.values():
        look = getattr(module, "detect", None)
        if look is not None and (found := look(root)) is not None:
            return found
    if (found := _by_names(root) or _pairs(root)) is not None:
        return found
    said = "".join(f"\n{line}" for line in _reasons(root))
    inside = ", ".join(sorted(p.name for p in islice(root.iterdir(), 12))) or "nothing"
    raise UserError(
        f"{printable_path(root)}: no layout is recognized (it holds {inside}{_lacking(root)}). "
        "Images and masks of the same names belong into two folders, `images` and `masks`; else "
        "say where they are: data.format=folder data.folder.images=DIR data.folder.masks=DIR"
        f"{said}"
    )


def _plain_rows(root: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    """Train and test rows of the layout `folder` with no key of its own. UserError: it has none."""
    config = _bare("folder", root)
    return FORMATS["folder"].train(config), FORMATS["folder"].test(config)


def _lacking(root: Path) -> str:
    """What is wrong with the masks of images that are where they belong; "" where none are."""
    if not _stems(root / "images"):
        return ""
    try:
        rows, _ = _plain_rows(root)
    except UserError as error:
        return f"; {error}"
    bad = [row for row in rows if row.problem]
    first = f"{printable_path(bad[0].image)}: {bad[0].problem}" if bad else ""
    return f"; {len(bad)} of {counted(len(rows), 'image')} cannot be used: {first}" if bad else ""


def _reasons(root: Path) -> Iterator[str]:
    """Why files that look like labels are none: what each layout that reads such files says."""
    for name, suffixes in (("coco", (".json",)), ("table", (".csv", ".tsv"))):
        if any(path.suffix.lower() in suffixes for path in islice(root.rglob("*"), LOOKED_AT)):
            try:
                FORMATS[name].train(_bare(name, root))
            except UserError as error:
                yield f"read with data.format={name}: {error}"


def _bare(name: str, root: Path) -> Config:
    """A config of a layout without a key of its own."""
    tree = {"data": {"format": name, "root": str(root)}, "members": {"any": {}}, "name": "any"}
    return parse_config(tree, str(root))


def _by_names(root: Path) -> Detected | None:
    """What the layout `folder` finds without a key of its own."""
    try:
        rows, tests = _plain_rows(root)
    except UserError:
        return None
    good = [row for row in rows if row.target and not row.problem]
    if not good or 2 * len(good) < len(rows):
        return None
    keys: dict[str, Any] = {"format": "folder"}
    if any(row.validates for row in good):
        keys["folds"] = {"kind": "split"}
    if not tests and (test := next((t for t in TESTS if _stems(root / t)), None)):
        keys["folder"] = {"test_images": test}
    pair = (good[0].image, mask_files(good[0].target)[0])
    image, mask = (os.path.relpath(path, root) for path in pair)
    return Detected({"data": keys}, f"{image} and {mask} belong together, and so on")


def _pairs(root: Path) -> Detected | None:
    """Two folders with images and masks of the same names, or one that holds both."""
    for part in PARTS:
        place = root / part
        if not place.is_dir():
            continue
        folders = {path.name.lower(): path.name for path in place.iterdir() if path.is_dir()}
        images = next((folders[name] for name in IMAGES if name in folders), None)
        masks = next((folders[name] for name in MASKS if name in folders), None)
        if images and masks and (stems := _stems(place / images)):
            return _folder(root, part, images, masks, stems)
        if suffix := _common_suffix(_stems(place), _stems(place)):
            return _described(root, {"images": part or ".", "masks": part or ".",
                                     "mask_suffix": suffix},
                              f"images and masks NAME{suffix} lie in one folder")  # fmt: skip
    return None


def _folder(root: Path, part: str, images: str, masks: str, stems: set[str]) -> Detected | None:
    place = root / part
    keys = {"images": _joined(part, images), "masks": _joined(part, masks)}
    classes = [p.name for p in sorted((place / masks).iterdir()) if p.is_dir() and _stems(p)]
    if classes and not _stems(place / masks):
        found = _described(root, keys, f"{keys['masks']} has a folder of masks for each class")
        return Detected({**found.keys, "task": "multilabel", "classes": classes}, found.why)
    names = _stems(place / masks)
    if not names & stems:
        suffix = _common_suffix(stems, names)
        if suffix is None:
            return None
        keys["mask_suffix"] = suffix
    further = f" and {keys['mask_suffix']}" if "mask_suffix" in keys else ""
    why = f"{keys['images']} and {keys['masks']} hold files of the same names{further}"
    return _described(root, keys, why)


def _described(root: Path, keys: dict[str, str], why: str) -> Detected:
    taken = {keys["images"], keys["masks"]}
    test = next((t for t in TESTS if t not in taken and _stems(root / t)), None)
    folder: dict[str, object] = {**keys, "test_images": test}
    return Detected({"data": {"format": "folder", "folder": folder}}, why)


def _joined(part: str, name: str) -> str:
    return f"{part}/{name}" if part else name


def _stems(folder: Path) -> set[str]:
    """Stems of the image files of a folder, of LOOKED_AT names at most; none where it is none."""
    try:
        with os.scandir(folder) as entries:
            paths = [Path(entry.name) for entry in islice(entries, LOOKED_AT)]
    except OSError:
        return set()
    return {p.stem for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."}


def _common_suffix(stems: Iterable[str], names: Iterable[str]) -> str | None:
    """What the names of masks have after those of their images, where most of them have it."""
    known, masks = set(stems), list(names)
    for suffix in SUFFIXES:
        paired = sum(n.endswith(suffix) and n.removesuffix(suffix) in known for n in masks)
        if paired and 2 * paired >= len([n for n in masks if n.endswith(suffix)]):
            return suffix
    return None
