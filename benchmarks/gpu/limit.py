"""The limit of a device: training steps and forward passes of one model on data in memory.

    python benchmarks/gpu/limit.py OUT.json [--processes N] [--seconds 4] [--compile] [--graph]
        [--batches 64]

The model is smp's Unet with a ResNet34 and scSE, one channel, 128 x 128, in bf16 and channels_last,
with a fused AdamW: what configs/tgs_salt.yaml trains. Each kernel is launched by the host, and on a
GPU also all of them at once, as a CUDA graph of the whole step ("train_graph"). With --processes
the same loop runs in N processes at once, and the rates are summed: what several jobs can have of
one GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

SIZE = 128


def rate(function: Callable[[], None], images: int, seconds: float, device: str) -> float:
    """Images a second of `function`, which handles `images` a call, after a warm-up."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    calls = 10 if device == "cuda" else 1
    for _ in range(calls):
        function()
    wait()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(calls):
            function()
            count += images
        wait()
    return count / (time.perf_counter() - started)


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """`step` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure(
    batch: int, seconds: float, compiled: bool, device: str, graph: bool
) -> dict[str, float]:
    """Images a second of training and of prediction with a flip, at one batch size."""
    torch.backends.cudnn.benchmark = True
    model = smp.Unet(
        "resnet34", encoder_weights=None, in_channels=1, decoder_attention_type="scse"
    ).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, fused=True, capturable=device == "cuda"
    )
    images = torch.randn(batch, 1, SIZE, SIZE, device=device)
    images = images.to(memory_format=torch.channels_last)
    target = (torch.rand(batch, 1, SIZE, SIZE, device=device) > 0.7).float()
    net = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            logits = net(images)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def predict() -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            net(images) + net(images.flip(-1)).flip(-1)

    model.train()
    found = {} if graph else {"train": rate(step, batch, seconds, device)}
    if device == "cuda":
        found["train_graph"] = rate(captured(step), batch, seconds, device)
    model.eval()
    found["predict_flip"] = rate(predict, batch, seconds, device)
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graph", action="store_true", help="on a GPU, as a graph alone")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.processes > 1:
        files = [args.out.with_suffix(f".{i}.json") for i in range(args.processes)]
        base = [sys.executable, __file__, "--seconds", str(args.seconds), "--batches"]
        base += [*map(str, args.batches)] + (["--compile"] if args.compile else [])
        base += ["--graph"] if args.graph else []
        jobs = [subprocess.Popen([*base, "--", str(file)]) for file in files]
        codes = [job.wait() for job in jobs]
        if any(codes):
            raise SystemExit("a process failed")
        parts = [json.loads(file.read_text()) for file in files]
        for file in files:
            file.unlink()
        record = {"processes": args.processes}
        for batch in map(str, args.batches):
            record[batch] = {k: round(sum(p[batch][k] for p in parts), 1) for k in parts[0][batch]}
    else:
        record = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
        record |= {"torch": torch.__version__, "compiled": args.compile}
        for batch in args.batches:
            record[str(batch)] = measure(batch, args.seconds, args.compile, device, args.graph)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
