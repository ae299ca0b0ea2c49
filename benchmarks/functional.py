"""Ratios of the pure functions against the loops they replace, side by side in one run.

    python benchmarks/functional.py [--out benchmarks/results/functional.json]

Each pair computes the same result (asserted) on the same random images; the figure is the median
over repeats of the loop's CPU seconds divided by ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distseg.functional import rle
from distseg.functional.metrics import tgs
from distseg.functional.postprocess import apply_postprocess, logit
from distseg.functional.sweeps import CleaningSweep, GridSweep, RuleGrid

REPEATS = 5
THRESHOLDS = tuple(logit(i / 100) for i in range(1, 100))
VALUES = (0, 10, 20, 50, 100, 500, 1000, 3500)  # pixels of a component or a hole


def loop_encode(mask_HW: np.ndarray) -> str:
    """The encoder of many notebooks: pixel by pixel."""
    runs, previous, start = [], 0, 0
    for position, value in enumerate([*mask_HW.flatten(order="F").tolist(), 0], start=1):
        if value and not previous:
            start = position
        if previous and not value:
            runs += [start, position - start]
        previous = value
    return " ".join(map(str, runs))


def loop_thresholds(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean tgs score at each threshold, one pass over all images for each."""
    scores = []
    for threshold in THRESHOLDS:
        masks = logits > np.float64(threshold)
        inter = (masks & truth).sum((1, 2))
        scores.append(tgs(inter, masks.sum((1, 2)), truth.sum((1, 2))).mean())
    return np.array(scores)


def swept(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same by one pass over all images."""
    sweep = GridSweep("tgs", RuleGrid(THRESHOLDS))
    sweep.add(logits, truth)
    return sweep.means()[0, 0]


def loop_cleaning(logits: np.ndarray, truth: np.ndarray, key: str) -> np.ndarray:
    """Mean Dice for each value of a rule; every mask is drawn and labeled for each."""
    scores = []
    for value in VALUES:
        rule = {"threshold": [0.0], key: [value]}
        masks = np.stack([apply_postprocess(one[None], rule)[0] for one in logits]) != 0
        inter, sizes = (masks & truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2))
        scores.append(np.where(sizes == 0, 1.0, 2 * inter / np.maximum(sizes, 1)).mean())
    return np.array(scores)


def swept_cleaning(logits: np.ndarray, truth: np.ndarray, key: str) -> np.ndarray:
    """The same by one labeling of each image."""
    sweep = CleaningSweep("dice", {"threshold": 0.0}, key, VALUES)
    sweep.add(logits, truth)
    return sweep.means()


def seconds(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def ratio(loop: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, float]:
    pairs = [(seconds(loop), seconds(ours)) for _ in range(REPEATS)]
    return {
        "loop_s": statistics.median(a for a, _ in pairs),
        "ours_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def each(function: Callable[[np.ndarray], Any], masks: np.ndarray) -> list[Any]:
    return [function(mask) for mask in masks]


def images(num: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits float16 of noisy disks, and the disks, bool; both (N, H, W)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    centers = rng.uniform(0, [height, width], (num, 2))
    distance = np.hypot(
        rows[None] - centers[:, 0, None, None], columns[None] - centers[:, 1, None, None]
    )
    truth = distance < rng.uniform(0, 40, (num, 1, 1))
    logits = (30 - distance) / 8 + rng.normal(0, 1, distance.shape)
    return logits.astype(np.float16), truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    result: dict[str, Any] = {}
    for num, height, width in ((200, 101, 101), (12, 256, 1600)):
        logits, truth = images(num, height, width)
        masks, size = truth.astype(np.uint8), f"{num} images of {height} x {width}"
        if height < 200:
            assert [rle.encode(m) for m in masks] == [loop_encode(m) for m in masks]
            pair = partial(each, loop_encode, masks), partial(each, rle.encode, masks)
            result[f"RLE, {size}"] = ratio(*pair)
        np.testing.assert_allclose(loop_thresholds(logits, truth), swept(logits, truth))
        result[f"{len(THRESHOLDS)} thresholds, {size}"] = ratio(
            partial(loop_thresholds, logits, truth), partial(swept, logits, truth)
        )
        for key in ("min_component", "fill_holes"):
            both = [partial(f, logits, truth, key) for f in (loop_cleaning, swept_cleaning)]
            np.testing.assert_allclose(both[0](), both[1]())
            result[f"{len(VALUES)} values of {key}, {size}"] = ratio(*both)
    for name, figures in result.items():
        print(f"{name}: {figures['ratio']:.1f} times as fast as the loop")
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
