"""What a frozen encoder gives for the same minutes as one that is trained.

    python benchmarks/frozen.py --root data/tgs --weights tf_efficientnet_lite0.safetensors \
        --out benchmarks/results/frozen [--minutes 5 15] [--views 4] [--ways trained maps]

TGS, images of 128 x 128 with a border, one job after another. A fifth of the images is held back,
as in score_per_minute.py, and a fifth of the others is the hold-out. The ways:

    trained   one U-Net, encoder and decoder
    step      the same with freeze_encoder: always; the encoder is computed in each step
    maps      the same, its feature maps computed once (stages[].views)
    heads     three decoders (Unet, Linknet, FPN) on the same maps, one ensemble

Each way is run for a few epochs first, which says what an epoch and all the rest (start, maps,
prediction) take; then with as many epochs as the minutes hold. A line a run in results.jsonl, a
table in results.md: seconds that it really took, epochs, and the scores of its ensemble, held back
and out of fold. What is there is not run again. Times are only true on a machine that does nothing
else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from score_per_minute import held_back_score, make

from distseg.jobs.guard import die_with_parent
from distseg.records.files import append_line, read_json, read_lines
from distseg.records.paths import Run

ROOT = Path(__file__).parent.parent
WAYS = ("trained", "step", "maps", "heads")
ARCHS = ("Unet", "Linknet", "FPN")
TRIED = 3  # epochs of the first run


def config(way: str, epochs: int, args: argparse.Namespace) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "loss": {"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"kind": "cosine", "epochs_per_cycle": epochs, "warmup_epochs": 0.3},
    }
    if way == "trained":
        stage["optimizer"]["encoder_lr"] = 3e-4
    else:
        views = None if way == "step" else args.views
        stage |= {"freeze_encoder": "always", "views": views}
    encoder = {"encoder": args.encoder, "encoder_weights": str(Path(args.weights).resolve())}
    archs = ARCHS if way == "heads" else ARCHS[:1]
    return {
        "name": f"frozen_{way}", **args.task,
        "data": {
            "format": "folder", "root": str(args.data.resolve()), "limit": args.limit,
            "folds": {"kind": "holdout", "fraction": 0.2},
            "mask_values": {0: 0, 1: 1, 255: 255},
        },
        "input": {"height": 128, "width": 128, "channels": 3},
        "metric": "tgs",
        "augment": [
            {"hflip": {"p": 0.5}},
            {"affine": {"scale": [0.8, 1.35], "translate": 0.12, "p": 0.7}},
            {"brightness_contrast": {"brightness": 0.1, "contrast": 0.2, "p": 0.4}},
        ],
        "members": {arch.lower(): {"arch": arch, **encoder} for arch in archs},
        "stages": [stage],
        "train": {"batch_size": 16, "evaluate_every": "auto"},
        "predict": {"tta": ["hflip"], "batch_size": 64, "every_round": False},
        "compute": {"slots": 1},
    }  # fmt: skip


def run(way: str, epochs: int, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One whole run; seconds, seconds of an epoch of all its members, and its score."""
    folder.mkdir(parents=True, exist_ok=True)
    path, result = folder / "config.yaml", Run(folder / "run")
    path.write_text(yaml.safe_dump(config(way, epochs, args)), encoding="utf-8")
    command = [sys.executable, "-m", "distseg", "run", str(path), "--out", str(result.folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DISTSEG_PACES": "off"}
    began = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            check=True,
            preexec_fn=die_with_parent,
        )
    took = time.perf_counter() - began
    members = [result.member(0, name, 0) for name in config(way, 1, args)["members"]]
    rows = [read_lines(member.metrics) for member in members]
    scores = read_json(result.final)["scores"]
    return {
        "way": way, "epochs": epochs, "took_s": round(took, 1),
        "epoch_s": sum(sum(r["epoch_seconds"] for r in own) / len(own) for own in rows),
        "score": scores["nested"]["score"], "error": scores["final"]["standard_error"],
        **held_back_score(result.folder / "test_masks", args.truth, args.task, "tgs"),
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    names = ("minutes", "way", "epochs", "took", "held back", "out of fold")
    rows: list[Sequence[str]] = [names, ["---"] * len(names)]
    for r in sorted(lines, key=lambda r: (r["minutes"], WAYS.index(r["way"]))):
        scores = [
            f"{r[key]:.4f} ± {r[error]:.4f}"
            for key, error in (("held_back", "held_back_error"), ("score", "error"))
        ]
        took = f"{r['took_s']:.0f} s"
        rows.append([f"{r['minutes']:g}", r["way"], str(r["epochs"]), took, *scores])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--root", required=True, help="folder of TGS")
    parser.add_argument("--weights", required=True, help="a .safetensors file of the encoder")
    parser.add_argument("--encoder", default="tu-tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15])
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--limit", type=int, default=None, help="images, for a trial of the script")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    args.data, args.truth = args.out / "data", args.out / "data_truth"
    facts = args.out / "data.json"
    if not facts.is_file():  # written last
        make(Path(args.root), args.data)
    args.task = read_json(facts)
    lines = read_lines(results) if results.is_file() else []
    for way in args.ways:
        todo = [
            m for m in args.minutes if not any((r["way"], r["minutes"]) == (way, m) for r in lines)
        ]
        if not todo:
            continue
        tried = run(way, TRIED, args.out / way / "tried", args)
        rest = tried["took_s"] - TRIED * tried["epoch_s"]
        for minutes in todo:
            epochs = max(1, int((60 * minutes - rest) / tried["epoch_s"]))
            line = run(way, epochs, args.out / way / f"{minutes:g}", args) | {"minutes": minutes}
            append_line(results, line)
            lines.append(line)
            print(json.dumps(line), flush=True)
    (args.out / "results.md").write_text(table(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
