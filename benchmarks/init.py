"""What `distseg run FOLDER --budget` makes of a folder of data: its time against the budget, its
score against the quickstart's config with the paths changed.

    python benchmarks/init.py --data DATA_SETS --out benchmarks/results/init --budgets 5m 15m

DATA_SETS holds the folders tgs, severstal, camvid, oxford_pet and tianchi, as far as they are
there. Four more sets are made: index masks of four classes, masks in two colors, 12-bit pictures
and objects of 6 to 12 pixels in pictures of 2000. Each is run as a person would, from the folder
alone, with nothing known of this machine; `took` is the time of the whole command, from its start
to its last line. The rival is configs/quickstart.yaml, of which only what names the data is
changed (for several classes also the loss: binary cross entropy does not know them), stopped by
`--until` the same budget. Both scores are out of fold and nested, with their
standard error.
A line of results.jsonl for each run, and a table of all lines in results.md; what is there is not
run again. Times are only true on a machine, or a core (`taskset -c 0`), that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from distseg.init.given import parse_budget
from distseg.jobs.guard import die_with_parent
from distseg.records.paths import Run

ROOT = Path(__file__).parent.parent
REAL = ("tgs", "severstal", "camvid", "oxford_pet", "tianchi")
COLORS = np.array([(0, 0, 0), (0, 0, 255), (0, 255, 0)], np.uint8)  # blue, green, red


def draw(
    rng: np.random.Generator, height: int, width: int, number: int, sizes: tuple[int, int],
    classes: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """(height, width) class indices: ellipses (class 1), rectangles (2) and triangles (3)."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(number):
        kind, size = int(rng.integers(1, classes + 1)), int(rng.integers(*sizes))
        x, y = int(rng.integers(size, width - size)), int(rng.integers(size, height - size))
        if kind == 1:
            axes = (size // 2, max(2, size // 3))
            cv2.ellipse(mask, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, kind, -1)
        elif kind == 2:
            half = size // 2
            cv2.rectangle(mask, (x - half, y - half), (x + half, y + half // 2), kind, -1)
        else:
            corners = np.array([(x, y - size // 2), (x - size // 2, y + size // 3),
                                (x + size // 2, y + size // 3)])  # fmt: skip
            cv2.fillPoly(mask, [corners], kind)
    return mask


def picture(rng: np.random.Generator, mask: NDArray[np.uint8], contrast: float) -> NDArray:
    """(H, W) float, about 0 to 1: cloudy ground, the objects a little brighter, noise."""
    height, width = mask.shape
    clouds = cv2.resize(
        rng.random((8, 8), np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    soft = cv2.GaussianBlur((mask > 0).astype(np.float32), (0, 0), 1.0)
    return 0.25 + 0.3 * clouds + contrast * soft + rng.normal(0, 0.06, mask.shape)


def make(kind: str, folder: Path) -> Path:
    """A made data set: images, masks and test_images of PNG files."""
    rng = np.random.default_rng(sorted(MADE).index(kind))
    shape, counts, number, sizes, classes, contrast = MADE[kind]
    for part, count in zip(("images", "test_images"), counts, strict=True):
        (folder / part).mkdir(parents=True)
        (folder / "masks").mkdir(exist_ok=True)
        for index in range(count):
            few = int(rng.integers(*number))
            mask = draw(rng, *shape, few, sizes, classes)
            values = picture(rng, mask, contrast).clip(0, 1)
            deep = kind == "bits_12"
            image = (values * (4095 if deep else 255)).astype(np.uint16 if deep else np.uint8)
            if kind in ("index", "colors"):  # the classes differ in shape, and a little in color
                tint = 14.0 * (mask == 1)[..., None] * np.array([1, 0, -1])
                image = (image[..., None] + tint).clip(0, 255).astype(np.uint8)
            name = f"{part[0]}{index:03d}.png"
            cv2.imwrite(str(folder / part / name), image)
            if part == "images":
                shown = {"index": mask, "colors": COLORS[mask.clip(0, 2)]}
                cv2.imwrite(
                    str(folder / "masks" / name), shown.get(kind, (mask > 0) * np.uint8(255))
                )
    return folder


# shape, (train, test) images, objects of an image, their sizes, classes, contrast
MADE: dict[str, tuple[Any, ...]] = {
    "index": ((240, 320), (160, 30), (2, 7), (24, 72), 3, 0.15),
    "colors": ((256, 256), (120, 30), (1, 5), (24, 72), 2, 0.15),
    "bits_12": ((192, 192), (150, 30), (0, 5), (16, 56), 1, 0.15),
    "tiny_objects": ((2000, 2000), (40, 8), (15, 40), (6, 12), 1, 0.3),
}


def outcome(run: Path, began: float, code: int) -> dict[str, Any]:
    """What a run has come to: seconds, the ensemble's nested score and its standard error."""
    found: dict[str, Any] = {"took_s": round(time.time() - began, 1), "exit": code}
    record = Run(run).final
    if record.is_file():
        scores = json.loads(record.read_text(encoding="utf-8"))["scores"]
        found |= {"score": scores["nested"]["score"], "error": scores["final"]["standard_error"],
                  "scored": scores["final"]["num_images"]}  # fmt: skip
    return found


def command(arguments: list[str], log: Path, cache: Path) -> tuple[float, int]:
    """(when it began, its exit status) of `distseg run`; nothing is known of the machine."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    began = time.time()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run([sys.executable, "-m", "distseg", "run", *arguments], env=env,
                              stdout=out, stderr=subprocess.STDOUT, check=False,
                              preexec_fn=die_with_parent)  # fmt: skip
    return began, done.returncode


def rival(config: dict[str, Any]) -> dict[str, Any]:
    """The quickstart's config, of which only what names the data is this one's."""
    tree = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text(encoding="utf-8"))
    data = {key: value for key, value in config["data"].items() if key != "folds"}
    tree |= {"task": config["task"], "classes": config["classes"], "metric": config["metric"]}
    tree["data"] = {**data, "folds": tree["data"]["folds"]}
    if "void" in config:
        tree["void"] = config["void"]
    tree["input"] = {"height": 64, "width": 64, "fit": "resize",
                     "channels": config["input"].get("channels", 3)}  # fmt: skip
    if config["task"] == "multiclass":
        for stage in tree["stages"]:
            stage["loss"] = {"cross_entropy": 1.0, "dice": 1.0}
        del tree["postprocess"]
    return tree


def table(lines: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    rivals = {(r["set"], r["budget"]): r for r in lines if r["config"] == "quickstart"}
    rows = [
        "| data | budget | took | of the budget | score | quickstart's config | its time |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in lines:
        if r["config"] != "init":
            continue
        other = rivals.get((r["set"], r["budget"]))
        share = r["took_s"] / parse_budget(r["budget"])
        theirs = "" if other is None else f"{other['took_s']:.0f} s"
        rows.append(
            f"| {r['set']} | {r['budget']} | {r['took_s']:.0f} s | {share:.2f} | {_score(r)} | "
            f"{_score(other)} | {theirs} |"
        )
    return "\n".join(rows)


def _score(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not measured"
    if result.get("score") is None:
        return f"exit {result['exit']}"
    error = f" ± {result['error']:.4f}" if result.get("error") is not None else ""
    return f"{result['score']:.4f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--budgets", nargs="+", default=["5m", "15m"])
    parser.add_argument("--sets", nargs="+", default=[*REAL, *MADE])
    parser.add_argument("--configs", nargs="+", default=["init", "quickstart"])
    parser.add_argument("--until", help="begin nothing that would end after this time, as 22:30")
    parser.add_argument("--work", type=Path, help="where runs are kept (default: nowhere)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "results.jsonl"
    lines = (
        [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    )
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        for budget in args.budgets:
            for config in args.configs:
                for name in args.sets:
                    late = args.until and _after(args.until, parse_budget(budget) * 1.2)
                    if late or any((r["set"], r["budget"], r["config"]) == (name, budget, config)
                                   for r in lines):  # fmt: skip
                        continue
                    result = measure(name, budget, config, args.data, work / budget)
                    lines.append(result)
                    with record.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(result) + "\n")
                    (args.out / "results.md").write_text(table(lines) + "\n", encoding="utf-8")
                    shown = {k: v for k, v in result.items() if k != "written"}
                    print(json.dumps(shown), flush=True)


def _after(clock: str, seconds: float) -> bool:
    """Whether something of so many seconds would end after a time of this day."""
    end = time.localtime(time.time() + seconds)
    hours, minutes = (int(part) for part in clock.split(":"))
    return (end.tm_hour, end.tm_min) > (hours, minutes)


def measure(name: str, budget: str, config: str, real: Path, work: Path) -> dict[str, Any]:
    """Run one config on one set."""
    data = real / name if name in REAL else work / "data" / name
    if name in MADE and not data.is_dir():
        make(name, data)
    run, cache = work / f"{name}_{config}", work / f"cache_{name}_{config}"
    for old in (run, cache):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    written = work / f"{name}_init" / "init.yaml"
    if config == "init":
        arguments = [str(data), "--budget", budget]
    else:
        tree = rival(yaml.safe_load(written.read_text(encoding="utf-8")))
        changed = work / f"{name}_quickstart.yaml"
        changed.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        arguments = [str(changed), "--until", budget]
    began, code = command([*arguments, "--out", str(run)], work / f"{name}_{config}.log", cache)
    found = {"set": name, "budget": budget, "config": config, **outcome(run, began, code)}
    if config == "init" and written.is_file():
        found["written"] = written.read_text(encoding="utf-8")
    return found | {"cores": len(os.sched_getaffinity(0)), "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    main()
