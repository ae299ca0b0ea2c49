"""The loss's target of masks as the data cache holds them."""

from __future__ import annotations

import pytest
import torch

from distseg.functional.targets import training_target

MASKS = torch.tensor([[[[0, 1, 2], [255, 1, 0]]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("multiclass", torch.tensor([[[0, 1, 2], [255, 1, 0]]])),
        ("binary", torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]])),
    ],
)
def test_void_is_not_valid(task: str, target: torch.Tensor) -> None:
    found, valid = training_target(MASKS, task)
    assert torch.equal(found, target) and found.dtype == target.dtype
    assert valid.tolist() == [[[True, True, True], [False, True, True]]]
