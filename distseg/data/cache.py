"""The train set, decoded once into flat uint8 files that every job of the machine maps.

A cache lies in `FOLDER/<content hash>/`: images.u8, targets.u8, index.json. It is built under a
lock and appears by rename, so a killed builder leaves nothing that could be taken for a cache.
The content hash covers the bytes of every file and the settings that decide how they are read.
`FOLDER/<stat hash>.key` remembers it for unchanged sizes and times, so that opening reads no image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.depths import load_depths, read_input
from distseg.data.read_input import read_target
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_json, write_json
from distseg.records.manifest import Manifest, Sample

logger = logging.getLogger(__name__)
VERSION = 1  # of the files; a change makes old caches be built again
_CHUNK = 64  # rows in memory while building


class Cache:
    """`cache.image(id)` uint8 (H, W, C) and `cache.target(id)` uint8 (K, H, W): read-only views
    of mapped files, never copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = read_json(folder / "index.json")
        self.channels, self.num_targets = int(index["channels"]), int(index["num_targets"])
        self.sizes = [(int(h), int(w)) for h, w in index["sizes"]]
        self.index = {name: row for row, name in enumerate(index["ids"])}
        pixels = np.array([h * w for h, w in self.sizes], dtype=np.int64)
        self.starts = [0, *np.cumsum(pixels).tolist()]
        self.images = _map(folder / "images.u8", self.starts[-1] * self.channels)
        self.targets = _map(folder / "targets.u8", self.starts[-1] * self.num_targets)

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        return Cache, (self.folder,)  # a worker maps the files itself

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.sizes[self.index[name]]

    def image(self, name: str) -> NDArray[np.uint8]:
        row = self.index[name]
        start, stop = self.starts[row] * self.channels, self.starts[row + 1] * self.channels
        return self.images[start:stop].reshape(*self.sizes[row], self.channels)

    def target(self, name: str) -> NDArray[np.uint8]:
        row, num = self.index[name], self.num_targets
        return self.targets[self.starts[row] * num : self.starts[row + 1] * num].reshape(
            num, *self.sizes[row]
        )


def _map(path: Path, size: int) -> NDArray[np.uint8]:
    """A flat read-only view of a file, as a plain array (slicing a np.memmap is slow)."""
    if path.stat().st_size != size:
        raise UserError(f"{path}: {path.stat().st_size} bytes, its index says {size}; remove it")
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def build_cache(config: Config, manifest: Manifest, folder: Path) -> Cache:
    """Open the cache of these samples below `folder`; build it first where it is missing.

    UserError: a file is gone or cannot be read, or the disk is too small.
    """
    pointer = folder / f"{_stat_hash(config, manifest)}.key"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # the usual case takes no lock
        return Cache(folder / pointer.read_text(encoding="utf-8"))
    with FileLock(folder / ".lock"):
        name = _content_hash(config, manifest)
        if not (folder / name / "index.json").is_file():
            _build(config, manifest.samples, folder / name)
        atomic_write(pointer, name)
    return Cache(folder / name)


def _settings(config: Config) -> str:
    """What decides how a file is read, besides its bytes."""
    options = config.data.folder
    reading: list[object] = [
        config.input.channels,
        config.void,
        options.inverted,
        options.threshold,
    ]
    meaning = config.data.value_map
    reading += [sorted(meaning.items())] if meaning else []
    depths = load_depths(config)
    reading += [sorted(depths.items())] if depths else []
    return json.dumps([VERSION, config.task, config.classes, *reading])


def target_files(sample: Sample) -> list[str]:
    """The mask files behind a sample's target."""
    kind, _, value = sample.target.partition(":")
    return [path for path in value.split("|") if path] if kind == "file" else []


def _stat_hash(config: Config, manifest: Manifest) -> str:
    digest = hashlib.sha1(_settings(config).encode(), usedforsecurity=False)
    for sample in manifest:
        digest.update(f"{sample.id}\0{sample.image}\0{sample.target}\0".encode())
        for path in (sample.image, *target_files(sample)):
            try:
                stat = os.stat(path)  # noqa: PTH116 (twice as fast over many files)
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror} (data of sample {sample.id!r})"
                ) from None
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:20]


def _content_hash(config: Config, manifest: Manifest) -> str:
    digest = hashlib.sha1(_settings(config).encode(), usedforsecurity=False)
    for sample in manifest:
        label = "" if sample.target.startswith("file:") else sample.target
        digest.update(f"{sample.id}\0{label}\0".encode())
        for path in (sample.image, *target_files(sample)):
            digest.update(hashlib.sha1(Path(path).read_bytes(), usedforsecurity=False).digest())
    return digest.hexdigest()[:20]


def _build(config: Config, samples: Sequence[Sample], folder: Path) -> None:
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a builder that was killed: we hold the lock
    temporary.mkdir()
    _check_space(config, samples, temporary)
    sizes, num_targets = [], 1
    with (temporary / "images.u8").open("wb") as images, (temporary / "targets.u8").open("wb") as t:
        for image, target in _decoded(config, samples):
            images.write(image.data)
            t.write(np.ascontiguousarray(target).data)
            sizes.append(image.shape[:2])
            num_targets = target.shape[0]
    index = {
        "version": VERSION,
        "channels": config.input.channels,
        "num_targets": num_targets,
        "ids": [sample.id for sample in samples],
        "sizes": sizes,
    }
    write_json(temporary / "index.json", index)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _decoded(
    config: Config, samples: Sequence[Sample]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images and targets in order, decoded by threads, at most _CHUNK of them in memory."""

    depths = load_depths(config)

    def read(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image = read_input(sample.image, config.input.channels, depths)
        return image, read_target(sample.target, config, *image.shape[:2])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _CHUNK):
            yield from pool.map(read, samples[start : start + _CHUNK])


def _check_space(config: Config, samples: Sequence[Sample], folder: Path) -> None:
    num_targets = len(config.classes) if config.task == "multilabel" else 1
    need = sum(s.height * s.width for s in samples) * (config.input.channels + num_targets)
    free = shutil.disk_usage(folder).free
    logger.info("decode cache: %d samples, %.1f MB in %s", len(samples), need / 1e6, folder.parent)
    if need > free:
        raise UserError(
            f"{folder.parent}: the decode cache needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB "
            "are free; set data.cache_dir to another disk"
        )
