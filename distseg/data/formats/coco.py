"""COCO: JSON files of images, categories and objects (polygons, run lengths), and the images.

Categories are the classes of the config, by their names; objects with `iscrowd` count nowhere; an
image without objects is an empty mask. Train, val and test are a JSON each. An image's id is its
`file_name` without the suffix, with `_` for `/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distseg.config.data import MAX_PIXELS
from distseg.config.schema import Config
from distseg.data.categories import Id, class_places, detected_labels, objects_of
from distseg.data.coco_file import Picture, read_coco
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import Row, SubmissionSpec, parts_together, usual_submission
from distseg.data.places import (
    PROBED,
    Images,
    folders_of,
    given_folders,
    image_folders,
    is_there,
    json_files,
    test_folders,
)
from distseg.data.shapes import shapes_target
from distseg.records.errors import UserError
from distseg.records.files import path_problem

READS = ("coco", "overlap")  # keys of `data` that only some layouts read
PARTS = ("train", "val", "test")
# what COCO's own folder holds beside the objects
_OTHER_LABELS = ("captions", "person_keypoints", "stuff", "panoptic")


def detect(root: Path) -> Detected | None:
    """A JSON with images and objects: its categories are the classes."""
    try:
        path = _found(root).get("train")
        coco = read_coco(path, MAX_PIXELS) if path else None
    except UserError:
        return None
    if path is None or coco is None or not coco.used:
        return None
    labels = detected_labels(coco.categories, coco.used)
    keys: dict[str, Any] = {"data": {"format": "coco"}, **labels}
    if "val" in _found(root):
        keys["data"]["folds"] = {"kind": "split"}
    return Detected(keys, f"{path.name} has the images and objects of COCO")


def has_split(config: Config) -> bool:
    """Whether the data set has a validation part of its own."""
    try:
        return "val" in _files(config)
    except (UserError, OSError):
        return False  # whoever lists the rows says what is wrong


def said(config: Config) -> list[str]:
    """The JSON files that were found, with the number of their images and objects."""
    lines = []
    for part, path in _files(config).items():
        coco = read_coco(path, config.data.max_pixels)
        shapes = sum(len(s) for one in coco.pictures for s in (*one.shapes.values(), one.crowd))
        lines.append(f"{part}: {path} ({len(coco.pictures)} images, {shapes} shapes)")
    return lines


def train(config: Config) -> list[Row]:
    """The rows of train, and of val where it is there; those validate with `kind: split`.
    `data.limit` cuts each of them."""
    files, limit = _files(config), config.data.limit
    if "train" not in files:
        raise UserError(
            f"data.coco.train: no JSON of {config.data.root} is known to be that of the train "
            "images; name it"
        )
    rows = _rows(config, files["train"], "train")[:limit]
    if "val" in files:
        more = _rows(config, files["val"], "val")[:limit]
        rows = parts_together(rows, more)
    return rows


def test(config: Config) -> list[Row]:
    """The images of the test JSON, in its order; without one, those of the test folder."""
    files, root, given = _files(config), Path(config.data.root), config.data.coco.test_images
    if "test" in files:
        rows = _rows(config, files["test"], "test", labels=False)
        return [replace(row, target="") for row in rows][: config.data.limit]
    key = "data.coco.test_images"
    folders = given_folders(root, given, key) if given else test_folders(root, [])
    if not folders:
        return []
    found = Images.of(folders)
    names = _names([path.name for path in found.names.values()])
    rows = [Row(name, str(p)) for name, p in zip(names, found.names.values(), strict=True)]
    return rows[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    ids = [row.id for row in test(config)]
    return usual_submission(config.data.coco.submission, config.classes, ids)


def test_truth(config: Config) -> list[Row] | None:
    """The rows of the test JSON, where it has objects."""
    path = _files(config).get("test")
    if path is None or not read_coco(path, config.data.max_pixels).used:
        return None
    return _rows(config, path, "test")[: config.data.limit]


# -- files ----------------------------------------------------------------------------------------


def _files(config: Config) -> dict[str, Path]:
    """The JSON of each part that there is. UserError: one is not there, or several could be it."""
    root, options = Path(config.data.root), config.data.coco
    if options.train is not None:
        given = {part: getattr(options, part) for part in PARTS}
        named = {part: root / name for part, name in given.items() if name is not None}
    else:
        named = _found(root)
        own = {part: getattr(options, part) for part in PARTS}
        named |= {part: root / name for part, name in own.items() if name is not None}
    for part, path in named.items():
        if problem := path_problem(path):
            raise UserError(f"data.coco.{part}: {path}: {problem}")
    return named


def _found(root: Path) -> dict[str, Path]:
    """The JSON files below `root` by what their names say; one that says nothing is train's."""
    paths = json_files(root)
    if any(path.name.startswith("instances") for path in paths):
        paths = [path for path in paths if not path.name.startswith(_OTHER_LABELS)]
    by_part: dict[str, list[Path]] = {}
    for path in paths:
        by_part.setdefault(_part_of(path.relative_to(root)), []).append(path)
    if "train" not in by_part and "" in by_part:
        by_part["train"] = by_part.pop("")
    for part, found in by_part.items():
        if part and len(found) > 1:
            names = " and ".join(str(path.relative_to(root)) for path in found[:3])
            raise UserError(f"data.coco.{part}: {names} may be it; name it")
    return {part: found[0] for part, found in by_part.items() if part}


def _part_of(path: Path) -> str:
    """The part that a path names: `instances_train2017.json`, `valid/labels.json`; else ""."""
    words = re.findall(r"[a-z]+", str(path).lower())
    return next((part for part in PARTS for word in words if word.startswith(part)), "")


def _images(config: Config, path: Path, part: str, pictures: Sequence[Picture]) -> Images:
    """The images of a JSON: in the folders that the config names; else beside the JSON, or in the
    folder that holds their names; of several the one that is called like the part."""
    root, key = Path(config.data.root), f"{part}_images".removeprefix("train_")
    given = getattr(config.data.coco, key)
    if given is not None:
        return Images.of(given_folders(root, given, f"data.coco.{key}"))
    names = [picture.file_name for picture in pictures]
    called = [f for f in image_folders(root) if _part_of(f.relative_to(root.absolute())) == part]
    for folder in (path.parent.absolute(), *called):
        if all(is_there(folder / name) for name in names[:PROBED]):
            return Images.of([folder])
    return Images.of(folders_of(root, names, f"data.coco.{key}"))


# -- rows -----------------------------------------------------------------------------------------


def _rows(config: Config, path: Path, part: str, *, labels: bool = True) -> list[Row]:
    """A row for each image of a JSON. labels: its objects are wanted."""
    coco = read_coco(path, config.data.max_pixels)
    if not coco.pictures:
        raise UserError(f"{path}: it names no image")
    if labels and part != "test" and not coco.has_objects:
        raise UserError(f"{path}: it has no list `annotations`, so no labels")
    images = _images(config, path, part, coco.pictures)
    places = class_places(config, path, coco.categories, coco.used, "coco") if labels else {}
    rows, used = [], dict[Path, list[str]]()
    for picture in coco.pictures:
        if (file := images.find(picture.file_name)[0]) is not None:
            used.setdefault(file, []).append(picture.file_name)
    names = _names([picture.file_name for picture in coco.pictures])
    for name, picture in zip(names, coco.pictures, strict=True):
        file, problem = images.find(picture.file_name)
        if file is not None and len(used[file]) > 1:  # its objects are divided among them
            first, second = used[file][:2]
            problem = f"{file.name} is called {first!r} and {second!r}; give it one name"
        problem = problem or (picture.problem if labels else "")
        rows.append(
            Row(
                name,
                str(file or path),
                _target(config, picture, places),
                problem=problem and f"{path.name}: {problem}",
            )
        )
    return rows


def _names(files: Sequence[str]) -> list[str]:
    """Ids: the files' names without suffixes, where these are all different."""
    flat = [name.replace("/", "_") for name in files]
    short = [name.removesuffix(Path(name).suffix) for name in flat]
    return short if len(set(short)) == len(short) else flat


def _target(config: Config, picture: Picture, places: dict[Id, int]) -> str:
    objects = objects_of(config, picture.shapes, places)
    objects[-1] += picture.crowd
    return shapes_target(picture.height, picture.width, objects)
