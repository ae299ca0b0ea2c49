"""The folders below one that hold images, those of one shape together, and which of their images
have masks: `train/aachen` and `train/ulm` are `train/**`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath

from distseg.data.formats.names import DEEP, ID, folders_in, image_stems
from distseg.data.formats.patterns import Naming, ids_of, owners
from distseg.data.formats.words import FREE, Said, said_by

DEPTH = 3  # folders below the root that are looked into


@dataclass(frozen=True)
class Files:
    """Folders of one shape, which hold one thing: stems of images by their path below the root.
    places: the paths, by the names of them that say nothing."""

    said: Said
    stems_of: dict[str, set[str]]
    places: dict[tuple[str, ...], list[str]]

    def __len__(self) -> int:
        return sum(map(len, self.stems_of.values()))

    @cached_property
    def stems(self) -> set[str]:
        return set[str]().union(*self.stems_of.values())

    def stems_at(self, place: tuple[str, ...]) -> set[str]:
        return set[str]().union(*(self.stems_of[path] for path in self.places.get(place, [])))

    @cached_property
    def path(self) -> str:
        """Their path, with DEEP where there are several."""
        paths = [PurePosixPath(path).parts for path in self.stems_of]
        if len(paths) == 1:
            return "/".join(paths[0]) or "."
        first, last = self._ends
        return "/".join([*first, DEEP, *last])

    @cached_property
    def _ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names that all paths begin with, and those that all end with."""
        paths = [PurePosixPath(path).parts for path in self.stems_of]
        first = _beginning(paths)
        rest = [path[len(first) :][::-1] for path in paths]
        return first, _beginning(rest)[::-1]

    @cached_property
    def parent(self) -> str | None:
        """The one folder that they all lie in."""
        parents = {str(PurePosixPath(path).parent) for path in self.stems_of}
        return parents.pop() if len(parents) == 1 else None

    def is_exact(self, paths: Iterable[str]) -> bool:
        """Whether `path` is that of no other one of these folders."""
        first, last = self._ends
        others = (PurePosixPath(path).parts for path in set(paths) - set(self.stems_of))
        return len(self.stems_of) == 1 or not any(
            one[: len(first)] == first and one[len(one) - len(last) :] == last for one in others
        )


def files_below(root: Path) -> list[Files]:
    """What holds images, up to DEPTH folders below the root."""
    found: dict[tuple[str, ...], Files] = {}
    for names, stems in _walk(root, ()):
        said = said_by(names)
        files = found.setdefault(said.shape, Files(said, {}, {}))
        path = "/".join(names)
        files.stems_of[path] = stems
        files.places.setdefault(said.free, []).append(path)
    paths = [path for files in found.values() for path in files.stems_of]
    return [files for files in found.values() if files.is_exact(paths)]


def _beginning(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    columns = zip(*paths, strict=False)  # as long as the shortest
    return tuple(names[0] for names in takewhile(lambda names: len(set(names)) == 1, columns))


def _walk(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    try:
        stems, inside = image_stems(folder), folders_in(folder)
    except OSError:
        return  # `passed_over` says so
    if stems:
        yield names, stems
    for one in inside if len(names) < DEPTH else []:
        yield from _walk(one, (*names, one.name))


def are_classes(images: Files, masks: Files) -> bool:
    """Whether masks lie in a folder for each class, masks/road and masks/car, and images do not."""
    shape = masks.said.shape
    is_deeper = shape.count(FREE) == images.said.shape.count(FREE) + 1
    return is_deeper and shape[-1] == FREE and masks.parent is not None


def near(images: Files, masks: Files) -> Iterator[tuple[set[str], set[str]]]:
    """Stems of images and of masks in the same place."""
    if images is masks or not are_classes(images, masks):
        for place in images.places.keys() & masks.places.keys():
            yield images.stems_at(place), masks.stems_at(place)
        return
    for place in images.places:
        inside = [own for own in masks.places if own[:-1] == place]
        if inside:
            yield images.stems_at(place), set[str]().union(*map(masks.stems_at, inside))


def num_owners(images: Files, masks: Files, naming: Naming) -> int:
    """How many images have a mask."""
    return sum(len(owners(*stems, naming)) for stems in near(images, masks))


def num_images(files: Files, naming: Naming) -> int:
    """How many images there are, among which masks lie."""
    masks = {"image": naming.get("mask", ID)}
    return len(files) - sum(len(ids_of(stems, masks)) for stems in files.stems_of.values())
