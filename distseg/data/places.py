"""Where the images of a list lie: the folders below data.root that hold their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distseg.data.formats.row import IMAGE_SUFFIXES, locate, plain
from distseg.records.errors import UserError
from distseg.records.files import path_problem

DEPTH = 3  # folders below data.root that are looked into
MOST_FOLDERS = 10_000  # one for each image, in some sets
PROBED = 200  # names that decide which folder is meant
_NO_IMAGES = re.compile(r"mask|label|annot|segm|ground|gt$|trimap", re.IGNORECASE)
_TEST = re.compile(r"(?<![a-z])test", re.IGNORECASE)
_MASK = "_mask"  # ends the stem of a mask that lies beside its image


@dataclass(frozen=True)
class Images:
    """The image files of some folders, by name and by stem; a stem may be that of several."""

    folders: tuple[Path, ...]
    names: dict[str, Path] = field(default_factory=dict)
    stems: dict[str, list[Path]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Sequence[Path], *, masks: bool = False) -> Images:
        """masks: they are wanted, and else left out: `1_1_mask.tif` beside `1_1.tif`. UserError:
        two folders have an image of one name."""
        found = cls(tuple(folders))
        for folder in folders:
            for path in images_in(folder):
                name = plain(path.name)
                if name in found.names:
                    raise UserError(f"{path}: {found.names[name].parent} has an image of this name")
                found.names[name] = path
        for name, path in list(found.names.items()):
            stem = plain(path.stem)
            if (
                not masks
                and stem.endswith(_MASK)
                and f"{stem.removesuffix(_MASK)}{path.suffix}" in found.names
            ):
                del found.names[name]
            else:
                found.stems.setdefault(stem, []).append(path)
        return found

    def find(self, name: str) -> tuple[Path | None, str]:
        """(path, problem) of the image that a table calls `name`: a file name, with or without its
        suffix, or a path inside one of the folders. One of them is None or ""."""
        if "/" in name or "\\" in name:
            return self._inside(name)
        path = self.names.get(plain(name))
        if path is None:
            paths = self.stems.get(plain(name), [])
            if len(paths) > 1:
                return None, f"{name!r} is {paths[0].name} or {paths[1].name}"
            path = paths[0] if paths else None
        if path is None:
            problem = locate(self.folders[0], name)[1]
            return None, problem or f"no image {name[:80]!r} in {_listed(self.folders)}"
        problem = locate(path.parent, path.name)[1]
        return (None, problem) if problem else (path, "")

    def _inside(self, name: str) -> tuple[Path | None, str]:
        for folder in self.folders:
            path, problem = locate_inside(folder, name)
            if problem:
                return None, problem
            if is_there(path):
                return path, ""
        return None, f"no image {name[:80]!r} in {_listed(self.folders)}"


def locate_inside(folder: Path, name: str) -> tuple[Path, str]:
    """The path `folder/a/b.png` of a name with slashes, and why it may not be used ("" when it
    may): each part must be a plain name, and no link may lead out of the folder."""
    path = folder
    for part in name.split("/"):
        path, problem = locate(path, part)
        if problem:
            return folder, f"{name[:80]!r} is no path of a file here, or leaves its folder"
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        return folder, f"{name[:80]!r} is no usable path: {error}"
    return path, "" if inside else f"{name[:80]!r} is a link that leaves its folder {folder}"


def names_of(root: str | Path, paths: Sequence[Path]) -> list[str]:
    """The ids of images by their absolute paths: stems, where these are all different; else paths
    below `root` with `_` for `/`."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    top = Path(root).absolute()
    inside = [str(path).removeprefix(f"{top}/").replace("/", "_") for path in paths]
    short = [name.removesuffix(Path(name).suffix) for name in inside]
    return short if len(set(short)) == len(short) else inside


def given_folders(root: Path, given: str | Sequence[str], key: str) -> list[Path]:
    """The folders that a key names, absolute. UserError: one is not there."""
    names = [given] if isinstance(given, str) else list(given)
    folders = [(root / name).absolute() for name in names]
    for name, folder in zip(names, folders, strict=True):
        if problem := path_problem(folder, "folder"):
            raise UserError(f"{key}: {name}: {problem}")
    return folders


def folders_of(
    root: Path, names: Iterable[str], key: str, *, masks: bool = False, test: bool = False
) -> list[Path]:
    """The folder below `root` that holds the images of these names, or the several among which
    they are divided; for paths, the folder that they begin in. masks: they are wanted; a folder
    whose name says that it holds masks is else left out, where another holds these names, too. So
    is, with `test`, one whose path does not say that it is a test set's, and else one that does.

    UserError: there is none, or several could be meant; `key` says which.
    """
    known, what = list(dict.fromkeys(names)), "mask" if masks else "image"
    probed = known[:PROBED]
    if not probed:
        raise UserError(f"{key}: the table names no {what}, whose folder could be found")
    if any("/" in name for name in probed):
        return _parents(root, probed, key, what)
    chosen = _hits(image_folders(root), probed, masks)
    if not chosen:
        raise UserError(f"{key}: no folder of {root} holds the {what} {probed[0]!r}; name it")
    most = max(len(held) for held in chosen.values())
    full = [folder for folder, held in chosen.items() if len(held) == most]
    if len(full) > 1 and len(own := [f for f in full if _is_test(f, root) == test]) == 1:
        return own
    if len(full) == 1 and (most == len(probed) or len(chosen) == 1):
        return full
    chosen = _hits(image_folders(root), known, masks)
    if sum(map(len, chosen.values())) == len(set().union(*chosen.values())):
        return list(chosen)  # each holds others of them
    raise UserError(f"{key}: {_listed(chosen)} hold images of these names; say which is meant")


def _hits(folders: Sequence[Path], names: Sequence[str], masks: bool) -> dict[Path, set[str]]:
    """Which of the names each folder holds: of those alone that are called as what they hold, where
    there are such."""
    wanted = {plain(name) for name in names}
    hits = {}
    for folder in folders:
        held = {plain(name) for path in images_in(folder) for name in (path.name, path.stem)}
        if found := wanted & held:
            hits[folder] = found
    likely = {f: held for f, held in hits.items() if masks == called_masks(f.name)}
    return likely or hits


def _parents(root: Path, names: Sequence[str], key: str, what: str) -> list[Path]:
    """The folder that paths of a table begin in: `root`, or one in it."""
    folders = [root.absolute(), *image_folders(root), *_above(image_folders(root), root)]
    hits = {
        folder: sum(is_there(folder / name) for name in names if not locate_inside(folder, name)[1])
        for folder in dict.fromkeys(folders)
    }
    most = max(hits.values(), default=0)
    best = [folder for folder, count in hits.items() if count == most]
    if not most:
        raise UserError(f"{key}: no folder of {root} holds the {what} {names[0]!r}; name it")
    if len(best) > 1:
        raise UserError(f"{key}: {_listed(best)} hold images of these paths; say which is meant")
    return best


def _above(folders: Iterable[Path], root: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (above for above in folder.parents if root.absolute() in above.parents)


def test_folders(root: Path, without: Sequence[Path]) -> list[Path]:
    """The one folder of images below `root` whose path says that it is a test set's; else none."""
    found = [
        folder
        for folder in image_folders(root)
        if folder not in without
        if _is_test(folder, root)
        if not called_masks(folder.name)
    ]
    return found if len(found) == 1 else []


def is_there(path: Path) -> bool:
    """Whether there is such a file; a name that cannot be is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def called_masks(name: str) -> bool:
    """Whether the name of a folder says that it holds labels."""
    return _NO_IMAGES.search(name) is not None


def _is_test(folder: Path, root: Path) -> bool:
    return _TEST.search(str(folder.relative_to(root.absolute()))) is not None


def holds_any(root: Path, names: Iterable[str]) -> bool:
    """Whether some folder below `root` may hold the image of one of these names."""
    held = {
        plain(one) for f in image_folders(root) for p in images_in(f) for one in (p.name, p.stem)
    }
    return any(plain(name) in held or "/" in name for name in names)


def json_files(root: Path) -> list[Path]:
    """The JSON files of `root` and of the folders below it, by path."""
    found = []
    for place, inside, names in os.walk(root):
        depth = len(Path(place).relative_to(root).parts)
        inside[:] = [name for name in inside if name[0] != "."] if depth < DEPTH - 1 else []
        found += [
            Path(place, name)
            for name in names
            if name[0] != "." and Path(name).suffix.lower() == ".json"
        ]
    return sorted(found)


def image_folders(root: Path) -> list[Path]:
    """`root` and the folders below it that hold an image file, absolute, by name."""
    top = root.absolute()
    found = []
    for place, inside, names in os.walk(top):
        depth = len(Path(place).relative_to(top).parts)
        inside[:] = sorted(name for name in inside if name[0] != ".") if depth < DEPTH else []
        if any(_is_image(name) for name in names):
            found.append(Path(place))
        if len(found) > MOST_FOLDERS:
            raise UserError(f"{root}: more than {MOST_FOLDERS} folders of images; is it the root?")
    return found


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name. UserError: it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if _is_image(path.name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None


def _is_image(name: str) -> bool:
    return name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _listed(folders: Iterable[Path]) -> str:
    names = [str(folder) for folder in folders]
    return " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
