"""What this machine is busy with: the cores of other processes, and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def busy_others() -> Iterator[Callable[[], float]]:
    """Gives, after the block, the mean number of cores that other processes kept busy in it."""
    found: list[float] = []
    began, everybody, own = time.perf_counter(), _everybody_s(), _own_s()
    yield lambda: found[0]
    others = (_everybody_s() - everybody) - (_own_s() - own)
    found.append(max(0.0, others / (time.perf_counter() - began)))


def _everybody_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def memory_bytes() -> tuple[int, int]:
    """Of this machine: free for another process, and in all."""
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)
