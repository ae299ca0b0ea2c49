"""YOLO segmentation (ultralytics): a YAML of parts and names, images, and a text of polygons each.

Names are the classes of the config; an image without a text, or with an empty one, is an empty
mask. The val part validates; the test images are predicted, and their texts are the truth. An
image's id is its stem; where stems are not all different its path, with `_` for `/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.data.categories import Id, class_places, detected_labels, objects_of
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import Row, SubmissionSpec, parts_together, usual_submission
from distseg.data.places import names_of
from distseg.data.shapes import shares_target
from distseg.data.yolo_file import BOX, Image, Labels, YoloFile, read_labels, read_yolo, yaml_files
from distseg.records.errors import UserError
from distseg.records.log import counted

READS = ("yolo", "overlap")  # keys of `data` that only some layouts read


def detect(root: Path) -> Detected | None:
    """A YAML with names and a train part: the names of which there are objects are the classes.
    UserError: there is such a YAML, and its data cannot be used."""
    if not yaml_files(root):
        return None
    yolo = read_yolo(root, None)
    used = _used(_labels(yolo))
    data: dict[str, Any] = {"format": "yolo"}
    if "val" in yolo.parts:
        data["folds"] = {"kind": "split"}
    why = f"{yolo.path.name} has the parts and names of YOLO"
    if len(used) < len(yolo.names):
        why += f"; there are objects of {len(used)} of its {len(yolo.names)} names"
    return Detected({"data": data, **detected_labels(yolo.names, used)}, why)


def has_split(config: Config) -> bool:
    """Whether the data set has a validation part of its own."""
    try:
        return "val" in _read(config).parts
    except (UserError, OSError):
        return False  # whoever lists the rows says what is wrong


def said(config: Config) -> list[str]:
    """The parts with the number of their images and objects."""
    yolo = _read(config)
    lines = []
    for part, images in yolo.parts.items():
        labels = [read_labels(image, yolo.names) for image in images]
        objects, empty = sum(one.lines for one in labels), sum(not one.lines for one in labels)
        lines.append(
            f"{part} of {yolo.path.name}: {counted(len(images), 'image')}, "
            f"{counted(objects, 'object')}; {empty} images have none"
        )
    return lines + yolo.notes


def train(config: Config) -> list[Row]:
    """The rows of train, and of val where it is there; those validate with `kind: split`.
    `data.limit` cuts each of them."""
    yolo, limit = _read(config), config.data.limit
    labels = _labels(yolo)
    places = class_places(config, yolo.path, yolo.names, _used(labels), "yolo")
    rows = _rows(config, yolo.parts["train"], labels["train"], places)[:limit]
    if "val" in yolo.parts:
        more = _rows(config, yolo.parts["val"], labels["val"], places)[:limit]
        rows = parts_together(rows, more)
    return rows


def test(config: Config) -> list[Row]:
    """The images of the test part."""
    images = _read(config).parts.get("test", [])
    names = names_of(config.data.root, [one.path for one in images])
    rows = [
        Row(name, str(one.path), problem=one.problem)
        for name, one in zip(names, images, strict=True)
    ]
    return rows[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    ids = [row.id for row in test(config)]
    return usual_submission(config.data.yolo.submission, config.classes, ids)


def test_truth(config: Config) -> list[Row] | None:
    """The rows of the test part, where one of its images has a text."""
    yolo = _read(config)
    images = yolo.parts.get("test", [])
    if not any(image.labels.exists() for image in images):
        return None
    labels = [read_labels(image, yolo.names) for image in images]
    used = _used({**_labels(yolo), "test": labels})
    places = class_places(config, yolo.path, yolo.names, used, "yolo")
    return _rows(config, images, labels, places)[: config.data.limit]


def _read(config: Config) -> YoloFile:
    return read_yolo(Path(config.data.root), config.data.yolo.yaml)


def _labels(yolo: YoloFile) -> dict[str, list[Labels]]:
    """The objects of each image of the train and the val part. UserError: a part has none, or they
    are boxes."""
    found = {}
    for part, images in yolo.parts.items():
        if part == "test":
            continue
        if not any(image.labels.exists() for image in images):
            raise UserError(
                f"{yolo.path}: {part}: no image has labels: those of {images[0].path} would be in "
                f"{images[0].labels}"
            )
        found[part] = [read_labels(image, yolo.names) for image in images]
    every = [one for labels in found.values() for one in labels]
    lines = sum(one.lines for one in every)
    if lines and lines == sum(one.boxes for one in every):
        raise UserError(
            f"{yolo.path}: each of {counted(lines, 'object')} is {BOX}: a data set for detection "
            "has no masks"
        )
    if not _used(found):
        why = next((one.problem for one in every if one.problem), "the texts are empty")
        raise UserError(f"{yolo.path}: no image has an object that can be used: {why}")
    return found


def _used(labels: dict[str, list[Labels]]) -> set[Id]:
    return {own for part in labels.values() for one in part for own in one.shapes}


def _rows(
    config: Config, images: Sequence[Image], labels: Sequence[Labels], places: dict[Id, int]
) -> list[Row]:
    return [
        Row(
            name,
            str(image.path),
            shares_target(objects_of(config, own.shapes, places)),
            problem=image.problem or own.problem,
        )
        for name, image, own in zip(
            names_of(config.data.root, [one.path for one in images]), images, labels, strict=True
        )
    ]
