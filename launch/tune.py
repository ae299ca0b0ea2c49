"""Run a sweep. See docs/tune.md."""

import sys

from distseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
