"""What a minute buys: held-back score against minutes, of distseg and of a plain script.

    python benchmarks/score_per_minute.py --data DATA_SETS --out benchmarks/results/score_per_minute
        [--sets tgs camvid tianchi] [--minutes 5 15 40] [--weights DIR]
        [--rivals plain distseg nnunet] [--nnunet VENV/bin/python]

From each set a folder is made: images and masks to train on, and a fifth (or the set's own
validation part) whose masks are held back from everyone. Both rivals get that folder and the
minutes: `plain` is benchmarks/plain.py, which is told a fitting size and encoder, `distseg` is
`distseg run FOLDER --budget`, which finds its own, and `nnunet` is rivals/nnunet_run.py, nnU-Net
with its own plans, from scratch, in an environment of its own (rivals/run.py says how). The held-
back masks score both, with the same metric; of distseg the out-of-fold score stands beside it. With
--weights both begin with the same pretrained encoder. A line a run in results.jsonl, a table in
results.md and a picture in results.png; what is there is not run again. Times are only true on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distseg.data.formats.row import Row
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.functional.bootstrap import standard_error
from distseg.functional.metrics import count_masks, summarize
from distseg.init.look import reading_config
from distseg.jobs.guard import die_with_parent
from distseg.records.paths import Run

ROOT = Path(__file__).parent.parent
METRICS = {"tgs": "tgs", "camvid": "miou"}  # of the others dice
SIZES = {"tgs": (128, 128), "camvid": (192, 256), "tianchi": (256, 256), "oxford_pet": (192, 256)}
PLAIN = {"scratch": "resnet18", "pretrained": "tu-tf_efficientnet_lite0"}
WEIGHTS = "tf_efficientnet_lite0.safetensors"
HELD_BACK = 0.2


def make(real: Path, folder: Path) -> dict[str, Any]:
    """A set as images/, masks/ (class indices, 255 where nothing counts), test_images/ and, beside
    the folder, the truth of these. Returns its classes and task."""
    config = reading_config(real, {})
    rows = [row for row in layout(config.data.format).train(config) if not row.problem]
    own = any(row.validates for row in rows)
    for part in ("images", "masks", "test_images"):
        (folder / part).mkdir(parents=True)
    truth = folder.with_name(f"{folder.name}_truth")
    truth.mkdir(parents=True)
    for row in rows:
        held = row.validates if own else _is_held(row)
        image = cv2.imread(row.image, cv2.IMREAD_COLOR)
        planes = read_target(row.target, config, *image.shape[:2])
        name = f"{Path(row.id).stem}.png"
        cv2.imwrite(str(folder / ("test_images" if held else "images") / name), image)
        cv2.imwrite(str((truth if held else folder / "masks") / name), planes[0])
    task = {"task": config.task, "classes": config.classes}
    (folder.with_name(f"{folder.name}.json")).write_text(json.dumps(task))
    return task


def _is_held(row: Row) -> bool:
    digest = hashlib.sha256(row.id.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_BACK * 2**32


def held_back_score(masks: Path, truth: Path, task: dict[str, Any], metric: str) -> dict[str, Any]:
    """Score of masks of class indices against the held-back ones; a missing mask is empty."""
    counts = []
    for path in sorted(truth.iterdir()):
        target = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[None]
        found = cv2.imread(str(masks / path.name), cv2.IMREAD_GRAYSCALE)
        mask = np.zeros_like(target) if found is None else found[None]
        counts.append(count_masks(mask, target, len(task["classes"]), task["task"]))
    stacked = np.stack(counts)
    score = float(summarize(stacked, metric)["score"])
    return {
        "held_back": score,
        "held_back_error": standard_error(stacked, metric),
        "images": len(counts),
    }


def plain(
    folder: Path, task: dict[str, Any], args: Any, minutes: float, work: Path
) -> dict[str, Any]:
    """The plain script, in a process of its own."""
    kind = "pretrained" if args.weights else "scratch"
    classes = len(task["classes"]) if task["task"] == "multiclass" else 2
    size = SIZES.get(folder.name, (128, 128))
    command = [
        sys.executable, str(ROOT / "benchmarks/plain.py"), str(folder), str(work / "masks"),
        "--minutes", str(minutes), "--classes", str(classes), "--encoder", PLAIN[kind],
        "--size", *map(str, size),
    ]  # fmt: skip
    if args.weights:
        command += ["--weights", str(args.weights / WEIGHTS)]
    return {"exit": _call(command, work / "log.txt"), "masks": str(work / "masks")}


def distseg(
    folder: Path, task: dict[str, Any], args: Any, minutes: float, work: Path
) -> dict[str, Any]:
    """`distseg run FOLDER --budget`, and its masks as class indices."""
    run = work / "run"
    keys = [f"task={task['task']}", f"classes=[{','.join(task['classes'])}]",
            f"metric={METRICS.get(folder.name, 'dice')}"]  # fmt: skip
    if task["task"] == "multiclass":
        keys.append("void=255")
    else:
        keys.append("data.mask_values={0: 0, 1: 1, 255: 255}")
    command = [sys.executable, "-m", "distseg", "run", str(folder), "--out", str(run), "--budget",
               f"{60 * minutes:.0f}s", *keys]  # fmt: skip
    if args.weights:
        command += ["--weights", str(args.weights)]
    status = _call(command, work / "log.txt")
    found: dict[str, Any] = {"exit": status, "masks": str(run / "test_masks")}
    if Run(run).final.is_file():
        scores = json.loads(Run(run).final.read_text(encoding="utf-8"))["scores"]
        found |= {"out_of_fold": scores["nested"]["score"],
                  "out_of_fold_error": scores["final"]["standard_error"]}  # fmt: skip
    return found


def nnunet(
    folder: Path, task: dict[str, Any], args: Any, minutes: float, work: Path
) -> dict[str, Any]:
    """nnU-Net, by the Python of its environment."""
    classes = len(task["classes"]) if task["task"] == "multiclass" else 2
    command = [
        args.nnunet, str(ROOT / "benchmarks/rivals/nnunet_run.py"), str(folder),
        str(work / "masks"),
        "--minutes", str(minutes), "--classes", str(classes),
    ]  # fmt: skip
    return {"exit": _call(command, work / "log.txt"), "masks": str(work / "masks")}


def _call(command: list[str], log: Path) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DISTSEG_PACES": "off"}
    with log.open("w", encoding="utf-8") as out:
        return subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            check=False,
            preexec_fn=die_with_parent,
        ).returncode


def table(lines: list[dict[str, Any]]) -> str:
    rows = [
        "| set | encoder | minutes | rival | took | held back | out of fold |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in lines:
        both = [
            f"{r[k]:.4f} ± {r[f'{k}_error']:.4f}" if k in r else ""
            for k in ("held_back", "out_of_fold")
        ]
        cells = [r["set"], r["encoder"], f"{r['minutes']:g}", r["rival"], f"{r['took_s']:.0f} s"]
        rows.append(f"| {' | '.join([*cells, *both])} |")
    return "\n".join(rows) + "\n"


def picture(lines: list[dict[str, Any]], path: Path) -> None:
    """A panel a set and encoder: held-back score against the minutes that a run really took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(r["set"], r["encoder"]) for r in lines})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        here = [r for r in lines if (r["set"], r["encoder"]) == panel]
        for rival in sorted({r["rival"] for r in here}):
            own = sorted((r for r in here if r["rival"] == rival), key=lambda r: r["took_s"])
            minutes = [r["took_s"] / 60 for r in own]
            score, error = ([r[k] for r in own] for k in ("held_back", "held_back_error"))
            axis.errorbar(minutes, score, error, marker="o", capsize=3, label=rival)
        axis.set(title=", ".join(panel), xlabel="minutes", ylabel="held-back score")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--sets", nargs="+", default=["tgs", "camvid", "tianchi"])
    parser.add_argument("--minutes", nargs="+", type=float, default=[5, 15, 40])
    parser.add_argument("--rivals", nargs="+", default=["plain", "distseg"])
    parser.add_argument("--weights", type=Path, help=f"folder with {WEIGHTS}")
    parser.add_argument("--nnunet", metavar="PYTHON", help="of an environment with nnU-Net")
    args = parser.parse_args()
    if "nnunet" in args.rivals and (args.weights or not args.nnunet):
        parser.error("nnunet: needs --nnunet, and begins from scratch: no --weights")
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "results.jsonl"
    text = record.read_text(encoding="utf-8") if record.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    kind = "pretrained" if args.weights else "scratch"
    for name in args.sets:
        folder = args.work / "data" / name
        described = folder.with_name(f"{name}.json")
        if not described.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            make(args.data / name, folder)
        task = json.loads(described.read_text())
        for minutes in args.minutes:
            for rival in args.rivals:
                key = {"set": name, "encoder": kind, "minutes": minutes, "rival": rival}
                if any(all(r[k] == v for k, v in key.items()) for r in lines):
                    continue
                work = args.work / f"{name}_{kind}_{minutes:g}_{rival}"
                shutil.rmtree(work, ignore_errors=True)
                began = time.monotonic()
                found = {"plain": plain, "distseg": distseg, "nnunet": nnunet}[rival](
                    folder, task, args, minutes, work
                )
                found["took_s"] = round(time.monotonic() - began, 1)
                truth = folder.with_name(f"{name}_truth")
                score = held_back_score(
                    Path(found.pop("masks")), truth, task, METRICS.get(name, "dice")
                )
                lines.append({**key, **found, **score, "cores": len(os.sched_getaffinity(0))})
                with record.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(lines[-1]) + "\n")
                print(json.dumps(lines[-1]), flush=True)
                (args.out / "results.md").write_text(table(lines), encoding="utf-8")
    picture(lines, args.out / "results.png")


if __name__ == "__main__":
    main()
