"""Training steps of distseg beside a plain loop and released frameworks, in turns on one machine.

    python -m venv VENV_L && VENV_L/bin/pip install lightning segmentation-models-pytorch albumentations==2.0.8
    python -m venv VENV_N && VENV_N/bin/pip install nnunetv2 segmentation-models-pytorch albumentations==2.0.8
    python benchmarks/rivals/run.py TGS_ROOT OUT.json --lightning VENV_L/bin/python --nnunet VENV_N/bin/python

1,000 images of TGS (distseg: all of them), the same network (ResNet34 U-Net with scSE, one channel), batches of 16
at 128 x 128. Each is a process that takes its steps when it is its turn and sleeps meanwhile, so
that what the machine does else meets all alike; a ratio is of one round, and the table has the median of
the rounds with the lowest and the highest.
"""  # noqa: E501  commands to paste

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from turns import ratios  # beside this file

ROOT = Path(__file__).resolve().parents[2]
BATCH = 16


class Rival:
    """A process that takes steps in turns."""

    def __init__(self, command: list[str], log: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.log = log.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=env,
            text=True, start_new_session=True,
        )  # fmt: skip

    def line(self, word: str) -> str:
        """What follows the word on the next line that begins with it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise SystemExit(f"it has ended: see {self.log.name}")

    def turn(self) -> float:
        """Seconds of its steps."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.line("seconds"))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # a loader's processes that stay behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def version(python: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}), m.version('torch'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def own_steps(root: Path, steps: int) -> None:
    """This file in the process of distseg's own steps."""
    from benchmarks.cpu import endless, stage_of, steps_of
    from benchmarks.rivals.turns import repeat

    with tempfile.TemporaryDirectory() as scratch, stage_of(root, Path(scratch)) as (m, stage):
        loaded = endless(stage)
        repeat(lambda: steps_of(m, stage, loaded, 1), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("root", type=Path, help="folder of TGS")
    parser.add_argument("out", type=Path)
    parser.add_argument("--lightning", metavar="PYTHON", help="of an environment with Lightning")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"],
                        help="of Lightning; bf16 only where the CPU multiplies in it")  # fmt: skip
    parser.add_argument("--nnunet", metavar="PYTHON", help="of an environment with nnU-Net")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.own:
        own_steps(args.root, args.steps)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(args, Path(scratch))
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    here, given = Path(__file__).parent, [str(args.root), str(args.steps)]
    commands = {"distseg": [sys.executable, str(here / "run.py"), str(args.root), "-", "--own",
                            "--steps", str(args.steps)],
                "plain loop": [sys.executable, str(here / "plain_steps.py"), *given]}  # fmt: skip
    versions = {}
    if args.lightning:
        script = [args.lightning, str(here / "lightning_steps.py"), *given]
        commands |= {f"lightning {p}": [*script, p] for p in args.precisions}
        versions["lightning, torch"] = version(args.lightning, "lightning")
    if args.nnunet:
        commands["nnunet"] = [args.nnunet, str(here / "nnunet_steps.py"), *given, str(work)]
        versions["nnunetv2, torch"] = version(args.nnunet, "nnunetv2")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rivals: dict[str, Rival] = {}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for name, command in commands.items():  # one warms up after the other
            rivals[name] = Rival(command, args.out.with_name(f"{name.replace(' ', '_')}.log"))
            rivals[name].line("ready")
        for _ in range(args.rounds):
            for name, rival in rivals.items():
                taken[name].append(rival.turn())
    finally:
        for rival in rivals.values():
            rival.close()
    images = args.steps * BATCH
    return {
        "images_per_s": {n: round(images / statistics.median(s), 1) for n, s in taken.items()},
        "distseg_against": {
            name: ratios(seconds, taken["distseg"])
            for name, seconds in taken.items()
            if name != "distseg"
        },
        "rounds": args.rounds, "steps": args.steps, "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(), "versions": versions,
    }  # fmt: skip


if __name__ == "__main__":
    main()
