"""How far a process has come within its work: a small JSON file that it renews once a second.

It is for people who watch, and for nothing else: it is not flushed to disk, one that is damaged or
old is as good as none, and no decision rests on it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.records.files import read_json_or, temporary_name

WRITE_S = 1.0  # the file is renewed no more often


@dataclass(frozen=True, slots=True)
class Position:
    """done of total, in units of the phase: steps of an epoch, images of a prediction.

    seconds: since the first that the phase told, when `since` were done. memory: the most bytes
    that the process has held, of its GPU where it has one. gpu: share of the last moments in which
    the GPU worked, 0..1; None without one. written: when, in seconds since the epoch.
    """

    phase: str
    done: int
    total: int
    seconds: float
    memory: int
    gpu: float | None
    written: float
    since: int = 0

    @property
    def whole_s(self) -> float | None:
        """Seconds that the phase takes, by its pace so far; None before it has shown one."""
        passed = self.done - self.since
        return self.seconds * self.total / passed if passed > 0 and self.seconds > 0 else None

    @property
    def share(self) -> float:
        """How much of the phase is done, 0..1."""
        return min(1.0, self.done / self.total) if self.total else 0.0


class ProgressFile:
    """Where a process tells how far it has come. Costs a look at the clock, and once in WRITE_S a
    few hundred bytes; it never waits for the device."""

    def __init__(self, path: Path | None) -> None:
        """path: None tells nobody (a rank that is not the main one)."""
        self.path = path
        self.phase, self.began, self.written, self.since = "", 0.0, 0.0, 0

    def at(self, phase: str, done: int, total: int) -> None:
        """The phase stands at `done` of `total`; the first call of a phase is written at once."""
        now = time.time()
        if self.path is None or (phase == self.phase and now - self.written < WRITE_S):
            return
        if phase != self.phase:
            self.phase, self.began, self.since = phase, now, done
        self.written = now
        memory, gpu = _device_facts()
        record = {"phase": phase, "done": done, "total": total, "seconds": now - self.began,
                  "memory": memory, "gpu": gpu, "written": now, "since": self.since}  # fmt: skip
        # A disk that is full is found by those who write what counts.
        with contextlib.suppress(OSError):
            temporary = temporary_name(self.path)
            temporary.write_text(json.dumps(record), encoding="utf-8")
            temporary.replace(self.path)

    def close(self) -> None:
        """The work is done: nobody need look at it any more."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def read_position(path: Path) -> Position | None:
    """What a process has told; None where it has told nothing that can be read."""
    record = read_json_or(path, {})
    try:
        return Position(
            str(record["phase"]), int(record["done"]), int(record["total"]),
            float(record["seconds"]), int(record["memory"]), _share(record["gpu"]),
            float(record["written"]), int(record.get("since", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


def _device_facts() -> tuple[int, float | None]:
    """(the most bytes that this process has held, the share of time in which its GPU works)."""
    torch = sys.modules.get("torch")  # never imported for this: the driver does without it
    if torch is None or not torch.cuda.is_initialized():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    gpu = None
    with contextlib.suppress(Exception):  # it asks NVML, which not every machine has
        gpu = torch.cuda.utilization() / 100
    return int(torch.cuda.memory_reserved()), gpu
