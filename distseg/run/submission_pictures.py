"""Some test images with the masks that the submission holds, for the report."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from distseg.config.schema import Config
from distseg.data.layouts import submission_of
from distseg.data.read_input import read_input, reading_of
from distseg.functional.drawing import PICTURE_SIDE, overlay
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.report.pictures import png
from distseg.run.submission import submission_path
from distseg.submission.score import open_own, own_masks

MOST = 12


def submission_pictures(config: Config, run: Run) -> list[dict[str, Any]]:
    """`id`, `png` (base64) and `share` (of the pixels that have an object) of evenly drawn test
    images. None where there is no submission; an image that cannot be read is left out."""
    spec = submission_of(config)
    path, table = submission_path(run, spec.kind), run.data / "test.csv"
    if not path.exists() or not table.is_file():
        return []
    try:
        source, samples = open_own(spec, path), Manifest.read(table)
    except UserError:  # a damaged submission does not end the report, which says so elsewhere
        return []
    reading, found = reading_of(config), []
    for place in np.unique(np.linspace(0, len(samples) - 1, MOST).round().astype(int)):
        sample = samples[int(place)]
        try:
            image = read_input(sample.image, reading)
            masks = own_masks(spec, source, config.task, sample.id, image.shape[:2])
        except (UserError, KeyError):
            continue
        if config.task != "multiclass":
            masks = (masks > 0).astype(np.uint8)  # image files may have 255
        drawn = overlay(image, masks, config.task)
        scale = PICTURE_SIDE / max(drawn.shape[:2])
        size = tuple(max(1, round(side * scale)) for side in drawn.shape[1::-1])
        way = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
        share = float((masks > 0).any(axis=0).mean())
        small = np.asarray(cv2.resize(drawn, size, interpolation=way), np.uint8)
        found.append({"id": sample.id, "png": png(small), "share": share})
    return found
