"""`distseg` and `python -m distseg`, which is what a launcher starts."""

import gc
import sys
from typing import NoReturn

from distseg.cli import main


def run() -> NoReturn:
    """Run one command as a process of its own, and end it."""
    status = main()
    # Python's last collection would go through all that torch has loaded: more than a second, for
    # what the end of the process gives back at once.
    gc.freeze()
    sys.exit(status)


if __name__ == "__main__":
    run()
