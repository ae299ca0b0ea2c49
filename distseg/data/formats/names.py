"""Which part of a file's name, or of a folder's, is the id of its image, `{id}_training.tif`;
and the files of a folder, or of all folders below one, `train/**`."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from distseg.data.formats.row import (
    IMAGE_SUFFIXES,
    file_name,
    image_names,
    is_image,
    locate,
    name_problem,
    plain,
    sorted_images,
    split_name,
)
from distseg.records.errors import UserError

ID = "{id}"
DEEP = "**"  # in the path of a folder: folders of any names and number, or none
JUST_NS = 2_000_000_000  # since when a change may be followed by one of the same time
_NUMBER = re.compile(r"[_\-. ]?\d+$")


@dataclass(frozen=True, slots=True)
class Name:
    """A pattern with one `{id}`. With the suffix of an image it stands for the whole name, with
    none, or with `.*`, for that before the suffix."""

    text: str

    @property
    def of_stems(self) -> Name:
        """The same for names whose suffix does not count."""
        before, _, after = self.text.removesuffix(".*").partition(ID)
        suffix = PurePosixPath(f"x{after}").suffix
        own = suffix.lower() in IMAGE_SUFFIXES
        return Name(f"{before}{ID}{after.removesuffix(suffix) if own else after}")

    def id_in(self, name: str) -> str | None:
        """The id in a file's name; None where it is not named so."""
        before, after, wanted = _halves(self.text)
        stem, suffix = split_name(plain(name))
        return _between(stem, before, after) if wanted in ("", suffix.lower()) else None

    def id_in_folder(self, name: str) -> str | None:
        """The same for the name of a folder, which has no suffix."""
        before, _, after = plain(self.text).partition(ID)
        return _between(plain(name), before, after)

    def id_of_several(self, name: str, ids: Collection[str]) -> str | None:
        """The id in the name of a mask. A number behind it (a_mask_1, a_1_mask) says that it is a
        further mask of its image, unless an image has that name."""
        found = self.id_in(name)
        if found in ids:
            return found
        path = PurePosixPath(name)
        unnumbered = self.id_in(without_number(path.stem) + path.suffix)
        for one in (unnumbered, found and without_number(found)):
            if one in ids:
                return one
        return found


def without_number(stem: str) -> str:
    """A stem without the number behind it, and what stands before that: a_mask_1, a_mask."""
    return _NUMBER.sub("", stem)


def _between(name: str, before: str, after: str) -> str | None:
    is_one = name.startswith(before) and name.endswith(after)
    return name[len(before) : len(name) - len(after)] or None if is_one else None


@functools.lru_cache(maxsize=64)
def _halves(text: str) -> tuple[str, str, str]:
    """What a pattern has before the id and behind it, and the suffix of an image; "": any."""
    before, _, after = plain(text.removesuffix(".*")).partition(ID)
    suffix = split_name(f"x{after}")[1]
    is_own = suffix.lower() in IMAGE_SUFFIXES
    return (before, after.removesuffix(suffix), suffix.lower()) if is_own else (before, after, "")


@dataclass(frozen=True, slots=True)
class Found:
    """The files of one image, or of its masks: their paths. id: in its place, see `unique_ids`.
    problem: why they may not be used. place: the folders that the `**` of their folder stands
    for."""

    id: str
    files: list[str]
    problem: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        """Of the first file."""
        return file_name(self.files[0])


def unique_ids(found: Sequence[Found]) -> list[str]:
    """The ids of a part: those in their places, where these are all different, else with the names
    of the folders before them."""
    if len({plain(one.id) for one in found}) == len(found):
        return [one.id for one in found]
    return [f"{one.place}/{one.id}".lstrip("/").replace("/", "_") for one in found]


def files_in(root: Path, folder: str, name: Name | None, key: str) -> list[Found]:
    """The files of a folder, one a `Found`, by name; or, where the folder has an `{id}`, all files
    of each folder of that name together.

    name: what is not named so is left out; None: the id is the stem. UserError: there is none.
    """
    if ID in folder:
        return list(_per_folder(root, folder, key))
    files = _listed(root, folder, f"data.folder.{key}")
    found = [
        one if own == one.id else replace(one, id=own)
        for one in files
        if (own := one.id if name is None or one.problem else name.id_in(one.name))
    ]
    if not found:
        assert name is not None
        raise UserError(
            f"{root / folder}: none of {len(files)} files is named {name.text}: "
            f"{files[0].name}, ...; look at data.folder.image, test_image and mask"
        )
    return found


def unchanged(*folders: Path) -> object:
    """For the key of a cache: equal as long as the names in these folders are the same. What was
    changed just now equals nothing: the clock of a file system is not fine enough to tell a change
    from the next. Nor does what lies below several folders, of which one time says nothing."""
    times = []
    for folder in folders:
        try:
            inside, time_ns = folders_in(folder), folder.stat().st_mtime_ns
        except OSError:
            return object()
        if inside or time.time_ns() - time_ns < JUST_NS:
            return object()
        times.append((str(folder), time_ns))
    return tuple(times)


def above(folder: str) -> str:
    """The part of a folder's path before that which stands for several folders."""
    parts = PurePosixPath(folder).parts
    place = next((n for n, one in enumerate(parts) if ID in one or one == DEEP), len(parts))
    return "/".join(parts[:place])


def _listed(root: Path, folder: str, what: str) -> list[Found]:
    """The image files of a folder by their stems. UserError: there is none."""
    parts = PurePosixPath(folder).parts
    if DEEP not in parts:
        where = (root / folder).absolute()
        return _found(where, image_names(where, what))
    top = (root / above(folder)).absolute()
    if not top.is_dir():
        raise UserError(f"{top}: no such folder ({what})")
    found = list(_below(top, "", parts[parts.index(DEEP) + 1 :]))
    if not found:
        raise UserError(f"{root / folder}: no image files here ({what})")
    return found


def _below(folder: Path, place: str, last: Sequence[str]) -> Iterator[Found]:
    """The image files of a folder, and of all below it, whose path ends with these names. A folder
    that is a link is not followed, which could lead anywhere, and said."""
    try:
        files, inside = sorted_images(folder), folders_in(folder)
    except OSError as error:
        yield Found(folder.name, [str(folder)], f"cannot be looked into: {error.strerror}", place)
        return
    names = PurePosixPath(place).parts
    num = len(names) - len(last)
    if num >= 0 and names[num:] == tuple(last):
        own = "/".join(names[:num])
        yield from _found(folder, files, own)
    for one in inside:
        if one.is_symlink():
            yield Found(one.name, [str(one)], f"{one.name!r} is a link to a folder", place)
        else:
            yield from _below(one, f"{place}/{one.name}".lstrip("/"), last)


def _found(folder: Path, files: Mapping[str, bool], place: str = "") -> list[Found]:
    """files: see `image_names`."""
    start = str(folder / "x")[:-1]  # a Path for each of a million files takes long
    return [
        Found(
            split_name(name)[0], [start + name],
            locate(folder, name)[1] if is_link else name_problem(name), place,
        )
        for name, is_link in files.items()
    ]  # fmt: skip


def _per_folder(root: Path, folder: str, key: str) -> list[Found]:
    parts = PurePosixPath(folder).parts
    place = next(n for n, part in enumerate(parts) if ID in part)
    above, name = root.joinpath(*parts[:place]).absolute(), Name(parts[place])
    if not above.is_dir():
        raise UserError(f"{above}: no such folder (data.folder.{key})")
    found = []
    for path in sorted(above.iterdir()):
        own = name.id_in_folder(path.name) if path.is_dir() and path.name[0] != "." else None
        if own is None:
            continue
        inside = path.joinpath(*parts[place + 1 :])
        problem = locate(above, path.name)[1]
        files = [] if problem or not inside.is_dir() else [
            one for one in sorted(inside.iterdir()) if is_image(one.name)
        ]  # fmt: skip
        problems = [problem, *(locate(one.parent, one.name)[1] for one in files)]
        if not files:
            problems.append(f"no image files in {inside}")
        paths = [str(one) for one in files or [inside]]
        found.append(Found(own, paths, next((one for one in problems if one), "")))
    if not found:
        raise UserError(f"{above}: no folder named {parts[place]} here (data.folder.{key})")
    return found


def has_images(folder: Path) -> bool:
    """Whether files of images lie in a folder itself."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(is_image(one.name) and _is_file(one) for one in entries)


def image_stems(folder: Path) -> set[str]:
    """The stems of the image files of a folder. OSError: one may not look into it."""
    with os.scandir(folder) as entries:
        return {plain(split_name(one.name)[0]) for one in entries if is_image(one.name)}


def folders_in(folder: Path) -> list[Path]:
    """The folders in one, by name, but for hidden ones. OSError: one may not look into it."""
    with os.scandir(folder) as entries:  # tells files from folders without a look at each
        names = [entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry)]
    return [folder / name for name in sorted(names)]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads to itself, or where one may not look, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
