"""What every data layout gives: rows, a submission's form, and paths that stay in their folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distseg.functional.naming import nearest
from distseg.records.errors import UserError

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".pgm", ".ppm", ".pbm", ".jp2", ".npy"),
)
# What tables write for a mask without an object.
EMPTY_CELLS = ("", "-1", "-", "nan", "none", "null", "[]")
Cell = Literal["id", "class", "rle"]  # what a column of a submission holds


@dataclass(frozen=True, slots=True)
class Row:
    """One image as the layout lists it, before anything was opened.

    target: "" (none), "file:PATH" (multilabel: "file:A|B", one path per class, empty where there
    is none, see `files_per_class`), or "rle:R" (one RLE per class, joined by "|"; from 0 or along
    the rows: the other TARGET_KINDS of functional/rle.py). Several paths or RLEs that are joined by
    ";" are one mask, their union. "shapes:S": data/shapes.py.
    validates: whether it belongs to the data set's own validation part (folds.kind: split).
    problem: why the row is known to be bad before its files are read; "" when it is not.
    height, width: native size in pixels; 0 while it is not known.
    """

    id: str
    image: str
    target: str = ""
    problem: str = ""
    validates: bool = False
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class SubmissionSpec:
    """The form of a submission.

    kind: a table of RLEs, or a folder of masks.
    columns, cells: the names of the columns, and what each of them holds.
    separator, header: what stands between two cells, and whether the first line names the columns.
    ids: the images, in the order to write them in.
    order, base: how an RLE counts pixels: down the columns or along the rows, from 0 or from 1.
    empty: what an empty mask is written as.
    class_ids: for several classes, what each is called; the table has a row per image and class.
        Without a cell "class" the class is appended to the id, as `ID_CLASS`. A class called ""
        has no rows: the background of a table that has none.
    per_object: whether a table of RLEs has a row for each connected object.
    """

    kind: Literal["rle", "masks"] = "rle"
    columns: tuple[str, ...] = ("id", "rle_mask")
    cells: tuple[Cell, ...] = ("id", "rle")
    separator: str = ","
    header: bool = True
    ids: list[str] = field(default_factory=list)
    order: Literal["column", "row"] = "column"
    base: Literal[0, 1] = 1
    empty: str = ""
    class_ids: tuple[str, ...] | None = None
    per_object: bool = False


def parts_together(train: Sequence[Row], val: Sequence[Row]) -> list[Row]:
    """The rows of both parts. Val's validate, and have `val_` before their ids where one of these
    is in train, too, as where each part counts from 1."""
    taken = {plain(row.id) for row in train}
    prefix = "val_" if any(plain(row.id) in taken for row in val) else ""
    return [*train, *(replace(row, id=prefix + row.id, validates=True) for row in val)]


def usual_submission(
    kind: Literal["rle", "masks"], classes: Sequence[str], ids: list[str], **form: Any
) -> SubmissionSpec:
    """The submission of a layout that has no form of its own. form: how its RLEs are written."""
    several = tuple(classes) if len(classes) > 1 else None
    columns = ("ImageId_ClassId", "EncodedPixels") if several else ("id", "rle_mask")
    return SubmissionSpec(kind, columns, ids=ids, class_ids=several, **form)


def locate(folder: Path, name: str) -> tuple[Path, str]:
    """The path `folder/name`, and why it may not be used ("" when it may): an id of a table, or a
    link, must not lead out of the folder."""
    if problem := name_problem(name):
        return folder, problem
    path = folder / name
    try:
        # without a separator in its name, only a link can lead elsewhere
        inside = not path.is_symlink() or path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        return folder, f"{name!r} is no usable file name: {error}"
    return path, "" if inside else f"{name!r} is a link that leaves its folder {folder}"


def name_problem(name: str) -> str:
    """Why nothing in a folder may be called so; "": it may."""
    if (
        not name
        or name in (".", "..")
        or name != name.strip()
        or "\0" in name
        or "/" in name
        or "\\" in name
    ):
        return f"{name[:80]!r} is no plain file name, or leaves its folder"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # Python keeps such bytes of a file's name as lone surrogates
        return f"{name[:80]!r} is no name in UTF-8, which the tables are written in"
    return f"{name[:80]!r}... is too long for a file name" if length > 255 else ""


def locate_plain(folder: Path, name: str, known: Mapping[str, Path]) -> tuple[Path, str]:
    """`locate` of a file that a table calls so, whichever form of Unicode either writes. known:
    `by_name` of the folder's files."""
    path, problem = locate(folder, name)
    return (path, problem) if problem else locate(folder, known.get(plain(name), path).name)


def plain(name: str) -> str:
    """A name as it is compared: one form (NFC) for what file systems write in several."""
    return unicodedata.normalize("NFC", name)


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by their plain file name."""
    return {plain(path.name): path for path in paths}


def files_per_class(files: Sequence[str]) -> str:
    """The target of a row with a binary mask file for each class. That of one class ends with "|",
    which tells it from a file that holds the numbers of all classes."""
    return "file:" + "|".join(files) + "|" * (len(files) == 1)


def joined_rles(cells: Iterable[str]) -> tuple[str, str]:
    """(RLE, problem) of the cells of a table that speak of one mask: one row per object is a union.
    What stands for an empty mask is no RLE."""
    texts = [cell.strip() for cell in cells if cell.strip().lower() not in EMPTY_CELLS]
    odd = next((text for text in texts if "|" in text or ";" in text), None)
    return (";".join(texts), "") if odd is None else ("", f"{odd[:40]!r} is no RLE")


def image_files(folder: Path, what: str) -> list[Path]:
    """Absolute paths of a folder's image files, by name. UserError when there is no folder."""
    folder = folder.absolute()
    return [folder / name for name in image_names(folder, what)]


def image_names(folder: Path, what: str) -> dict[str, bool]:
    """The names of a folder's image files, in order, and whether each is a link. UserError when
    there is no folder."""
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, siblings)
        hint = f" Did you mean {close!r}?" if close else ""
        raise UserError(f"{folder}: no such folder ({what}).{hint}")
    if found := sorted_images(folder):
        return found
    raise UserError(f"{folder}: no image files here ({what})")


def sorted_images(folder: Path) -> dict[str, bool]:
    """As `image_names`, also where there is none. OSError: one may not look into the folder."""
    with os.scandir(folder) as entries:  # tells links from files without a look at each
        return dict(sorted((x.name, x.is_symlink()) for x in entries if is_image(x.name)))


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return split_name(name)[1].lower() in IMAGE_SUFFIXES and name[0] != "."


def file_name(path: str) -> str:
    """The last name of a path, as a Path has it, at a tenth of its time."""
    return path.rpartition(os.sep)[2]


def split_name(name: str) -> tuple[str, str]:
    """Stem and suffix of a file's name, as a Path has them, at a tenth of its time."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")
