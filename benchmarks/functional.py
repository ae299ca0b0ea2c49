"""Ratios of the pure functions against the loops they replace, side by side in one run.

    python benchmarks/functional.py [--out benchmarks/results/functional.json]

Each pair computes the same result (asserted) on the same random 101 x 101 masks; the figure is the
median over repeats of the loop's seconds divided by ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distseg.functional import rle
from distseg.functional.metrics import tgs
from distseg.functional.threshold_sweep import ThresholdSweep

REPEATS = 5


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


def loop_thresholds(logits: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Mean tgs score at each threshold, one pass over all images for each."""
    scores = []
    for threshold in thresholds:
        masks = logits > np.float64(threshold)
        inter = (masks & truth).sum((1, 2))
        scores.append(tgs(inter, masks.sum((1, 2)), truth.sum((1, 2))).mean())
    return np.array(scores)


def best_of_sweep(logits: np.ndarray, truth: np.ndarray) -> float:
    sweep = ThresholdSweep("tgs")
    sweep.add(logits, truth)
    return float(sweep.best().score)


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ratio(loop: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, float]:
    pairs = [(seconds(loop), seconds(ours)) for _ in range(REPEATS)]
    return {
        "loop_s": statistics.median(a for a, _ in pairs),
        "ours_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:101, :101]
    centers = rng.uniform(0, 101, (200, 2))
    distance = np.hypot(
        rows[None] - centers[:, 0, None, None], columns[None] - centers[:, 1, None, None]
    )
    truth = distance < rng.uniform(0, 40, (200, 1, 1))
    logits = ((30 - distance) / 8 + rng.normal(0, 1, distance.shape)).astype(np.float16)
    masks = truth.astype(np.uint8)
    assert [rle.encode(m) for m in masks] == [loop_encode(m) for m in masks]
    values = np.unique(logits)
    few = values[:: max(1, len(values) // 200)]
    assert best_of_sweep(logits, truth) >= loop_thresholds(logits, truth, few).max() - 1e-12
    result = {
        "rle_encode_200_masks": ratio(
            lambda: [loop_encode(m) for m in masks], lambda: [rle.encode(m) for m in masks]
        ),
        f"thresholds_200_images_{len(few)}_in_the_loop_all_{len(values)}_in_ours": ratio(
            lambda: loop_thresholds(logits, truth, few), lambda: best_of_sweep(logits, truth)
        ),
    }
    for name, figures in result.items():
        print(f"{name}: {figures['ratio']:.1f} times as fast as the loop")
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
