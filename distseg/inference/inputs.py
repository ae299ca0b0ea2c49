"""What `--images` names: a file, a folder with all that lies below it, a glob, or several."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distseg.config.data import MAX_PIXELS
from distseg.data.formats.row import IMAGE_SUFFIXES, image_files, locate, plain
from distseg.data.image_file import image_size
from distseg.data.passed_over import left_out, told
from distseg.records.errors import UserError, printable, printable_path
from distseg.records.manifest import Sample

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Broken = list[tuple[str, str]]  # (id, reason) of images that could not be read


@dataclass(frozen=True)
class Inputs:
    """The images to predict.

    root: the folder that their ids are relative to: the one that was named, that before the first
        wildcard, or that which all files have above them.
    samples: a row without a label each; its id is the path below `root`, without the suffix.
    odd: what looks like an image and is none, and why.
    is_folder: whether `root` is what was named, with all that lies in it.
    """

    root: Path
    samples: list[Sample] = field(default_factory=list)
    odd: Broken = field(default_factory=list)
    is_folder: bool = False


def find_images(
    images: PathLike | Sequence[PathLike], max_pixels: int = MAX_PIXELS, channels: int | None = None
) -> Inputs:
    """The images of files, folders and globs, sorted by path; what is not read is logged.

    channels: see `image_size`.

    UserError: one is not there, none can be used, or two have one id.
    """
    named = [images] if isinstance(images, str | os.PathLike) else list(images)
    if not named:
        raise UserError("--images: names nothing")
    places = [_place(str(one)) for one in named]
    top = Path(os.path.commonpath([folder for folder, _ in places]))
    found = Inputs(top, is_folder=len(places) == 1 and places[0][1] is None)
    paths: dict[Path, str] = {}  # and why one is no image
    for (folder, files), one in zip(places, named, strict=True):
        own = dict(_walk(folder) if files is None else _checked(files, str(one)))
        if not own:
            raise UserError(f"{one}: no image files here (--images)")
        paths |= own
        if files is None:
            for line in left_out(folder, {str(path) for path in own}):
                logger.warning("%s", printable(line))
    first: dict[str, Path] = {}
    for path, problem in sorted(paths.items()):
        name = path.relative_to(top).with_suffix("").as_posix()
        if problem:
            found.odd.append((printable_path(path.relative_to(top)), printable(problem)))
            logger.warning("%s: %s: gets no mask", *found.odd[-1])
            continue
        other = first.setdefault(plain(name), path)
        if other is not path:
            raise UserError(
                f"{printable_path(path)}: its mask would be that of {printable_path(other.name)}: "
                "two images of one name"
            )
        found.samples.append(image_sample(path, max_pixels, channels, name))
    if not found.samples:
        name, problem = found.odd[0]
        raise UserError(f"{named[0]}: no image here can be used (--images): {name}: {problem}")
    return found


def image_sample(
    path: Path, max_pixels: int = MAX_PIXELS, channels: int | None = None, name: str = ""
) -> Sample:
    """An image file as a row without a label: its id is `name`, or the file's stem. An image whose
    size is not known is 0 x 0."""
    try:
        height, width = image_size(path, max_pixels, channels)
    except UserError:
        height, width = 0, 0  # decoding will say what is wrong with it
    return Sample(name or path.stem, str(path), height=height, width=width)


def _place(name: str) -> tuple[Path, list[Path] | None]:
    """(The folder that ids are relative to, the files) of one argument; None for all in it."""
    path = Path(os.path.abspath(name))  # noqa: PTH100 (Path.absolute keeps `..`)
    try:
        is_there = os.path.lexists(path)
        if path.is_dir():
            return path, None
    except (OSError, ValueError) as error:
        raise UserError(f"--images: {printable_path(name)}: {error}") from None
    if is_there:
        return path.parent, [path]
    if not glob.has_magic(name):
        image_files(path, "--images")  # says that there is no such folder, and the nearest name
    parts = Path(name).parts
    place = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    if ".." in parts[place:]:
        raise UserError(f"--images: {printable_path(name)}: `..` may not follow a wildcard")
    folder = Path(os.path.abspath(Path(*parts[:place])))  # noqa: PTH100
    # of the folder: its own name may hold what a glob takes for a wildcard
    found = sorted(glob.glob(str(Path(*parts[place:])), root_dir=folder, recursive=True))  # noqa: PTH207
    matches = [folder / one for one in found]
    files = [one for one in matches if not one.is_dir() or _looks_like_one(one)]
    if not files:
        raise UserError(f"--images: {printable_path(name)}: no file matches")
    return folder, files


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every image file below a folder, and why one is none. Hidden folders and links to folders
    are not entered."""
    for place, folders, names in os.walk(folder):
        where, entered = Path(place), []
        for name in sorted(folders):
            path = where / name
            problem = locate(where, name)[1] or ("is a link" if path.is_symlink() else "")
            if name[0] == ".":
                continue
            if _looks_like_one(path):
                yield path, problem or "is no file"
            elif problem:
                logger.warning("%s: %s: not entered", printable_path(path), printable(problem))
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            if _looks_like_one(where / name):
                yield where / name, _problem(where / name)


def _checked(files: Sequence[Path], name: str) -> Iterator[tuple[Path, str]]:
    """The files of a glob that are images; a single file that is named is taken for one."""
    is_glob = not os.path.lexists(name)
    others = [path.name for path in files if not _looks_like_one(path)] if is_glob else []
    if others:
        logger.warning("%s: %s not read", printable_path(name), printable(told(others)))
    for path in files:
        if not is_glob:
            linked = path.is_symlink()  # whoever names a link means what it leads to
            yield path, _problem(path.resolve() if linked and path.exists() else path)
        elif _looks_like_one(path):
            yield path, _problem(path)


def _looks_like_one(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."


def _problem(path: Path) -> str:
    return locate(path.parent, path.name)[1] or ("" if path.is_file() else "is no file")
