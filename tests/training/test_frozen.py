"""An encoder that never learns: what stays, what is kept of it, and what a config cannot ask."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.config.load import parse_config
from distseg.distributed import make_accelerator
from distseg.jobs.hardware import Slot
from distseg.models import checkpoint
from distseg.models.pyramid import ENCODER as PLACE
from distseg.records.errors import UserError
from distseg.run.measure import DataSize, feature_bytes, model_sizes
from distseg.run.pace import measuring
from distseg.run.plan import disk_bytes, memory_bytes
from distseg.run.student import _student
from distseg.training import train as trainer
from distseg.training.member import Member
from distseg.training.stage import begin_epoch, set_up_stage, train_step
from distseg.training.train import train_member
from tests.tiny import tiny_tree
from tests.training.tiny_frozen import DECODER, changed, frozen_tree, write_weights
from tests.training.tiny_training import (
    Launch,
    assert_same_bits,
    losses,
    set_up,
    train_here,
    train_there,
    weights,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_weights(tmp_path_factory.mktemp("weights") / "encoder.safetensors")


def test_it_stays_bit_for_bit_and_costs_no_state(tmp_path: Path, file: str) -> None:
    """Also its running statistics."""
    torch.set_num_threads(1)
    config, run = set_up(tmp_path, **frozen_tree(file), train={"batch_size": 8, "ema_decay": 0.9})
    train_member(config, run.folder, 0, "a", 0)
    paths = run.member(0, "a", 0)
    state, _ = checkpoint.load_snapshot(max(paths.snapshots.glob("*.safetensors")))
    assert changed(file, state) == []
    loaded = checkpoint.load_state(paths.state)
    assert loaded is not None
    tree = loaded[0]
    decoder = [name for name in state if not name.startswith(f"{PLACE}.")]
    assert len(tree["optimizer"]["state"]) == len(decoder) > 0
    assert {group["part"] for group in tree["optimizer"]["param_groups"]} == {"decoder"}
    assert set(tree["ema"]) == {*decoder, "ema.num_updates"}
    assert changed(file, tree["model"]) == []
    assert any(not torch.equal(state[name], tree["model"][name]) for name in decoder)
    first, second = losses(paths)
    assert second < first


def test_an_average_of_snapshots_leaves_its_statistics(tmp_path: Path, file: str) -> None:
    """The decoder's are estimated anew on what such an encoder makes."""
    decoder = {key: value for key, value in DECODER.items() if key != "decoder_use_norm"}
    tree = frozen_tree(file, swa=True)
    tree["members"]["a"]["decoder"] = decoder
    config, run = set_up(tmp_path, **tree)
    train_member(config, run.folder, 0, "a", 0)
    (snapshot,) = run.member(0, "a", 0).snapshots.glob("*.safetensors")
    state, record = checkpoint.load_snapshot(snapshot)
    assert len(record["average_of"]) == 2 and changed(file, state) == []
    assert any("decoder" in name and name.endswith("running_mean") for name in state)


def test_a_step_makes_no_graph_of_it(tmp_path: Path, file: str) -> None:
    config, run = set_up(tmp_path, **frozen_tree(file, views=None))
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    stage = set_up_stage(member, 0)
    seen: list[torch.Tensor] = []
    encoder = member.model.get_submodule(PLACE)
    encoder.register_forward_hook(lambda _m, _i, maps: seen.extend(maps))
    frozen, batches = begin_epoch(stage, 0), stage.batches.epoch(0)
    train_step(member, stage, batches, epoch=0, step=0, lr_factor=1.0, frozen=frozen)
    assert frozen is encoder and not encoder.training and member.model.training
    assert seen and not any(map_BCHW.requires_grad for map_BCHW in seen)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_stage_after_it_trains_the_encoder(tmp_path: Path, file: str) -> None:
    first, *_ = frozen_tree(file)["stages"]
    config, run = set_up(
        tmp_path, **{**frozen_tree(file), "stages": [first, {**first, "freeze_encoder": 0}]},
        train={"batch_size": 8, "ema_decay": 0.9},
    )  # fmt: skip
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    found = []
    for number in range(2):
        stage = set_up_stage(member, number)
        frozen, batches = begin_epoch(stage, 0), stage.batches.epoch(0)
        train_step(member, stage, batches, epoch=0, step=0, lr_factor=1.0, frozen=frozen)
        assert member.ema is not None
        member.ema.update(member.model)
        found.append(bool(changed(file, checkpoint.clean_state_dict(member.model))))
        stage.close()
    assert found == [False, True]


@pytest.mark.parametrize(
    "order", [("always", 0), pytest.param((0, "always"), marks=pytest.mark.slow)]
)
def test_killed_between_its_steps_it_goes_on_bit_for_bit(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch, order: tuple[Any, Any]
) -> None:
    """Two stages: what learns changes at their border, before or after the kill."""
    first, *_ = frozen_tree(file, schedule={"kind": "constant", "epochs_per_cycle": 1})["stages"]
    first["keep"] = "last"
    stages = [{**first, "freeze_encoder": order[0]}, {**first, "freeze_encoder": order[1]}]
    changes = {**frozen_tree(file), "stages": stages}
    config, run = set_up(tmp_path / "whole", **changes)
    train_member(config, run.folder, 0, "a", 0)
    again, other = set_up(tmp_path / "killed", **changes)
    real, steps = trainer.train_step, 0

    def stop_once(*given: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:  # of three an epoch: in the second stage
            signal.raise_signal(signal.SIGTERM)
        return real(*given, **options)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(trainer, "train_step", stop_once)
        train_member(again, other.folder, 0, "a", 0)
    train_member(again, other.folder, 0, "a", 0)
    assert_same_bits(run.member(0, "a", 0), other.member(0, "a", 0))


@pytest.mark.slow
def test_two_ranks_keep_it_and_let_it_learn_as_one(
    tmp_path: Path, file: str, launch: Launch
) -> None:
    """DDP waits for the gradients that there are: its wrapper changes with the stage."""
    first, *_ = frozen_tree(file, schedule={"kind": "constant", "epochs_per_cycle": 1})["stages"]
    first["keep"] = "last"
    # without batch normalization that learns: two ranks have other statistics than one
    rate = {"optimizer": {"name": "sgd", "lr": 1e-2}, "freeze_encoder": 1}
    changes = {**frozen_tree(file), "stages": [first, {**first, **rate}, first]}
    one = train_here(tmp_path / "one", **changes)
    two = train_there(launch, tmp_path / "two", 2, **changes)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert changed(file, {name.removeprefix("0."): t for name, t in weights(two).items()}) == []


def mistake(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(tiny_tree(**changes), "test")
    return str(caught.value)


def test_what_cannot_be_is_said(file: str) -> None:
    frozen = {"freeze_encoder": "always"}
    text = mistake(stages=[frozen])
    assert text.startswith("test: stages.0.freeze_encoder: always: the encoder would stay random")
    assert "members.a.encoder_weights: imagenet, or" in text and len(text.splitlines()) == 1
    own = {"a": {**tiny_tree()["members"]["a"], "stages": [frozen, {}]}}
    assert "members.a.stages.0.freeze_encoder: always: the" in mistake(members=own)
    plain = {"a": {"arch": "PlainUnet", "encoder": "none"}}
    assert "PlainUnet (members.a) has no encoder" in mistake(members=plain, stages=[frozen])
    rate = {**frozen, "optimizer": {"encoder_lr": 1e-5}}
    known = frozen_tree(file)["members"]
    assert "encoder_lr: 1e-05: the encoder never learns" in mistake(members=known, stages=[rate])
    for value, said in (("alwais", "'always'"), (True, "or always, not true"), (-1, "from 0 up")):
        assert said in mistake(members=known, stages=[{"freeze_encoder": value}])
    students = [{"kind": "supervised"}, {"kind": "supervised", "stages": [frozen]}]
    assert "rounds.1.stages.0.freeze_encoder: always" in mistake(rounds=students)
    zero = {"compute": {"zero": 2}, "members": known}
    assert "write 0 or always" in mistake(**zero, stages=[{"freeze_encoder": 1}])


def test_an_encoder_that_has_learned_may_stay_without_weights(file: str) -> None:
    frozen = {"freeze_encoder": "always"}
    config = parse_config(tiny_tree(stages=[{}, frozen]), "test")
    assert [stage.is_frozen(0) for stage in config.stages] == [False, True]
    warm = {"kind": "supervised", "init": "previous", "stages": [frozen]}
    parse_config(tiny_tree(rounds=[{"kind": "supervised"}, warm]), "test")
    parse_config(tiny_tree(**frozen_tree(file), compute={"zero": 3}), "test")


def test_a_student_on_another_encoder_learns_it(file: str) -> None:
    """There are no weights of that one, and random ones may not stay."""
    config = parse_config(tiny_tree(**frozen_tree(file, views=8)), "test")
    same, other = (_student(config, "a", encoder) for encoder in ("", "resnet18"))
    assert same.encoder_weights == file and same.stages is not None
    assert same.stages[0].freeze_encoder == "always"
    members = {"student": other.model_dump(mode="json")}
    again = parse_config(tiny_tree(members=members), "test").members["student"]
    assert again.encoder == "resnet18" and again.stages is not None
    assert again.stages[0].freeze_encoder == 0


def test_a_plan_counts_what_learns(file: str) -> None:
    frozen = parse_config(tiny_tree(**frozen_tree(file)), "test")
    free = parse_config(tiny_tree(**frozen_tree(file, freeze_encoder=0)), "test")
    (one,), (other,) = model_sizes(frozen).values(), model_sizes(free).values()
    values = one.features[32, 32]
    assert one.parameters == other.parameters == other.learning
    assert 0 < one.learning < one.parameters
    assert one.activation_bytes < other.activation_bytes
    size, slot = DataSize(37, 5, 32, 32), Slot(0, (), 1, 1)
    assert measuring(frozen, size).members["a"].encoder_weights == file
    assert measuring(free, size).members["a"].encoder_weights is None
    saved = 12 * one.frozen + 8 * (other.activation_bytes - one.activation_bytes)
    needs = [memory_bytes(config, {"a": found}, slot)["a"] for config, found in
             ((free, other), (frozen, one))]  # fmt: skip
    assert needs[0] - needs[1] == saved
    keys: dict[Any, Any] = {0: [("a", 0), ("a", 1)]}
    disk = [disk_bytes(config, size, {"a": found}, keys, 1, 2) for config, found in
            ((free, other), (frozen, one))]  # fmt: skip
    assert disk[0]["kept states"] - disk[1]["kept states"] == 2 * 8 * one.frozen
    assert [found["feature maps (float16)"] for found in disk] == [0, 2 * 37 * 4 * values]
    assert values == 16 * 16**2 + 8 * 8**2 + 16 * 4**2  # of the strides 2, 4 and 8


def kept(changes: dict[str, Any]) -> int:
    """Bytes of maps, as the plan of a run has them."""
    config = parse_config(tiny_tree(**changes), "test")
    planned: dict[Any, Any] = {0: [("a", 0), ("a", 1)], 1: [("a", 0), ("a", 1)]}
    planned = {key: planned[key] for key in range(len(config.rounds))}
    return feature_bytes(config, DataSize(37, 5, 32, 32), model_sizes(config), planned)


def test_a_plan_counts_the_maps_that_training_keeps(file: str) -> None:
    tree = frozen_tree(file)
    (stage,), (member,) = tree["stages"], tree["members"].values()
    image = 16 * 16**2 + 8 * 8**2 + 16 * 4**2
    once, draws = 2 * 37 * image, 4
    resized = {"height": 32, "width": 32, "channels": 1, "fit": "resize"}

    def stages(*more: dict[str, Any], **changes: Any) -> int:
        return kept({**tree, "stages": [stage, *({**stage, **one} for one in more)], **changes})

    assert stages() == stages({}) == draws * once
    assert stages({"augment": []}) == 2 * draws * once
    assert stages({"views": 2}) == (draws + 2) * once
    assert stages({"views": None}) == stages({"freeze_encoder": 0}, {"views": 2}) == draws * once
    assert stages({"input_size": [64, 64]}, input=resized) == (1 + 4) * draws * once
    assert stages(input=resized, augment=[]) == once
    assert stages(input=tiny_tree()["input"] | {"normalize": "train"}) == 2 * draws * once
    assert stages(rounds=[{}, {"stages": [{**stage, "augment": []}]}]) == 2 * draws * once
    assert stages(rounds=[{}, {"kind": "mean_teacher", "stages": [{**stage, "augment": []}]}]) == (
        draws * once
    )
    assert stages(rounds=[{}, {}], compute={"compile": True}) == 0
    fpn = {**member, "arch": "FPN", "decoder": {"encoder_depth": 3, "upsampling": 1}}
    assert stages(members={"a": fpn}) == 0, "its fourth map is the image"
