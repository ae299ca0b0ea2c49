"""What mean teacher adds to a loss (Tarvainen & Valpola 2017, arXiv 1703.01780)."""

import math

import torch
from torch import Tensor


def consistency(
    logits_BCHW: Tensor, teacher_BCHW: Tensor, *, exclusive: bool, confidence: float = 0.0
) -> Tensor:
    """The squared difference of the student's and the teacher's probabilities, the mean over all
    pixels and classes; computed in float32.

    Args:
        logits_BCHW, teacher_BCHW: raw, of one view of the same images; no gradient reaches the
            teacher's.
        exclusive: a pixel is of one class: softmax over the classes; else a sigmoid for each.
        confidence: 0..1; where the teacher is less sure of what it says, of the pixel's class or of
            each class's yes or no, the difference counts as 0.

    Returns:
        float32 (B,).
    """
    with torch.autocast(logits_BCHW.device.type, enabled=False):
        both = logits_BCHW.float(), teacher_BCHW.detach().float()
        student, teacher = (x.softmax(1) if exclusive else x.sigmoid() for x in both)
        sure = teacher.amax(1, keepdim=True) if exclusive else torch.maximum(teacher, 1 - teacher)
        return ((student - teacher).square() * (sure >= confidence)).flatten(1).mean(1)


def ramp_up(epoch: float, epochs: float) -> float:
    """The share of a weight that grows over `epochs`: exp(-5 (1 - t)^2), where t goes evenly from 0
    to 1; 1 from there on, and from the start where `epochs` is 0."""
    way = min(1.0, epoch / epochs) if epochs else 1.0
    return math.exp(-5.0 * (1.0 - way) ** 2)
