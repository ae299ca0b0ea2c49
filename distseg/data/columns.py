"""What the columns of a table hold: image, class, mask; by their names, or by a key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.config.layouts import CsvConfig
from distseg.data.formats.row import EMPTY_CELLS, IMAGE_SUFFIXES
from distseg.records.errors import UserError, unknown
from distseg.records.tables import read_cells

SEPARATORS = "\t,;"
# Spellings, as `_bare` writes them; of several that a header has the first of the list counts.
IMAGE = (
    *("imageid", "imgid", "image", "img", "imagename", "imgname", "imagefile", "imagefilename"),
    *("imagepath", "imgpath", "filename", "filepath", "file", "fname", "path", "recordid", "name"),
    *("sampleid", "id"),
)
CLASS = (
    *("classid", "classname", "class", "label", "labelid", "labelname", "category", "categoryid"),
    "categoryname",
)
MASK = (
    *("encodedpixels", "encodedpixel", "rlemask", "maskrle", "rle", "rles", "rlestring", "rlecode"),
    *("encoding", "encoded", "pixels", "segmentation", "annotation", "predicted", "prediction"),
    *("predictedmask", "maskpath", "maskfile", "maskfilename", "maskname", "mask", "masks"),
)
CLOSE = 0.85  # how alike a name must be to one of these spellings, 0..1
_RLE = re.compile(r"\s*\d+(\s+\d+)+\s*")
_PLACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Form:
    """How a table is written.

    image: the column of the image, or a pattern of several, as "{subject}_{img}".
    joined: image and class are one cell, as `a.jpg_1`.
    """

    path: Path
    names: tuple[str, ...]
    separator: str
    header: bool
    image: str
    mask: str
    class_: str | None = None
    joined: bool = False

    @property
    def has_classes(self) -> bool:
        """Whether its lines name a class."""
        return self.class_ is not None or self.joined

    def lines(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, cells by column) of its rows. UserError: a row has more or fewer cells."""
        rows = read_cells(self.path, SEPARATORS)
        if self.header:
            next(rows)
        for line, cells in rows:
            if not self.header and len(cells) == len(self.names) - 1:
                cells = [*cells, ""]  # a mask that is empty, and no separator before it
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self.path}, line {line}: {len(cells)} cells; valid: {len(self.names)} "
                    f"({', '.join(self.names)})"
                )
            yield line, dict(zip(self.names, (cell.strip() for cell in cells), strict=True))

    @property
    def image_columns(self) -> list[str]:
        """The columns that name the image."""
        return _PLACES.findall(self.image) if "{" in self.image else [self.image]

    def image_of(self, cells: dict[str, str]) -> str:
        """What a row calls its image (and class, where they are joined); "" where it is empty."""
        if "{" not in self.image:
            return cells[self.image]
        parts = {name: cells[name] for name in self.image_columns}
        return _PLACES.sub(lambda m: parts[m[1]], self.image) if all(parts.values()) else ""

    def parts(self, cells: dict[str, str], classes: Sequence[str] = ()) -> tuple[str, str]:
        """Image and class of a row. A class of these names may hold a _ itself."""
        name = self.image_of(cells)
        if self.joined:
            return split_joined(name, classes)
        return name, cells[self.class_] if self.class_ else ""


def split_joined(cell: str, classes: Sequence[str]) -> tuple[str, str]:
    """`a.jpg_1` as image and class; the name of a class may hold a _ itself."""
    for name in sorted(classes, key=len, reverse=True):
        if cell.endswith(f"_{name}"):
            return cell.removesuffix(f"_{name}"), name
    image, _, value = cell.rpartition("_")
    return image, value


def is_empty(cell: str) -> bool:
    """Whether a cell stands for a mask without an object."""
    return cell.strip().lower() in EMPTY_CELLS


def is_path(cell: str) -> bool:
    return Path(cell).suffix.lower() in IMAGE_SUFFIXES


def read_form(path: Path, options: CsvConfig) -> Form:
    """The form of a table. UserError: a column is not known for sure; the message has the key."""
    rows = read_cells(path, SEPARATORS)
    _, first = next(rows, (1, []))
    if not first:
        raise UserError(f"{path}: is empty; valid: lines of image and mask")
    separator = _separator(path)
    if not any(is_path(cell.strip()) or _RLE.fullmatch(cell) for cell in first):
        return _by_names(path, first, separator, options)
    if len(first) not in (2, 3):
        raise UserError(
            f"{path}, line 1: {len(first)} cells and no names of columns; valid: image and mask, "
            "or image, class and mask"
        )
    names = ("image", "mask") if len(first) == 2 else ("image", "class", "mask")
    return Form(path, names, separator, False, "image", "mask", names[1] if names[2:] else None)


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.readline(1 << 20)
    return next((mark for mark in SEPARATORS if mark in start), ",")


def _by_names(path: Path, header: Sequence[str], separator: str, options: CsvConfig) -> Form:
    names = tuple(name.strip() for name in header)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"{path}, line 1: two columns are called {name!r}")
    mask = _column(path, names, MASK, options.mask_column, "mask")
    if mask is None:
        raise _unsure(path, names, "mask", MASK)
    left = [name for name in names if name != mask]
    class_ = _column(path, left, CLASS, options.class_column, "class")
    left = [name for name in left if name != class_]
    pattern = options.image_column
    if pattern is None and {"subject", "img"} <= set(left):
        pattern = "{subject}_{img}"  # Ultrasound Nerve: img counts within a subject
    if pattern is not None and "{" in pattern:
        for name in _PLACES.findall(pattern):
            if name not in names:
                raise unknown("column", name, names, f"data.csv.image_column: {pattern}: ")
        return Form(path, names, separator, True, pattern, mask, class_)
    image = _column(path, left, IMAGE, pattern, "image")
    joined = [name for name in left if _is_joined(name)]
    if class_ is None and (image in joined or (image is None and len(joined) == 1)):
        return Form(path, names, separator, True, image or joined[0], mask, joined=True)
    if image is None:
        raise _unsure(path, names, "image", IMAGE)
    return Form(path, names, separator, True, image, mask, class_)


def _column(
    path: Path, names: Sequence[str], spellings: Sequence[str], given: str | None, what: str
) -> str | None:
    """The column that holds the images, classes or masks; None where no name says so. UserError:
    the key names one that is not there, or several may be meant."""
    if given is not None:
        if given not in names:
            raise unknown("column", given, names, f"data.csv.{what}_column ({path}): ")
        return given
    bare = {_bare(name): name for name in names}
    found = [spelling for spelling in spellings if spelling in bare]
    own = [spelling for spelling in found if spelling not in ("id", "name", "path")] or found
    if not own and what != "class":
        close = [
            (one, name)
            for one in bare
            for name in difflib.get_close_matches(one, spellings, n=1, cutoff=CLOSE)
        ]
        if len(close) == 1:
            return bare[close[0][0]]
    if len(own) > 1:
        listed = " and ".join(repr(bare[one]) for one in own[:3])
        raise UserError(f"{path}: {listed} may hold the {what}; write data.csv.{what}_column")
    return bare[own[0]] if own else None


def _unsure(path: Path, names: Sequence[str], what: str, spellings: Sequence[str]) -> UserError:
    return UserError(
        f"{path}: no column is known to hold the {what}; it has {', '.join(names)}. Write "
        f"data.csv.{what}_column, or name it as {', '.join(spellings[:4])}"
    )


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_joined(name: str) -> bool:
    """Whether a column's name says that it holds image and class: `ImageId_ClassId`."""
    first, _, last = name.rpartition("_")
    return _bare(first) in IMAGE and _bare(last) in CLASS
