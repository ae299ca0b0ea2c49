"""Values with their errors as rows of a page: a point and its range on one common scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.functional.bootstrap import standard_error
from distseg.functional.metrics import summarize

KINDS = {
    "tta": "Test-time augmentation of a model, over none",
    "snapshots": "Snapshots of a model",
    "models": "A model, over the ensemble without it",
    "rounds": "A round",
}
GROUPS = 5  # of sizes, with about as many images each
NUMBERS = ((0, 0), (1, 1), (2, 2), (3, 5), (6, 10), (11, math.inf))  # of objects in an image


def intervals(rows: Sequence[Mapping[str, Any]], line: float | None = None) -> dict[str, Any]:
    """Rows of name, value, low, high and text, with their places on a common scale in percent.

    line: a value that the eye compares with: 0 of differences, the whole set's score of parts.
    """
    ends = [row[key] for row in rows for key in ("low", "high", "value")]
    ends += [line] if line is not None else []
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = (high - low) * 0.04 or 0.01
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    made = []
    for row in rows:
        left = place(row["low"])
        made.append({**row, "left": left, "width": round(place(row["high"]) - left, 2),
                     "at": place(row["value"])})  # fmt: skip
    return {"rows": made, "line": None if line is None else place(line)}


def gain_charts(gains: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chart for each kind of part that `gains.gain_records` knows."""
    charts = []
    for kind, title in KINDS.items():
        rows = [
            {
                "name": one["name"],
                "value": one["difference"],
                "low": one["low"],
                "high": one["high"],
                "text": f"{one['difference']:+.4f} ± {one['standard_error']:.4f}",
                "sure": "" if one["low"] <= 0 <= one["high"] else
                        "good" if one["difference"] > 0 else "bad",
            }
            for one in gains
            if one["kind"] == kind
        ]  # fmt: skip
        if rows:
            charts.append({"title": title, **intervals(rows, 0.0)})
    return charts


def group_records(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The images' mean score by the size of what they hold, and by the number of objects.

    Args:
        rows: of `images.Measured`: `score`, `area` in pixels, `objects` (None: not looked at).

    Returns:
        `by_size` and `by_number`: name, num_images, score, standard_error (of the mean) of each
        group.
    """
    empty = [row for row in rows if not row["area"]]
    full = sorted((row for row in rows if row["area"]), key=lambda row: row["area"])
    areas = [row["area"] for row in full]
    edges = np.quantile(areas, np.arange(1, GROUPS) / GROUPS) if full else []
    places = np.searchsorted(edges, areas)  # one size is in one group
    size = [("no object", empty)]
    for part in np.unique(places):
        own = [row for row, place in zip(full, places, strict=True) if place == part]
        first, last = own[0]["area"], own[-1]["area"]
        name = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        size.append((f"{name} pixels", own))
    number = []
    for low, high in NUMBERS:
        own = [
            row for row in rows
            if row.get("objects") is not None and low <= row["objects"] <= high
        ]  # fmt: skip
        name = f"{low}" if low == high else f"{low} to {high}"
        name = f"{low} or more" if high == math.inf else name
        number.append((f"{name} object" + "s" * (name != "1"), own))
    return {
        key: [_group(name, own) for name, own in groups if own]
        for key, groups in (("by_size", size), ("by_number", number))
    }


def _group(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = np.array([row["score"] for row in rows])
    error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None
    return {"name": name, "num_images": len(rows), "score": float(scores.mean()),
            "standard_error": error}  # fmt: skip


def class_records(config: Config, counts_NC3: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The score of each class with its standard error; without a class that the images lack."""
    found = []
    for number, name in enumerate(config.classes):
        own = counts_NC3[:, number : number + 1]
        if not own[:, 0, 1:].any():
            continue
        score = summarize(own, config.metric)["score"]
        error = standard_error(own, config.metric, seed=config.seed) if len(own) > 1 else None
        holding = int((own[:, 0, 2] > 0).sum())
        found.append({"name": name, "num_images": holding, "score": score, "standard_error": error})
    return found


def score_chart(
    title: str, groups: Sequence[Mapping[str, Any]], line: float | None
) -> dict[str, Any]:
    """A chart of groups with a score each; a range is two standard errors to each side."""
    rows = []
    for one in groups:
        error = one["standard_error"]
        reach = 2 * (error or 0.0)
        text = f"{one['score']:.4f}" + (f" ± {error:.4f}" if error is not None else "")
        rows.append({
            "name": one["name"], "value": one["score"], "low": max(0.0, one["score"] - reach),
            "high": min(1.0, one["score"] + reach), "sure": "",
            "text": f"{text}, {one['num_images']:,} image" + "s" * (one["num_images"] != 1),
        })  # fmt: skip
    return {"title": title, **intervals(rows, line)}
