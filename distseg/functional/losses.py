"""Segmentation losses; each returns one value per sample.

Every loss is `(logits_BCHW, target, valid_BHW=None, **options) -> loss_B`, float32, computed with
autocast off. The caller weights and averages the samples, so gradient accumulation and DDP
averages are exact. Shapes:

    logits_BCHW  any float; raw, never after a sigmoid
    target       binary and multilabel: float (B, C, H, W) in [0, 1], soft values allowed;
                 multiclass: integer (B, H, W) of classes 0..C-1
    valid_BHW    bool; False pixels give no loss and no gradient, whatever their logit or target

An image without any valid pixel has the loss 0. The names, tasks and options for the config are
in `loss_names.py` (which needs no torch).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.functional.loss_names import LossSpec, check_loss_spec, split_term
from distseg.functional.naming import unknown_name
from distseg.functional.per_sample import (
    LossFunction,
    class_vector,
    one_hot,
    per_sample,
    pixel_mean,
)

SpecLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@per_sample
def bce(
    logits_BCHW: Tensor,
    target_BCHW: Tensor,
    valid_BHW: Tensor,
    *,
    label_smoothing: float = 0.0,
    pos_weight: float | Sequence[float] | None = None,
) -> Tensor:
    """Binary cross-entropy, the mean over pixels and classes.

    `label_smoothing` s moves the targets 0 and 1 to s/2 and 1 - s/2.
    """
    target = target_BCHW * (1.0 - label_smoothing) + 0.5 * label_smoothing
    weight = None if pos_weight is None else class_vector(pos_weight, logits_BCHW, "pos_weight")
    values = F.binary_cross_entropy_with_logits(
        logits_BCHW, target, pos_weight=weight, reduction="none"
    )
    return pixel_mean(values, valid_BHW)


def _overlap(
    logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft (inter, pred, truth) sums (B, C), of the complement where the target is empty.

    On an empty target |P & Y| is 0 for every P, so the plain ratio has no gradient at all. The
    complement (all background) has: its Jaccard loss is the mean probability.
    """
    return _soft_sums(*_planes(logits_BCHW, target), valid_BHW)


def _planes(logits_BCHW: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, float (B, C, H, W), of any task."""
    if target.dim() == 3:
        return logits_BCHW.softmax(1), one_hot(target, logits_BCHW.shape[1])
    return logits_BCHW.sigmoid(), target


def _soft_sums(probs: Tensor, truth: Tensor, valid_BHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of `_overlap`, of probabilities and truth (B, C, H, W)."""
    valid = valid_BHW[:, None].float()
    empty = (truth * valid).amax((2, 3), keepdim=True) <= 0.5
    probs = torch.where(empty, 1.0 - probs, probs) * valid
    truth = torch.where(empty, 1.0 - truth, truth) * valid
    return (probs * truth).sum((2, 3)), probs.sum((2, 3)), truth.sum((2, 3))


@per_sample
def dice(logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor, *, smooth: float = 0.0) -> Tensor:
    """1 - (2 I + smooth) / (P + Y + smooth) per image and class, then the mean over classes.

    I, P, Y are soft sums (Milletari et al. 2016, V-Net, without the squares). An empty target is
    scored by its complement: P / (2 N - P) for N pixels. Multiclass: softmax and one-hot.
    """
    inter, pred, truth = _overlap(logits_BCHW, target, valid_BHW)
    # the same fraction, written so that no valid pixel gives 0 / tiny = 0
    return ((pred + truth - 2 * inter) / (pred + truth + smooth).clamp_min(1e-7)).mean(1)


@per_sample
def jaccard(
    logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor, *, smooth: float = 0.0
) -> Tensor:
    """1 - (I + smooth) / (P + Y - I + smooth) per image and class, then the mean over classes.

    An empty target is scored by its complement: P / N, the mean probability.
    """
    inter, pred, truth = _overlap(logits_BCHW, target, valid_BHW)
    return ((pred + truth - 2 * inter) / (pred + truth - inter + smooth).clamp_min(1e-7)).mean(1)


@per_sample
def boundary(
    logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor, *, width: int = 2, smooth: float = 1.0
) -> Tensor:
    """The Dice loss of the bands within `width` pixels of the outlines of prediction and truth, a
    soft form of the boundary IoU (Cheng et al. 2021, arXiv 2103.16562).

    A band is what dilation adds and erosion takes away, by max-pooling: the loss sees outlines
    alone, however large the object. Ignored pixels are as those beyond the image: they make no
    outline. An image without an outline pays for the outlines that are predicted. Add it to a loss
    of all pixels.
    """
    probs, truth = (_band(one, valid_BHW, width) for one in _planes(logits_BCHW, target))
    inter, pred, own = _soft_sums(probs, truth, valid_BHW)
    return ((pred + own - 2 * inter) / (pred + own + smooth)).mean(1)


def _band(planes_BCHW: Tensor, valid_BHW: Tensor, width: int) -> Tensor:
    """Dilation less erosion by a square of 2 width + 1 pixels, of values in 0..1, by the valid
    pixels of the square alone."""
    size, ignored = 2 * width + 1, ~valid_BHW[:, None]
    most = F.max_pool2d(planes_BCHW.masked_fill(ignored, 0.0), size, 1, width)
    least = 1 - F.max_pool2d((1 - planes_BCHW).masked_fill(ignored, 0.0), size, 1, width)
    return (most - least).masked_fill(ignored, 0.0)


@per_sample
def focal(
    logits_BCHW: Tensor,
    target: Tensor,
    valid_BHW: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
) -> Tensor:
    """-(1 - p_t)^gamma log p_t, the mean over pixels (Lin et al. 2017, RetinaNet).

    Binary and multilabel: per class on the sigmoid, 1 - p_t as |target - p| (the same for hard
    targets, right for soft ones); `alpha` weights the foreground and 1 - alpha the background.
    Multiclass: on the softmax over classes; `alpha` is one weight per class.
    """
    if alpha is not None and target.dim() == 3 and not isinstance(alpha, Sequence):
        raise ValueError("the alpha of a multiclass focal loss must be a list, one per class")
    weight = None if alpha is None else class_vector(alpha, logits_BCHW, "alpha")
    if target.dim() == 4:
        nll = F.binary_cross_entropy_with_logits(logits_BCHW, target, reduction="none")
        missed = (target - logits_BCHW.sigmoid()).abs()
        if weight is not None:
            weight = weight * target + (1.0 - weight) * (1.0 - target)
    else:
        nll = F.cross_entropy(logits_BCHW, target, reduction="none")[:, None]
        missed = -torch.expm1(-nll)
        weight = None if weight is None else weight.flatten()[target][:, None]
    # the clamp keeps the slope of x^gamma finite at 0 for gamma < 1
    values = missed.clamp_min(1e-12).pow(gamma) * nll
    return pixel_mean(values if weight is None else values * weight, valid_BHW)


@per_sample
def cross_entropy(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    valid_BHW: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Softmax cross-entropy, the mean over valid pixels.

    The mean divides by the pixel count, not by the sum of class weights: an image with one class
    only would otherwise not feel its weight.
    """
    weight = None
    if class_weights is not None:
        weight = class_vector(class_weights, logits_BCHW, "class_weights").flatten()
    values = F.cross_entropy(
        logits_BCHW, target_BHW, weight, label_smoothing=label_smoothing, reduction="none"
    )
    return pixel_mean(values[:, None], valid_BHW)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": lambda errors: F.elu(errors) + 1.0,
}


@per_sample
def distill(
    logits_BCHW: Tensor, target_BCHW: Tensor, valid_BHW: Tensor, *,
    temperature: float | Tensor = 1.0, exclusive: bool = False,
) -> Tensor:  # fmt: skip
    """KL divergence of the student's probabilities from the teachers', per pixel and class, times
    temperature squared (Hinton et al. 2015); soft BCE less the teachers' own entropy, which has
    the same gradient and is 0 where both agree.

    Args:
        target_BCHW: the teachers' probabilities, 0..1, at the same temperature.
        temperature: > 0, or (B,), of each image; the student's logits are divided by it.
        exclusive: a pixel is of one class: softmax over the classes, and KL per pixel. The targets
            are divided by their sum first, as they may be rounded.

    Returns:
        float32 (B,).
    """
    own_B = torch.as_tensor(temperature, dtype=torch.float32, device=logits_BCHW.device)
    warm_BCHW = logits_BCHW.float() / own_B.view(-1, 1, 1, 1)
    if exclusive:
        target = target_BCHW / target_BCHW.sum(1, keepdim=True).clamp_min(1e-6)
        student = F.log_softmax(warm_BCHW, dim=1)
        parted = (torch.xlogy(target, target) - target * student).sum(1, keepdim=True)
        return own_B**2 * pixel_mean(parted, valid_BHW)
    crossed = F.binary_cross_entropy_with_logits(warm_BCHW, target_BCHW, reduction="none")
    own = -(torch.xlogy(target_BCHW, target_BCHW) + torch.xlogy(1 - target_BCHW, 1 - target_BCHW))
    return own_B**2 * pixel_mean(crossed - own, valid_BHW)


def _lovasz_slopes(truth_sorted: Tensor) -> Tensor:
    """Gradient of the Lovász extension of the Jaccard loss, errors sorted downward (last axis)."""
    total = truth_sorted.sum(-1, keepdim=True)
    inter = total - truth_sorted.cumsum(-1)
    union = total + (1.0 - truth_sorted).cumsum(-1)
    loss = 1.0 - inter / union
    return torch.diff(loss, dim=-1, prepend=torch.zeros_like(total))


def _sort_errors(errors: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sort along the last axis, largest error first and ignored pixels last.

    At the end, and as background, ignored pixels change no slope before them; their own error is
    the lowest float, where every activation is 0.
    """
    lowest = torch.finfo(errors.dtype).min
    errors_sorted, order = errors.masked_fill(~valid, lowest).sort(-1, descending=True)
    return errors_sorted, (truth * valid).gather(-1, order)


@per_sample
def lovasz(
    logits_BCHW: Tensor,
    target_BCHW: Tensor,
    valid_BHW: Tensor,
    *,
    activation: str = "relu",
    symmetric: bool = False,
) -> Tensor:
    """Lovász hinge per image and class (Berman et al. 2018), the mean over classes.

    Soft targets are cut at 0.5. `activation` "elu" is elu(error) + 1, whose slope does not die on
    pixels past the margin. `symmetric` averages with the loss of the complement: its errors are
    the same, so both need one sort only, and the gradient reaches every pixel of an empty mask.
    """
    if activation not in _ACTIVATIONS:
        raise unknown_name("activation", activation, _ACTIVATIONS)
    truth = (target_BCHW > 0.5).float().flatten(2)
    valid = valid_BHW.flatten(1)[:, None].expand_as(truth)
    errors = 1.0 - logits_BCHW.flatten(2) * (2.0 * truth - 1.0)
    errors_sorted, truth_sorted = _sort_errors(errors, truth, valid)
    slopes = _lovasz_slopes(truth_sorted)
    if symmetric:
        is_valid = torch.arange(truth.shape[-1], device=truth.device) < valid.sum(-1, keepdim=True)
        slopes = 0.5 * (slopes + _lovasz_slopes((1.0 - truth_sorted) * is_valid))
    return (_ACTIVATIONS[activation](errors_sorted) * slopes).sum(-1).mean(1)


@per_sample
def lovasz_softmax(logits_BCHW: Tensor, target_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Lovász-softmax per image (Berman et al. 2018), the mean over the classes in its target."""
    truth = one_hot(target_BHW, logits_BCHW.shape[1]).flatten(2)
    valid = valid_BHW.flatten(1)[:, None].expand_as(truth)
    errors = (truth - logits_BCHW.softmax(1).flatten(2)).abs()
    errors_sorted, truth_sorted = _sort_errors(errors, truth, valid)
    loss_BC = (F.relu(errors_sorted) * _lovasz_slopes(truth_sorted)).sum(-1)
    present = truth_sorted.amax(-1) > 0
    return (loss_BC * present).sum(1) / present.sum(1).clamp_min(1)


_FUNCTIONS = (bce, dice, jaccard, boundary, focal, lovasz, lovasz_softmax, cross_entropy)
LOSSES: dict[str, LossFunction] = {f.__name__: f for f in _FUNCTIONS}


def weighted_sum(spec: LossSpec, task: str) -> SpecLoss:
    """Build the loss of a spec such as `{"bce": 1.0, "lovasz": {"weight": 0.5, ...}}`.

    Returns:
        A function (logits_BCHW, target, valid_BHW or None) -> loss_B; terms of weight 0 are not
        computed. Weights are used as they are: they need not sum to 1.

    Raises:
        ValueError: as `check_loss_spec`.
    """
    check_loss_spec(spec, task)
    split = {name: split_term(value) for name, value in spec.items()}
    terms = [(LOSSES[name], w, options) for name, (w, options) in split.items() if w > 0]

    def total(logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor | None = None) -> Tensor:
        losses = [w * loss(logits_BCHW, target, valid_BHW, **options) for loss, w, options in terms]
        return torch.stack(losses).sum(0)

    return total
