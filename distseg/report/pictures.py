"""Out-of-fold images with the outlines of truth and prediction, for the report."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.prepare import open_cache
from distseg.functional.agreement import ScoredImage
from distseg.functional.drawing import draw, encode_png
from distseg.records.files import parsing
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.records.tables import read_rows
from distseg.report.images import ScoredOf

MOST = 12  # pictures
MOST_PAIRS = 6  # pictures of images that lost, and of those that gained


@dataclass(frozen=True)
class Compared:
    """One run. label: what it is called. ensemble: the record of its final ensemble. scored_of: as
    for `pictures`."""

    label: str
    run: Run
    config: Config
    ensemble: Mapping[str, Any]
    scored_of: ScoredOf

    def counts(self) -> dict[str, NDArray[np.int64]]:
        return read_counts(self.run.oof_table(self.ensemble["round"]))


def pictures(
    config: Config, run: Run, record: Mapping[str, Any], scored_of: ScoredOf
) -> list[dict[str, Any]]:
    """The 4 worst, median and best out-of-fold images, with the outlines of truth and prediction.

    Median and best are of images with an object, as an empty image that stays empty shows nothing.
    An image stands in one group only.
    """
    table = run.oof_table(record["round"])
    rows = read_rows(table)
    if not rows:
        return []
    with parsing(table):
        rows.sort(key=lambda row: (float(row["score"]), row["id"]))
        full = [row for row in rows if any(map(int, row["truth"].split()))] or rows
    middle = max(0, len(full) // 2 - 2)
    groups = {"worst": rows[:4], "median": full[middle : middle + 4], "best": full[-4:]}
    groups = {"by score": rows} if len(rows) <= MOST else groups
    # few images: each stands in the first group that has it
    group_of = {row["id"]: name for name in reversed(groups) for row in groups[name]}
    cache = open_cache(config, run)
    return [
        {
            "group": group,
            "id": row["id"],
            "fold": row["fold"],
            "score": float(row["score"]),
            "png": png(
                draw(
                    cache.image(row["id"]),
                    cache.target(row["id"]),
                    scored_of(row).masks_KHW,
                    config.task,
                )
            ),
        }
        for group, chosen in groups.items()
        for row in chosen
        if group_of[row["id"]] == group
    ]


def _outlined(config: Config, cache: Cache, name: str, scored: ScoredImage) -> str:
    """Base64 of an image with the outlines of its truth and masks."""
    return png(draw(cache.image(name), cache.target(name), scored.masks_KHW, config.task))


def comparison_pictures(
    first: Compared, other: Compared, pair: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The images that gained and lost most, each under both runs, side by side. UserError: the
    members' out-of-fold logits are gone."""
    cache = open_cache(first.config, first.run)
    lines = [
        {row["id"]: row for row in read_rows(one.run.oof_table(one.ensemble["round"]))}
        for one in (first, other)
    ]
    found = []
    for group in ("lost", "gained"):
        for one in pair[group][:MOST_PAIRS]:
            name = one["id"]
            image, target = cache.image(name), cache.target(name)
            drawn = [
                draw(image, target, run.scored_of(rows[name]).masks_KHW, run.config.task)
                for run, rows in zip((first, other), lines, strict=True)
            ]
            gap = np.full((len(drawn[0]), 6, 3), 128, np.uint8)
            both = png(np.concatenate([drawn[0], gap, drawn[1]], axis=1))
            found.append({**one, "group": group, "png": both})
    return found


def png(picture_HWC: NDArray[np.uint8]) -> str:
    """Base64 of a PNG of an RGB picture, uint8 (H, W, 3)."""
    return base64.b64encode(encode_png(picture_HWC)).decode("ascii")
