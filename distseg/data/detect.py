"""Which layout a folder has: the first whose `detect` recognizes it.

A layout is detected where its module of data/formats/ has a function `detect(root)`, which returns
`Detected`, or None where the folder is none of its own. It reads names, heads of tables, and at
most a few masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from distseg.config.data import FolderConfig, changed_keys
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats import nnunet
from distseg.data.formats.arrangement import arranged, class_folders, usual_tests
from distseg.data.formats.detected import Detected
from distseg.data.formats.doubts import Doubt
from distseg.data.formats.names import has_images
from distseg.data.layouts import FORMATS
from distseg.records.errors import UserError, printable_path
from distseg.records.files import path_problem
from distseg.records.log import counted

_LABELS = (("coco", (".json",)), ("yolo", (".txt",)), ("table", (".csv", ".tsv")))
LOOKED_AT = 2000  # names of files


def detect(root: Path) -> Detected:
    """The layout of a folder. UserError: it is no folder, no layout recognizes it, or several of
    its folders could be meant."""
    if problem := path_problem(root, "folder"):
        raise UserError(f"{printable_path(root)}: {problem}")
    for module in (nnunet, *FORMATS.values()):
        look = getattr(module, "detect", None)
        if look is not None and (found := look(root)) is not None:
            return found
    try:
        if (found := _by_names(root)) is not None:
            return found
    except Doubt as doubt:  # with the format nothing is detected, and the keys count
        raise UserError(f"{doubt}; write data.format=folder beside it") from None
    said = "".join(f"\n{line}" for line in _reasons(root))
    inside = ", ".join(sorted(p.name for p in islice(root.iterdir(), 12))) or "nothing"
    raise UserError(
        f"{printable_path(root)}: no layout is recognized (it holds {inside}{_lacking(root)}). "
        "Images and masks of the same names belong into two folders, `images` and `masks`; else "
        "say where they are: data.format=folder data.folder.images=DIR data.folder.masks=DIR"
        f"{said}"
    )


def _lacking(root: Path) -> str:
    """What is wrong with the masks of images that are where they belong; "" where none are."""
    if not has_images(root / "images"):
        return ""
    try:
        rows = FORMATS["folder"].train(_bare("folder", root))
    except UserError as error:
        return f"; {error}"
    bad = [row for row in rows if row.problem]
    first = f"{printable_path(bad[0].image)}: {bad[0].problem}" if bad else ""
    return f"; {len(bad)} of {counted(len(rows), 'image')} cannot be used: {first}" if bad else ""


def _reasons(root: Path) -> Iterator[str]:
    """Why files that look like labels are none: what each layout that reads such files says."""
    for name, suffixes in _LABELS:
        if any(path.suffix.lower() in suffixes for path in islice(root.rglob("*"), LOOKED_AT)):
            try:
                FORMATS[name].train(_bare(name, root))
            except UserError as error:
                yield f"read with data.format={name}: {error}"


def _bare(name: str, root: Path, keys: Mapping[str, Any] = {}) -> Config:
    """A config of a layout without a key of its own but those of the data."""
    data = {**keys.get("data", {}), "format": name, "root": str(root)}
    return parse_config({**keys, "data": data, "members": {"any": {}}, "name": "any"}, str(root))


def _by_names(root: Path) -> Detected | None:
    """What the layout `folder` finds without a key of its own. Doubt: it may be several things."""
    try:
        options = arranged(root, FolderConfig())
        is_usual = not changed_keys(options) & {"images", "masks"}
        if is_usual and not has_images(root / "test_images"):
            options = options.model_copy(update=usual_tests(root))
        keys, empty = _keys(root, options)
        config = _bare("folder", root, keys)
        rows = FORMATS["folder"].train(config)
    except Doubt:
        raise
    except UserError:
        return None
    good = [row for row in rows if row.target and not row.problem]
    if not good or 2 * len(good) < len(rows):
        return None
    if any(row.validates for row in good):
        keys["data"]["folds"] = {"kind": "split"}
    pair = (good[0].image, mask_files(good[0].target)[0])
    image, mask = (os.path.relpath(path, root) for path in pair)
    why = f"{image} and {mask} belong together, and so on"
    return Detected(keys, "; ".join([why, *(f"{name} is empty" for name in empty)]))


def _keys(root: Path, options: FolderConfig) -> tuple[dict[str, Any], list[str]]:
    """(The keys of a config that reads the folder so, folders of classes without an image.)"""
    found = changed_keys(options)
    if found & {"images", "masks"}:  # both are said, or none
        found |= {"images", "masks"}
    folder = {key: getattr(options, key) for key in sorted(found)}
    keys: dict[str, Any] = {"data": {"format": "folder", **({"folder": folder} if folder else {})}}
    classes = class_folders(root, options)
    filled = [name for name, is_filled in classes.items() if is_filled]
    if filled:
        keys |= {"task": "multilabel", "classes": filled}
    return keys, [name for name in classes if name not in filled]
