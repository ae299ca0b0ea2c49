"""Out-of-fold images with the outlines of truth and prediction, for the report."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import to_masks
from distseg.records.paths import Run

PICTURE_SIDE = 240  # pixels of the longer side
TRUTH_RGB, PREDICTION_RGB = (0, 190, 110), (255, 60, 150)


def pictures(config: Config, run: Run, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The 4 worst, median and best out-of-fold images, with the outlines of truth and prediction.

    Median and best are of images with an object, as an empty image that stays empty shows nothing.
    """
    rows = read_csv(run.ensemble(record["round"]).with_name("oof.csv"))
    if not rows:
        return []
    rows.sort(key=lambda row: (float(row["score"]), row["id"]))
    full = [row for row in rows if any(map(int, row["truth"].split()))] or rows
    middle = max(0, len(full) // 2 - 2)
    groups = {"worst": rows[:4], "median": full[middle : middle + 4], "best": full[-4:]}
    oof = OutOfFold(config, run, record["round"])
    places = {oof.manifest[place].id: place for place in oof.rows}
    return [
        {
            "group": group,
            "id": row["id"],
            "fold": row["fold"],
            "score": float(row["score"]),
            "png": _picture(oof, row, places[row["id"]], record),
        }
        for group, chosen in groups.items()
        for row in chosen
    ]


def _picture(oof: OutOfFold, row: Mapping[str, str], place: int, record: Mapping[str, Any]) -> str:
    """Base64 of a PNG: the prediction is the one that was scored, by its fold's nested choice."""
    choice = record["scores"]["nested"]["folds"][row["part"]]
    weights = tuple(choice["weights"].get(name, 0) for name in oof.names)
    logits = oof.combined(place, weights, choice.get("space", record["chosen"]["space"]))
    masks = to_masks(logits, choice["rule"], oof.config.task)
    drawn = draw(oof.cache.image(row["id"]), oof.target(place), masks, oof.config)
    encoded = cv2.imencode(".png", drawn[:, :, ::-1])[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def draw(
    image_HWC: NDArray[np.uint8],
    target_KHW: NDArray[np.uint8],
    masks_KHW: NDArray[np.uint8],
    config: Config,
) -> NDArray[np.uint8]:
    """Outlines over an image, RGB uint8 (h, w, 3) with the longer side at PICTURE_SIDE pixels."""
    height, width = image_HWC.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    color = image_HWC[:, :, :3] if image_HWC.shape[2] >= 3 else image_HWC[:, :, :1].repeat(3, 2)
    way = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    canvas = np.ascontiguousarray(cv2.resize(np.ascontiguousarray(color), size, interpolation=way))
    for values, rgb in ((target_KHW, TRUTH_RGB), (masks_KHW, PREDICTION_RGB)):
        for plane in _planes(values, config):
            large = cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)
            outlines = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(canvas, outlines, -1, rgb, 1)
    return canvas


def sheet(tiles: Sequence[Mapping[str, Any]], columns: int = 6) -> bytes:
    """PNG of pictures in rows. A tile: image, target, masks, config (see `draw`), and lines of
    text under it."""
    line = 16
    depth = line * max(len(tile["lines"]) for tile in tiles)
    height, width = PICTURE_SIDE + depth + 6, PICTURE_SIDE + 6
    rows = -(-len(tiles) // columns)
    page = np.full((rows * height, min(columns, len(tiles)) * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        drawn = draw(tile["image"], tile["target"], tile["masks"], tile["config"])
        page[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        for place, text in enumerate(tile["lines"]):
            at = (left + 2, top + PICTURE_SIDE + line * (place + 1) - 4)
            cv2.putText(page, text[:40], at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (30, 30, 30), 1,
                        cv2.LINE_AA)  # fmt: skip
    return bytes(cv2.imencode(".png", page[:, :, ::-1])[1].tobytes())


def _planes(values_KHW: NDArray[np.uint8], config: Config) -> list[NDArray[np.uint8]]:
    """One 0/1 mask per class; of class indices all but the first, which is the ground."""
    if config.task == "multiclass":
        return [(values_KHW[0] == k).astype(np.uint8) for k in range(1, config.num_outputs)]
    return [(plane == 1).astype(np.uint8) for plane in values_KHW]


def read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
