"""How files are written and read: whole or not at all, under one name.

What is half-written has another name until it is whole, so a kill at any moment leaves the file
that was there before, or the new one; for a folder that is replaced see `put_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, overload

from distseg.functional.naming import nearest
from distseg.records.errors import MAKE_AGAIN, Damaged, UserError


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it into place."""
    payload = data.encode() if isinstance(data, str) else data
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file that the block makes there becomes `path` when the
    block ends. When it raises, `path` is as it was before and nothing else is left; an error of
    the disk names `path`."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@overload
def open_regular(path: Path) -> BufferedReader: ...
@overload
def open_regular(path: Path, *, newline: str, encoding: str) -> TextIOWrapper: ...
def open_regular(
    path: Path, *, newline: str | None = None, encoding: str | None = None
) -> BufferedReader | TextIOWrapper:
    """A file, open for reading: bytes, or text with an `encoding`. OSError (EINVAL) for a pipe, a
    device or a socket: reading one could wait for ever, or never come to an end."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind in (stat.S_IFREG, stat.S_IFDIR):  # `open` itself refuses a folder
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"is a {_KINDS.get(kind, 'thing')}, not a file", name)

    if encoding is None:
        return open(path, "rb", opener=opener)
    return open(path, newline=newline, encoding=encoding, opener=opener)


_KINDS = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def real_path(path: Path) -> Path:
    """`path.resolve()`; OSError (ELOOP) for links that lead in a circle, as all Pythons but the
    oldest raise it."""
    try:
        return path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk: a rename alone may be lost when the power fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process has, on this machine or another."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")


def remove_stale(folder: Path, name: str = "", *, below: bool = False) -> None:
    """Remove the temporary files of `temporary_name` that writers of this machine have left in a
    folder because they were killed.

    name: of the one file that they would have become; all by default. below: in all folders below
    it, too.
    """
    own = re.compile(rf"\.(.+)\.{re.escape(os.uname().nodename)}\.(\d{{1,9}})\.tmp", re.DOTALL)
    for place, folders, names in os.walk(folder):
        for found in filter(None, map(own.fullmatch, names)):
            if name in ("", found[1]) and not _is_alive(int(found[2])):
                with contextlib.suppress(OSError):  # it harms nobody
                    Path(place, found[0]).unlink()
        if not below:
            folders.clear()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


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


def write_problem(path: Path) -> str:
    """Why nothing could be written at `path`, whose folders may have to be made first; "" where it
    could. Leaves nothing behind."""
    try:
        whole = path.absolute()
        one = next(one for one in (whole, *whole.parents) if one.exists())
        with tempfile.TemporaryFile(dir=one.parent if one == whole and one.is_file() else one):
            return ""
    except ValueError as error:  # a null byte
        return f"cannot be written: {error}"
    except OSError as error:
        return f"cannot be written: {error.strerror}"


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


def read_json(path: Path, *keys: str) -> Any:
    """The record of a file that `write_json` wrote. Damaged: it is no JSON, or no mapping with
    these keys."""
    with parsing(path):
        if path.is_dir():
            raise Damaged(path, "it is a folder")
        record = json.loads(path.read_bytes().decode("utf-8"))
        if missing := [key for key in keys if key not in record]:
            raise Damaged(path, f"it has no {missing[0]!r}")
        return record


def read_json_or(path: Path, default: Any) -> Any:
    """`read_json` of a record that one can do without: `default` where it is missing, damaged or
    of another type."""
    try:
        record = read_json(path)
    except (UserError, FileNotFoundError):
        return default
    return record if isinstance(record, type(default)) else default


@contextlib.contextmanager
def parsing(path: Path, advice: str = MAKE_AGAIN) -> Iterator[None]:
    """Within the block, what a file of a run that was damaged (or made by somebody else) makes its
    reader raise becomes Damaged. OSErrors pass: they name the file, and may go away."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise Damaged(path, f"it has no {error}", advice) from None
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as e:
        raise Damaged(path, " ".join(str(e).split())[:200] or type(e).__name__, advice) from None


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line with a single O_APPEND write: lines of several processes of a machine
    do not mix. Each file is written on one machine: NFS promises this for no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        whole = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        # after the half line of a kill a new one begins: else both would be lost
        written = os.write(descriptor, line if whole else b"\n" + line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; what is no whole line (a kill while writing, a damaged disk) is
    left out, see `num_broken_lines`."""
    return [line for line in _lines(path) if line is not None]


def num_broken_lines(path: Path) -> int:
    """Lines of a file of JSON lines that `read_lines` leaves out."""
    return sum(line is None for line in _lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The record of each line that is not blank; None for a broken one."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
                record = None
            yield record if isinstance(record, dict) else None


def mark_done(path: Path, record: Mapping[str, Any]) -> None:
    """Write the file that says that a folder is whole: last, and by rename. Names in the folder
    reach the disk before it, and it reaches the disk before this returns: when the power fails,
    there is no such file without what it speaks of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent, *(p for p in path.parent.iterdir() if p.is_dir())):
        sync_folder(folder)
    write_json(path, record)
    sync_folder(path.parent)


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
