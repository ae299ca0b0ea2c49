"""Feature maps of frozen encoders on disk: computed once, read by all folds, decoders and seeds.

A store lies in `FOLDER/<key>/`: maps.f16, the maps of every image and view one after another in
float16, and index.json with a checksum of each image's. The key says all that the maps depend on.
Who makes a store or compares its checksums holds `<key>.lock`; `.lock` guards what is in the
folder, and is held for moments only. A store is made in `<key>.tmp`, which takes its whole size at
once, and renamed when it is whole. Whoever reads one keeps a shared lock on its index: one in use
is not removed, neither for another nor because it is damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from distseg.data.threads import in_threads
from distseg.models.frozen import Layout
from distseg.records.errors import Damaged
from distseg.records.files import parsing, put_folder, read_json, write_json

logger = logging.getLogger(__name__)
VERSION = 1  # of the files; a change makes old stores be built again
WAIT_S = 0.5  # between two looks whether another job is done
Flat = NDArray[np.float16]


@dataclass(frozen=True)
class Features:
    """What a stage reads in place of images.

    canvas: (C, H, W) of the images that the maps were made of.
    """

    store: FeatureStore
    layout: Layout
    canvas: tuple[int, int, int]


@dataclass(frozen=True)
class Wanted:
    """What a store shall hold: `values` numbers of each of `views` views of the images `ids`.

    key: names all that the numbers depend on, but for the ids and their order.
    """

    key: str
    ids: list[str]
    views: int
    values: int

    @property
    def bytes(self) -> int:
        """Of all maps."""
        return len(self.ids) * self.views * self.values * np.dtype(np.float16).itemsize

    @property
    def name(self) -> str:
        """The folder's."""
        parts = [VERSION, self.key, self.ids, self.views, self.values]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


class FeatureStore:
    """`store.maps(id, view)`: float16 (values,), a read-only view of the mapped file."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / "index.json"
        # shared: `_in_use` asks for it; the open file holds it as long as the store lives
        self._held = path.open("rb")
        try:
            fcntl.flock(self._held, fcntl.LOCK_SH)
            self._read(path)
        except BaseException:
            self.close()
            raise

    def _read(self, path: Path) -> None:
        """The index, and the maps that it says are there."""
        folder, record = self.folder, read_json(path)
        with parsing(path, _advice(folder)):
            digest = record.pop("digest")
            self.views, self.values = int(record["views"]), int(record["values"])
            self.sums = [int(one) for one in record["sums"]]
            self.index = {str(name): place for place, name in enumerate(record["ids"])}
            if digest != _digest(record) or len(self.sums) != len(self.index):
                raise ValueError("its checksum says that other bytes were written")
        shape = (len(self.index), self.views, self.values)
        file, size = folder / "maps.f16", 2 * len(self.index) * self.views * self.values
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise Damaged(file, f"{found} bytes, its index says {size}", _advice(folder))
        self._maps = np.asarray(np.memmap(file, dtype=np.float16, mode="r", shape=shape))

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.folder,)  # a worker maps the file itself

    def maps(self, name: str, view: int) -> Flat:
        """The maps of a view of the image `name`."""
        return self._maps[self.index[name], view]

    def check(self) -> None:
        """Damaged: other bytes than were written. One pass over the file."""
        found = in_threads(lambda one: zlib.crc32(np.ascontiguousarray(one).data), self._maps)
        for place, (own, sum_) in enumerate(zip(found, self.sums, strict=True)):
            if own != sum_:
                reason = f"its checksum says that other bytes were written for image {place}"
                raise Damaged(self.folder / "maps.f16", reason, _advice(self.folder))

    def close(self) -> None:
        """It may be removed from now on."""
        self._held.close()


class StoreWriter:
    """Writes a store's maps in order: all views of an image, then the next."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self.folder, self.wanted, self.place = folder, wanted, 0
        self.sums = [0] * len(wanted.ids)
        self.file = (folder / "maps.f16").open("r+b")

    def add(self, flat_NL: Flat) -> None:
        """Append the maps of the next views, float16 (N, values)."""
        assert flat_NL.dtype == np.float16 and flat_NL.shape[1] == self.wanted.values
        for row in np.ascontiguousarray(flat_NL):
            image = self.place // self.wanted.views
            self.sums[image] = zlib.crc32(row.data, self.sums[image])
            self.place += 1
            self.file.write(row.data)

    def finish(self) -> None:
        """The index, last."""
        assert self.place == len(self.wanted.ids) * self.wanted.views, "all views of all images"
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        record: dict[str, Any] = {"version": VERSION, "views": self.wanted.views}
        record |= {"values": self.wanted.values, "ids": self.wanted.ids, "sums": self.sums}
        write_json(self.folder / "index.json", {**record, "digest": _digest(record)})


def feature_store(
    folder: Path,
    wanted: Wanted,
    limit: float,
    fill: Callable[[StoreWriter], None],
    *,
    waiting: Callable[[], None] = lambda: None,
) -> FeatureStore | str:
    """The store of `wanted` in `folder`, from there, where its bytes are compared with their
    checksums, or made by `fill`; or why there can be none.

    Stores that nobody reads go for it, the one that was unused for longest first, where all of them
    would take more than `limit` bytes.

    Args:
        waiting: called again and again while another job makes or checks it; it may raise.

    Raises:
        OSError: of the disk. What `fill` raises; nothing is then left of the store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    too_much = ""
    if wanted.bytes > limit:
        too_much = f"they take {_gb(wanted.bytes)}, and data.feature_cache_gb is {limit / 1e9:g}"
    if too_much and not (folder / wanted.name).is_dir():
        return too_much
    with _taken(FileLock(folder / f"{wanted.name}.lock"), waiting):
        if found := _checked(folder, wanted) or too_much:
            return found
        with _made(folder, wanted, limit) as made:
            if isinstance(made, str):
                return made
            fill(made)
            made.finish()
            with _guard(folder):
                put_folder(made.folder, folder / wanted.name)
                return FeatureStore(folder / wanted.name)


def open_store(folder: Path, wanted: Wanted) -> FeatureStore:
    """The store of `wanted`, as it is; whoever calls this knows that `feature_store` has just
    returned it, and that it is held open there. Damaged, OSError: it cannot be read."""
    with _guard(folder):
        store = FeatureStore(folder / wanted.name)
        os.utime(store.folder / "index.json")  # the last use of it
        return store


def _taken(lock: FileLock, waiting: Callable[[], None]) -> AbstractContextManager[Any]:
    """The lock, acquired."""
    said = False
    while True:
        try:
            return lock.acquire(timeout=WAIT_S if said else 0)
        except Timeout:
            if not said:
                logger.info("waits for another job, which computes or checks the feature maps")
            said = True
            waiting()


@contextlib.contextmanager
def _made(folder: Path, wanted: Wanted, limit: float) -> Iterator[StoreWriter | str]:
    """A writer into a folder of the store's whole size, which goes if the block raises; or why
    there is no room."""
    temporary = folder / f"{wanted.name}.tmp"
    with _guard(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a job that was killed
        used = _make_room(folder, wanted.bytes, limit)
        free = shutil.disk_usage(folder).free
        if used + wanted.bytes > limit:
            problem = f"others in use take {_gb(used)} of data.feature_cache_gb, {limit / 1e9:g}"
        elif wanted.bytes > free:
            problem = f"they take {_gb(wanted.bytes)}, and {_gb(free)} are free in {folder}"
        else:
            problem = ""
            temporary.mkdir()
            with (temporary / "maps.f16").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, wanted.bytes))
    if problem:
        yield problem
        return
    try:
        yield StoreWriter(temporary, wanted)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(folder: Path, wanted: Wanted) -> FeatureStore | str:
    """The store, if it is there and whole, else "". A damaged one goes, which is logged; where a
    job reads it, which has found it whole, it stays: why there can be none."""
    place = folder / wanted.name
    try:
        store = open_store(folder, wanted)
        try:
            store.check()
        except BaseException:
            store.close()
            raise
        return store
    except FileNotFoundError:
        return ""
    except Damaged as error:
        logger.warning("%s", error)
        with _guard(folder):
            if _in_use(place):
                return f"{place} is damaged, and a job that has begun before reads it"
            shutil.rmtree(place, ignore_errors=True)
        return ""


def _make_room(folder: Path, need: int, limit: float) -> int:
    """Remove unused stores until `need` more bytes are within the limit; returns the bytes of those
    that are left."""
    stores = list(_stores(folder))
    used = sum(size for _, size in stores)
    for place, size in sorted(stores, key=lambda store: _last_use(store[0])):
        if used + need > limit and not _in_use(place):
            shutil.rmtree(place)
            used -= size
            logger.info("%s: %s of feature maps removed, for others", place, _gb(size))
    return used


def _stores(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every store, also those that are being made, with its bytes."""
    for place in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if place.is_dir():
                yield place, (place / "maps.f16").stat().st_size


def _in_use(place: Path) -> bool:
    """Whether somebody reads a store, or makes it; also where it cannot be told."""
    if place.suffix == ".tmp":  # whoever makes it holds its lock
        try:
            with FileLock(place.with_suffix(".lock"), timeout=0):
                return False
        except Timeout:
            return True
    try:
        # "+": NFS gives an exclusive lock on a file that is open for writing, and on no other
        with (place / "index.json").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # it has no index: nobody has read it
        return False
    except OSError:
        return True
    return False


def _last_use(place: Path) -> float:
    try:
        return (place / "index.json").stat().st_mtime
    except OSError:
        return 0.0


def _guard(folder: Path) -> FileLock:
    return FileLock(folder / ".lock")


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _advice(folder: Path) -> str:
    return f"remove the folder {folder}: it is made again"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"
