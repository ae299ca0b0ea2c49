from __future__ import annotations

from pathlib import Path

import pytest

from distseg.config.schema import ComputeConfig
from distseg.jobs import hardware
from distseg.jobs.hardware import Gpu, Slot, machine_slot, make_slots, visible_gpus
from distseg.records.errors import UserError

GPUS = [Gpu(str(number), "H100", 80 << 30) for number in range(4)]


def slots(gpus: list[Gpu], cores: int, **options: object) -> list[Slot]:
    return make_slots(ComputeConfig.model_validate(options), gpus, cores)


def test_a_gpu_each() -> None:
    made = slots(GPUS, 16)
    assert [s.devices for s in made] == [("0",), ("1",), ("2",), ("3",)]
    assert {(s.processes, s.threads) for s in made} == {(1, 4)}


def test_fractions_fill_different_gpus_first() -> None:
    made = slots(GPUS[:2], 8, gpus_per_job=1 / 3)
    assert [s.devices for s in made] == [("0",), ("1",)] * 3
    assert [s.number for s in made] == list(range(6))


def test_several_gpus_a_job() -> None:
    made = slots(GPUS, 16, gpus_per_job=2)
    assert [s.devices for s in made] == [("0", "1"), ("2", "3")]
    assert {(s.processes, s.threads) for s in made} == {(2, 4)}
    assert len(slots(GPUS, 16, gpus_per_job=3)) == 1


def test_slots_caps_the_number() -> None:
    assert len(slots(GPUS, 16, slots=2)) == 2
    assert slots(GPUS, 16, slots=2)[0].threads == 8


def test_cpu_slots_share_the_cores() -> None:
    assert slots([], 8) == [Slot(0, (), 1, 8)]
    assert [s.threads for s in slots([], 8, slots=2, processes_per_job=2)] == [2, 2]
    assert slots([], 2, slots=4)[0].threads == 1
    assert slots([], 2, slots=4, cpu_threads=2)[0].threads == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus_per_job": 8}, "4 GPUs"),
        ({"gpus_per_job": 1.5}, "whole number"),
        ({"processes_per_job": 2}, "gpus_per_job: 2"),
        ({"gpus_per_job": 0.5, "processes_per_job": 2}, "rank"),
    ],
)
def test_impossible_slots(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        slots(GPUS, 8, **options)


def test_visible_gpus_follow_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real nvidia-smi stand-in on PATH: a program that prints what the driver prints."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA H100, 81559'\necho '1, X, 100'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(hardware, "torch_has_cuda", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.device for gpu in visible_gpus()] == ["0", "1"]
    assert visible_gpus()[0].memory == 81559 << 20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in visible_gpus()] == ["X"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-123")
    assert [gpu.device for gpu in visible_gpus()] == ["MIG-123"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert visible_gpus() == []


def test_whole_machine() -> None:
    halves = [Slot(0, ("0",), 1, 2), Slot(1, ("1",), 1, 2), Slot(2, ("0",), 1, 2)]
    assert machine_slot(halves, 8) == Slot(0, ("0", "1"), 2, 4)
    assert machine_slot([Slot(0, (), 2, 1)], 8) == Slot(0, (), 1, 8)
    assert machine_slot([Slot(0, (), 1, 4), Slot(1, (), 1, 4)], 8) == Slot(0, (), 2, 4)
