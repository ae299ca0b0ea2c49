"""distseg.training.optim: optimizers by name and their parameter groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distseg.config.training import OptimizerConfig
from distseg.models.checkpoint import clean_state_dict, load_state, save_state
from distseg.models.optimizers import timm_optimizers
from distseg.records.errors import UserError
from distseg.training.optim import TORCH_OPTIMIZERS, build_optimizer, set_lr
from tests.training.tiny_training import net, optimizer_of, train


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_groups_have_their_own_rates_and_no_decay_on_norms_and_biases() -> None:
    model = net()
    optimizer = optimizer_of(model, lr=1e-2, encoder_lr=1e-3, weight_decay=0.1)
    found = [
        (g["part"], g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups
    ]
    assert found == [
        ("encoder", 1e-3, 0.1, 1),
        ("encoder", 1e-3, 0.0, 3),  # bias, and the norm's two
        ("decoder", 1e-2, 0.1, 1),
        ("decoder", 1e-2, 0.0, 1),
    ]
    assert optimizer.defaults["fused"] is True
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-4, 5e-4, 5e-3, 5e-3]
    set_lr(optimizer, 1.0)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 1e-3, 1e-2, 1e-2]


def test_frozen_parameters_are_left_out_and_position_tables_do_not_decay() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.weight = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
            self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

        def no_weight_decay(self) -> set[str]:
            return {"table"}

    model = nn.ModuleDict({"encoder": Encoder()})
    decayed, undecayed = optimizer_of(model).param_groups
    assert decayed["params"] == [model["encoder"].weight]
    assert undecayed["params"] == [model["encoder"].table] and undecayed["weight_decay"] == 0


FEW = ["adafactorbv", "adam", "adamw", "adan", "lamb", "lion", "muon", "nadam", "nesterov",
       "radam", "rmsprop", "rmsproptf", "sgd", "sgdw"]  # fmt: skip
REST = sorted({*TORCH_OPTIMIZERS, *timm_optimizers()} - {*FEW})


@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]
)
def test_every_optimizer_steps_and_survives_its_state(name: str, tmp_path: Path) -> None:
    """Saved after 4 steps and loaded into a fresh one, it goes on to the same bits."""
    ended, resumed = ended_and_resumed(name, tmp_path, {})
    assert all(torch.equal(ended[key], resumed[key]) for key in ended)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("lookahead_radam", {"lookahead_k": 3}),
        ("lookahead_adamw", {"betas": [0.9, 0.99], "lookahead_alpha": 0.3}),
        ("lookahead_sgd", {"momentum": 0.9, "lookahead_k": 3}),
        ("adam", {"amsgrad": True}),
        ("adamw", {"fused": False, "foreach": False}),
    ],
)
def test_options_and_lookahead(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    ended, resumed = ended_and_resumed(name, tmp_path, options)
    assert all(torch.equal(ended[key], resumed[key]) for key in ended)


def test_lookahead_is_the_papers() -> None:
    """Algorithm 1 of Zhang et al. 2019 by hand, from the first weights on: k 3, alpha .25."""
    model, alpha, k = net(), 0.25, 3
    options = {"lookahead_alpha": alpha, "lookahead_k": k}
    optimizer = optimizer_of(model, "lookahead_sgd", lr=0.1, weight_decay=0.0, options=options)
    hand = net()
    slow = [p.detach().clone() for p in hand.parameters()]
    for step in range(2 * k):
        train(model, optimizer, range(step, step + 1))
        train(hand, torch.optim.SGD(hand.parameters(), lr=0.1), range(step, step + 1))
        if step % k == k - 1:
            with torch.no_grad():
                for own, fast in zip(slow, hand.parameters(), strict=True):
                    own += alpha * (fast - own)
                    fast.copy_(own)
        pairs = zip(model.parameters(), hand.parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs), step


def ended_and_resumed(
    name: str, folder: Path, options: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights after 8 steps, of a model trained at once and of one loaded after 4."""
    model = net()
    start = clean_state_dict(model)
    optimizer = optimizer_of(model, name, lr=1e-3, options=options)
    train(model, optimizer, range(4))
    random = torch.get_rng_state()
    save_state(folder, {"m": clean_state_dict(model), "o": optimizer.state_dict()}, {})
    torch.set_rng_state(random)
    train(model, optimizer, range(4, 8))
    fresh = net(1)
    fresh_optimizer = optimizer_of(fresh, name, lr=1e-3, options=options)
    loaded = load_state(folder)
    assert loaded is not None
    fresh.load_state_dict(loaded[0]["m"])
    fresh_optimizer.load_state_dict(loaded[0]["o"])
    torch.set_rng_state(random)
    train(fresh, fresh_optimizer, range(4, 8))
    ended, resumed = clean_state_dict(model), clean_state_dict(fresh)
    assert not torch.equal(start["decoder.weight"], ended["decoder.weight"])
    return ended, resumed


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"name": "adammw"}, "Did you mean"),
        ({"name": "lookahead_adan2"}, "unknown optimizer"),
        ({"name": "lbfgs"}, "unknown optimizer"),
        ({"name": "adamw", "options": {"beta": 1}}, "Did you mean 'betas'"),
        ({"name": "adamw", "options": {"weight_decay": 1}}, "weight_decay"),
        ({"name": "sgd", "options": {"nesterov": True}}, "momentum"),
        ({"name": "adamw", "options": {"betas": 3}}, "betas"),
        ({"name": "lookahead_adam", "options": {"lookahead_k": 0}}, "lookahead"),
    ],
)
def test_a_mistake_is_one_message(cfg: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_optimizer(OptimizerConfig(**cfg), net())
