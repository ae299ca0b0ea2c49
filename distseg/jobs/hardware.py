"""What this machine has: GPUs and cores, found without importing torch."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distseg.config.validate import share_problem
from distseg.records.errors import UserError
from distseg.records.log import counted

if TYPE_CHECKING:
    from distseg.config.schema import ComputeConfig


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: what CUDA_VISIBLE_DEVICES calls it, its name, its memory in bytes."""

    device: str
    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one job.

    devices: what CUDA_VISIBLE_DEVICES calls its GPUs; none on a CPU slot.
    processes: ranks of the job.
    threads: threads of each rank.
    node, host: on a cluster, Ray's id of the node and the node's host name.
    """

    number: int
    devices: tuple[str, ...]
    processes: int
    threads: int
    node: str = ""
    host: str = ""


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file: importing torch
    takes seconds and memory that the driver does not need."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    version = Path(spec.submodule_search_locations[0]) / "version.py"
    text = version.read_text(encoding="utf-8") if version.is_file() else ""
    return re.search(r"^cuda.*=\s*['\"]", text, flags=re.MULTILINE) is not None


def query_gpus() -> list[Gpu]:
    """All GPUs that nvidia-smi lists; empty without a driver."""
    query = "--query-gpu=index,name,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in text.stdout.splitlines()]
    found = []
    for row in rows:
        if len(row) == 3:
            memory = int(row[2]) << 20 if row[2].isdigit() else 0
            found.append(Gpu(row[0], row[1], memory))
    return found


def visible_gpus() -> list[Gpu]:
    """The GPUs that jobs may use: those that CUDA_VISIBLE_DEVICES lists, by the names that it
    gives them (numbers, UUIDs, MIG). Empty where the installed torch is built without CUDA, and
    where ACCELERATE_USE_CPU is set."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") or not torch_has_cuda():
        return []
    gpus = query_gpus()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not gpus:
        return gpus
    by_number = {gpu.device: gpu for gpu in gpus}
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return [by_number.get(name, Gpu(name, "GPU", 0)) for name in names if name != "-1"]


def num_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "max 100000", or "150000 100000" for 1.5
    parts = quota.read_text(encoding="utf-8").split() if quota.is_file() else ["max"]
    limit = math.ceil(int(parts[0]) / int(parts[1])) if parts[0] != "max" else cores or 1
    return max(1, min(cores or 1, limit))


def make_slots(compute: ComputeConfig, gpus: list[Gpu], cores: int) -> list[Slot]:
    """Divide the machine: slots of `gpus_per_job` GPUs, or `slots` CPU slots; cores evenly."""
    groups = _gpu_groups(compute.gpus_per_job, gpus) if gpus else [()] * (compute.slots or 1)
    # Fewer slots than GPUs would hold: the rest stays free for others.
    groups = groups[: compute.slots] if compute.slots else groups
    slots = []
    for number, devices in enumerate(groups):
        processes = compute.processes_per_job or max(1, len(devices))
        if gpus and processes > len(devices):
            raise UserError(
                f"compute.processes_per_job: {processes}: each rank needs a GPU of its own, and a "
                f"job has {len(devices)}; set compute.gpus_per_job: {processes}"
            )
        threads = compute.cpu_threads or max(1, cores // (len(groups) * processes))
        slots.append(Slot(number, devices, processes, threads))
    return slots


def machine_slot(slots: Sequence[Slot], cores: int) -> Slot:
    """One slot with all GPUs, a rank on each; on CPU a rank for each slot, all cores shared."""
    devices = tuple(dict.fromkeys(device for slot in slots for device in slot.devices))
    processes = len(devices) or len(slots)
    return Slot(0, devices, processes, max(1, cores // processes))


def _gpu_groups(per_job: float, gpus: list[Gpu]) -> list[tuple[str, ...]]:
    """The devices of each slot: (0,), (1,), (0,), (1,) for half a GPU a job, so that the first
    jobs go to different GPUs; (0, 1), (2, 3) for two GPUs a job."""
    names = [gpu.device for gpu in gpus]
    if per_job < 1:
        shares = math.floor(1 / per_job + 1e-9)  # 1 / 0.1 must not become 9
        return [(name,) for _ in range(shares) for name in names]
    if problem := share_problem(per_job):
        raise UserError(problem)
    size = int(per_job)
    if size > len(names):
        raise UserError(
            f"compute.gpus_per_job: {size}: this machine shows {counted(len(names), 'GPU')}"
        )
    return [tuple(names[i : i + size]) for i in range(0, len(names) - size + 1, size)]
