"""Things of a file system that are no files."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def make_odd(what: str, folder: Path, name: str) -> Path:
    """Make `folder/name` such a thing; returns its path."""
    path = folder / name
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "a folder":
        path.mkdir()
    elif what == "a socket":
        home = Path.cwd()
        os.chdir(folder)  # the path of a socket may have some 100 characters only
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        finally:
            os.chdir(home)
    elif what == "a loop":
        path.symlink_to(path)
    elif what == "a dangling link":
        path.symlink_to(folder / "nowhere")
    else:
        assert what == "a long name", what
        path = folder / (f"{'x' * 300}{path.suffix}")
    return path
