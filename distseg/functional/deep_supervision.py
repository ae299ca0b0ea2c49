"""The loss of logits at every scale of a decoder."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deep_loss(
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    deep: Sequence[Tensor],
    target: Tensor,
    valid_BHW: Tensor,
) -> Tensor:
    """The mean over scales of `loss` on images that hold an object, 0 on the others.

    As the fourth place of the TGS competition did it: what the deep heads learn is where an
    object ends; whether there is one is the image-level head's part. Images without an object
    weigh 0 instead of being left out, so that every rank has every gradient.

    Args:
        loss: of logits (B, C, H, W), target and valid pixels, per image (see `weighted_sum`).
        deep: logits (B, C, h, w), enlarged here to the target's size, in float32.
        target: float (B, C, H, W), or class numbers (B, H, W), of which each holds an object.

    Returns:
        float32 (B,).
    """
    size = valid_BHW.shape[-2:]
    with torch.autocast(target.device.type, enabled=False):
        scales = [
            loss(F.interpolate(x.float(), size, mode="bilinear"), target, valid_BHW) for x in deep
        ]
    mean_B = torch.stack(scales).mean(0)
    if not target.is_floating_point():
        return mean_B
    present = ((target > 0.5) & valid_BHW[:, None]).flatten(1).any(1)
    return mean_B * present
