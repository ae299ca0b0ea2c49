"""`distseg` and `python -m distseg`, which is what a launcher starts."""

import atexit
import os
import sys
import threading
from typing import NoReturn

from distseg.cli import main


def run() -> NoReturn:
    """Run one command as a process of its own, and end it."""
    leave(main())


def leave(status: int) -> NoReturn:
    """End the process as Python does, but for its last collection: that goes through all that torch
    has loaded, more than a second for what the end of the process gives back at once."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # whoever read it is gone; Python ends so, too
        status = status or 120
    os._exit(status)


if __name__ == "__main__":
    run()
