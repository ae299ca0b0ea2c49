"""Train one member; what `accelerate launch` starts. See docs/multi-gpu.md."""

import sys

from distseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
