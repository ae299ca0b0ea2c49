"""What each of the winners' parts gains on TGS at a CPU's size, with the same budget for all.

    python benchmarks/ablation.py --root data/tgs --out benchmarks/results/ablation_tgs.json

One run with a model entry for each variant and seed: ResNet18 U-Nets, random weights, half of the
images to train on and half held out. Every member sees the same number of pixels: six epochs at
64 x 64, or two at 112 x 112 (the smallest size that an image of 101 pixels can be padded to).
Scores are those of the held-out half at the threshold of .5, without flips where nothing else is
said; a gain is the mean of the differences to the base by seed, with their standard deviation.
Seed and order of images are the same for the variants of a seed. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distseg.jobs.guard import die_with_parent
from distseg.records.files import read_json
from distseg.records.paths import Run

DECODER = {"encoder_depth": 4, "decoder_channels": [48, 32, 24, 16]}
BCE: dict[str, Any] = {"bce": 1.0}
LOVASZ = {"bce": 0.5, "lovasz": {"weight": 1.0, "activation": "elu"}}


def stage(epochs: int, loss: dict[str, Any], cycles: int = 1, lr: float = 1.5e-3) -> dict[str, Any]:
    schedule = {"kind": "cosine", "epochs_per_cycle": epochs, "cycles": cycles}
    warmup = min(1.0, epochs / 4)
    return {
        "loss": loss,
        "optimizer": {"name": "adamw", "lr": lr, "weight_decay": 0.01},
        "schedule": {**schedule, "warmup_epochs": warmup},
        "keep": "cycles",
    }


def net(stages: list[dict[str, Any]], size: int = 64, fit: str = "resize", **changes: Any) -> Any:
    decoder = {**DECODER, **changes.pop("decoder", {})}
    canvas = {"height": size, "width": size, "fit": fit, "channels": 1}
    member = {"arch": "ComposedUnet", "encoder": "resnet18", "encoder_weights": None}
    return {**member, "decoder": decoder, "stages": stages, "input": canvas, **changes}


def variants() -> dict[str, Any]:
    whole, short = [stage(6, BCE)], [stage(2, BCE)]
    after = [stage(4, BCE), stage(2, LOVASZ, lr=1.0e-3)]
    return {
        "plain": net(whole),
        "scse": net(whole, decoder={"attention": "scse"}),
        "hypercolumn": net(whole, decoder={"hypercolumn": True}),
        "deep_supervision": net(whole, deep_supervision=0.1, image_head=0.05),
        "lovasz_after_bce": net(after),
        "snapshots": net([stage(2, BCE, cycles=3)]),
        "resize_112": net(short, 112),
        "pad_112": net(short, 112, "pad"),
    }


# (row, variant, what of its score, base, what of the base's score)
ROWS = (
    ("plain", "plain", "plain", None, None),
    ("+ scSE", "scse", "plain", "plain", "plain"),
    ("+ hypercolumn", "hypercolumn", "plain", "plain", "plain"),
    ("+ deep supervision, image head", "deep_supervision", "plain", "plain", "plain"),
    ("+ Lovasz after BCE", "lovasz_after_bce", "plain", "plain", "plain"),
    ("+ flip TTA", "plain", "tta", "plain", "plain"),
    ("3 snapshots of 2 epochs, averaged", "snapshots", "plain", "plain", "plain"),
    ("   against the last of them", "snapshots", "plain", "snapshots", "last"),
    ("resize to 112", "resize_112", "plain", None, None),
    ("pad to 112", "pad_112", "plain", "resize_112", "plain"),
)


def experiment(root: str, seeds: int, num_slots: int) -> dict[str, Any]:
    folder = {"images": "train/images", "masks": "train/masks", "test_images": None}
    return {
        "name": "ablation",
        "data": {
            "format": "folder",
            "root": root,
            "folder": folder,
            "folds": {"kind": "holdout", "fraction": 0.5},
        },
        "input": {"height": 64, "width": 64, "fit": "resize", "channels": 1},
        "metric": "tgs",
        "augment": [
            {"hflip": {"p": 0.5}},
            {"affine": {"scale": [0.8, 1.35], "translate": 0.12, "p": 0.7}},
        ],
        "members": {
            f"{name}_{seed}": {**member, "seed": seed}
            for seed in range(seeds)
            for name, member in variants().items()
        },
        "train": {"batch_size": 16, "evaluate_every": 99},
        "predict": {"tta": ["hflip"], "batch_size": 64},
        "postprocess": {"threshold": 0.5, "min_area": 0},
        "compute": {"slots": num_slots},
    }


def measured(run: Run, seeds: int) -> dict[str, dict[str, list[float]]]:
    """By variant: scores of the seeds, plain, with flips, and of the last snapshot alone."""
    members = read_json(run.ensemble(0))["scores"]["members"]
    found: dict[str, dict[str, list[float]]] = {}
    for name in variants():
        own = [members[f"{name}_{seed}"] for seed in range(seeds)]
        found[name] = {
            "plain": [one["plain"] for one in own],
            "tta": [one["tta"] for one in own],
            "last": [one["snapshots"][-1]["plain"] for one in own],
        }
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """In Markdown."""
    lines = ["| | score | gain | by seed |", "|---|---|---|---|"]
    for title, name, what, base, of_base in ROWS:
        values = np.array(found[name][what])
        cells = [f"{values.mean():.4f} ± {values.std(ddof=1):.4f}", "", ""]
        if base is not None and of_base is not None:
            gains = values - np.array(found[base][of_base])
            cells[1] = f"{gains.mean():+.4f} ± {gains.std(ddof=1):.4f}"
            cells[2] = ", ".join(f"{gain:+.4f}" for gain in gains)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data/tgs", help="folder of the TGS files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2, help="members side by side")
    parser.add_argument("--limit", type=int, help="train images at most, to try it")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, help="a .json file")
    args = parser.parse_args()
    tree = experiment(args.root, args.seeds, args.slots)
    tree["data"]["limit"] = args.limit
    args.work.parent.mkdir(parents=True, exist_ok=True)
    path = args.work.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "distseg", "run", str(path), "--out", str(args.work)]
    subprocess.run(command, check=True, preexec_fn=die_with_parent)
    found = measured(Run(args.work), args.seeds)
    print(table(found))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
