"""Counts at native size: by hand, whatever the sizes in a batch are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from distseg.config.data import InputConfig
from distseg.data.fit import Fit
from distseg.functional.losses import weighted_sum
from distseg.inference.evaluate import Evaluator
from distseg.inference.forward import Normalizer


class Brightness(nn.Module):
    """Class 0 is brighter than half of the range; class 1 is everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.was_training: list[bool] = []

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        self.was_training.append(self.training)
        return torch.cat([images - 0.5, torch.ones_like(images)], dim=1), None


class Images(Dataset[dict[str, Any]]):
    """Gray images whose left half is white, on their canvas."""

    def __init__(self, sizes: Sequence[tuple[int, int]], fit: Fit) -> None:
        self.sizes, self.fit = sizes, fit

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width = self.sizes[index]
        image = np.zeros((height, width, 1), np.uint8)
        image[:, : width // 2] = 255
        return {"image": torch.from_numpy(self.fit.forward(image).transpose(2, 0, 1).copy())}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[(8, 6)] * 3, [(8, 6), (4, 12), (8, 6)]])
def test_counts_by_hand(sizes: list[tuple[int, int]], batch_size: int) -> None:
    config = InputConfig(height=32, width=32, fit="pad", channels=1, mean=[0.0], std=[1.0])
    fit, accelerator = Fit(config), Accelerator(cpu=True)

    def target(position: int) -> np.ndarray:
        """The upper half is of both classes; a row of it counts nowhere."""
        mask = np.zeros((2, *sizes[position]), np.uint8)
        mask[:, : sizes[position][0] // 2] = 1
        mask[:, 0] = 255
        return mask

    evaluator = Evaluator(
        accelerator, Images(sizes, fit), sizes, target, fit,
        Normalizer(config, torch.device("cpu"), channels_last=False), "multilabel", batch_size, 0,
    )  # fmt: skip
    model = Brightness()
    counts, losses = evaluator.run(model, 2, weighted_sum({"bce": 1.0}, "multilabel"))
    for (height, width), table in zip(sizes, counts, strict=True):
        rows, upper = height - 1, height // 2 - 1
        half = width // 2
        assert table.tolist() == [
            [upper * half, rows * half, upper * width],
            [upper * width, rows * width, upper * width],
        ]
    assert model.training and not any(model.was_training)
    # the logit .5 or -.5 of class 0 and 1 of class 1, against an upper half of both classes
    hit, miss = math.log1p(math.exp(-0.5)), 0.5 + math.log1p(math.exp(-0.5))
    for (height, _), found in zip(sizes, losses, strict=True):
        share = (height // 2 - 1) / (height - 1)
        first = (hit + miss) / 2  # each half of each row is right, or wrong
        second = math.log1p(math.exp(-1)) + (1 - share)
        assert found == pytest.approx((first + second) / 2, abs=1e-6)
    passes = len(model.was_training)
    again, none = evaluator.run(model, 2)
    assert np.array_equal(again, counts) and not none.any()
    assert len(model.was_training) == 2 * passes, "the loss needs no pass of its own"
