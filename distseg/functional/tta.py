"""Test-time views: flips, quarter turns and scales of an image, each with its exact way back.

`views` returns the *closure* of the modes, i.e. all that follows from applying them one after
another: averaging over a closed set gives a predictor that treats all its views alike.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.functional.tta_names import FLIPS, Flip, check_modes, closure, parse_scale


class View(NamedTuple):
    """One view; both functions work on tensors (..., H, W) and move no other axis.

    `forward(images)` makes the view. `inverse(logits, size=None)` brings logits of the view back
    to the image's frame; `size` is the (H, W) of the images, and only a scaled view needs it.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[..., Tensor]


def views(modes: Sequence[str], *, divisor: int = 1) -> list[View]:
    """The views of a list of modes, without repeats, the identity first.

    [] is the identity; ["hflip"] two views; ["hflip", "vflip"] four; ["rot90"] four; ["d4"]
    eight. Each "scale:S" adds all of them once more on the image resized by S (bilinear), each
    side rounded to a multiple of `divisor`. "dropout:N" adds no view: it is for the caller, who
    runs the network.

    Raises:
        ValueError: as `tta_names.check_modes`.
    """
    check_modes(modes)
    if divisor < 1:
        raise ValueError(f"the divisor of scaled views must be at least 1, not {divisor}")
    flips = closure(modes)
    found = [parse_scale(mode) for mode in modes]
    scales = list(dict.fromkeys([1.0, *(scale for scale in found if scale is not None)]))
    return [_view(flip, scale, divisor) for scale in scales for flip in flips]


def _view(flip: Flip, scale: float, divisor: int) -> View:
    """The view that flips, and then resizes unless the scale is 1."""
    name = next(name for name, value in FLIPS.items() if value == flip)
    if scale == 1.0:
        return View(name, partial(_flip, flip=flip), partial(_unflip, flip=flip))
    return View(
        f"{name}@{scale:g}",
        partial(_flip_and_scale, flip=flip, scale=scale, divisor=divisor),
        partial(_unscale_and_unflip, flip=flip),
    )


def _flip(images: Tensor, flip: Flip) -> Tensor:
    """(..., H, W) transposed where the flip says so, and then flipped."""
    transpose, rows, columns = flip
    axes = [axis for axis, on in ((-2, rows), (-1, columns)) if on]
    return torch.flip(images.mT if transpose else images, axes)


def _unflip(logits: Tensor, size: tuple[int, int] | None = None, *, flip: Flip) -> Tensor:
    """The way back of `_flip`: the same steps in reverse order."""
    transpose, rows, columns = flip
    axes = [axis for axis, on in ((-2, rows), (-1, columns)) if on]
    flipped = torch.flip(logits, axes)
    return flipped.mT if transpose else flipped


def _flip_and_scale(images: Tensor, flip: Flip, scale: float, divisor: int) -> Tensor:
    flipped = _flip(images, flip)
    height, width = (max(1, round(s * scale / divisor)) * divisor for s in flipped.shape[-2:])
    # a smaller image needs the antialias; on a larger one it changes nothing
    return _resize(flipped, (height, width), antialias=True)


def _unscale_and_unflip(
    logits: Tensor, size: tuple[int, int] | None = None, *, flip: Flip
) -> Tensor:
    if size is None:
        raise ValueError("a scaled view needs the (H, W) of the images to bring its logits back")
    height, width = size
    return _unflip(_resize(logits, (width, height) if flip[0] else (height, width)), flip=flip)


def _resize(x: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """(..., H, W) to (..., *size), bilinear with half-pixel centers."""
    planes = x.reshape(1, -1, *x.shape[-2:])
    resized = F.interpolate(
        planes, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized.reshape(*x.shape[:-2], *size)
