"""Views and Monte-Carlo dropout at prediction."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from distseg.config import parse_config
from distseg.errors import UserError
from distseg.evaluate import tta_logits
from tests.conftest import tiny_tree


class Net(nn.Module):
    """One convolution under dropout."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(4, 1, 1), nn.Dropout2d(rate)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.conv(self.drop(images)), None


def predict(models: list[nn.Module], tta: list[str]) -> list[Tensor]:
    torch.manual_seed(1)
    return tta_logits(models, torch.randn(2, 4, 5, 6), tta, nullcontext)


def test_dropout_passes_are_averaged_and_repeat_themselves() -> None:
    torch.manual_seed(0)
    dropping, plain = Net(0.5).eval(), Net(0.0).eval()
    before = torch.get_rng_state()
    first, still = predict([dropping, plain], ["hflip", "dropout:3"])
    state = torch.get_rng_state()
    torch.manual_seed(1)
    torch.randn(2, 4, 5, 6)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left as it was"
    assert not torch.equal(state, before)
    assert torch.equal(first, predict([dropping], ["hflip", "dropout:3"])[0])
    assert not dropping.drop.training
    assert not torch.equal(first, predict([dropping], ["hflip"])[0])
    assert torch.equal(still, predict([plain], ["hflip"])[0])
    # many passes come near the network without dropout: it is linear here
    many, once = predict([dropping], ["dropout:1000"])[0], predict([dropping], [])[0]
    assert (many - once).abs().mean() < 0.1 * (
        predict([dropping], ["dropout:1"])[0] - once
    ).abs().mean()


@pytest.mark.parametrize("mode", ["dropout", "dropout:0", "dropout:x", "dropout:1001", "drop:2"])
def test_a_wrong_number_of_passes_is_named(mode: str) -> None:
    with pytest.raises(UserError, match="dropout:8"):
        parse_config(tiny_tree(predict={"tta": [mode]}), "t")
