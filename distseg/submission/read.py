"""Masks as people hand them in or keep as truth: a table of RLEs, or a folder of mask images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.data.formats.row import image_files
from distseg.data.image_file import image_size
from distseg.data.mask_file import read_labels
from distseg.functional import rle
from distseg.records.errors import UserError
from distseg.records.tables import read_cells

JOINED = "imageid_classid"  # an id and a class in one cell, as Severstal has them
ID_NAMES = ("id", "imageid", "image_id", "image", "img", "name", "filename", JOINED)
RLE_NAMES = (
    "rle_mask",
    "encodedpixels",
    "encoded_pixels",
    "rle",
    "mask",
    "segmentation",
    "predicted",
)
CLASS_NAMES = ("classid", "class_id", "class", "label")
VALID_RLE = "valid: pairs `start length`, ascending, inside the image, or nothing for no object"
_NAME = re.compile(r"[A-Za-z_][\w .-]*")


@dataclass(frozen=True)
class RleTable:
    """A CSV or TSV, with a header or without: id and RLE, or id, class and RLE.

    rows: line number and RLE by key; the key of a row with a class is `ID_CLASS`. per_object:
        several rows of a key are a union, and their RLEs are joined by ";".
    pairs: (id, class) by key, where a row is one class of an image.
    sparse: with a class column, a pair without a row is a pair without an object.
    """

    path: Path
    options: dict[str, Any]
    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    sparse: bool = False
    per_object: bool = False

    @property
    def keys(self) -> list[str]:
        """In the order of the file."""
        return list(self.rows)

    def size(self, key: str) -> None:
        """An RLE does not say how large its image is."""

    def values(self, key: str, height: int, width: int) -> NDArray[np.uint8]:
        """uint8 (H, W) of 0 and 1. UserError names file, line and what is wrong."""
        if key not in self.rows and self.sparse:
            return np.zeros((height, width), dtype=np.uint8)
        line, text = self.rows[key]
        try:
            return rle.decode_union(text.split(";"), height, width, **self.options)
        except ValueError as error:
            raise UserError(
                f"{self.path}, line {line}: {key!r}, of {height}x{width}: {error}; {VALID_RLE}"
            ) from None


@dataclass(frozen=True)
class MaskFolder:
    """Mask images: the key is the stem; in a folder per class it is `STEM_FOLDER`."""

    path: Path
    files: dict[str, Path]
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    sparse: bool = False

    @property
    def keys(self) -> list[str]:
        """In the order of the files' names."""
        return list(self.files)

    def size(self, key: str) -> tuple[int, int]:
        """(height, width) of the mask image, from its header."""
        return image_size(self.files[key])

    def values(self, key: str, height: int, width: int) -> NDArray:
        """The image's own values, (H, W)."""
        values = read_labels(self.files[key])
        if values.shape != (height, width):
            found = f"{values.shape[0]}x{values.shape[1]}"
            raise UserError(f"{self.files[key]}: is {found}, its image is {height}x{width}")
        return values


MaskSource = RleTable | MaskFolder


def open_masks(
    path: Path, *, order: str = "column", base: int = 1, empty: str = "", per_object: bool = False
) -> MaskSource:
    """Masks of a table or a folder, by key. per_object: several rows of a key are a union.
    UserError: nothing usable there."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _open_folder(path)
    options = {"order": order, "base": base, "empty": empty}
    table = RleTable(path, options, per_object=per_object)
    lines = read_cells(path, "\t,;")
    line, first = next(lines, (0, []))
    if not first:
        raise UserError(f"{path}: is empty; valid: lines of id and RLE")
    header = _is_header(first, empty)
    names = [cell.strip().lower() for cell in first]
    columns = _columns(path, names, header)
    joined = header and names[columns[0]] == JOINED
    if not header:
        _add(table, line, first, columns, len(first), joined)
    for line, cells in lines:
        _add(table, line, cells, columns, len(first), joined)
    if not table.rows:
        raise UserError(f"{path}: has a header and no rows")
    return replace(table, sparse=len(columns) == 3)


def _open_folder(path: Path) -> MaskFolder:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")
    found = MaskFolder(path, {})
    files = found.files
    for folder in folders or [path]:
        for file in image_files(folder, "masks"):
            key = f"{file.stem}_{folder.name}" if folders else file.stem
            if key in files:
                raise UserError(f"{file}: a second mask of {key!r}, beside {files[key].name}")
            files[key] = file
            if folders:
                found.pairs[key] = (file.stem, folder.name)
    return found


def _is_header(cells: list[str], empty: str) -> bool:
    """Whether no cell of the first row could be an RLE, and one reads like a column's name."""
    last = cells[-1].strip()
    return last != empty.strip() and _NAME.fullmatch(last) is not None


def _columns(path: Path, names: list[str], header: bool) -> tuple[int, ...]:
    """Places of id and RLE, or of id, class and RLE."""
    if len(names) < 2:
        raise UserError(f"{path}, line 1: {names[0]!r} is one cell; valid: id and RLE, separated")
    if not header:
        if len(names) > 3:
            raise UserError(f"{path}, line 1: {len(names)} cells; valid: id, RLE or id, class, RLE")
        return tuple(range(len(names)))
    rles = [i for i, name in enumerate(names) if name in RLE_NAMES] or [len(names) - 1]
    ids = [i for i, name in enumerate(names) if name in ID_NAMES and i != rles[0]] or [0]
    classes = [
        i for i, name in enumerate(names) if name in CLASS_NAMES and i not in (ids[0], rles[0])
    ]
    if len(names) > 2 and not classes and names[rles[0]] not in RLE_NAMES:
        raise UserError(
            f"{path}, line 1: none of the columns {', '.join(names)} is known to hold RLEs; "
            f"valid: {', '.join(RLE_NAMES)}"
        )
    return (ids[0], classes[0], rles[0]) if classes else (ids[0], rles[0])


def _add(
    table: RleTable, line: int, cells: list[str], columns: tuple[int, ...], width: int,
    joined: bool,
) -> None:  # fmt: skip
    if len(cells) != width:
        shown = cells[0][:40]
        raise UserError(f"{table.path}, line {line}: {shown!r}: {len(cells)} cells; valid: {width}")
    *names, text = (cells[column].strip() for column in columns)
    if not all(names):
        raise UserError(f"{table.path}, line {line}: the id is empty")
    key = "_".join(names)
    if ";" in text:  # which joins the RLEs of a key here
        raise UserError(f"{table.path}, line {line}: {text[:40]!r} is no RLE; {VALID_RLE}")
    if key in table.rows and table.per_object:
        first_line, before = table.rows[key]
        table.rows[key] = (first_line, f"{before};{text}")
        return
    if key in table.rows:
        first = table.rows[key][0]
        raise UserError(
            f"{table.path}, line {line}: {key!r} was on line {first} already; valid: each id once"
        )
    table.rows[key] = (line, text)
    if joined or len(names) > 1:
        name, _, class_id = key.rpartition("_")
        table.pairs[key] = (names[0], names[1]) if len(names) > 1 else (name, class_id)
