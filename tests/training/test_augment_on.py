"""Training whose images are augmented on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distseg.distributed import make_accelerator
from distseg.records.paths import MemberPaths
from distseg.rounds.select import select
from distseg.training.member import Member
from distseg.training.stage import set_up_stage
from distseg.training.train import train_member
from tests.training.tiny_training import (
    Launch,
    assert_same_bits,
    losses,
    set_up,
    train_here,
    train_there,
)

FLIPS = [{"hflip": {}}, {"rot90": {}}, {"brightness_contrast": {"p": 1}}, {"cutout": {}}]
ALL = [{"hflip": {}}, {"affine": {"scale": [0.8, 1.2], "rotate": 20, "p": 1}}, {"gamma": {}},
       {"noise": {"p": 1}}]  # fmt: skip
PAD = {"height": 64, "width": 64, "channels": 1, "fit": "pad", "random_offset": True}


def compute(where: str) -> dict[str, Any]:
    return {"precision": "fp32", "cpu_threads": 1, "augment_on": where}


@pytest.mark.parametrize(
    "size", [pytest.param({"height": 32, "width": 32, "channels": 1}, marks=pytest.mark.slow), PAD]
)
def test_what_is_not_interpolated_trains_the_same_weights(
    tmp_path: Path, size: dict[str, Any]
) -> None:
    host, device = (
        train_here(tmp_path / where, augment=FLIPS, input=size, compute=compute(where))
        for where in ("host", "device")
    )
    assert_same_bits(host, device)


def test_a_mean_teacher_sees_what_the_host_would_show_it(tmp_path: Path) -> None:
    rounds = [{}, {"kind": "mean_teacher", "share": 0.25, "consistency": 4.0}]
    found: list[MemberPaths] = []
    for where in ("host", "device"):
        config, run = set_up(tmp_path / where, augment=FLIPS, rounds=rounds, compute=compute(where))
        select(config, run, 1)
        train_member(config, run.folder, 1, "a", 0)
        found.append(run.member(1, "a", 0))
    assert_same_bits(*found)


def test_each_step_has_tensors_of_the_same_shapes(tmp_path: Path) -> None:
    """As a CUDA graph needs them, whatever is drawn."""
    config, run = set_up(tmp_path, augment=[*ALL[:3], {"cutout": {"holes": 3}}, ALL[3]],
                         compute=compute("device"))  # fmt: skip
    member = Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True))
    batches = set_up_stage(member, 0).batches
    shapes = {
        tuple((name, tensor.dtype, tensor.shape) for name, tensor in loaded.tensors.items())
        for epoch in range(2)
        for loaded in batches.epoch(epoch)
    }
    assert len(shapes) == 1
    assert {"place", "moves", "table", "holes", "noise"} <= {name for name, *_ in shapes.pop()}


CHANGES: dict[str, Any] = {"augment": ALL, "compute": compute("device")}


@pytest.mark.slow
def test_micro_batches_see_the_same_images(tmp_path: Path) -> None:
    whole = train_here(tmp_path / "whole", **CHANGES)
    split = train_here(tmp_path / "split", train={"batch_size": 8, "accumulation": 4}, **CHANGES)
    assert losses(split) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_ranks_see_the_same_images(tmp_path: Path, launch: Launch) -> None:
    whole = train_here(tmp_path / "whole", **CHANGES)
    two = train_there(launch, tmp_path / "two", 2, **CHANGES)
    assert losses(two) == pytest.approx(losses(whole), abs=1e-5)
