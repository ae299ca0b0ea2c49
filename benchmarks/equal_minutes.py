"""What a change of the recipe buys at equal minutes: short trainings on one core, scored twice.

    taskset -c 0 python benchmarks/equal_minutes.py --data DATA_SETS --work WORK \\
        --out benchmarks/results/equal_minutes [--set tgs] [--seconds 200] \\
        [--variants base small half half+small ...]

Each variant is the recipe of `distseg init` for a short budget with some changes, joined by `+`:

    small       first stage at .7 of the sides          smaller     at half of the sides
    long_first  .8 instead of .6 of epochs in it        half        half the batch
    large       input of 1.5 times the sides            rate        twice the learning rate
    hypercolumn, deep                                   the decoder's parts (docs/models.md)

How long a step takes is measured once for each network, size and batch (WORK/paces.json, where it
may be corrected), and the updates fill the seconds, so that a busy machine changes no score. The
score is out of fold on a fifth, and on images that are held back from all of it, see
score_per_minute.py, whose folders are used. A line a run in OUT/results.jsonl, a table in
OUT/results.md; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import score_per_minute as peers  # beside this file
import yaml

from distseg.config.load import parse_config
from distseg.init.recipe import AUGMENT, LOSSES
from distseg.jobs.guard import die_with_parent
from distseg.jobs.hardware import make_slots
from distseg.records.paths import Run
from distseg.run.measure import DataSize
from distseg.run.pace import measure

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"tgs": (64, 64, 16), "camvid": (96, 128, 8), "tianchi": (128, 128, 4)}
NATIVE = {"tgs": (101, 101), "camvid": (360, 480), "tianchi": (512, 512)}
EPOCHS, FIRST, MEASURING_S = 10, 0.6, 25.0
Tree = dict[str, Any]


def base(name: str, folder: Path, task: Tree, metric: str) -> Tree:
    """The recipe of a short budget: a U-Net with a short ResNet10t, from random weights."""
    height, width, batch = SIZES[name]
    kind, losses = task["task"], LOSSES[task["task"]]
    data: Tree = {"format": "folder", "root": str(folder),
                  "folds": {"kind": "holdout", "fraction": 0.2, "seed": 0}}  # fmt: skip
    counts: Tree = {"void": 255}
    if kind != "multiclass":
        data["mask_values"] = {0: 0, 1: 1, 255: 255}
        counts = {"postprocess": {"threshold": "search", "min_area": "search"}}
    model = {"arch": "Unet", "encoder": "tu-resnet10t", "encoder_weights": None,
             "decoder": {"decoder_channels": [64, 32, 16, 16], "encoder_depth": 4}}  # fmt: skip
    return {
        "name": "equal_minutes", **task, **counts, "data": data, "metric": metric,
        "input": {"height": height, "width": width, "fit": "resize",
                  "channels": 1 if name == "tgs" else 3},
        "augment": AUGMENT,
        "members": {"m": model},
        "stages": [
            {"loss": losses[0], "optimizer": {"name": "adamw", "lr": 1.5e-3, "weight_decay": 0.01},
             "schedule": {"kind": "cosine", "warmup_epochs": 1.0, "min_lr_scale": 0.3}},
            {"loss": losses[1], "optimizer": {"name": "adamw", "lr": 7.5e-4, "weight_decay": 0.01},
             "schedule": {"kind": "cosine"}, "keep": "cycles"},
        ],
        "train": {"batch_size": batch},
        "predict": {"tta": ["hflip"], "batch_size": 32 if name == "tgs" else 5},
        "ensemble": {"space": "logit", "weights": "uniform"},
    }  # fmt: skip


def _first_at(share: float) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        sides = (tree["input"]["height"], tree["input"]["width"])
        tree["stages"][0]["input_size"] = [max(32, 16 * round(share * s / 16)) for s in sides]

    return change


def _large(tree: Tree) -> None:
    for side in ("height", "width"):
        tree["input"][side] = 32 * round(1.5 * tree["input"][side] / 32)


def _rate(tree: Tree) -> None:
    for stage in tree["stages"]:
        stage["optimizer"]["lr"] *= 2


def _half(tree: Tree) -> None:
    tree["train"]["batch_size"] //= 2


def _hypercolumn(tree: Tree) -> None:
    tree["members"]["m"]["arch"] = "ComposedUnet"
    tree["members"]["m"]["decoder"]["hypercolumn"] = True


def _deep(tree: Tree) -> None:
    tree["members"]["m"] |= {"arch": "ComposedUnet", "deep_supervision": 0.1, "image_head": 0.1}


# In the order in which they are applied: a stage's size follows the input's.
CHANGES: dict[str, Callable[[Tree], None]] = {
    "large": _large, "small": _first_at(0.7), "smaller": _first_at(0.5), "half": _half,
    "rate": _rate, "hypercolumn": _hypercolumn, "deep": _deep,
}  # fmt: skip
COSTLY = ("large", "half", "hypercolumn", "deep")  # which change what a step takes


def pace(name: str, tree: Tree, parts: list[str], known: Path) -> list[float]:
    """Seconds of a step at the input's size, with the first and with the last loss."""
    key = f"{name}:{'+'.join(part for part in parts if part in COSTLY) or 'base'}"
    every = json.loads(known.read_text()) if known.is_file() else {}
    if key not in every:
        config = parse_config(tree, Path("equal_minutes.yaml"))
        slots = make_slots(config.compute, [], 1)[:1]
        (found,) = measure(config, DataSize(100, 10, *NATIVE[name]), slots, MEASURING_S).values()
        every[key] = [round(found.first_step_s, 4), round(found.step_s, 4)]
        known.write_text(json.dumps(every))
    return list(every[key])


def filled(tree: Tree, first_s: float, last_s: float, seconds: float, share: float) -> int:
    """Fill the seconds with updates, `share` of them in the first stage; returns how many."""
    size, stages = tree["input"], tree["stages"]
    height, width = stages[0].get("input_size") or (size["height"], size["width"])
    first_s *= height * width / (size["height"] * size["width"])
    first = round(share * EPOCHS)
    steps = max(4, int(seconds / (first * first_s + (EPOCHS - first) * last_s)))
    stages[0]["schedule"]["epochs_per_cycle"] = first
    stages[1]["schedule"]["epochs_per_cycle"] = EPOCHS - first
    tree["train"] |= {"steps_per_epoch": steps, "evaluate_every": EPOCHS}
    return steps * EPOCHS


def measured(name: str, variant: str, args: Any) -> Tree:
    """Train and score a variant."""
    folder = args.work / "data" / name
    described = folder.with_name(f"{name}.json")
    if not described.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        peers.make(args.data / name, folder)
    task, metric = json.loads(described.read_text()), peers.METRICS.get(name, "dice")
    tree, parts = base(name, folder, task, metric), variant.split("+")
    for part in CHANGES:
        if part in parts:
            CHANGES[part](tree)
    share = 0.8 if "long_first" in parts else FIRST
    drafted = json.loads(json.dumps(tree))
    filled(drafted, 1.0, 1.0, 100.0, share)
    updates = filled(
        tree, *pace(name, drafted, parts, args.work / "paces.json"), args.seconds, share
    )
    run = Run(args.work / f"{name}_{args.seconds:g}_{variant}")
    path = run.folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "distseg", "run", str(path), "--out", str(run.folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISTSEG_PACES": "off"},
        capture_output=True, text=True, check=False, preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    scores = json.loads(run.final.read_text(encoding="utf-8"))["scores"]
    truth = folder.with_name(f"{name}_truth")
    held = peers.held_back_score(run.folder / "test_masks", truth, task, metric)
    return {
        "set": name, "seconds": args.seconds, "variant": variant, "updates": updates,
        "batch": tree["train"]["batch_size"], "took_s": round(time.monotonic() - began, 1),
        "out_of_fold": round(scores["nested"]["score"], 4),
        "held_back": round(held["held_back"], 4),
        "held_back_error": round(held["held_back_error"], 4), "images": held["images"],
    }  # fmt: skip


def table(lines: list[Tree]) -> str:
    rows = [
        "| set | seconds | variant | updates | batch | whole run | out of fold | held back |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(lines, key=lambda r: (r["set"], r["seconds"], r["held_back"])):
        cells = [
            r["set"], f"{r['seconds']:g}", r["variant"], f"{r['updates']:,}", str(r["batch"]),
            f"{r['took_s']:.0f} s", f"{r['out_of_fold']:.4f}", f"{r['held_back']:.4f}",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--set", default="tgs", choices=list(SIZES))
    parser.add_argument("--seconds", type=float, default=200.0, help="of training alone")
    parser.add_argument("--variants", nargs="+", default=["base", "small", "half+small+long_first"])
    args = parser.parse_args()
    known = {"base", "long_first", *CHANGES}
    if wrong := {part for one in args.variants for part in one.split("+")} - known:
        parser.error(f"{sorted(wrong)[0]}: no such change; valid: {', '.join(sorted(known))}")
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    record = args.out / "results.jsonl"
    for variant in args.variants:
        text = record.read_text(encoding="utf-8") if record.is_file() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        key = (args.set, args.seconds, variant)
        if any((r["set"], r["seconds"], r["variant"]) == key for r in lines):
            continue
        lines.append(measured(args.set, variant, args))
        with record.open("a", encoding="utf-8") as out:
            out.write(json.dumps(lines[-1]) + "\n")
        print(json.dumps(lines[-1]), flush=True)
        (args.out / "results.md").write_text(table(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
