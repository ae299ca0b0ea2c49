"""How files are written and read: whole or not at all, under one name.

What is half-written has another name until it is whole, so a kill at any moment leaves the file
that was there before, or the new one; for a folder that is replaced see `put_folder`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distseg.functional.naming import nearest


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    payload = data.encode() if isinstance(data, str) else data
    with temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process has, on this machine or another."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")


def path_problem(path: Path, what: str = "file") -> str:
    """Why `path` is no file, or no `folder`, that can be read, with the nearest name beside it;
    "" where it is one."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return f"no such {what}.{_near(path)}"
    except OSError as error:  # the name is too long, a folder above may not be entered
        return f"cannot be read: {error.strerror}"
    if not (stat.S_ISDIR if what == "folder" else stat.S_ISREG)(mode):
        return f"is no {what}"
    wanted = os.R_OK | os.X_OK if what == "folder" else os.R_OK
    return "" if os.access(path, wanted) else "cannot be read: Permission denied"


def _near(path: Path) -> str:
    """A hint at the name most like that of `path`. Without their endings, which alone would make
    two tables alike."""
    try:
        names = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    except (OSError, ValueError):
        return ""
    by_stem: dict[str, str] = {}
    for one in names:
        if one.suffix == path.suffix or one.stem not in by_stem:
            by_stem[one.stem] = one.name
    close = nearest(path.stem, by_stem)
    return f" Did you mean {by_stem[close]!r}?" if close else ""


def write_json(path: Path, record: Any) -> None:
    """Write a record as indented JSON, whole or not at all."""
    atomic_write(path, json.dumps(record, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """The record of a file that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line with a single O_APPEND write: lines of several processes of a machine
    do not mix. Each file is written on one machine: NFS promises this for no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a half line at the end (a kill while writing) is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def mark_done(path: Path, record: Mapping[str, Any]) -> None:
    """Write the file that says that a folder is whole: last, and by rename."""
    write_json(path, record)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `folder`; it takes the name when the block ends.

    A `folder` that exists is replaced. When the block raises, `folder` is as it was before. The
    caller is the only writer of `folder`: its lock, or its rank.
    """
    temporary = begin_folder(folder)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    put_folder(temporary, folder)


def begin_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and given to `put_folder`. For a writer that
    is an object; elsewhere `whole_folder` does both."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
    temporary.mkdir(parents=True)
    return temporary


def put_folder(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; a `folder` that exists is moved aside first, and removed.

    A kill between the two renames leaves no `folder`, but FOLDER.tmp, whole, and the old one as
    FOLDER.old. Whoever reads `folder` finds that it is not there, and makes it again.
    """
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
