"""The loss of one micro-batch: a pure function of a model and a batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distseg.functional.consistency import consistency
from distseg.functional.deep_supervision import deep_loss
from distseg.functional.losses import SpecLoss, distill
from distseg.functional.metrics import VOID
from distseg.training.batches import Batch


@dataclass(frozen=True)
class LossTerms:
    """What is added up to a sample's loss.

    main: the stage's loss of the logits.
    image_head, deep_supervision: weights of the losses of the extra heads.
    confidence: 0..1, of a mean teacher; see `consistency`.
    """

    main: SpecLoss
    task: str
    image_head: float = 0.0
    deep_supervision: float = 0.0
    confidence: float = 0.0


def compute_loss(
    model: Callable[[Tensor], tuple[Any, ...]],
    batch: Batch,
    terms: LossTerms,
    autocast: Callable[[], AbstractContextManager[None]],
    teacher: Callable[[Tensor], tuple[Any, ...]] | None = None,
) -> Tensor:
    """The loss of each sample, float32 (B,), not yet weighted.

    model: gives logits (B, C, H, W); (B, C) of the image head or None; and the logits of every
        scale under deep supervision. Only the forward pass runs under `autocast`: losses are
        computed in float32. A head that the model has is always part of the loss, if need be with
        the weight 0: DDP waits for the gradient of every parameter.
    teacher: a mean teacher, whose logits those of the model shall be like.
    """
    with autocast():
        logits, image_logits, *deep = model(batch.images_BCHW)
    loss_B = terms.main(logits, batch.target, batch.valid_BHW)
    if batch.soft_BCHW is not None:
        assert batch.soft_share_B is not None and batch.temperature_B is not None
        soft_B = distill(
            logits, batch.soft_BCHW, batch.valid_BHW, temperature=batch.temperature_B,
            exclusive=terms.task == "multiclass",
        )  # fmt: skip
        loss_B = torch.lerp(loss_B, soft_B, batch.soft_share_B)
    if image_logits is not None:
        image_B = image_loss(image_logits, batch.masks_BKHW, terms.task)
        loss_B = loss_B + terms.image_head * image_B
    if deep:
        deep_B = deep_loss(terms.main, deep, batch.target, batch.valid_BHW)
        loss_B = loss_B + terms.deep_supervision * deep_B
    if teacher is not None:
        assert batch.view_BCHW is not None and batch.label_weight_B is not None
        assert batch.consistency is not None
        # After the model: its pass under DDP first takes rank 0's running statistics, which the
        # teacher shares, also in the first step after a resume. So the teachers of the ranks have
        # the same weights, and statistics that differ by one step of each rank's own images.
        with torch.no_grad(), autocast():
            teacher_logits = teacher(batch.view_BCHW)[0]
        unlike_B = consistency(
            logits, teacher_logits, exclusive=terms.task == "multiclass",
            confidence=terms.confidence,
        )  # fmt: skip
        loss_B = loss_B * batch.label_weight_B + batch.consistency * unlike_B
    return loss_B


def image_loss(image_logits_BC: Tensor, masks_BKHW: Tensor, task: str) -> Tensor:
    """BCE of 'class c is present in the image', float32 (B,); 0 where all of the image is void."""
    if task == "multiclass":
        classes = torch.arange(image_logits_BC.shape[1], device=masks_BKHW.device)
        present = (masks_BKHW == classes.view(1, -1, 1, 1)).flatten(2).any(2)
    else:
        present = (masks_BKHW == 1).flatten(2).any(2)
    loss = nn.functional.binary_cross_entropy_with_logits(
        image_logits_BC.float(), present.float(), reduction="none"
    )
    return loss.mean(1) * (masks_BKHW[:, 0] != VOID).flatten(1).any(1)
