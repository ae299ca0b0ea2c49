"""Out-of-fold images with the outlines of truth and prediction, for the report."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.prepare import open_cache
from distseg.functional.agreement import ScoredImage
from distseg.functional.drawing import draw, draw_both, encode_png
from distseg.records.files import parsing
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.records.tables import read_rows
from distseg.report.images import ScoredOf

MOST = 12  # pictures
_SHEET = re.compile(r"(?P<what>labeled|unlabeled)_(?P<end>kept|dropped)_fold(?P<fold>\d+)\.png")
SHEET_BYTES = 2_500_000  # of all sheets of the rounds, as JPEG
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
    """The 4 worst, median and best out-of-fold images, with the outlines of truth and prediction;
    of several classes with both in the colors of the classes.

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
            "png": png(_drawn(config, cache, row["id"], scored_of(row))),
        }
        for group, chosen in groups.items()
        for row in chosen
        if group_of[row["id"]] == group
    ]


def selection_sheets(config: Config, run: Run) -> list[dict[str, Any]]:
    """The sheets of rows that rounds kept and dropped, as far as there is room: those of the first
    student before those of the next, as students differ little.

    Of each: `round`, `fold`, `what` (labeled or unlabeled), `end` (kept or dropped), and `jpeg`,
    base64. A file that is no picture is left out.
    """
    found, room = [], SHEET_BYTES
    files = [
        (int(match["fold"]), number, match["what"], match["end"], path)
        for number in range(1, len(config.rounds))
        for path in run.select(number).glob("*.png")
        if (match := _SHEET.fullmatch(path.name))
    ]
    for fold, number, what, end, path in sorted(files):
        picture = cv2.imread(str(path))
        if picture is None:
            continue
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        room -= len(data)
        if room < 0:
            break
        jpeg = base64.b64encode(data).decode("ascii")
        found.append({"round": number, "fold": fold, "what": what, "end": end, "jpeg": jpeg})
    return sorted(found, key=lambda one: (one["round"], one["fold"]))


def _drawn(config: Config, cache: Cache, name: str, scored: ScoredImage) -> NDArray[np.uint8]:
    """An image with its truth and masks."""
    way = draw_both if len(config.classes) > 1 else draw
    return way(cache.image(name), cache.target(name), scored.masks_KHW, config.task)


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
            drawn = [
                _drawn(run.config, cache, name, run.scored_of(rows[name]))
                for run, rows in zip((first, other), lines, strict=True)
            ]
            gap = np.full((len(drawn[0]), 6, 3), 128, np.uint8)
            both = png(np.concatenate([drawn[0], gap, drawn[1]], axis=1))
            found.append({**one, "group": group, "png": both})
    return found


def png(picture_HWC: NDArray[np.uint8]) -> str:
    """Base64 of a PNG of an RGB picture, uint8 (H, W, 3)."""
    return base64.b64encode(encode_png(picture_HWC)).decode("ascii")
