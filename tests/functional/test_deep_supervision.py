"""The deep heads' loss: by hand, on images with and without an object."""

from __future__ import annotations

import torch

from distseg.functional.deep_supervision import deep_loss
from distseg.functional.losses import weighted_sum


def test_scales_are_averaged_and_empty_images_weigh_nothing() -> None:
    loss = weighted_sum({"bce": 1.0}, "binary")
    target = torch.zeros(3, 1, 4, 4)
    target[0, 0, 0, 0] = target[2, 0, 0, 0] = 1
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    valid[2, 0, 0] = False  # its one pixel counts nowhere: empty
    deep = [torch.zeros(3, 1, 2, 2, requires_grad=True), torch.ones(3, 1, 1, 1)]
    found = deep_loss(loss, deep, target, valid)
    one = loss(torch.zeros(3, 1, 4, 4), target, valid) + loss(torch.ones(3, 1, 4, 4), target, valid)
    assert torch.allclose(found, torch.tensor([one[0].item() / 2, 0.0, 0.0]))
    found.sum().backward()
    grad = deep[0].grad
    assert grad is not None and (grad[0] != 0).all() and (grad[1:] == 0).all()


def test_multiclass_images_all_count_and_bfloat16_becomes_float32() -> None:
    loss = weighted_sum({"cross_entropy": 1.0}, "multiclass")
    target, valid = torch.zeros(2, 4, 4, dtype=torch.long), torch.ones(2, 4, 4, dtype=torch.bool)
    found = deep_loss(loss, [torch.zeros(2, 3, 2, 2, dtype=torch.bfloat16)], target, valid)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.full((2,), torch.log(torch.tensor(3.0)).item()))
