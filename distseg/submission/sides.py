"""What a submission and its truth hold, by the ids of images, as a run's config reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.formats import folder as folder_layout
from distseg.data.formats.names import DEEP, ID, Name, files_in
from distseg.data.formats.row import EMPTY_CELLS, files_per_class, is_image, plain
from distseg.data.image_file import image_size
from distseg.data.judge import Held
from distseg.data.layouts import layout
from distseg.data.read_target import open_target
from distseg.records.errors import UserError, unknown
from distseg.submission.read import RleTable, open_masks

Planes = NDArray[np.uint8]  # (K, H, W), VOID where a pixel counts nowhere
Size = tuple[int, int]


@dataclass(frozen=True)
class MaskImages:
    """A folder of mask images. targets: by id, as a row of a Manifest has them."""

    path: Path
    targets: Mapping[str, str]
    config: Config

    def size(self, name: str) -> Size | None:
        """(height, width) of the mask, from its header."""
        first = next(path for path in self._paths(name) if path)
        return image_size(first, self.config.data.max_pixels)

    def planes(self, name: str, height: int, width: int) -> tuple[Planes, list[Held]]:
        """The masks of an image, and what their files hold."""
        found = open_target(self.targets[name], self.config, height, width)
        return found.planes, list(found.codings)

    def _paths(self, name: str) -> list[str]:
        return self.targets[name].removeprefix("file:").replace("|", ";").split(";")


@dataclass(frozen=True)
class MaskTable:
    """A table of RLEs. targets: by id, the key of each class's row; "" where there is none."""

    path: Path
    targets: Mapping[str, Sequence[str]]
    config: Config
    table: RleTable

    def size(self, name: str) -> Size | None:
        """An RLE does not say how large its image is."""
        return None

    def planes(self, name: str, height: int, width: int) -> tuple[Planes, list[Held]]:
        """The masks of an image; in multiclass a pixel that no RLE covers is of the first class."""
        nothing = np.zeros((height, width), np.uint8)
        rows = [
            self.table.values(key, height, width) if key else nothing for key in self.targets[name]
        ]
        planes = np.stack(rows)
        if self.config.task == "multiclass":
            planes = planes.argmax(axis=0)[None].astype(np.uint8)
        return planes, []


Side = MaskImages | MaskTable


def open_sides(
    config: Config, submission: Path, truth: Path, rle: Mapping[str, Any]
) -> tuple[Side, Side]:
    """The submission and the truth. rle: how tables count; see `mask_values.run_rle`.

    UserError: one cannot be read, or is not of the config's classes."""
    if not submission.is_dir():
        guess: Side = _table(config, submission, rle)
    else:
        targets = _files(config, submission)
        named = {folder_layout.image_id(config, name): one for name, one in targets.items()}
        guess = MaskImages(submission, targets, config)
        if len(named) == len(targets) and config.data.format == "folder":  # as images are named
            guess = replace(guess, targets=named)
    if not truth.is_dir():
        return guess, _table(config, truth, rle)
    return guess, MaskImages(truth, _truth_files(config, truth, set(guess.targets)), config)


def _table(config: Config, path: Path, rle: Mapping[str, Any]) -> MaskTable:
    table = open_masks(path, **rle, per_object=config.submission.per_object)
    assert isinstance(table, RleTable)
    rows = {
        key: (line, "" if text.strip().lower() in EMPTY_CELLS else text)
        for key, (line, text) in table.rows.items()
    }
    table = replace(table, rows=rows, options={**rle, "empty": ""})
    return MaskTable(path, _keys(config, table), config, table)


def _keys(config: Config, table: RleTable) -> dict[str, list[str]]:
    """The key of the row of each class, by id."""
    if len(config.classes) == 1:
        wrong = next((pair for pair in table.pairs.values() if pair[1] not in config.classes), None)
        if wrong and table.sparse:
            raise unknown("class", wrong[1], config.classes, f"{table.path}: ")
        return {name: [name] for name in table.rows} if not table.sparse else {
            table.pairs[key][0]: [key] for key in table.rows
        }  # fmt: skip
    if not table.pairs:
        raise UserError(
            f"{table.path}: has no column of classes, and the run has {len(config.classes)}: "
            f"{', '.join(config.classes)}"
        )
    names = _class_names(config)
    found: dict[str, list[str]] = {}
    for key, (name, label) in table.pairs.items():
        if label not in names:
            raise unknown("class", label, names, f"{table.path}: ")
        found.setdefault(name, [""] * len(config.classes))[names[label]] = key
    return found


def _class_names(config: Config) -> dict[str, int]:
    """The number of each class by its name, and by what the data set's tables call it."""
    try:
        called = layout(config.data.format).submission(config).class_ids or ()
    except (UserError, OSError):  # the data set is not here
        called = ()
    called = called or tuple(str(n) for n in range(1, len(config.classes) + 1))
    own = {name: number for number, name in enumerate(config.classes)}
    return {**dict(zip(called, own.values(), strict=False)), **own}


def _files(config: Config, path: Path) -> dict[str, str]:
    """Masks as `distseg predict` writes them, with all below the folder: by the path of the mask
    below it, in multilabel below the folder of its class."""
    inside = [path / name for name in config.classes] if config.task == "multilabel" else [path]
    tables = [dict(_tree(one)) for one in inside]
    per_class = config.task == "multilabel" and any(tables)
    if config.task == "multilabel" and not per_class:
        tables = [dict(_tree(path))]  # a file for all classes
    ids = dict.fromkeys(name for table in tables for name in table)
    if not ids:
        raise UserError(f"{path}: no masks here")
    files = {name: [table.get(name, "") for table in tables] for name in ids}
    if per_class:
        return {name: files_per_class(own) for name, own in files.items()}
    return {name: f"file:{own[0]}" for name, own in files.items()}


def _truth_files(config: Config, path: Path, known: set[str]) -> dict[str, str]:
    """Masks as the data set has them, with what the config says of their names. known: the ids of
    the submission. UserError: a mask has another name, or is a second one of its image."""
    options = folder_layout.found(config)
    if ID in options.masks:
        inside = "/".join(dropwhile(lambda part: ID not in part, options.masks.split("/")))
        listed = files_in(path, inside, None, "masks")
        return {one.id: "file:" + ";".join(one.files) for one in listed}
    pattern = options.mask or f"{ID}{options.mask_suffix}"
    joined: dict[str, list[list[str]]] = {}
    for key, target in _files(config, path).items():
        above, slash, last = key.rpartition("/")
        ids = {name.removeprefix(f"{above}{slash}") for name in known}
        own = Name(pattern).of_stems.id_of_several(f"{last}.png", ids)
        planes = target.removeprefix("file:").split("|")
        first = next(plane for plane in planes if plane)
        if own is None:
            raise UserError(f"{first}: is not named {pattern}, as the run's masks are")
        masks = joined.setdefault(_known(options.masks, above, own, known), [[] for _ in planes])
        for plane, mask in zip(planes, masks, strict=True):
            mask.extend([plane] if plane else [])
            if len(mask) > 1 and options.several == "refuse":
                raise UserError(f"{first}: a second mask of {own!r}, beside {Path(mask[0]).name}")
    return {
        name: "file:" + "|".join(";".join(mask) for mask in masks) for name, masks in joined.items()
    }


def _known(masks: str, place: str, own: str, known: set[str]) -> str:
    """The id of an image by the folders of its mask, below the truth's, and its id there: as
    `predict` calls it, which keeps the folders, or as the run. masks: the run's folder of them."""
    _, deep, last = masks.partition(DEEP)
    above = place.removesuffix(last.strip("/")).rstrip("/") if deep else place
    path = f"{above}/{own}".lstrip("/")
    others = (own, path.replace("/", "_")) if deep else ()
    return next((one for one in (path, *others) if one in known), path)


def _tree(folder: Path) -> Iterator[tuple[str, str]]:
    """(path below the folder without its suffix, file) of each image file below it."""
    first: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if not is_image(file.name) or any(part[0] == "." for part in inside.parts) or file.is_dir():
            continue
        name = plain(inside.with_suffix("").as_posix())
        if first.setdefault(name, file) is not file:
            raise UserError(f"{file}: a second mask of {name!r}, beside {first[name].name}")
        yield name, str(file)
