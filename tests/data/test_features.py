"""Stores of feature maps: what is written, checked, shared, and removed for others."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from distseg.data import features
from distseg.data.features import FeatureStore, StoreWriter, Wanted, feature_store

IDS, VIEWS, VALUES = ["a", "b", "c"], 2, 500
SIZE = len(IDS) * VIEWS * VALUES * 2  # bytes
LIMIT = 2.5 * SIZE


def numbers(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(IDS) * VIEWS, VALUES)).astype(np.float16)


def fill(calls: list[str], seed: int = 0) -> Callable[[StoreWriter], None]:
    """In two parts that end within an image."""

    def write(writer: StoreWriter) -> None:
        calls.append(writer.wanted.key)
        for part in np.split(numbers(seed), [3]):
            writer.add(part)

    return write


def get(folder: Path, calls: list[str], key: str = "k", limit: float = LIMIT) -> FeatureStore | str:
    return feature_store(folder, Wanted(key, IDS, VIEWS, VALUES), limit, fill(calls))


def made(folder: Path, calls: list[str], key: str = "k") -> FeatureStore:
    found = get(folder, calls, key)
    assert isinstance(found, FeatureStore), found
    return found


def test_it_holds_what_was_written_and_is_made_once(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        store = made(tmp_path, calls)
        for place, name in enumerate(IDS):
            for view in range(VIEWS):
                assert np.array_equal(store.maps(name, view), numbers()[place * VIEWS + view])
        assert not store.maps("a", 0).flags.writeable
        store.close()
    assert calls == ["k"]
    assert not list(tmp_path.glob("*.tmp"))


def test_jobs_that_want_it_at_once_wait_for_the_first(tmp_path: Path) -> None:
    calls: list[str] = []
    threads = [threading.Thread(target=get, args=(tmp_path, calls)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["k"]


def test_who_waits_may_leave(tmp_path: Path) -> None:
    """A signal that comes while another job computes."""

    def leave() -> None:
        raise SystemExit(143)

    wanted = Wanted("k", IDS, VIEWS, VALUES)
    calls: list[str] = []
    with FileLock(tmp_path / f"{wanted.name}.lock"), pytest.raises(SystemExit):
        feature_store(tmp_path, wanted, LIMIT, fill(calls), waiting=leave)
    made(tmp_path, calls).close()
    assert calls == ["k"]


@pytest.mark.parametrize("harm", ["byte", "short", "index", "no json", "gone"])
def test_a_damaged_one_is_made_again(tmp_path: Path, harm: str) -> None:
    calls: list[str] = []
    store = made(tmp_path, calls)
    store.close()
    maps, index = store.folder / "maps.f16", store.folder / "index.json"
    data = bytearray(maps.read_bytes())
    if harm == "byte":
        data[len(data) // 2] ^= 1
        maps.write_bytes(data)
    elif harm == "short":
        maps.write_bytes(data[:-2])
    elif harm == "index":
        index.write_text(index.read_text().replace('"a"', '"z"'))
    elif harm == "no json":
        index.write_text("{")
    else:
        maps.unlink()
    again = made(tmp_path, calls)
    assert np.array_equal(again.maps("c", 1), numbers()[-1])
    assert calls == ["k", "k"]


def test_all_of_them_stay_within_the_limit(tmp_path: Path) -> None:
    """The one that was unused for longest goes; one that is read stays."""
    calls: list[str] = []
    stores = {key: made(tmp_path, calls, key) for key in ("old", "new")}
    for age, store in zip((200, 100), stores.values(), strict=True):
        store.close()
        past = store.folder.stat().st_mtime - age
        os.utime(store.folder / "index.json", (past, past))
    used = made(tmp_path, calls, "old")  # the new one is older now
    third = made(tmp_path, calls, "third")
    assert used.folder.is_dir() and third.folder.is_dir()
    assert not stores["new"].folder.exists()
    said = get(tmp_path, calls, "fourth")
    assert isinstance(said, str) and "others in use take" in said and len(calls) == 3
    total = sum(path.stat().st_size for path in tmp_path.rglob("maps.f16"))
    assert total == 2 * SIZE <= LIMIT
    said = get(tmp_path / "other", calls, limit=SIZE - 1)
    assert isinstance(said, str) and "data.feature_cache_gb is 5.999e-06" in said


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_writer: StoreWriter) -> None:
        raise OverflowError("too large")

    with pytest.raises(OverflowError, match="too large"):
        feature_store(tmp_path, Wanted("k", IDS, VIEWS, VALUES), LIMIT, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    calls: list[str] = []
    (tmp_path / f"{Wanted('k', IDS, VIEWS, VALUES).name}.tmp").mkdir()  # of one that was killed
    made(tmp_path, calls).close()
    assert calls == ["k"]


def test_a_damaged_one_that_is_read_stays(tmp_path: Path) -> None:
    """Who has begun before has found it whole; on NFS its pages would be gone with the file."""
    calls: list[str] = []
    held = made(tmp_path, calls)
    path = held.folder / "maps.f16"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = get(tmp_path, calls)
    assert isinstance(said, str) and "is damaged, and a job that has begun before reads it" in said
    assert calls == ["k"] and path.is_file()
    held.close()
    made(tmp_path, calls).close()
    assert calls == ["k", "k"]


def test_it_is_made_again_before_anybody_else_opens_it(tmp_path: Path) -> None:
    """Whoever compares its checksums holds the lock that a job waits for."""
    calls: list[str] = []
    store = made(tmp_path, calls)
    store.close()
    maps = store.folder / "maps.f16"
    maps.write_bytes(bytes(SIZE))
    threads = [threading.Thread(target=get, args=(tmp_path, calls)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["k", "k"] and maps.read_bytes() == numbers().tobytes()


def test_what_is_read_stays_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux gives an exclusive lock there on a file that is open for writing alone: flock(2)."""
    flock = fcntl.flock

    def on_nfs(file: Any, kind: int) -> None:
        writes = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if kind & fcntl.LOCK_EX and not writes:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, kind)

    monkeypatch.setattr(features.fcntl, "flock", on_nfs)
    calls: list[str] = []
    one = made(tmp_path, calls, "one")
    made(tmp_path, calls, "two").close()
    three = made(tmp_path, calls, "three")
    assert one.folder.is_dir() and three.folder.is_dir()
    assert not (tmp_path / Wanted("two", IDS, VIEWS, VALUES).name).exists()
    assert isinstance(get(tmp_path, calls, "four"), str), "both are read"

    def without_locks(_file: Any, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    one.close()
    monkeypatch.setattr(features.fcntl, "flock", without_locks)
    assert features._in_use(one.folder), "nobody can tell"
    (three.folder / "index.json").unlink()
    assert not features._in_use(three.folder)
