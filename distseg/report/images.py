"""Every out-of-fold image for the page: its numbers, and of as many as fit their pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.prepare import open_cache
from distseg.functional.agreement import ScoredImage, disagreement, label_doubt
from distseg.functional.metrics import VOID, confusion_matrix
from distseg.records.paths import Run
from distseg.records.tables import read_rows
from distseg.report.intervals import group_records
from distseg.report.rule_curves import RuleCurves

# From a row of oof.csv to what its score is of.
ScoredOf = Callable[[Mapping[str, str]], ScoredImage]

SIDE = 256  # pixels of a picture's longer side
PICTURE_BYTES = 9_000_000  # of all pictures, in base64
MAX_VALUES = 1 << 31  # probabilities that are looked at; of more images, evenly spaced ones
BINS = 10  # of the calibration
MAX_BITS = 7  # labels that a picture's pixel can hold


@dataclass
class Measured:
    """What the page says of all images.

    rows: id, fold, score, area and predicted (pixels), objects (connected parts of the truth),
        disagreement and doubt (None: not looked at).
    pictures: by id: the image as JPEG, truth, mask and probability as PNG, all as data URLs.
    looked: images that calibration and confusion are of.
    bins: (BINS, 3) pixels, sum of the probability, pixels of the truth, by predicted probability.
    confusion: (C, C) pixels of truth and prediction, multiclass; else (C, 4): right, missed,
        too much, and rightly empty pixels of each class.
    curves: over threshold and area; None for multiclass.
    """

    rows: list[dict[str, Any]]
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)
    looked: int = 0
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((BINS, 3)))
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 4), np.int64))
    curves: RuleCurves | None = None

    def record(self, classes: list[str]) -> dict[str, Any]:
        """What report.json holds of it."""
        pixels, sums, truth = self.bins.T
        safe = np.maximum(pixels, 1)
        gap = np.abs(sums / safe - truth / safe)
        suspects = sorted((r for r in self.rows if r["doubt"]), key=lambda r: -r["doubt"])
        return {
            "looked": self.looked,
            "calibration": {
                "probability": (sums / safe).round(4).tolist(),
                "truth": (truth / safe).round(4).tolist(),
                "pixels": pixels.astype(int).tolist(),
                "error": float((gap * pixels).sum() / max(pixels.sum(), 1)),
            },
            "confusion": {"classes": classes, "pixels": self.confusion.tolist()},
            "rules": [] if self.curves is None else self.curves.record(),
            **group_records(self.rows),
            "suspects": [{key: r[key] for key in ("id", "doubt", "score")} for r in suspects[:50]],
        }


def measure(config: Config, run: Run, record: Mapping[str, Any], scored_of: ScoredOf) -> Measured:
    """Look at the out-of-fold images. UserError: their logits are gone."""
    lines = read_rows(run.oof_table(record["round"]))
    found = Measured([_row(line, config) for line in lines])
    columns = config.num_outputs if config.task == "multiclass" else 4
    found.confusion = np.zeros((config.num_outputs, columns), np.int64)
    if not lines:
        return found
    cache = open_cache(config, run)
    sizes = [cache.size(line["id"]) for line in lines]
    step = -(-sum(h * w for h, w in sizes) * config.num_outputs // MAX_VALUES)
    if config.task != "multiclass":
        found.curves = RuleCurves(config, record["chosen"]["rule"], -(-len(lines) // step))
    for row, line in list(zip(found.rows, lines, strict=True))[::step]:
        _look(found, row, scored_of(line), cache.target(line["id"]), config)
    _take_pictures(found, lines, cache, scored_of, config)
    return found


def _row(line: Mapping[str, str], config: Config) -> dict[str, Any]:
    """What oof.csv says of an image; areas are of all classes, for multiclass but the first."""
    first = 1 if config.task == "multiclass" else 0
    areas = {key: sum(map(int, line[key].split()[first:])) for key in ("truth", "pred")}
    return {
        "id": line["id"],
        "fold": int(line["fold"]),
        "score": float(line["score"]),
        "area": areas["truth"],
        "predicted": areas["pred"],
        "objects": None,
        "disagreement": None,
        "doubt": None,
    }


def _look(
    found: Measured, row: dict[str, Any], image: ScoredImage, target: NDArray[np.uint8],
    config: Config,
) -> None:  # fmt: skip
    """Add one image to what is said of all, and its own numbers to its row."""
    found.looked += 1
    row["disagreement"] = round(disagreement(image.members, config.task), 4)
    row["doubt"] = round(label_doubt(image, target, config.task), 4)
    probs, valid = image.probabilities_CHW, target != VOID
    if config.task == "multiclass":
        truth = target == np.arange(config.num_outputs)[:, None, None]
        found.confusion += confusion_matrix(
            image.masks_KHW[0], target[0], config.num_outputs, void=VOID
        )
        valid = np.broadcast_to(valid, probs.shape)
    else:
        truth = target == 1
        if found.curves is not None:
            found.curves.add(probs, target)
        mask = image.masks_KHW == 1
        cells = (mask & truth, ~mask & truth, mask & ~truth, ~mask & ~truth)
        found.confusion += np.stack([(c & valid).sum(axis=(1, 2)) for c in cells], axis=1)
    row["objects"] = _count_objects(truth[1 if config.task == "multiclass" else 0 :])
    chosen, right = probs[valid], truth[valid]
    place = np.minimum((chosen * BINS).astype(np.int64), BINS - 1)
    for column, weights in enumerate((None, chosen, right)):
        found.bins[:, column] += np.bincount(place, weights, minlength=BINS)


def _count_objects(planes_CHW: NDArray[np.bool_]) -> int:
    """Connected parts (8 neighbors) of all planes."""
    planes = (plane.astype(np.uint8) for plane in planes_CHW)
    return sum(cv2.connectedComponents(plane, connectivity=8)[0] - 1 for plane in planes)


def _take_pictures(
    found: Measured, lines: list[dict[str, str]], cache: Cache, scored_of: ScoredOf, config: Config
) -> None:
    """Pictures of the images that a person wants first: the likeliest label errors and the worst
    in turn, then the rest by score, while there is room."""
    by_id = {line["id"]: line for line in lines}
    worst = sorted(found.rows, key=lambda r: (r["score"], r["id"]))
    doubted = sorted((r for r in found.rows if r["doubt"]), key=lambda r: (-r["doubt"], r["id"]))
    order = [r["id"] for pair in zip(worst, doubted, strict=False) for r in pair]
    room = PICTURE_BYTES
    for name in dict.fromkeys([*order, *(r["id"] for r in worst)]):
        taken = _pictures(cache.image(name), cache.target(name), scored_of(by_id[name]), config)
        room -= sum(map(len, taken.values()))
        if room < 0:
            return
        found.pictures[name] = taken


def _pictures(
    image: NDArray[np.uint8], target: NDArray[np.uint8], scored: ScoredImage, config: Config
) -> dict[str, str]:
    """Data URLs: `image` in color or gray; `truth` and `mask`, whose gray values are class numbers
    or one bit for each label, 255 where the truth counts nowhere; `prob`, 0..255, of the likeliest
    object."""
    color = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, 0]
    color = color[:, :, ::-1] if color.ndim == 3 else color
    probs = scored.probabilities_CHW
    multiclass = config.task == "multiclass"
    prob = probs.max(axis=0) if not multiclass else 1 - probs[0]
    planes = {"truth": target, "mask": scored.masks_KHW}
    return {
        "image": _url(_fit(color, cv2.INTER_AREA), ".jpg"),
        **{key: _url(_fit(_codes(plane, multiclass)), ".png") for key, plane in planes.items()},
        "prob": _url(_fit((prob * 255).astype(np.uint8), cv2.INTER_AREA), ".jpg"),
    }


def _codes(planes_KHW: NDArray[np.uint8], multiclass: bool) -> NDArray[np.uint8]:
    """One gray value for each pixel, uint8 (H, W)."""
    if multiclass:
        return planes_KHW[0]
    some = planes_KHW[:MAX_BITS]
    bits = sum((plane == 1).astype(np.uint16) << k for k, plane in enumerate(some))
    void = (some == VOID).all(axis=0)
    return np.where(void, VOID, np.minimum(bits, VOID - 1)).astype(np.uint8)


def _fit(array: NDArray[np.uint8], method: int = cv2.INTER_NEAREST_EXACT) -> NDArray[np.uint8]:
    """The array with its longer side at most SIDE pixels."""
    height, width = array.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(array)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(np.ascontiguousarray(array), size, interpolation=method))


def _url(array: NDArray[np.uint8], suffix: str) -> str:
    options = (
        [cv2.IMWRITE_JPEG_QUALITY, 82] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    data = cv2.imencode(suffix, array, options)[1].tobytes()
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
