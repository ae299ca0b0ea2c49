"""Files that lie beside those that a layout reads, and that nobody reads: said, never silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats.row import IMAGE_SUFFIXES, Row
from distseg.data.layouts import layout

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
    used = {path for row in rows for path in (row.image, *mask_files(row.target))}
    used = {str(Path(path).absolute()) for path in used}
    folders = {Path(path).parent for path in used}
    tops = [folder for folder in folders if not folders & set(folder.parents)]
    lines = [line for folder in sorted(tops) for line in left_out(folder, used)]
    return lines + list(_beside(config, folders))


def _rows(config: Config) -> Iterator[Row]:
    form = layout(config.data.format)
    yield from form.train(config)
    yield from form.test(config)
    yield from form.test_truth(config) or []


def left_out(folder: Path, used: set[str]) -> Iterator[str]:
    """A line for each folder in `folder`, and for itself, with files that are not in `used`."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        left = [
            name
            for name in sorted(names)
            if name[0] != "." and not name.lower().endswith(OTHER_SUFFIXES)
            if str(Path(place) / name) not in used
        ]
        if left:
            yield f"{place}: {told(left)} not read"


def told(names: list[str]) -> str:
    """`1 file (a.png) is`, `12 files (a.png, b.png, c.png, ...) are`."""
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"1 file ({shown}) is" if len(names) == 1 else f"{len(names)} files ({shown}) are"


def _beside(config: Config, folders: set[Path]) -> Iterator[str]:
    root = Path(config.data.root).absolute()
    known = folders | {parent for folder in folders for parent in folder.parents}
    beside = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    lacks_test = config.data.format == "folder" and not layout("folder").test(config)
    for path in beside:
        inside = known & {path, *path.iterdir()}
        if not inside and not folders & set(path.parents) and _has_images(path):
            hint = (
                f"; data.folder.test_images: {path.name} would predict them" if lacks_test else ""
            )
            yield f"{path}: a folder of images that is not read{hint}"


def _has_images(folder: Path) -> bool:
    return any(
        path.suffix.lower() in IMAGE_SUFFIXES for path in islice(folder.iterdir(), LOOKED_AT)
    )
