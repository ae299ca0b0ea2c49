"""What a command says at its end: mistakes, and what the operating system refuses, in a line."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper

from distseg.records.errors import printable, printable_path

# By the error's number: what to do, and the exit status, 2 where the command must be mended.
_ADVICE: dict[int, tuple[str, int]] = {
    errno.ENOSPC: ("free some space, and run the same command again", 1),
    errno.EDQUOT: ("free some of your quota, and run the same command again", 1),
    errno.EFBIG: ("this disk, or a limit of this shell, takes no file of that size", 1),
    errno.EIO: ("the disk or its connection fails; look at the system's log", 1),
    errno.ESTALE: ("the shared folder was lost; run the same command again once it is there", 1),
    errno.EMFILE: ("raise the limit of open files (ulimit -n)", 1),
    errno.ENFILE: ("the system has too many files open", 1),
    errno.ENOMEM: ("the memory is full: use a smaller batch, or fewer workers and slots", 1),
    errno.EROFS: ("this folder can only be read; name another one", 2),
    errno.EACCES: ("you have no permission; change it, or name another path", 2),
    errno.EPERM: ("you have no permission; change it, or name another path", 2),
    errno.ENOENT: ("it is not there, or it was removed meanwhile", 2),
    errno.ENOTDIR: ("a file is where a folder is needed; name another path", 2),
    errno.EISDIR: ("a folder is where a file is needed; name another path", 2),
    errno.EEXIST: ("it is there already, and is no folder; name another path", 2),
    errno.ENOTEMPTY: ("it is a folder that is not empty; name another path", 2),
    errno.ENAMETOOLONG: ("shorten the name", 2),
    errno.ELOOP: ("its links lead in a circle", 2),
    errno.EINVAL: ("the file system takes no such name or file", 2),
    errno.EXDEV: ("it spans two file systems; name a path on one of them", 2),
    errno.EBUSY: ("another program uses it", 1),
    errno.ETXTBSY: ("another program runs it", 1),
}


def fit_streams() -> None:
    """Standard output and error escape what their encoding lacks: ASCII alone ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """A line on standard error."""
    print(f"distseg: {text}", file=sys.stderr)


def hang_up() -> int:
    """What there is to do when nobody reads standard output any more; the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def complain(text: str, status: int) -> int:
    """Print each line of a mistake on standard error; returns `status`."""
    for line in text.splitlines():
        tell(f"error: {line}")
    return status


def refused(error: OSError | MemoryError) -> tuple[str, int]:
    """(one line with the path, the reason and advice; the exit status) of what the operating
    system refuses: 2 where the user named something that cannot be, 1 where the machine is at
    fault. In a job it is raised again: the job's log keeps where it came from."""
    if "DISTSEG_JOB" in os.environ:
        raise error
    if isinstance(error, MemoryError):
        return _ADVICE[errno.ENOMEM]
    advice, status = _ADVICE.get(error.errno or 0, ("", 1))
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " -> ".join(printable_path(os.fsdecode(name)) for name in names)
    reason = printable(error.strerror or str(error) or type(error).__name__)
    return "".join([f"{where}: " if where else "", reason, f": {advice}" if advice else ""]), status
