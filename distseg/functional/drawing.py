"""Images with the outlines of truth and prediction, and sheets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.functional.metrics import VOID

PICTURE_SIDE = 240  # pixels of the longer side
TRUTH_RGB, PREDICTION_RGB = (0, 190, 110), (255, 60, 150)
# By class. The first seven (Okabe and Ito 2008) are told apart by those, too, who see no red or
# green; those after them are far from each other and from the first.
CLASS_RGB = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167), (120, 40, 140)),
    *((140, 215, 60), (115, 70, 30), (0, 225, 215), (190, 0, 50)),
    *((70, 60, 215), (250, 190, 190), (0, 85, 45), (175, 165, 255)),
)


def class_rgb(number: int) -> tuple[int, int, int]:
    """The color of a class, 0..255: its number among those that have one, without the background.
    After the last the first comes again."""
    return CLASS_RGB[number % len(CLASS_RGB)]


def draw(
    image_HWC: NDArray[np.uint8],
    target_KHW: NDArray[np.uint8],
    masks_KHW: NDArray[np.uint8],
    task: str,
    *,
    truth_by_class: bool = False,
) -> NDArray[np.uint8]:
    """Outlines over an image, RGB uint8 (h, w, 3) with the longer side at PICTURE_SIDE pixels.
    truth_by_class: the truth of each class in a color of its own."""
    height, width = image_HWC.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    canvas = np.ascontiguousarray(cv2.resize(as_rgb(image_HWC), size, interpolation=way))
    truth = None if truth_by_class else TRUTH_RGB
    for values, one in ((target_KHW, truth), (masks_KHW, PREDICTION_RGB)):
        for number, plane in _numbered_planes(values, task):
            rgb = class_rgb(number) if one is None else one
            large = cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)
            outlines = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(canvas, outlines, -1, rgb, 1)
    return canvas


def overlay(
    image_HWC: NDArray[np.uint8], masks_KHW: NDArray[np.uint8], task: str
) -> NDArray[np.uint8]:
    """An image with its masks, RGB uint8 (H, W, 3) at the image's size: each class in a color of
    its own, half transparent, with its outline."""
    canvas = as_rgb(image_HWC)
    for number, plane in _numbered_planes(masks_KHW, task):
        rgb = np.array(class_rgb(number), np.uint8)
        mixed = (canvas.astype(np.uint16) + rgb) // 2
        canvas = np.where(plane[:, :, None] > 0, mixed, canvas).astype(np.uint8)
        outlines = cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(canvas, outlines, -1, rgb.tolist(), 1)
    return canvas


def draw_both(
    image_HWC: NDArray[np.uint8],
    target_KHW: NDArray[np.uint8],
    masks_KHW: NDArray[np.uint8],
    task: str,
) -> NDArray[np.uint8]:
    """The `overlay` of the truth and that of the prediction, RGB uint8: above each other, of an
    upright image beside each other; the longer side of each has PICTURE_SIDE pixels."""
    height, width = image_HWC.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    image = cv2.resize(as_rgb(image_HWC), size, interpolation=way)
    planes = [
        np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST) for plane in values])
        for values in (target_KHW, masks_KHW)
    ]
    first, second = (overlay(image, values, task) for values in planes)
    axis = 0 if width >= height else 1
    gap = np.full((4, size[0], 3) if axis == 0 else (size[1], 4, 3), 128, np.uint8)
    return np.concatenate([first, gap, second], axis=axis)


def sheet(tiles: Sequence[Mapping[str, Any]], columns: int = 6) -> bytes:
    """PNG of pictures in rows. A tile: image, target, masks, task (see `draw`), and lines of
    text under it."""
    line = 16
    depth = line * max(len(tile["lines"]) for tile in tiles)
    height, width = PICTURE_SIDE + depth + 6, PICTURE_SIDE + 6
    rows = -(-len(tiles) // columns)
    page = np.full((rows * height, min(columns, len(tiles)) * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        drawn = draw(tile["image"], tile["target"], tile["masks"], tile["task"])
        page[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        for place, text in enumerate(tile["lines"]):
            at = (left + 2, top + PICTURE_SIDE + line * (place + 1) - 4)
            cv2.putText(page, text[:40], at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (30, 30, 30), 1,
                        cv2.LINE_AA)  # fmt: skip
    return encode_png(page)


def as_rgb(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contiguous uint8 (H, W, 3): the first three channels, or the first one three times."""
    few = image_HWC.shape[2] < 3
    return np.ascontiguousarray(image_HWC[:, :, :1].repeat(3, 2) if few else image_HWC[:, :, :3])


def encode_png(pixels: NDArray[Any]) -> bytes:
    """A PNG of uint8 or uint16 (H, W), or of colors, uint8 (H, W, 3), red first."""
    done, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done, "cv2 encodes any such array"
    return bytes(data.tobytes())


def _numbered_planes(
    values_KHW: NDArray[np.uint8], task: str
) -> list[tuple[int, NDArray[np.uint8]]]:
    """A number and a 0/1 mask per class; of class indices all but the first, which is the
    background."""
    if task == "multiclass":
        present = [int(k) for k in np.unique(values_KHW[0]) if 0 < k < VOID]
        return [(k - 1, (values_KHW[0] == k).astype(np.uint8)) for k in present]
    return [(k, (plane == 1).astype(np.uint8)) for k, plane in enumerate(values_KHW)]
