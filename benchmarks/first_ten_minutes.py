"""From nothing to a score: the wheel alone, in an empty folder, with the time of each command.

    python benchmarks/first_ten_minutes.py --out benchmarks/results/first_ten_minutes.md

Builds the wheel, makes a fresh environment and a data set (12-bit pictures of init.py) in
a temporary folder that holds nothing else, and runs what a newcomer would type. `--torch` is what
pip installs first, as on a machine without a GPU, where the default of PyPI brings 5 GB of CUDA.
Times are of this machine and its network.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def made_sets() -> ModuleType:
    """benchmarks/init.py, which is no package."""
    spec = importlib.util.spec_from_file_location("made_sets", Path(__file__).with_name("init.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    parser.add_argument("--torch", default="torch", help="requirement that pip installs first")
    parser.add_argument("--budget", default="5m")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as empty:
        build = [sys.executable, "-m", "uv", "build", "-q", "--wheel", "--out-dir", made, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(made).glob("*.whl")
        folder = Path(empty)
        made_sets().make("bits_12", folder / "mydata")
        steps = [
            (f"{sys.executable} -m venv env", "python -m venv env"),
            (f"env/bin/pip install -q {args.torch}", f"pip install {args.torch}"),
            (f"env/bin/pip install -q {wheel}", "pip install distseg (the wheel)"),
            ("env/bin/distseg doctor", "distseg doctor"),
            ("env/bin/distseg run quickstart", "distseg run quickstart"),
            ("env/bin/distseg inspect mydata", "distseg inspect mydata"),
            (f"env/bin/distseg run mydata --budget {args.budget}",
             f"distseg run mydata --budget {args.budget}"),
            ("env/bin/distseg predict runs/mydata --images mydata/test_images --out masks",
             "distseg predict runs/mydata --images mydata/test_images --out masks"),
        ]  # fmt: skip
        rows = [timed(command, shown, folder) for command, shown in steps]
        seconds = sum(row[1] for row in rows)
    lines = ["| command | seconds | exit | what it says |", "|---|---|---|---|"]
    lines += [f"| `{shown}` | {took:.0f} | {code} | {said} |" for shown, took, code, said in rows]
    lines.append(f"| all | {seconds:.0f} | | |")
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def timed(command: str, shown: str, folder: Path) -> tuple[str, float, int, str]:
    """(what is shown of a command, seconds, exit status, the line that tells its outcome)."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"XDG_CACHE_HOME": str(folder / "cache")}
    began = time.monotonic()
    done = subprocess.run(command.split(), cwd=folder, env=env, capture_output=True, text=True)
    took = time.monotonic() - began
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("WARNING: ")]  # pip's
    telling = [line for line in lines if line.startswith(("out-of-fold", "findings", "masks"))]
    said = (telling or lines or [""])[-1].replace("|", "/")
    if done.returncode:
        print("\n".join(lines[-20:]), file=sys.stderr)
    return shown, took, done.returncode, said[:160]


if __name__ == "__main__":
    main()
