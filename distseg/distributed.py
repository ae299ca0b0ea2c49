"""The process group of a job: how it was launched, its Accelerator, precision, loader processes."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

from distseg.config.find import shipped
from distseg.config.schema import ComputeConfig, Config
from distseg.records.errors import UserError

__all__ = [
    "Accelerator",
    "OneProcess",
    "check_launch",
    "check_ranks",
    "default_workers",
    "first_of_machine",
    "keep_freed_memory",
    "launch_file",
    "make_accelerator",
    "one_process",
    "rank_timeout",
    "resolve_precision",
]

# What `accelerate launch` sets from a DeepSpeed YAML begins with this.
LAUNCHED = "ACCELERATE_DEEPSPEED_"
LOOK_S = 0.2  # between two looks at what another rank has done
_CALLS = itertools.count()  # of first_of_machine, the same on all ranks
# Settings of malloc.h: M_MMAP_THRESHOLD, from which on a block is mapped anew and not taken from
# the heap (32 MiB at most), and M_TRIM_THRESHOLD, the free top of the heap that is given back.
MALLOC = ((-3, 32 << 20), (-1, (1 << 31) - 1))
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}  # who has set them knows why
# Flags of /proc/cpuinfo: with one of them bfloat16 is multiplied in hardware.
BF16_FLAGS = {"amx_tile", "avx512_bf16"}


def resolve_precision(precision: str, device: torch.device) -> str:
    """`bf16`, `fp16` or `no`, as Accelerate names them, for a value of compute.precision.

    auto: bf16 where the hardware multiplies in it; else fp16 on a GPU, float32 on a CPU.
    """
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_flags() & BF16_FLAGS else "no"


def cpu_flags() -> set[str]:
    """Features of this machine's CPU by their names in Linux; none where there is no /proc.

    torch.cpu.get_capabilities() says the same, but only recent releases of torch have it.
    """
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def check_launch(compute: ComputeConfig, environment: Mapping[str, str]) -> None:
    """UserError: the launch file asks for another ZeRO stage or offload than the config.

    Also of use to a config without ZeRO: it would train as DDP under a launch file that promises
    ZeRO's memory.
    """
    launched = environment.get(f"{LAUNCHED}ZERO_STAGE")
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true" or launched is None:
        return  # a plain launch, as `distseg run` makes it: the config alone decides
    devices = [
        environment.get(f"{LAUNCHED}OFFLOAD_{what}_DEVICE", "none")
        for what in ("OPTIMIZER", "PARAM")
    ]
    offload = "cpu" in devices
    if (int(launched), offload) != (compute.zero, compute.offload):
        file = shipped("launch") / "accelerate" / launch_file(compute)
        raise UserError(
            f"compute.zero: {compute.zero}, compute.offload: {str(compute.offload).lower()}: the "
            f"launch file says zero_stage: {launched}, offload: {str(offload).lower()}. Launch "
            f"with {file}, or add compute.zero={launched} compute.offload={str(offload).lower()}"
        )


def launch_file(compute: ComputeConfig) -> str:
    """The file of launch/accelerate/ that belongs to a config."""
    if not compute.zero:
        return "multi_gpu.yaml"
    return f"deepspeed_zero{compute.zero}{'_offload' if compute.offload else ''}.yaml"


def make_accelerator(config: Config, *, cpu: bool | None = None) -> Accelerator:
    """The Accelerator of this process group, on the CPU where there is no GPU or `cpu` is true.

    UserError: the ranks of this launch would not see each other. `accelerate launch --multi_gpu` on
    a machine without GPUs starts N processes that all believe they are alone, unless
    ACCELERATE_USE_CPU is set: N trainings would overwrite each other.
    """
    use_cpu = cpu if cpu is not None else not torch.cuda.is_available()
    device = torch.device("cpu" if use_cpu else "cuda")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if use_cpu and world > 1 and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true":
        raise UserError(
            f"{world} processes were launched without a GPU, and each would train alone. "
            "Set ACCELERATE_USE_CPU=true before `accelerate launch`"
        )
    precision = resolve_precision(config.compute.precision, device)
    if (
        world == 1
        and AcceleratorState._shared_state.get("_mixed_precision", precision) != precision
    ):
        # Accelerate keeps the first precision of a process, in which several runs may be read.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=precision,
        # given, or Accelerate takes both from the shell: the loop accumulates and compiles itself
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=rank_timeout(config))],
        dynamo_backend="no",
    )
    return check_ranks(accelerator)


def rank_timeout(config: Config) -> timedelta:
    """How long a rank waits in a collective. What ends a connection without a word, a cable or a
    machine that is gone, is noticed by nothing else; gloo's own limit is half an hour."""
    return timedelta(seconds=config.compute.rank_timeout_s)


def check_ranks(accelerator: Accelerator) -> Accelerator:
    """The accelerator, with the device set up. UserError: its ranks do not see each other."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise UserError(
            f"the launcher started {world} processes, accelerate sees {accelerator.num_processes}"
        )
    _set_up(accelerator.device)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, up to 2 GB, for what it allocates next.

    A training step on a CPU frees hundreds of megabytes at its end and takes them again in the
    next. glibc gives the top of the heap back to the system each time, which then has to zero every
    page anew (`benchmarks/allocator.py`). The most that a process holds stays what it was.

    Returns whether it does: not without glibc, or where the environment sets its allocator.
    """
    if os.environ.keys() & ALLOCATOR or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's, or of what stands in for it
    if mallopt is None:
        return False
    return all(mallopt(*setting) for setting in MALLOC)


def first_of_machine(
    accelerator: Accelerator, work: Callable[[], str], waiting: Callable[[], None]
) -> str:
    """All ranks: what `work` returns in the first rank of this machine, which alone does it; they
    leave together, when all machines have it.

    It may take longer than ranks wait in a collective (`rank_timeout`): who waits looks again and
    again into the store through which the ranks have found each other, and calls `waiting`, which
    may raise. Where a first rank raises, the launcher ends the others.
    """
    place = f"distseg/first_of_machine/{next(_CALLS)}"
    if accelerator.num_processes == 1:
        return work()
    store = dist.distributed_c10d._get_default_store()
    own = f"{place}/{accelerator.process_index - accelerator.local_process_index}"

    def wait_for(is_there: Callable[[], bool]) -> None:
        while not is_there():
            waiting()
            time.sleep(LOOK_S)

    if accelerator.is_local_main_process:
        store.set(own, work())
    wait_for(lambda: store.check([own]))
    found = store.get(own).decode()
    store.add(f"{place}/ready", 1)
    wait_for(lambda: store.add(f"{place}/ready", 0) >= accelerator.num_processes)
    return found


def _set_up(device: torch.device) -> None:
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # static shapes: the search pays off once
        torch.set_float32_matmul_precision("high")


@dataclass(frozen=True)
class OneProcess:
    """What prediction asks an Accelerator, for a process that is in no group. A notebook may load
    ensembles of several precisions; Accelerate keeps one for the whole process."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    process_index: int = 0
    num_processes: int = 1


def one_process(config: Config) -> OneProcess:
    """This process on its GPU, or on the CPU, with the autocast that Accelerate would give it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _set_up(device)
    kind = resolve_precision(config.compute.precision, device)
    if kind == "no":
        return OneProcess(device, nullcontext)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    return OneProcess(device, partial(torch.autocast, device.type, dtype))


def default_workers(config: Config, accelerator: Accelerator | OneProcess) -> int:
    """The number of loader processes of a rank: its share of the cores beside a GPU; 0 on a CPU."""
    if config.compute.workers is not None:
        return config.compute.workers
    if accelerator.device.type == "cpu":
        return 0  # the same cores train: a worker would only take their time
    if "DISTSEG_JOB" in os.environ:  # an executor has divided the machine, or Ray's bundle
        share = int(os.environ["OMP_NUM_THREADS"])
    else:
        share = len(os.sched_getaffinity(0)) // accelerator.num_processes
    return max(1, min(8, share))
