from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distseg.config.schema import Config
from distseg.data.cache import Cache, build_cache
from distseg.data.formats import layout
from distseg.data.inspect import inspect
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest, Sample
from tests.data.data_helpers import blob, config, folder, gray, save


def manifest(c: Config) -> Manifest:
    rows = inspect(c, layout(c.data.format).train(c)).good
    return Manifest(
        [Sample(r.id, r.image, r.target, 0, height=r.height, width=r.width) for r in rows]
    )


def made(tmp_path: Path) -> tuple[Config, Manifest]:
    root = folder(tmp_path / "data")
    save(root / "images" / "odd.png", gray(9, 20, 11))
    save(root / "masks" / "odd.png", blob(2, 20, 11))
    c = config(root)
    return c, manifest(c)


def test_images_of_several_sizes_come_back(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    cache = build_cache(c, m, tmp_path / "cache")
    assert len(cache.index) == 7 and "odd" in cache.index and "none" not in cache.index
    assert cache.size("odd") == (20, 11)
    assert np.array_equal(cache.image("odd")[..., 0], gray(9, 20, 11))
    assert np.array_equal(cache.target("odd")[0], blob(2, 20, 11) // 255)
    assert np.array_equal(cache.target("a4")[0], blob(4) // 255)
    assert not cache.image("a0").flags.writeable and type(cache.image("a0")) is np.ndarray
    copy = pickle.loads(pickle.dumps(cache))  # as a spawned loader process does
    assert np.array_equal(copy.image("odd"), cache.image("odd"))


def test_it_is_built_once_and_again_when_a_file_or_a_setting_changes(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    first = build_cache(c, m, tmp_path / "cache")
    stamp = (first.folder / "images.u8").stat().st_mtime_ns
    os.utime(m[0].image)  # touched, not changed
    again = build_cache(c, m, tmp_path / "cache")
    assert again.folder == first.folder
    assert (first.folder / "images.u8").stat().st_mtime_ns == stamp
    save(Path(m[0].image), gray(77))
    changed = build_cache(c, m, tmp_path / "cache")
    assert changed.folder != first.folder
    assert np.array_equal(changed.image(m[0].id)[..., 0], gray(77))
    inverted = config(tmp_path / "data", data__folder={"inverted": True})
    assert (
        build_cache(inverted, m, tmp_path / "cache").target("a1").sum() != first.target("a1").sum()
    )
    color = config(tmp_path / "data", input__channels=3)
    assert build_cache(color, m, tmp_path / "cache").image("a1").shape == (16, 16, 3)


def test_a_changed_label_of_a_table_is_seen(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    rows = [Sample("a1", m[1].image, target) for target in ("rle:1 1", "rle:2 2")]
    caches = [build_cache(c, Manifest([row]), tmp_path / "cache") for row in rows]
    assert [int(cache.target("a1").sum()) for cache in caches] == [1, 2]


def _open(c: Config, m: Manifest, path: Path) -> int:
    return int(build_cache(c, m, path).image("a1").sum())


def test_jobs_that_start_together_share_one_build(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sums = pool.starmap(_open, [(c, m, tmp_path / "cache")] * 8)
    assert sums == [int(gray(1).sum())] * 8
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1


KILLED = """
import sys, time
from pathlib import Path
from distseg.data import cache
from distseg.config.schema import load_config
from distseg.records.manifest import Manifest
read, root = cache.read_input, Path(sys.argv[1])
cache.read_input = lambda *a: (print("reading", flush=True), time.sleep(0.2), read(*a))[2]
cache.build_cache(load_config(root / "c.yaml"), Manifest.read(root / "m.csv"), root / "cache")
"""


def test_a_killed_builder_leaves_nothing_that_passes_for_a_cache(tmp_path: Path) -> None:
    from distseg.config.load import dump_config

    c, m = made(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_config(c))
    m.write(tmp_path / "m.csv")
    job = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert job.stdout is not None and job.stdout.readline().startswith(b"reading")
    time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stdout.close()
    assert [p.suffix for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [".tmp"]
    cache = build_cache(c, m, tmp_path / "cache")
    assert np.array_equal(cache.image("a1")[..., 0], gray(1))
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    cache = build_cache(c, m, tmp_path / "cache")
    (cache.folder / "images.u8").write_bytes(b"short")
    with pytest.raises(UserError, match=r"images\.u8: 5 bytes, its index says"):
        Cache(cache.folder)
    Path(m[2].image).unlink()
    with pytest.raises(UserError, match=r"a2\.png: No such file .*sample 'a2'"):
        build_cache(c, m, tmp_path / "cache")


def test_a_full_disk_is_seen_before_it_is_full(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    huge = Manifest([Sample(s.id, s.image, s.target, height=10**7, width=10**7) for s in m])
    with pytest.raises(UserError, match=r"needs .* GB, .* GB are free; set data.cache_dir"):
        build_cache(c, huge, tmp_path / "cache")
