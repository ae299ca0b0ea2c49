from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.data.cache import Cache, build_cache
from distseg.data.prepare import open_cache, open_unlabeled_cache, prepare
from distseg.records.errors import UserError
from distseg.records.files import read_lines
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run
from tests.data.data_helpers import blob, config, folder, gray, made, save


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


PREPARE = """
import sys
from pathlib import Path
from distseg.config.load import load_config
from distseg.data.prepare import prepare
from distseg.records.paths import Run
prepare(load_config(Path(sys.argv[1]) / "c.yaml"), Run(Path(sys.argv[1]) / "run"))
"""


def large(root: Path, num: int = 40) -> Config:
    """Images that take a while to decode, and differ in a byte behind their end."""
    pixels = save(root / "pixels.png", gray(1, 1200, 1200), compress_level=1).read_bytes()
    for i in range(num):
        (root / "images").mkdir(exist_ok=True)
        (root / "images" / f"a{i:02d}.png").write_bytes(pixels + bytes([i]))
        save(root / "masks" / f"a{i:02d}.png", blob(i, 1200, 1200))
    return config(root, input__fit="resize")


def test_a_killed_builder_leaves_nothing_that_passes_for_a_cache(tmp_path: Path) -> None:
    c, run = large(tmp_path / "data"), Run(tmp_path / "run")
    (tmp_path / "c.yaml").write_text(dump_config(c))
    job = subprocess.Popen([sys.executable, "-c", PREPARE, str(tmp_path)])
    images = run.cache / "building.tmp" / "images.u8"
    while not (images.is_file() and images.stat().st_size):  # the first pixels are written
        assert job.poll() is None
        time.sleep(0.001)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not run.truth.is_file() and not list(run.cache.glob("*.key"))
    assert [p.name for p in run.cache.iterdir() if p.is_dir()] == ["building.tmp"]
    prepare(c, run)
    cache = open_cache(c, run)
    assert all(
        np.array_equal(cache.image(name)[..., 0], gray(1, 1200, 1200)) for name in ("a00", "a39")
    )
    assert not (run.cache / "building.tmp").exists()


def test_an_inspection_that_fails_leaves_no_pixels(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    (root / "images" / "a3.png").write_bytes(b"")
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"a3\.png.*data\.strict is set"):
        prepare(config(root, data__strict=True), run)
    assert [p.name for p in run.cache.iterdir()] == [".lock"]


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    cache = build_cache(c, m, tmp_path / "cache")
    (cache.folder / "images.u8").write_bytes(b"short")
    with pytest.raises(UserError, match=r"images\.u8: damaged: 5 bytes, its index says"):
        Cache(cache.folder)
    Path(m[2].image).unlink()
    with pytest.raises(UserError, match=r"a2\.png: there is no such file .*sample 'a2'"):
        build_cache(c, m, tmp_path / "cache")


def test_a_full_disk_is_seen_before_it_is_full(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    huge = Manifest([Sample(s.id, s.image, s.target, height=10**7, width=10**7) for s in m])
    with pytest.raises(UserError, match=r"needs .* GB, .* GB are free; set data.cache_dir"):
        build_cache(c, huge, tmp_path / "cache")


def test_a_full_disk_is_seen_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 images: 6 of 16 x 16 and one of 20 x 11, a byte each for image and target."""
    c, _ = made(tmp_path)
    need = 2 * (6 * 16 * 16 + 20 * 11)
    for free in (need - 1, need):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        run = Run(tmp_path / f"run{free}")
        if free < need:
            with pytest.raises(UserError, match=r"needs .* GB are free; set data.cache_dir"):
                prepare(c, run)
            assert [p.name for p in run.cache.iterdir()] == [".lock"]
        else:
            prepare(c, run)


def test_runs_share_the_pixels_in_one_cache_folder(tmp_path: Path) -> None:
    """The second run finds the cache of the first; other rows of the same files get their own."""
    root, shared = folder(tmp_path / "data"), tmp_path / "shared"
    save(root / "images" / "a1.png", np.full((16, 16), 7, np.uint8))
    c = config(root, data__cache_dir=str(shared))
    caches = []
    for name in ("one", "two"):
        prepare(c, Run(tmp_path / name))
        caches.append(open_cache(c, Run(tmp_path / name)))
    assert caches[0].folder == caches[1].folder and caches[0].folder.parent == shared
    other = config(root, data__cache_dir=str(shared), data__exclude_constant=True)
    prepare(other, Run(tmp_path / "three"))
    third = open_cache(other, Run(tmp_path / "three"))
    assert list(third.index) == [f"a{i}" for i in range(6) if i != 1]
    assert list(open_cache(c, Run(tmp_path / "one")).index) == [f"a{i}" for i in range(6)]


def test_a_broken_test_image_gets_no_pseudo_label_in_any_run(tmp_path: Path) -> None:
    """Its reason stands in the ledger of each run, also of one that finds the others' pixels."""
    root = folder(tmp_path / "data")
    (root / "test_images" / "t1.png").write_bytes(b"broken")
    c = config(root, data__cache_dir=str(tmp_path / "shared"))
    caches = []
    for run in (Run(tmp_path / "one"), Run(tmp_path / "two")):
        prepare(c, run)
        caches.append(open_unlabeled_cache(c, run))
        assert [sample.id for sample in Manifest.read(run.unlabeled)] == ["t0"]
        broken = [line for line in read_lines(run.ledger) if line["event"] == "broken_image"]
        assert [(line["id"], "cannot identify" in line["reason"]) for line in broken] == [
            ("t1", True)
        ]
    assert caches[0].folder == caches[1].folder
    assert np.array_equal(caches[0].image("t0")[..., 0], gray(100))
    assert (caches[0].target("t0") == 255).all()
