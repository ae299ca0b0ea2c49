"""How time grows with images, models, image size, classes and ranks.

    python benchmarks/growth.py OUT [--series images models size classes ranks]

Whole runs of `distseg run` on made images, each from an empty folder; of the base run one thing is
changed at a time. Seconds are those that the run's ledger has for each phase. The exponent of a
phase is the slope of its time against what grows, both as logarithms, by least squares over the
larger half of the series, where the start of processes weighs less: 1 is linear. For ranks it is
the ratio to one rank of the same global batch. A line of OUT/results.jsonl for each run (what is
there is not run again), a table in OUT/results.md, a picture in OUT/results.png. Times are only
true on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distseg.jobs.guard import die_with_parent
from distseg.records.files import read_lines
from distseg.records.paths import Run
from distseg.report.report import stage_seconds

ROOT = Path(__file__).resolve().parents[1]
SERIES: dict[str, list[int]] = {
    "images": [250, 500, 1000, 2000, 4000],
    "models": [1, 2, 4, 8],
    "size": [64, 96, 128, 192, 256],
    "classes": [1, 2, 4, 8],
    "ranks": [1, 2],
}
PHASES = ("data", "train", "ensemble", "predict")
Row = dict[str, Any]


def tree_of(series: str, value: int) -> dict[str, Any]:
    """The base run, with one thing changed."""
    at = {"images": 500, "models": 1, "size": 64, "classes": 1, "ranks": 1, series: value}
    made = {"num_train": at["images"], "num_test": at["images"], "height": at["size"],
            "width": at["size"], "channels": 1}  # fmt: skip
    model = {"arch": "Unet", "encoder": "resnet18", "encoder_weights": None,
             "decoder": {"encoder_depth": 4, "decoder_channels": [64, 32, 24, 16]}}  # fmt: skip
    several = at["classes"] > 1
    return {
        "name": "growth",
        "task": "multilabel" if several else "binary",
        "classes": [f"c{number}" for number in range(at["classes"])],
        "metric": "mean_dice" if several else "dice",
        "data": {"format": "synthetic", "synthetic": made, "folds": {"num": 2}},
        "input": {"height": at["size"], "width": at["size"], "channels": 1},
        "augment": [{"hflip": {}}, {"affine": {"scale": [0.8, 1.25]}}],
        "members": {f"m{number}": {**model, "seed": number} for number in range(at["models"])},
        "stages": [{"loss": {"bce": 1.0}, "schedule": {"epochs_per_cycle": 2}}],
        "train": {"batch_size": 16},
        "predict": {"tta": ["hflip"], "batch_size": 64},
        "postprocess": {"threshold": "search", "min_area": "search"},
        "compute": {"processes_per_job": at["ranks"], "slots": 1,
                    "cpu_threads": 2 // at["ranks"]},
    }  # fmt: skip


def measured(series: str, value: int) -> Row:
    """One run: seconds of its phases and of the whole command."""
    with tempfile.TemporaryDirectory() as scratch:
        path, run = Path(scratch) / "growth.yaml", Run(Path(scratch) / "run")
        path.write_text(yaml.safe_dump(tree_of(series, value)), encoding="utf-8")
        command = [sys.executable, "-m", "distseg", "run", str(path), "--out", str(run.folder)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "DISTSEG_PACES": "off"}
        began = time.monotonic()
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            cwd=scratch,
            preexec_fn=die_with_parent,
        )
        took = time.monotonic() - began
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        seconds = stage_seconds(read_lines(run.ledger))
        return {"series": series, "value": value, "took_s": round(took, 2),
                **{phase: round(seconds.get(phase, 0.0), 2) for phase in PHASES}}  # fmt: skip


def exponent(rows: list[Row], phase: str) -> float | None:
    """The slope over the larger half of a series, at least three of its runs."""
    rows = sorted(rows, key=lambda row: row["value"])[-max(3, math.ceil(len(rows) / 2)) :]
    known = [(row["value"], row[phase]) for row in rows if row[phase] > 0]
    if len(known) < 3:
        return None
    x, y = np.log(np.array(known, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def table(rows: list[Row]) -> str:
    """A table for each series."""
    parts = []
    for series in dict.fromkeys(row["series"] for row in rows):
        own = sorted((r for r in rows if r["series"] == series), key=lambda r: r["value"])
        keys = [key for key in (*PHASES, "took_s") if any(row[key] for row in own)]
        heads = ["whole command" if key == "took_s" else key for key in keys]
        lines = [f"| {series} | {' | '.join(heads)} |", "|---" * (len(keys) + 1) + "|"]
        lines += [
            f"| {row['value']} | {' | '.join(f'{row[key]:.1f} s' for key in keys)} |" for row in own
        ]
        if series == "ranks":
            ratios = [f"{own[0][key] / own[-1][key]:.2f}" for key in keys]
            lines.append(f"| 1 rank / {own[-1]['value']} | {' | '.join(ratios)} |")
        else:
            slopes = [exponent(own, key) for key in keys]
            shown = ["–" if slope is None else f"{slope:.2f}" for slope in slopes]
            lines.append(f"| exponent | {' | '.join(shown)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def picture(rows: list[Row], path: Path) -> None:
    """A panel a series, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["series"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.6 * len(names), 3.4), squeeze=False)
    for axis, series in zip(axes[0], names, strict=True):
        own = sorted((r for r in rows if r["series"] == series), key=lambda r: r["value"])
        values = [row["value"] for row in own]
        for phase in PHASES:
            if all(row[phase] > 0 for row in own):
                axis.loglog(values, [row[phase] for row in own], marker="o", label=phase)
        axis.set(title=series, ylabel="seconds")
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--series", nargs="+", default=list(SERIES), choices=list(SERIES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "results.jsonl"
    text = record.read_text(encoding="utf-8") if record.is_file() else ""
    rows: list[Row] = [json.loads(line) for line in text.splitlines()]
    for series in args.series:
        for value in SERIES[series]:
            if any((r["series"], r["value"]) == (series, value) for r in rows):
                continue
            rows.append(measured(series, value))
            with record.open("a", encoding="utf-8") as out:
                out.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
            (args.out / "results.md").write_text(table(rows), encoding="utf-8")
    picture(rows, args.out / "results.png")


if __name__ == "__main__":
    main()
