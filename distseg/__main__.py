"""`python -m distseg`, which is what a launcher starts."""

import sys

from distseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
