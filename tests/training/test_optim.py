"""distseg.training.optim: optimizers by name, groups, schedules, EMA."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.training import OptimizerConfig, ScheduleConfig
from distseg.models.checkpoint import clean_state_dict, load_state, save_state
from distseg.models.optimizers import timm_optimizers
from distseg.records.errors import UserError
from distseg.training.optim import TORCH_OPTIMIZERS, Ema, Schedule, build_optimizer, set_lr


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Net(nn.Module):
    """Encoder and decoder of a few weights, in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 2, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images).relu())


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def optimizer_of(model: nn.Module, name: str = "adamw", **cfg: Any) -> Optimizer:
    return build_optimizer(OptimizerConfig(name=name, **cfg), model)


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


def factors(steps_per_epoch: int, **cfg: Any) -> list[float]:
    config = ScheduleConfig(**cfg)
    schedule = Schedule(config, steps_per_epoch)
    return [schedule.lr_factor(step) for step in range(config.epochs * steps_per_epoch)]


def test_cosine_restarts_warms_up_once_and_decays_its_peaks() -> None:
    found = factors(4, cycles=3, epochs_per_cycle=2, warmup_epochs=0.5, restart_decay=0.5)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[8] == pytest.approx(0.5) and found[16] == pytest.approx(0.25)
    assert found[12] == pytest.approx((0.5 + 0.01) / 2)  # half-way down
    assert all(a > b for a, b in itertools.pairwise(found[8:16]))
    assert 0.01 < found[23] < 0.03
    schedule = Schedule(ScheduleConfig(cycles=3, epochs_per_cycle=2, restart_decay=0.5), 4)
    assert schedule.lr_factor(10**6) == schedule.lr_factor(23)


def test_onecycle_constant_and_short_runs() -> None:
    found = factors(10, kind="onecycle", epochs_per_cycle=10)
    assert found[0] == pytest.approx(1 / 25) and max(found) == found[30] == 1
    assert found[-1] < 0.02
    assert factors(5, kind="constant", epochs_per_cycle=1, warmup_epochs=0.4) == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1]
    )
    for kind in ("cosine", "onecycle", "constant", "plateau"):
        for warmup in (0, 0.5, 30):
            single = factors(1, kind=kind, epochs_per_cycle=1, warmup_epochs=warmup)
            assert len(single) == 1 and 0 < single[0] <= 1


def test_noam_rises_over_the_warm_up_and_falls_with_the_root() -> None:
    found = factors(4, kind="noam", epochs_per_cycle=4, warmup_epochs=1)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[15] == pytest.approx(math.sqrt(4 / 16))
    assert factors(4, kind="noam", epochs_per_cycle=1) == pytest.approx(
        [1, math.sqrt(1 / 2), math.sqrt(1 / 3), 0.5]
    )


def test_plateau_falls_after_patience_and_comes_back_from_its_state() -> None:
    config = ScheduleConfig(kind="plateau", patience=1, factor=0.5, min_lr_scale=0.2)
    schedule = Schedule(config, 3)
    fell = [schedule.observe(value) for value in (0.5, 0.6, 0.6, math.nan)]
    assert fell == [False, False, False, True] and schedule.lr_factor(7) == 0.5
    again = Schedule(config, 3)
    again.load(schedule.state())
    assert again.lr_factor(0) == 0.5 and not again.observe(0.6) and again.observe(0.1)
    assert again.lr_factor(0) == 0.25
    assert [again.observe(0.0) for _ in range(4)] == [False, True, False, False]
    assert again.lr_factor(0) == 0.2  # the floor
    down = Schedule(config.model_copy(update={"mode": "min", "patience": 0}), 3)
    assert [down.observe(v) for v in (0.5, 0.4, 0.45)] == [False, False, True]


def test_ema_follows_its_formula_swaps_and_survives(tmp_path: Path) -> None:
    model = net()
    ema, expected = Ema(model, 0.5), model.decoder.weight.detach().clone()
    optimizer = optimizer_of(model, "sgd", lr=0.1)
    for step in range(12):
        train(model, optimizer, range(step, step + 1))
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.decoder.weight.detach()
    own = clean_state_dict(model)
    with ema.swap(model):
        torch.testing.assert_close(model.decoder.weight, expected)
        assert torch.equal(model.encoder[1].running_mean, own["encoder.1.running_mean"])  # type: ignore
    assert all(torch.equal(own[k], v) for k, v in clean_state_dict(model).items())
    save_state(tmp_path, ema.tensors(), {})
    loaded = load_state(tmp_path)
    assert loaded is not None
    other = Ema(net(1), 0.5)
    other.load(loaded[0])
    ema.update(model)
    other.update(model)
    assert all(torch.equal(v, other.tensors()[k]) for k, v in ema.tensors().items())
