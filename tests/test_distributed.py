"""distseg.distributed: which launches a config takes, and the precision that `auto` means."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from distseg import distributed
from distseg.config.load import parse_config
from distseg.config.schema import ComputeConfig
from distseg.distributed import (
    check_launch,
    cpu_flags,
    launch_file,
    make_accelerator,
    resolve_precision,
)
from distseg.records.errors import UserError
from tests.tiny import ROOT, tiny_tree

FILES = ROOT / "launch" / "accelerate"


def launched(path: Path) -> dict[str, str]:
    """The variables that accelerate sets from a launch file."""
    file = yaml.safe_load(path.read_text())
    assert file["distributed_type"] == "DEEPSPEED" and path.name in path.read_text()
    values = file["deepspeed_config"].items()
    found = {f"ACCELERATE_DEEPSPEED_{key.upper()}": str(value) for key, value in values}
    return found | {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize("path", sorted(FILES.glob("deepspeed_*.yaml")), ids=lambda p: p.stem)
def test_each_launch_file_goes_with_its_config_alone(path: Path) -> None:
    taken = []
    for zero in range(4):
        for offload in (False, True):
            compute = ComputeConfig(zero=zero, offload=offload)
            try:
                check_launch(compute, launched(path))
                taken.append(launch_file(compute))
            except UserError as error:
                assert f"compute.zero={path.stem[14]}" in str(error)
                assert launch_file(compute) in str(error)
    assert taken == [path.name]


def test_a_plain_launch_leaves_it_to_the_config() -> None:
    check_launch(ComputeConfig(zero=3), {})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"amx_tile", "sse"}, "bf16"), ({"avx512_bf16"}, "bf16"), ({"avx512f"}, "no"), (set(), "no")],
)
def test_auto_is_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str
) -> None:
    monkeypatch.setattr(distributed, "cpu_flags", lambda: flags)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == expected
    assert [resolve_precision(name, cpu) for name in ("fp32", "fp16", "bf16")] == [
        "no",
        "fp16",
        "bf16",
    ]


def test_the_cpus_flags_are_those_that_torch_finds() -> None:
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch does not say what the CPU can do")
    found = torch.cpu.get_capabilities()
    for flag in distributed.BF16_FLAGS & found.keys():
        assert found[flag] == (flag in cpu_flags()), flag


def test_runs_of_two_precisions_are_read_in_one_process() -> None:
    """As from a notebook: Accelerate by itself keeps the first one."""
    for precision, name in (("fp32", "no"), ("bf16", "bf16"), ("bf16", "bf16"), ("fp32", "no")):
        config = parse_config(tiny_tree(compute={"precision": precision}), "test")
        assert make_accelerator(config).mixed_precision == name


FREED = """
import resource, sys
import numpy as np
from distseg.distributed import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def step():
    blocks = [np.ones(20 << 20, np.uint8) for _ in range(6)]  # 30,720 pages

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(
    ("how", "environment", "kept", "pages"),
    [
        ("keep", {}, "True", range(3000)),
        ("leave", {}, "None", range(9000, 10**6)),
        ("keep", {"MALLOC_TRIM_THRESHOLD_": "65536"}, "False", range(9000, 10**6)),
        ("keep", {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}, "False",
         range(9000, 10**6)),
        ("keep", {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}, "True", range(3000)),
    ],
)  # fmt: skip
def test_memory_that_is_freed_is_taken_again(
    how: str, environment: dict[str, str], kept: str, pages: range
) -> None:
    """Six blocks of 20 MB, freed and taken again five times."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another allocator")
    done = subprocess.run([sys.executable, "-c", FREED, how], env={**os.environ, **environment},
                          capture_output=True, text=True, check=True)  # fmt: skip
    said, made = done.stdout.split()
    assert said == kept and int(made) in pages


def test_a_rank_on_a_cpu_keeps_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(distributed, "keep_freed_memory", lambda: called.append(True))
    make_accelerator(parse_config(tiny_tree(), "test"), cpu=True)
    assert called == [True]
