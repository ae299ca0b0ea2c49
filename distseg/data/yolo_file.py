"""The files of a YOLO segmentation data set (ultralytics): a YAML of parts and names, and for each
image a text with a line for each object, `class x y x y ...`, in shares of width and height.

What is wrong with the YAML is a UserError; what is wrong with one text is a problem of its image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from distseg.config.load import load_yaml
from distseg.data.categories import Id
from distseg.data.formats.row import IMAGE_SUFFIXES, locate
from distseg.data.places import locate_inside
from distseg.data.shapes import POLYGON
from distseg.records.errors import UserError, printable_path, shown
from distseg.records.files import open_regular, path_problem

PARTS = ("train", "val", "test")
NAMES, PATHS = ("*.yaml", "*.yml"), ".txt"
MAX_BYTES = 16 << 20  # of a text of objects
MAX_LIST_BYTES = 256 << 20  # of a text of images: a line each
ROUNDED = 0.001  # that a number may lie outside of 0..1; drawing moves it to the edge
BOX = "a box, not a polygon"


@dataclass(frozen=True, slots=True)
class Image:
    """path: of the image, absolute; labels: of its text, which need not be there. problem: why the
    image may not be used."""

    path: Path
    labels: Path
    problem: str = ""


@dataclass(frozen=True, slots=True)
class YoloFile:
    """What a YAML says. names: of the classes, by their number. parts: the images of each part that
    it names and that there are; notes: what became of the others."""

    path: Path
    names: dict[Id, str]
    parts: dict[str, list[Image]]
    notes: list[str]


@dataclass(slots=True)
class Labels:
    """The objects of an image: their shapes by class, as texts of data/shapes.py. lines: how many
    it has; boxes: how many of them are boxes. problem: why one of them cannot be used."""

    shapes: dict[Id, list[str]] = field(default_factory=dict)
    lines: int = 0
    boxes: int = 0
    problem: str = ""


def yaml_files(root: Path) -> list[Path]:
    """The YAML files of a folder that name classes and a train part."""
    paths = sorted(path for name in NAMES for path in root.glob(name) if path.name[0] != ".")
    return [path for path in paths if not locate(root, path.name)[1] and _is_yolo(path)]


def _is_yolo(path: Path) -> bool:
    try:
        return load_yaml(path).keys() >= {"names", "train"}
    except UserError:
        return False


def read_yolo(root: Path, given: str | None) -> YoloFile:
    """Read the YAML of a data set, and list its images; `given` names it. UserError: see above."""
    path, root = _yaml_file(root, given), root.absolute()
    tree = load_yaml(path)
    if "kpt_shape" in tree:
        raise UserError(f"{path}: kpt_shape: the labels are boxes with key points, not polygons")
    base = _base(root, path, tree.get("path"))
    parts, notes = dict[str, list[Image]](), list[str]()
    for part in (one for one in PARTS if tree.get(one) is not None):
        try:
            parts[part] = _part(root, base, f"{path}: {part}", tree[part])
        except UserError as error:
            if part != "test":  # which many a YAML names that has none
                raise
            notes.append(f"no image is predicted: {error}")
    if "train" not in parts:
        raise UserError(f"{path}: train: it names no folder of train images")
    same = _same(path, parts)
    notes += [f"{path}: {part} has the images of {same[part]}: no part of its own" for part in same]
    own = {part: images for part, images in parts.items() if part not in same}
    return YoloFile(path, _names(path, tree.get("names")), own, notes)


def _yaml_file(root: Path, given: str | None) -> Path:
    if given is not None:
        path, problem = locate_inside(root, given)
        if problem := problem or path_problem(path):
            raise UserError(f"data.yolo.yaml: {given}: {problem}")
        return path
    found = yaml_files(root)
    if not found:
        raise UserError(
            f"{root}: has no YAML with `names` and `train`: write a data.yaml, as `path: .`, "
            "`train: images/train`, `val: images/val`, `names: [cell]`"
        )
    if len(found) > 1:
        names = " and ".join(path.name for path in found[:3])
        raise UserError(f"data.yolo.yaml: {names} may be it; name it")
    return found[0]


def _names(path: Path, value: Any) -> dict[Id, str]:
    names = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: names: {shown(value)}; valid: a list, or `number: name`")
    for number, name in names.items():
        if type(number) is not int or number < 0:
            raise UserError(f"{path}: names: {shown(number)}; valid: numbers from 0")
        if type(name) not in (str, int):  # yes and no are truths in YAML
            raise UserError(f"{path}: names.{number}: {shown(name)}; valid: a text")
    return {number: str(names[number]) for number in sorted(names)}


# -- places ---------------------------------------------------------------------------------------


def _base(root: Path, path: Path, given: Any) -> Path:
    """The folder that the parts begin in: `path` where it is one of the data, else, as where it is
    that of another machine, the YAML's own."""
    if given is None:
        return path.absolute().parent
    base = Path(os.path.normpath(path.absolute().parent / _text(f"{path}: path", given)))
    is_own = base.is_relative_to(root) and base.is_dir()
    return base if is_own else path.absolute().parent


def _part(root: Path, base: Path, where: str, value: Any) -> list[Image]:
    """The images of a part: of a folder, of a list of images, or of several of them."""
    entries = value if isinstance(value, list) else [value]
    places = [_place(root, base, where, entry) for entry in entries]
    listed = (image for place in places for image in _images(root, base, place))
    images = list({image.path: image for image in listed}.values())  # an entry may hold another
    if not images:
        raise UserError(f"{where}: {shown(value)}: no image files there")
    owners: dict[Path, Image] = {}
    for image in images:
        other = owners.setdefault(image.labels, image)
        if other.path != image.path:  # a.jpg and a.png: which of them the text belongs to
            problem = f"{other.path.name} and {image.path.name} share {image.labels.name}"
            owners[image.labels] = replace(other, problem=problem)
    shared = {path: one.problem for path, one in owners.items()}
    return [replace(one, problem=one.problem or shared[one.labels]) for one in images]


def _place(root: Path, base: Path, where: str, entry: Any) -> Path:
    """A folder, or a list of images. A `../` that leads to nothing counts as left out: Roboflow
    writes `../train/images` for a folder beside its YAML."""
    text = _text(where, entry)
    place = Path(os.path.normpath(base / text))
    if text.startswith("../") and not place.exists():
        place = Path(os.path.normpath(base / text.removeprefix("../")))
    if problem := _outside(root, place):
        raise UserError(f"{where}: {text}: {problem}")
    if problem := path_problem(place, "file" if place.suffix == PATHS else "folder"):
        raise UserError(f"{where}: {printable_path(place)}: {problem}")
    return place


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"{where}: {shown(value)}; valid: a path")
    return value.replace("\\", "/")


def _outside(root: Path, place: Path) -> str:
    """Why a path may not be used; "" where it lies in the folder of the data."""
    if place == root:
        return ""
    if not place.is_relative_to(root):
        return f"lies outside of data.root, {root}"
    return locate_inside(root, place.relative_to(root).as_posix())[1]


def _images(root: Path, base: Path, place: Path) -> Iterator[Image]:
    """The images of a folder and of all folders in it, or those of a list."""
    is_list = place.suffix == PATHS
    if is_list:
        paths = [Path(os.path.normpath(_listed(place, base, line))) for line in _lines(place)]
    else:
        paths = [
            Path(above, name)
            for above, inside, names in _walk(place)
            for name in names
            if name[0] != "." and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    folders: dict[Path, tuple[Path, str]] = {}
    for path in dict.fromkeys(paths):
        folder = path.parent
        if folder not in folders:
            folders[folder] = _labels_folder(root, folder)
        labels, problem = folders[folder]
        text = f"{path.stem}{PATHS}"
        problem = problem or locate(folder, path.name)[1] or locate(labels, text)[1]
        problem = problem or (path_problem(path) if is_list else "")
        yield Image(path, labels / text, problem)


def _labels_folder(root: Path, folder: Path) -> tuple[Path, str]:
    """The folder of the texts of a folder's images, and why one of the two may not be used: it is
    `labels` where the path has an `images`, the last of them counts; else the same."""
    if problem := _outside(root, folder):
        return folder, problem
    parts = list(folder.relative_to(root).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = root.joinpath(*parts)
    return labels, _outside(root, labels)


def _walk(place: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for above, inside, names in os.walk(place):
        inside[:] = sorted(name for name in inside if name[0] != ".")
        yield above, inside, sorted(names)


def _lines(path: Path) -> list[str]:
    text = _read(path, MAX_LIST_BYTES).replace("\\", "/")
    return [line.strip() for line in text.splitlines() if line.strip() and "\0" not in line]


def _listed(place: Path, base: Path, line: str) -> Path:
    """The image of a line: from the list's own folder where it begins with `./`, or lies there."""
    beside = place.parent / line
    return beside if line.startswith("./") or beside.is_file() else base / line


def _same(path: Path, parts: Mapping[str, list[Image]]) -> dict[str, str]:
    """The parts that have the images of an earlier one. UserError: some, but not all of them."""
    paths = {part: {image.path for image in images} for part, images in parts.items()}
    same: dict[str, str] = {}
    for number, part in enumerate(parts):
        for other in list(parts)[:number]:
            shared = sorted(paths[part] & paths[other])
            if shared and paths[part] != paths[other]:
                raise UserError(
                    f"{path}: {part}: {len(shared)} of its images are in {other}, too, as "
                    f"{shared[0].name}: an image belongs to one part"
                )
            if shared:
                same.setdefault(part, other)
    return same


# -- objects --------------------------------------------------------------------------------------


def read_labels(image: Image, names: Mapping[Id, str]) -> Labels:
    """The objects of an image. Without a text, and of an empty one, there are none."""
    found, path = Labels(), image.labels
    if image.problem or not path.exists():
        return found
    try:
        lines = _read(path, MAX_BYTES).splitlines()
    except UserError as error:
        found.problem = str(error)
        return found
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            found.lines += 1
            found.boxes += len(words) == 5
            try:
                category, shape = _object(words, names)
                found.shapes.setdefault(category, []).append(shape)
            except ValueError as error:
                found.problem = found.problem or f"{path.name}, line {number}: {error}"
    return found


def _object(words: list[str], names: Mapping[Id, str]) -> tuple[int, str]:
    """(class, shape) of a line. ValueError: it is no polygon."""
    if len(words) == 5:
        raise ValueError(BOX)
    try:
        first, *numbers = map(float, words)
    except ValueError:
        raise ValueError(f"{shown(' '.join(words)[:80])}: valid: numbers") from None
    if first not in names:
        raise ValueError(f"class {words[0][:40]} is none of the {len(names)} that `names` has")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers; valid: x and y of three corners or more")
    for value in numbers:
        if not -ROUNDED <= value <= 1 + ROUNDED:  # nor is nan
            raise ValueError(f"{value:g} is no share of the image; valid: 0..1")
    return int(first), POLYGON + " ".join(words[1:])


def _read(path: Path, most: int) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UserError(f"{path}: has more than {most >> 20} MiB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
