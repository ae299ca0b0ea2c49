"""What is measured of one image and its mask: a few hundred numbers and two thumbnails, so that
the set can be judged as a whole without its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.image_file import pixel_hash
from distseg.functional.drawing import as_rgb
from distseg.functional.metrics import VOID

SIDE = 48  # pixels of a thumbnail, whatever the image's shape
FEATURES = (
    "brightness", "contrast", "darkest twentieth", "median", "brightest twentieth",
    "red", "green", "blue", "detail",
)  # fmt: skip
_GRAYS = np.arange(256)
LINE_LENGTH = 10  # pixels from which a mask one pixel wide is a line, and no dot


@dataclass(frozen=True, slots=True)
class Shape:
    """The mask of one class in one image, at native size.

    area: pixels. objects: connected components (8 neighbors). border: share of the image's border
    that it covers, 0..1. box: area over that of its bounding box. thin: whether it is one pixel
    wide, and long.
    """

    area: int
    objects: int
    border: float
    box: float
    thin: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """One image.

    image_sha, mask_sha: of the decoded pixels; mask_sha is "" for a test image.
    features: float32 (9,), gray values of 0..255 as FEATURES names them.
    thumb: uint8 (SIDE, SIDE, 3). mask: uint8 (SIDE, SIDE), share of foreground, 0..255.
    shapes: by class; empty for a test image, and of a class that is background.
    mode, constant: see `data.inspect.Facts`.
    """

    id: str
    height: int
    width: int
    image_sha: str
    mask_sha: str
    features: NDArray[np.float32]
    thumb: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    shapes: tuple[Shape, ...] = ()
    mode: str = ""
    constant: bool = False

    @property
    def area(self) -> int:
        """Pixels of all classes."""
        return sum(shape.area for shape in self.shapes)


def measure(
    config: Config, name: str, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8] | None
) -> Measured:
    """image_HWC: as training reads it. target_KHW: None for a test image. What the check of the
    file says, mode and constant, is left for who has checked it."""
    color = as_rgb(image_HWC)
    thumb = cv2.resize(color, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    planes = [] if target_KHW is None else planes_of(target_KHW, config)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if planes:
        union = np.any(planes, axis=0).astype(np.uint8) * 255
        mask = cv2.resize(union, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    height, width = image_HWC.shape[:2]
    return Measured(
        name, height, width,
        image_sha=pixel_hash(image_HWC),
        mask_sha="" if target_KHW is None else pixel_hash(target_KHW),
        features=_features(color), thumb=thumb, mask=mask,
        shapes=tuple(_shape(plane) for plane in planes),
    )  # fmt: skip


def planes_of(target_KHW: NDArray[np.uint8], config: Config) -> list[NDArray[np.bool_]]:
    """A bool (H, W) for each class, without void pixels; of multiclass labels none for the first
    class, which is the background."""
    if config.task == "multiclass":
        return [target_KHW[0] == number for number in range(1, len(config.classes))]
    return [(plane > 0) & (plane != VOID) for plane in target_KHW]


def class_names(config: Config) -> list[str]:
    """The classes that `planes_of` gives."""
    return config.classes[1:] if config.task == "multiclass" else list(config.classes)


def _features(color_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of the image at no more than 256 pixels a side: what takes long tells no more."""
    factor = 256 / max(color_HW3.shape[:2])
    if factor < 1:
        size = tuple(max(1, round(n * factor)) for n in (color_HW3.shape[1], color_HW3.shape[0]))
        color_HW3 = cv2.resize(color_HW3, size, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(color_HW3, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(gray.ravel(), minlength=256)
    mean = counts @ _GRAYS / gray.size
    deviation = (counts @ (_GRAYS - mean) ** 2 / gray.size) ** 0.5
    detail = cv2.norm(cv2.Laplacian(gray, cv2.CV_32F), cv2.NORM_L1) / gray.size
    values = (mean, deviation, *_percentiles(counts), *cv2.mean(color_HW3)[:3], detail)
    return np.array(values, dtype=np.float32)


def _percentiles(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The 5th, 50th and 95th, as np.percentile has them, of values of 0..255 by their counts."""
    until = counts.cumsum()
    place = np.array((0.05, 0.5, 0.95)) * (until[-1] - 1)
    low, high = until.searchsorted((np.floor(place), np.ceil(place)), side="right")
    return low + (high - low) * (place % 1)


def _shape(plane: NDArray[np.bool_]) -> Shape:
    image = plane.view(np.uint8)
    area = cv2.countNonZero(image)
    if not area:
        return Shape(0, 0, 0.0, 0.0, False)
    count = cv2.connectedComponents(image, connectivity=8)[0]
    _, _, wide, high = cv2.boundingRect(image)
    border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    thin = max(high, wide) >= LINE_LENGTH and not _core(image).any()
    return Shape(area, count - 1, float(border.mean()), area / (high * wide), thin)


def _core(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is at least two pixels wide and high."""
    two = np.ones((2, 2), np.uint8)
    return cv2.erode(image, two, borderType=cv2.BORDER_CONSTANT, borderValue=0)
