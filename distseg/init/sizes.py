"""What a network may see: inputs that fit the images, within what the user has said of `input`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from distseg.config.data import FIT_KEYS, InputConfig
from distseg.records.errors import UserError

if TYPE_CHECKING:
    from distseg.init.look import Facts

MOST_PIXELS = {False: 1024 * 1024, True: 2048 * 2048}  # of a canvas for padding; True: on a GPU
SAME_SHAPE = 1.25  # how far the shape of a first stage's images may be from the input's
FURTHER = math.sqrt(1.6)  # tiles that overlap by a quarter repeat so much along each side
Fit = Literal["pad", "resize", "crop"]


@dataclass(frozen=True, slots=True)
class Size:
    """What a network sees: an input of height x width pixels.

    fit: pad, resize or crop. scale: width of an object on the canvas, as a share of its width in
    the image. predicted: pixels of the canvas on which an image is predicted, all tiles together.
    """

    height: int
    width: int
    fit: str
    scale: float
    predicted: float
    scaled: bool = False  # images are stretched to one size before they are padded

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def predicts(self, height: int, width: int) -> float:
        """Pixels of the canvases on which an image of another size is predicted."""
        if self.fit == "crop":
            return tiled(height, width, self.height, self.width)
        if self.fit == "pad" and not self.scaled:
            return max(self.height, height) * max(self.width, width)
        return self.pixels


def sizes(height: int, width: int, one_size: bool, gpu: bool) -> list[Size]:
    """Inputs that may fit images of such a size, height and width in pixels, the largest first."""
    found: list[Size] = []
    if one_size and max(height, width) <= 256:
        found.append(_padded(height, width))
    found += [*_resized(height, width, gpu), *_crops(height, width, gpu)]
    return _sorted(found or [_whole(height, width, gpu)])


def possible_sizes(facts: Facts, given: Mapping[str, Any], gpu: bool) -> list[Size]:
    """The sizes to choose from, the largest first: those that the keys of `input` leave that the
    user has given. Crops alone where test images are of another size than the train images: what
    is stretched to one size would be seen at another scale in them.

    UserError: no size goes with these keys.
    """
    asked = InputConfig.model_validate(given)
    said, fits = asked.model_fields_set, _fits(asked)
    if said & {"height", "width"} or asked.scale_to is not None:
        return [_said_size(facts, asked, fits)]
    if facts.apart and "resize" in fits and "fit" not in said:
        return _sorted(_crops(facts.height, facts.width, gpu, whole=True))
    found = sizes(facts.height, facts.width, facts.one_size, gpu)
    kept = [size for size in found if size.fit in fits]
    return kept or _made(facts, fits, gpu)


def _fits(asked: InputConfig) -> list[Fit]:
    """The kinds of fit that read every key of `input` that is set."""
    if "fit" in asked.model_fields_set:
        return [asked.fit]
    read = [FIT_KEYS[key] for key in FIT_KEYS if key in asked.model_fields_set]
    return [fit for fit in get_args(Fit) if all(fit in fits for fits in read)] or ["resize"]


def _made(facts: Facts, fits: list[Fit], gpu: bool) -> list[Size]:
    """Sizes of a fit that would not be chosen for such images."""
    found: list[Size] = []
    canvas = _padded(*facts.largest)
    if "pad" in fits and canvas.pixels <= MOST_PIXELS[gpu]:
        found.append(canvas)
    if "crop" in fits:
        found += _crops(facts.height, facts.width, gpu, whole=True)
    if "resize" in fits:
        found.append(_whole(facts.height, facts.width, gpu))
    if not found:
        high, wide = facts.largest
        raise UserError(
            f"{facts.root}: input.fit: pad: the largest image has {high} x {wide} pixels, and this "
            "machine trains no canvas that holds it; valid: resize, crop (or name input.height and "
            "input.width)"
        )
    return _sorted(found)


def _said_size(facts: Facts, asked: InputConfig, fits: list[Fit]) -> Size:
    """The size that the user has given, at least one side of it; the other follows the images."""
    said = asked.model_fields_set
    fit: Fit = "resize" if "resize" in fits else fits[0]
    if facts.apart and fit == "resize" and "fit" not in said:
        fit = "crop"
    shown = asked.scale_to or (facts.largest if fit == "pad" else (facts.height, facts.width))
    if "height" in said and "width" in said:
        height, width = asked.height, asked.width
    elif fit == "crop":
        height = width = asked.height if "height" in said else asked.width
    elif fit == "resize":
        share = asked.height / shown[0] if "height" in said else asked.width / shown[1]
        height, width = (max(32, 32 * round(side * share / 32)) for side in shown)
    else:
        height, width = map(_round_up, shown)
    height = asked.height if "height" in said else height
    width = asked.width if "width" in said else width
    least = asked.scale_to or (facts.height, facts.width)
    if fit == "pad" and (height < least[0] or width < least[1]):
        raise UserError(
            f"{facts.root}: input.fit: pad: a canvas of {height} x {width} pixels does not hold "
            f"images of {least[0]} x {least[1]}; valid: a larger input.height and input.width, or "
            "input.fit: resize or crop"
        )
    seen = (height, width) if fit == "resize" else asked.scale_to or (facts.height, facts.width)
    scale = math.sqrt(math.prod(seen) / (facts.height * facts.width))
    pixels = tiled(facts.height, facts.width, height, width) if fit == "crop" else height * width
    return Size(height, width, fit, scale, pixels, scaled=asked.scale_to is not None)


def smaller(size: Size, stride: int) -> tuple[int, int] | None:
    """(height, width), about half of a size's, that a first stage may train at; None where images
    are not stretched to the size, it is small already, or its half would have another shape.
    stride: what sides are multiples of."""
    if size.fit != "resize":
        return None
    height, width = (
        stride * max(2, round(side / 2 / stride)) for side in (size.height, size.width)
    )
    shape = height * size.width / (width * size.height)
    kept = 1 / SAME_SHAPE <= shape <= SAME_SHAPE
    return (height, width) if kept and height * width < 0.8 * size.pixels else None


def _padded(height: int, width: int) -> Size:
    high, wide = _round_up(height), _round_up(width)
    return Size(high, wide, "pad", 1.0, high * wide)


def _resized(height: int, width: int, gpu: bool) -> Iterator[Size]:
    most, seen = (1024 if gpu else 512), set[tuple[int, int]]()
    for share in (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125):
        high, wide = (max(32, 32 * round(side * share / 32)) for side in (height, width))
        fits = max(high, wide) <= most and min(high, wide) >= min(64, _round_up(min(height, width)))
        if fits and (high, wide) not in seen:
            seen.add((high, wide))
            yield _stretched(high, wide, height, width)


def _whole(height: int, width: int, gpu: bool) -> Size:
    """The canvas for images that no share of their size fits."""
    high, wide = (max(64, _round_up(min(side, 1024 if gpu else 512))) for side in (height, width))
    return _stretched(high, wide, height, width)


def _stretched(high: int, wide: int, height: int, width: int) -> Size:
    return Size(high, wide, "resize", math.sqrt(high * wide / (height * width)), high * wide)


def _crops(height: int, width: int, gpu: bool, *, whole: bool = False) -> Iterator[Size]:
    """Tiles of images; whole: one may be as large as the image, where it is small."""
    tile, least = (512 if gpu else 192), 128
    if whole:
        tile = min(tile, _round_up(min(height, width)))
        least = min(tile, 64)
    while tile >= least and (whole or min(height, width) > tile):
        yield Size(tile, tile, "crop", 1.0, tiled(height, width, tile, tile))
        tile = tile // 64 * 32


def tiled(height: int, width: int, tile_height: int, tile_width: int) -> float:
    """Pixels of all tiles of an image; what they share counts in each of them."""
    pixels = 1.0
    for side, tile in ((height, tile_height), (width, tile_width)):
        pixels *= max(_round_up(side), tile) * (FURTHER if side > tile else 1.0)
    return pixels


def _sorted(found: Iterator[Size] | list[Size]) -> list[Size]:
    return sorted(found, key=lambda size: -size.pixels)


def _round_up(length: int) -> int:
    return max(32, -(-length // 32) * 32)
