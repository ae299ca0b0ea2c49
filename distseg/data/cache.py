"""The train set, decoded once into flat uint8 files that every job of the machine maps.

A cache lies in `FOLDER/<content hash>/`: images.u8, targets.u8, index.json. The content hash is
that of the pixels and the index, so runs that read the same pixels share one cache. It is written
under a lock into `building.tmp` and renamed when it is whole: a killed builder leaves nothing that
could be taken for a cache. `FOLDER/<key>.key` holds the content hash that some rows led to. The key
hashes the rows, the settings that decide how a file is read, and the files' sizes and times, so
that opening a cache opens no image.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.depths import load_depths
from distseg.data.read_input import read_input, reading_of
from distseg.data.read_target import read_target
from distseg.data.threads import in_threads
from distseg.records.errors import Damaged, UserError
from distseg.records.files import atomic_write, parsing, put_folder, read_json, write_json
from distseg.records.manifest import Manifest, Sample

logger = logging.getLogger(__name__)
VERSION = 3  # of the files and keys; a change makes old caches be built again

# takes the pixels of a row: its id, image uint8 (H, W, C) and target uint8 (K, H, W)
Keep = Callable[[str, NDArray[np.uint8], NDArray[np.uint8]], None]
Result = TypeVar("Result")


class Source(Protocol):
    """What a cache needs to know of a row: a Sample of a Manifest, or a Row of a layout."""

    @property
    def id(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class Cache:
    """`cache.image(id)` uint8 (H, W, C) and `cache.target(id)` uint8 (K, H, W): read-only views
    of mapped files, never copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "index.json"
        index = read_json(path)
        with parsing(path, _advice(folder)):
            self.channels, self.num_targets = int(index["channels"]), int(index["num_targets"])
            self.sizes = [(int(h), int(w)) for h, w in index["sizes"]]
            self.index = {name: row for row, name in enumerate(index["ids"])}
            if len(self.index) != len(self.sizes):
                raise ValueError(f"{len(self.index)} ids, {len(self.sizes)} sizes")
        pixels = np.array([h * w for h, w in self.sizes], dtype=np.int64)
        self.starts = [0, *np.cumsum(pixels).tolist()]
        self.images = _map(folder / "images.u8", self.starts[-1] * self.channels)
        self.targets = _map(folder / "targets.u8", self.starts[-1] * self.num_targets)

    def check(self) -> None:
        """Damaged: the content is not that of the name. One pass over the files, row by row as
        they were written."""
        content = hashlib.sha1(usedforsecurity=False)
        for name in self.index:
            content.update(self.image(name).data)
            content.update(self.target(name).data)
        content.update((self.folder / "index.json").read_bytes())
        if content.hexdigest()[:20] != self.folder.name:
            reason = "its content hash says that other bytes were written"
            raise Damaged(self.folder, reason, _advice(self.folder))

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        return Cache, (self.folder,)  # a worker maps the files itself

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.sizes[self.index[name]]

    def image(self, name: str) -> NDArray[np.uint8]:
        """The image of the sample `name`, (H, W, C)."""
        row = self.index[name]
        start, stop = self.starts[row] * self.channels, self.starts[row + 1] * self.channels
        return self.images[start:stop].reshape(*self.sizes[row], self.channels)

    def target(self, name: str) -> NDArray[np.uint8]:
        """The target of the sample `name`, (K, H, W); see `read_target`."""
        row, num = self.index[name], self.num_targets
        return self.targets[self.starts[row] * num : self.starts[row + 1] * num].reshape(
            num, *self.sizes[row]
        )


def _advice(folder: Path) -> str:
    return f"remove the folder {folder}: it is made again"


def _map(path: Path, size: int) -> NDArray[np.uint8]:
    """A flat read-only view of a file, as a plain array (slicing a np.memmap is slow)."""
    found = path.stat().st_size if path.is_file() else 0
    if found != size:
        raise Damaged(path, f"{found} bytes, its index says {size}", _advice(path.parent))
    if not size:  # no test image can be read; an empty file cannot be mapped
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


class CacheWriter:
    """Writes a cache row by row; `finish` gives it its name. Its user holds `cache_lock(folder)`.

    Left without `finish`, as by an error, it leaves nothing.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "building.tmp"
        self.channels, self.num_targets = config.input.channels, _num_targets(config)
        self.ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.content = hashlib.sha1(usedforsecurity=False)

    def __enter__(self) -> CacheWriter:
        shutil.rmtree(self.temporary, ignore_errors=True)  # of a builder that was killed
        self.temporary.mkdir(parents=True)
        self.images = (self.temporary / "images.u8").open("wb")
        self.targets = (self.temporary / "targets.u8").open("wb")
        return self

    def add(self, name: str, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8]) -> None:
        """Append the pixels of the sample `name`."""
        assert image_HWC.shape[2] == self.channels and len(target_KHW) == self.num_targets
        for file, array in ((self.images, image_HWC), (self.targets, target_KHW)):
            pixels = np.ascontiguousarray(array).data
            file.write(pixels)
            self.content.update(pixels)
        self.ids.append(name)
        self.sizes.append((image_HWC.shape[0], image_HWC.shape[1]))

    def finish(self) -> str:
        """Make the cache appear, whole; returns its name, the content hash."""
        index = {
            "version": VERSION,
            "channels": self.channels,
            "num_targets": self.num_targets,
            "ids": self.ids,
            "sizes": self.sizes,
        }
        path = self.temporary / "index.json"
        write_json(path, index)
        self.content.update(path.read_bytes())
        name = self.content.hexdigest()[:20]
        self.images.close()
        self.targets.close()
        if open_whole(self.folder / name, check=True) is None:  # else only the files' times changed
            put_folder(self.temporary, self.folder / name)
        return name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.images.close()
        self.targets.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def cache_lock(folder: Path) -> FileLock:
    """The lock of a folder of caches: who holds it is the only one who writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock")


def stamps_of(rows: Iterable[Source]) -> dict[str, bytes]:
    """By id: a row as bytes, with the sizes and times of its files. Of rows with one id the first
    counts. Taken before the files are read, so that a file which changes meanwhile makes the next
    start look for another cache."""
    stamps: dict[str, bytes] = {}
    for row in rows:
        if row.id not in stamps:
            stamps[row.id] = stamp(row)
    return stamps


def stamp(row: Source) -> bytes:
    """A row as bytes, with the sizes and times of its files."""
    text = f"{row.id}\0{row.image}\0{row.target}\0"
    for path in (row.image, *mask_files(row.target)):
        try:
            stat = os.stat(path)  # noqa: PTH116 (twice as fast over many files)
            text += f"{stat.st_size} {stat.st_mtime_ns}\0"
        except OSError:
            text += "missing\0"  # whoever reads it will say so
    return text.encode(errors="surrogateescape")


def cache_key(config: Config, stamps: Iterable[bytes]) -> str:
    """A hash of the rows' stamps and of the settings that decide how a file is read."""
    digest = hashlib.sha1(_settings(config).encode(), usedforsecurity=False)
    for one in stamps:
        digest.update(one)
    return digest.hexdigest()[:20]


def find_cache(folder: Path, key: str) -> Cache | None:
    """The cache that was made from the rows of this key; None where there is none. It does not
    hold the rows that could not be used. No image is opened, and no lock is taken."""
    try:
        name = (folder / f"{key}.key").read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None
    return open_whole(folder / name) if re.fullmatch(r"[0-9a-f]{20}", name) else None


def open_whole(folder: Path, *, check: bool = False) -> Cache | None:
    """The cache of a folder; None where there is none, or where it is damaged, which is logged.
    check: see `Cache.check`."""
    try:
        cache = Cache(folder)
        if check:
            cache.check()
        return cache
    except (FileNotFoundError, Damaged) as error:
        if isinstance(error, Damaged):
            logger.warning("%s", error)
    return None


def fill_cache(
    config: Config, folder: Path, stamps: Mapping[str, bytes], fill: Callable[[Keep], Result]
) -> Result:
    """Write a cache of the pixels that `fill` hands over, and return what `fill` returns.

    It is found from then on by the key of all the rows of `stamps`, and by the key of those that
    it holds: the next preparation lists all of them, a job asks for the good ones. The caller holds
    `cache_lock(folder)`.
    """
    with CacheWriter(config, folder) as writer:
        result = fill(writer.add)
        name = writer.finish()
    for ids in (writer.ids, stamps):
        key = cache_key(config, [stamps[one] for one in ids])
        atomic_write(folder / f"{key}.key", name)
    return result


def build_cache(config: Config, manifest: Manifest, folder: Path, *, check: bool = False) -> Cache:
    """Open the cache of these samples below `folder`; build it first where it is missing or
    damaged (check: see `Cache.check`).
    UserError: a file is gone or cannot be read, or the disk is too small.
    """

    def decode_all(keep: Keep) -> None:
        for sample, reason in decode_each(config, manifest, keep):
            raise UserError(f"{reason} (data of sample {sample.id!r})")

    stamps = stamps_of(manifest)
    key = cache_key(config, stamps.values())
    if found := _whole(folder, key, manifest, check):  # the usual case takes no lock
        return found
    with cache_lock(folder):
        if found := _whole(folder, key, manifest, check):  # another job was first
            return found
        check_space(config, manifest, folder)
        fill_cache(config, folder, stamps, decode_all)
    built = find_cache(folder, key)
    assert built
    return built


def _whole(folder: Path, key: str, manifest: Manifest, check: bool) -> Cache | None:
    """What `find_cache` finds, if it holds every sample."""
    if (found := find_cache(folder, key)) and check:
        found = open_whole(found.folder, check=True)
    return found if found and list(found.index) == [sample.id for sample in manifest] else None


def decode_each(
    config: Config, samples: Iterable[Sample], keep: Keep | None = None
) -> Iterator[tuple[Sample, str]]:
    """Open and decode the files of each sample once. `keep` gets the pixels, in the samples'
    order; yields the samples that cannot be read, and why."""
    reading = reading_of(config)

    def read(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | str:
        try:
            image = read_input(sample.image, reading)
            return image, read_target(sample.target, config, *image.shape[:2])
        except (UserError, OSError, MemoryError) as error:
            return str(error) or type(error).__name__

    listed = list(samples)
    for sample, found in zip(listed, in_threads(read, listed), strict=True):
        if isinstance(found, str):
            yield sample, found
        elif keep is not None:
            keep(sample.id, *found)


def check_space(config: Config, rows: Sequence[Source], folder: Path) -> None:
    """Log the bytes that a cache of these rows takes. UserError: the disk has less."""
    bytes_per_pixel = config.input.channels + _num_targets(config)
    need = sum(row.height * row.width for row in rows) * bytes_per_pixel
    free = shutil.disk_usage(folder).free
    logger.info("decode cache: %d samples, %.1f MB in %s", len(rows), need / 1e6, folder)
    if need > free:
        raise UserError(
            f"{folder}: the decode cache needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB "
            "are free; set data.cache_dir to another disk"
        )


def mask_files(target: str) -> list[str]:
    """The mask files behind a row's target."""
    kind, _, value = target.partition(":")
    return [path for path in value.replace(";", "|").split("|") if path] if kind == "file" else []


def _num_targets(config: Config) -> int:
    return len(config.classes) if config.task == "multilabel" else 1


def _settings(config: Config) -> str:
    """What decides how a file is read, besides its bytes."""
    options, meaning, depths = config.data.folder, config.data.value_map, load_depths(config)
    return json.dumps([
        VERSION, config.task, config.classes, config.input.channels, config.void, options.inverted,
        "numbered" if options.numbered else options.threshold, config.data.overlap,
        sorted(meaning.items()) if meaning else [],
        sorted(depths.items()) if depths else [],
        config.data.levels, config.data.drop_alpha, config.data.mask_channel, config.data.colors,
    ])  # fmt: skip
