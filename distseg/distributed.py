"""The process group of a job: its Accelerator, its ranks, its precision, its loader processes."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from distseg.config.schema import Config
from distseg.records.errors import UserError

__all__ = ["Accelerator", "check_ranks", "default_workers", "make_accelerator", "resolve_precision"]


def resolve_precision(precision: str, device: torch.device) -> str:
    """`bf16`, `fp16` or `no`. auto: bf16 where the hardware multiplies in it, else float32."""
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "no"


def make_accelerator(config: Config, *, cpu: bool | None = None) -> Accelerator:
    """The Accelerator of this process group; refuses a launch whose ranks do not see each other.

    `accelerate launch --multi_gpu` on a machine without GPUs starts N processes that all believe
    they are alone, unless ACCELERATE_USE_CPU is set: N trainings would overwrite each other.
    """
    use_cpu = cpu if cpu is not None else not torch.cuda.is_available()
    device = torch.device("cpu" if use_cpu else "cuda")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if use_cpu and world > 1 and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true":
        raise UserError(
            f"{world} processes were launched without a GPU, and each would train alone. "
            "Set ACCELERATE_USE_CPU=true before `accelerate launch`"
        )
    accelerator = Accelerator(
        cpu=use_cpu, mixed_precision=resolve_precision(config.compute.precision, device)
    )
    return check_ranks(accelerator)


def check_ranks(accelerator: Accelerator) -> Accelerator:
    """The accelerator, with the device set up. UserError: its ranks do not see each other."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise UserError(
            f"the launcher started {world} processes, accelerate sees {accelerator.num_processes}"
        )
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # static shapes: the search pays off once
        torch.set_float32_matmul_precision("high")
    return accelerator


def default_workers(config: Config, accelerator: Accelerator) -> int:
    """Loader processes of a rank: the cores' share that is left beside a GPU; none on CPU."""
    if config.compute.workers is not None:
        return config.compute.workers
    if accelerator.device.type == "cpu":
        return 0  # the same cores train: a worker would only take their time
    if "DISTSEG_JOB" in os.environ:  # an executor has divided the machine, or Ray's bundle
        share = int(os.environ["OMP_NUM_THREADS"])
    else:
        share = len(os.sched_getaffinity(0)) // accelerator.num_processes
    return max(1, min(8, share))
