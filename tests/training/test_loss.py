"""distseg.training.loss: the loss of a micro-batch, by hand."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distseg.functional.losses import distill, weighted_sum
from distseg.functional.metrics import VOID
from distseg.functional.targets import training_target
from distseg.training.batches import Batch
from distseg.training.loss import LossTerms, compute_loss, image_loss

TERMS = LossTerms(main=weighted_sum({"bce": 1.0}, "binary"), task="binary")
# -log(sigmoid(2)) and -log(1 - sigmoid(2))
HIT, MISS = math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))


def batch_of(*values: int) -> Batch:
    """Images of 4 x 4 pixels, each with one value in all of its mask."""
    masks = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in values])
    target, valid = training_target(masks, "binary")
    images = torch.zeros(len(values), 1, 4, 4)
    return Batch(images, masks, target, valid, torch.ones(len(values)), None, None)


def loss_of(batch: Batch, terms: LossTerms, *heads: Tensor | None) -> Any:
    """The logit is 2 everywhere; `heads` are what the model gives beside it."""

    def model(images_BCHW: Tensor) -> tuple[Any, ...]:
        return torch.full_like(images_BCHW, 2.0), *(heads or (None,))

    return pytest.approx(compute_loss(model, batch, terms, nullcontext).tolist())


def test_the_main_loss_is_each_samples_own_and_void_has_none() -> None:
    assert loss_of(batch_of(1, 0, VOID), TERMS) == [HIT, MISS, 0.0]


def test_soft_targets_take_their_share_of_each_loss() -> None:
    """At the teachers' own probability the distillation is 0."""
    soft = torch.full((2, 1, 4, 4), 1 / (1 + math.exp(-2)))
    batch = replace(batch_of(1, 0), soft_BCHW=soft, soft_share_B=torch.tensor([0.25, 0.0]),
                    temperature_B=torch.ones(2))  # fmt: skip
    assert loss_of(batch, TERMS) == [0.75 * HIT, MISS]


def test_soft_targets_of_exclusive_classes_are_a_softmax() -> None:
    """KL of the student from teachers that say (.7, .2, .1), rounded or not; 0 where they agree."""
    teacher = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    uniform, agreed = torch.zeros(1, 3, 2, 2), teacher.log() + 5
    expected = sum(p * math.log(3 * p) for p in (0.7, 0.2, 0.1))
    for target in (teacher, 0.99 * teacher):
        assert distill(uniform, target, exclusive=True).tolist() == pytest.approx([expected])
        assert distill(agreed, target, exclusive=True).item() == pytest.approx(0, abs=1e-6)
    warm = distill(2 * agreed, teacher, exclusive=True, temperature=2.0)
    assert warm.item() == pytest.approx(0, abs=1e-6)
    half = torch.tensor([[[True, False], [False, False]]])
    assert distill(uniform, teacher, half, exclusive=True).tolist() == pytest.approx([expected])
    target = torch.tensor([[[[0, 1], [2, VOID]]]], dtype=torch.uint8)
    truth, valid = training_target(target, "multiclass")
    one, share = torch.ones(1), torch.ones(1)
    images = torch.zeros(1, 1, 2, 2)
    batch = Batch(images, target, truth, valid, one, teacher, share, temperature_B=one)
    terms = LossTerms(weighted_sum({"cross_entropy": 1.0}, "multiclass"), "multiclass")
    found = compute_loss(lambda _: (uniform, None), batch, terms, nullcontext)
    assert found.tolist() == pytest.approx([expected])


def test_extra_heads_add_their_weighted_losses() -> None:
    """The deep heads learn from images with an object only; a weight of 0 adds nothing."""
    batch, present = batch_of(1, 0), torch.full((2, 1), 2.0)
    with_image = replace(TERMS, image_head=0.5)
    assert loss_of(batch, with_image, present) == [1.5 * HIT, 1.5 * MISS]
    assert loss_of(batch, TERMS, present) == [HIT, MISS]
    deep = torch.full((2, 1, 2, 2), 2.0)
    with_deep = replace(TERMS, deep_supervision=0.1)
    assert loss_of(batch, with_deep, None, deep, deep) == [1.1 * HIT, MISS]


def test_a_mean_teacher_adds_its_consistency_to_the_labels_mean() -> None:
    """Half of the images have a label, whose losses count twice, extra heads too; the weight of the
    consistency is that of the step."""
    batch = replace(
        batch_of(1, VOID), view_BCHW=torch.ones(2, 1, 4, 4), consistency=torch.tensor(3.0),
        label_weight_B=torch.tensor([2.0, 0.0]),
    )  # fmt: skip
    seen = []

    def teacher(images_BCHW: Tensor) -> tuple[Any, ...]:
        seen.append(images_BCHW)
        return torch.full_like(images_BCHW, -1.0), None

    def model(images_BCHW: Tensor) -> tuple[Any, ...]:
        return torch.full_like(images_BCHW, 2.0), torch.full((2, 1), 2.0)

    squared = (1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(1))) ** 2
    terms = replace(TERMS, image_head=0.5)
    found = compute_loss(model, batch, terms, nullcontext, teacher)
    assert found.tolist() == pytest.approx([2 * 1.5 * HIT + 3 * squared, 3 * squared])
    assert seen[0] is batch.view_BCHW
    sure = compute_loss(model, batch, replace(terms, confidence=0.8), nullcontext, teacher)
    assert sure.tolist() == pytest.approx([2 * 1.5 * HIT, 0.0])  # it says .73


def test_the_image_head_learns_nothing_from_void() -> None:
    target = torch.full((3, 1, 4, 4), VOID, dtype=torch.uint8)
    target[1, 0, 0, 0], target[2] = 1, 0
    logits = torch.full((3, 1), 2.0)
    expected = [0.0, math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))]
    assert image_loss(logits, target, "binary").tolist() == pytest.approx(expected)
    assert image_loss(logits.repeat(1, 2), target, "multiclass")[0] == 0
