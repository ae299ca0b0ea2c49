"""distseg's own training steps on batches in memory, and its loader alone: what each could do.

    python benchmarks/gpu/steps.py TGS_ROOT OUT.json [--steps 60] [--workers 8]

For each model of configs/tgs_salt.yaml, with CUDA graphs and without: images a second of the steps
on eight batches that are shown again and again, the milliseconds of a step and those in which the
host had handed it over, and images a second that the loader gives when nobody trains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from distseg.config.load import load_config
from distseg.data.prepare import prepare
from distseg.distributed import make_accelerator
from distseg.records.paths import Run
from distseg.training.member import Member
from distseg.training.stage import Stage, begin_epoch, set_up_stage, train_step

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tgs_salt.yaml"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(member: Member, stage: Stage, steps: int) -> dict[str, Any]:
    begin_epoch(stage, stage.config.schedule.epochs)
    batches = stage.batches.epoch(0)
    kept = list(itertools.islice(batches, min(8, stage.sampling.steps)))
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch.rows)
    loader = count / max(time.perf_counter() - began, 1e-9)

    def go(number: int) -> None:
        shown = itertools.cycle(kept)
        for step in range(number):
            train_step(
                member, stage, shown, epoch=0, step=step % stage.sampling.steps, lr_factor=0.1
            )

    go(max(1, steps // 6))
    wait()
    began = time.perf_counter()
    go(steps)
    host = time.perf_counter() - began
    wait()
    whole = time.perf_counter() - began
    return {
        "loader_alone": round(loader),
        "in_memory": round(steps * member.batch_size / whole),
        "step_ms": round(whole / steps * 1e3, 2),
        "host_ms": round(host / steps * 1e3, 2),
        "graphs": bool(stage.graphs and not stage.graphs.refused),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        overrides = [f"data.root={args.root}", f"compute.workers={args.workers}"]
        for graphs in (True, False):
            config = load_config(CONFIG, [*overrides, f"compute.cuda_graphs={str(graphs).lower()}"])
            config = prepare(config, run)
            for name in config.members:
                member = Member(config, run, 0, name, 0, make_accelerator(config))
                stage = set_up_stage(member, len(member.stages) - 1)
                rows.append({"model": name, **measure(member, stage, args.steps)})
                print(json.dumps(rows[-1]), flush=True)
                stage.close()
                member.close()
    args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
