"""How long `inspect` and `plan` take on many rows, and how much memory.

    python benchmarks/rows.py OUT.json [--inspect 50000 200000] [--plan 200000 1000000] [--work DIR]

A folder of `images` and `masks`, PNG files of 32 x 32 pixels, each another one for `inspect`,
which opens all of them; for `plan`, which opens one, they are links to a few. Each command is a
process of its own; seconds are those of the clock, megabytes the most that the process has held.
The exponent is that of the time against the number of rows: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from distseg.jobs.guard import die_with_parent

ROOT = Path(__file__).resolve().parents[1]
SIZE, SOURCES = 32, 100


def made(folder: Path, rows: int, *, distinct: bool) -> Path:
    """The folder, with so many rows in it: blobs on noise, or links to SOURCES of them."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    grid = np.mgrid[:SIZE, :SIZE]
    for number in range(rows):
        names = [folder / part / f"{number:07d}.png" for part in ("images", "masks")]
        if names[1].exists():
            continue
        if not distinct and number >= SOURCES:
            for name in names:
                os.link(name.with_name(f"{number % SOURCES:07d}.png"), name)
            continue
        center, radius = rng.uniform(4, SIZE - 4, (2, 1, 1)), rng.uniform(2, 10)
        blob = ((grid - center) ** 2).sum(0) < radius**2
        image = rng.integers(0, 120, (SIZE, SIZE)) + 90 * blob
        cv2.imwrite(str(names[0]), image.astype(np.uint8))
        cv2.imwrite(str(names[1]), blob.astype(np.uint8) * 255)
    return folder


def config_of(folder: Path) -> Path:
    """A config of that folder, in a file beside it."""
    tree = {
        "name": "rows",
        "data": {"format": "folder", "root": str(folder)},
        "input": {"height": SIZE, "width": SIZE, "channels": 1},
        "members": {"a": {"arch": "Unet", "encoder": "resnet18", "encoder_weights": None}},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def timed(arguments: Sequence[str], log: Path) -> dict[str, float]:
    """Seconds and megabytes of a command of distseg."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", "distseg", *arguments], env=env,
                                   stdout=out, stderr=subprocess.STDOUT,
                                   preexec_fn=die_with_parent)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: inspect has found something
        sys.exit(f"{arguments}: exit status {os.waitstatus_to_exitcode(status)}: see {log}")
    return {"seconds": round(seconds, 1), "megabytes": round(usage.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--inspect", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--plan", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--work", type=Path, help="where the files are made, and stay")
    args = parser.parse_args()
    record: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.machine()}
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        for verb, sizes in (("inspect", args.inspect), ("plan", args.plan)):
            found: dict[int, dict[str, float]] = {}
            for rows in sorted(sizes):
                folder = made(work / f"{verb}_{rows}", rows, distinct=verb == "inspect")
                options = ["--out", str(work / f"{verb}_{rows}_page")] if verb == "inspect" else []
                command = [verb, str(config_of(folder)), *options]
                found[rows] = timed(command, work / f"{verb}_{rows}.log")
                print(verb, rows, json.dumps(found[rows]), flush=True)
            record[verb] = {str(rows): one for rows, one in found.items()}
            if len(found) > 1:
                (low, few), *_, (high, many) = found.items()
                growth = math.log(many["seconds"] / few["seconds"]) / math.log(high / low)
                record[verb]["exponent"] = round(growth, 2)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
