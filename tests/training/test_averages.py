"""distseg.training.averages: the moving average of every step, by its formula and by torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distseg.models.checkpoint import clean_state_dict, load_state, save_state
from distseg.training.averages import Ema
from tests.training.tiny_training import net, optimizer_of, train


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


def test_ema_is_torchs_averaged_model_to_the_bit() -> None:
    """What AveragedModel would give, whose counter must begin at 1 to average the first step."""

    def average(averaged: list[Tensor], current: list[Tensor], number: Tensor) -> None:
        decay = min(0.9, int(number) / (9 + int(number)))
        get_ema_multi_avg_fn(decay)(averaged, current, number)

    model = net()
    ours, theirs = Ema(model, 0.9), AveragedModel(model, multi_avg_fn=average)  # type: ignore[arg-type]
    theirs.n_averaged.fill_(1)
    optimizer = optimizer_of(model, "adamw", lr=0.1)
    for step in range(12):
        train(model, optimizer, range(step, step + 1))
        ours.update(model)
        theirs.update_parameters(model)
    own = clean_state_dict(model)
    with ours.swap(model):
        averaged = clean_state_dict(model)
    expected = clean_state_dict(theirs.module)
    assert all(torch.equal(averaged[name], expected[name]) for name in expected)
    assert not torch.equal(averaged["decoder.weight"], own["decoder.weight"])


def test_a_teacher_is_the_model_with_its_averages() -> None:
    """Bit by bit what `swap` evaluates, after updates and after the averages are loaded."""
    model, images = net(), torch.randn(2, 3, 8, 8)
    ema = Ema(model, 0.5)
    teacher, optimizer = ema.teacher(model), optimizer_of(model, "sgd", lr=0.1)
    saved = {name: tensor.clone() for name, tensor in ema.tensors().items()}

    def said() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), ema.swap(model.eval()):
            swapped = model(images)
        model.train()
        return teacher(images), swapped

    expected = model.decoder.weight.detach().clone()
    for step in range(3):
        train(model, optimizer, range(step, step + 1))
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.decoder.weight.detach()
    torch.testing.assert_close(teacher.get_parameter("decoder.weight"), expected)
    assert torch.equal(*said())
    ema.load(saved)
    assert torch.equal(*said())
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    averages = {tensor.data_ptr() for tensor in ema.tensors().values()}
    assert {parameter.data_ptr() for parameter in teacher.parameters()} <= averages
    shared = zip(teacher.buffers(), model.buffers(), strict=True)
    assert all(own is other for own, other in shared)
    assert teacher(images).grad_fn is None


def test_a_teacher_has_what_never_learns_from_the_model() -> None:
    """An encoder that is frozen has no average; a state that is loaded later reaches both."""
    model = net()
    model.encoder.requires_grad_(False)
    ema = Ema(model, 0.5)
    assert set(ema.tensors()) == {"decoder.weight", "decoder.bias", "ema.num_updates"}
    teacher = ema.teacher(model)
    of = [dict(one.named_parameters()) for one in (teacher, model)]
    with torch.no_grad():
        for parameter in of[1].values():
            parameter.fill_(3.0)
    ema.update(model)
    assert torch.equal(of[0]["encoder.0.weight"], of[1]["encoder.0.weight"])
    assert torch.equal(of[0]["decoder.weight"], ema.tensors()["decoder.weight"])
    assert not torch.equal(of[0]["decoder.weight"], of[1]["decoder.weight"])
