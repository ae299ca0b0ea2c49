"""What a process of distseg costs before its first step and after its last, beside torch alone.

    python benchmarks/start.py [--out benchmarks/results/start.json] [--pairs 5]

In turn, `import torch` and what a rank imports, each in a fresh process that then ends as `distseg`
ends: CPU seconds up to the last import, CPU seconds of the end, and the highest memory. And the
highest memory of a driver, of `distseg run quickstart`, until its first job has trained an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCH, RANK = "torch", "distseg.training.train"
LIMIT_S = 300.0  # for the first epoch of a run
CODE = """
import sys, time, resource
import {module}
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.stdout.flush()
{end}
"""
ENDS = {"as Python does": "", "as distseg does": "from distseg.__main__ import leave; leave(0)"}


def once(module: str, end: str) -> tuple[float, float, float]:
    """CPU seconds to the last import, CPU seconds of the end, MB."""
    before = sum(os.times()[2:4])
    code = CODE.format(module=module, end=ENDS[end])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole = sum(os.times()[2:4]) - before
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, whole - seconds, megabytes


def driver_mb() -> float:
    """MB that the driver of a run has held at the highest when its first member trains."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "distseg", "run", "quickstart", "--out", f"{folder}/run"]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + LIMIT_S
            while not list(Path(folder).rglob("metrics.jsonl")):
                if driver.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command}: has trained nothing, exit status {driver.poll()}")
                time.sleep(0.2)
            status = Path(f"/proc/{driver.pid}/status").read_text()
        finally:
            driver.terminate()
            driver.wait()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    once(RANK, "as distseg does")  # the disk's cache
    torch, rank, plain = [], [], []
    for _ in range(args.pairs):
        torch.append(once(TORCH, "as Python does"))
        rank.append(once(RANK, "as distseg does"))
        plain.append(once(RANK, "as Python does"))
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(rank, torch, strict=True)]
    record = {
        "import_ratio": round(statistics.median(ratios), 2),
        "import_ratios": [round(ratio, 2) for ratio in ratios],
        "torch_s": round(statistics.median(one[0] for one in torch), 2),
        "rank_s": round(statistics.median(one[0] for one in rank), 2),
        "rank_end_s": round(statistics.median(one[1] for one in rank), 2),
        "rank_end_s_as_python_does": round(statistics.median(one[1] for one in plain), 2),
        "torch_mb": round(torch[0][2]),
        "rank_mb": round(rank[0][2]),
        "driver_mb": round(driver_mb()),
    }
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
