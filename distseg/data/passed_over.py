"""Files that lie beside those that a layout reads, and that nobody reads: said, never silent."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats.names import folders_in
from distseg.data.formats.row import Row, file_name, is_image
from distseg.data.formats.words import VAL
from distseg.data.layouts import layout
from distseg.data.places import DEPTH, called_masks

# Of files that are no data: tables, notes, what systems leave behind.
OTHER_SUFFIXES = (".csv", ".txt", ".json", ".xml", ".yaml", ".yml", ".md", ".db", ".ini", ".html")
LOOKED_AT = 1000  # entries of a folder beside, to find out whether it holds images


def passed_over(config: Config) -> list[str]:
    """A line for each folder with files that the layout does not read, with their number and three
    names; and for each folder of images beside those that it reads."""
    if config.data.format == "synthetic":
        return []
    data = config.data.model_copy(update={"limit": None})
    rows = list(_rows(config.model_copy(update={"data": data})))
    files = {path for row in rows for path in (row.image, *mask_files(row.target))}
    absolute = functools.cache(lambda folder: Path(folder).absolute())  # of each file takes long
    folders = {absolute(path.rpartition(os.sep)[0]) for path in files}
    used = {f"{absolute(path.rpartition(os.sep)[0])}{os.sep}{file_name(path)}" for path in files}
    tops = {folder for folder in folders if not folders & set(folder.parents)}
    lines = [line for folder in sorted(tops) for line in left_out(folder, used)]
    return lines + list(_beside(config, tops))


def _rows(config: Config) -> Iterator[Row]:
    form = layout(config.data.format)
    yield from form.train(config)
    yield from form.test(config)
    yield from form.test_truth(config) or []


def left_out(folder: Path, used: set[str]) -> Iterator[str]:
    """A line for each folder in `folder`, and for itself, with files that are not in `used`."""
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        left = [
            name
            for name in sorted(names)
            if name[0] != "." and not name.lower().endswith(OTHER_SUFFIXES)
            if f"{place}{os.sep}{name}" not in used
        ]
        if left:
            yield f"{place}: {told(left)} not read"
    yield from (f"{error.filename}: {_closed(error)}" for error in closed)


def _closed(error: OSError) -> str:
    return f"cannot be looked into: {error.strerror}"  # lost+found of a disk


def told(names: list[str]) -> str:
    """`1 file (a.png) is`, `12 files (a.png, b.png, c.png, ...) are`."""
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"1 file ({shown}) is" if len(names) == 1 else f"{len(names)} files ({shown}) are"


def _beside(config: Config, tops: set[Path]) -> Iterator[str]:
    """tops: folders that are read, with all below them."""
    root = Path(config.data.root).absolute()
    above = {parent for folder in tops for parent in folder.parents} | {root}
    for place in sorted(one for one in above - tops if one.is_relative_to(root)):
        for path in folders_in(place):
            if path in above | tops:
                continue
            closed: list[OSError] = []
            found = _with_images(path, DEPTH, closed)
            yield from (f"{error.filename}: {_closed(error)}" for error in closed)
            more = f", and {len(found) - 1} more in {path}" if found[1:] else ""
            if found:
                hint = _hint(config, found[0].relative_to(root))
                yield f"{found[0]}: a folder of images that is not read{more}{hint}"


def _hint(config: Config, folder: Path) -> str:
    """The key by which images that nobody reads would be read."""
    if config.data.format != "folder" or called_masks(folder.name):
        return ""
    form = layout("folder")
    if set(re.findall("[a-z]+", str(folder).lower())) & set(VAL):
        use = "val_images (and val_masks)", "validate with"
        has_part = form.has_split(config)
    else:
        use, has_part = ("test_images", "predict"), bool(form.test(config))
    return "" if has_part else f"; data.folder.{use[0]}: {folder} would {use[1]} them"


def _with_images(folder: Path, depth: int, closed: list[OSError]) -> list[Path]:
    """The folder where it holds images, else those in it that do, so many levels deep. closed:
    takes an error for each folder that one may not look into."""
    try:
        with os.scandir(folder) as entries:
            if any(is_image(entry.name) for entry in islice(entries, LOOKED_AT)):
                return [folder]
        inside = folders_in(folder)[:LOOKED_AT] if depth else []
    except OSError as error:
        closed.append(error)
        return []
    return [found for one in inside for found in _with_images(one, depth - 1, closed)]
