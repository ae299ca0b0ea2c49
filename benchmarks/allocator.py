"""What it saves that a rank on a CPU keeps the memory that it frees (`keep_freed_memory`).

    python benchmarks/allocator.py OUT.json [--pairs 5] [--seconds 10]

Training steps of three U-Nets on one thread, each in a fresh process, in turn with the allocator
as it is and as distseg sets it. Of each: seconds a step (the median after the first three), the
share of the CPU time that the system takes, pages that are made anew in a step, highest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from distseg.jobs.guard import die_with_parent

NETS = (  # encoder, decoder's channels, batch, height and width
    ("tu-tf_efficientnet_lite0", (128, 64, 48, 32, 16), 16, 128),
    ("resnet34", (128, 64, 48, 32, 16), 16, 128),
    ("tu-resnet10t", (128, 64, 32, 16, 16), 16, 96),
)
SKIPPED = 3  # steps after the start


def steps(encoder: str, channels: tuple[int, ...], batch: int, size: int, seconds: float) -> None:
    """Train on one batch for so long; print what it took as JSON."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as loss

    from distseg.config.member import MemberConfig
    from distseg.models.build import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    member = MemberConfig.model_validate(
        {"arch": "Unet", "encoder": encoder, "decoder": {"decoder_channels": list(channels)}}
    )
    model = build_model(member, 1, 1, (size, size), pretrained=False)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(batch, 1, size, size) > 0.5).float()
    times: list[float] = []
    pages = system = cpu = 0.0
    while len(times) < SKIPPED + 3 or sum(times[SKIPPED:]) < seconds:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        optimizer.zero_grad()
        loss(model(images)[0], masks).backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_SELF)
        if len(times) > SKIPPED:
            pages += after.ru_minflt - before.ru_minflt
            system += after.ru_stime - before.ru_stime
            cpu += after.ru_stime + after.ru_utime - before.ru_stime - before.ru_utime
    number = len(times) - SKIPPED
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"step_s": statistics.median(times[SKIPPED:]), "system_share": system / cpu,
             "pages": pages / number, "highest_mb": highest}  # fmt: skip
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


def once(net: int, keeps: bool, seconds: float) -> dict[str, float]:
    """A fresh process."""
    command = [sys.executable, __file__, "-", "--net", str(net), "--seconds", str(seconds)]
    command += ["--keeps"] if keeps else []
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=die_with_parent
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of steps in each process")
    parser.add_argument("--net", type=int, help="one process: the place in NETS")
    parser.add_argument("--keeps", action="store_true", help="one process: keep what is freed")
    args = parser.parse_args()
    if args.net is not None:
        if args.keeps:
            from distseg.distributed import keep_freed_memory

            assert keep_freed_memory(), "this allocator cannot be told to"
        steps(*NETS[args.net], args.seconds)
        return
    rows: list[dict[str, Any]] = []
    for place, (encoder, _, batch, size) in enumerate(NETS):
        pairs = []
        for number in range(args.pairs):  # in turn which of both comes first
            order = (False, True) if number % 2 == 0 else (True, False)
            found = {keeps: once(place, keeps, args.seconds) for keeps in order}
            pairs.append((found[False], found[True]))
        ratios = sorted(plain["step_s"] / kept["step_s"] for plain, kept in pairs)
        row: dict[str, Any] = {"encoder": encoder, "batch": batch, "size": size}
        row |= {"faster": round(statistics.median(ratios), 3)}
        row |= {"lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3)}
        for name, which in (("plain", 0), ("kept", 1)):
            row[name] = {key: round(statistics.median(pair[which][key] for pair in pairs), 4)
                         for key in pairs[0][0]}  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    tree = {"machine": platform.processor() or platform.machine(), "libc": platform.libc_ver(),
            "pairs": args.pairs, "rows": rows}  # fmt: skip
    args.out.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
