"""`distseg bench`: what limits training on this machine, and which key to change."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.functional.limits import Speed, Trial, disk_line, limit_lines, memory_line, parse_speed
from distseg.jobs.hardware import Slot, make_slots, num_cores, visible_gpus
from distseg.jobs.load import memory_bytes
from distseg.records.errors import UserError
from distseg.records.log import counted
from distseg.records.paths import Run
from distseg.run.measure import DataSize, data_size
from distseg.run.pace import device_name, measured_lines

DISK_BYTES = 64 << 20  # that are written and read


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured.

    speeds: one a model. missing: models that could not be measured. device: name of what trains.
    slots: jobs at a time. disk_read: bytes a second; None: not measured. disk_needed: bytes a
    second that all jobs read. cache: bytes of the decoded train set. free, memory: bytes of the
    machine. memory_of_device: bytes of the memory that a job's peak counts against. shared: jobs
    that share that memory.
    """

    name: str
    speeds: Sequence[Speed]
    missing: Sequence[str]
    device: str
    slots: Sequence[Slot]
    disk_read: float | None
    disk_needed: float
    cache: float
    free: float
    memory_of_device: float
    shared: int


def bench(config: Config, run: Run, seconds: float) -> Bench:
    """Measure each model in a process of its own, as a job would run; nothing of the run is
    touched. seconds: about what each model may take. UserError: no such time."""
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds: {seconds:g}: a number above 0")
    gpus, size = visible_gpus(), data_size(config, run)
    slots = make_slots(config.compute, gpus, num_cores())
    lines: list[dict[str, Any]] = []
    for name, member in config.members.items():  # its own process: its own peak of memory
        alone = config.model_copy(update={"members": {name: member}})
        lines += measured_lines(alone, size, slots[:1], seconds, "--bench")
    speeds = [speed for line in lines if (speed := parse_speed(line)) is not None]
    known = {speed.name for speed in speeds}
    per_image = _image_bytes(config, size)
    needed = max((speed.batch_size / speed.step_s for speed in speeds), default=0.0) * per_image
    first, (free, total) = slots[0], memory_bytes()
    own = [gpu for gpu in gpus if gpu.device in first.devices[:1]]
    return Bench(
        config.name, speeds, [name for name in config.members if name not in known],
        device_name(first, gpus), slots, _disk_read(run.folder, config), needed * len(slots),
        size.num_train * per_image, free, own[0].memory if own else total,
        sum(slot.devices[:1] == first.devices[:1] for slot in slots) if own else len(slots),
    )  # fmt: skip


def _image_bytes(config: Config, size: DataSize) -> float:
    """Of an image and its targets in the decode cache."""
    planes = len(config.classes) if config.task == "multilabel" else 1
    return size.height * size.width * (config.input.channels + planes)


def _disk_read(folder: Path, config: Config) -> float | None:
    """Bytes a second that are read where the decoded images will lie, past the memory that keeps
    files; None where nothing can be written."""
    place = Path(config.data.cache_dir) if config.data.cache_dir else folder
    place = next(path for path in (place.resolve(), *place.resolve().parents) if path.is_dir())
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(os.urandom(1 << 20) * (DISK_BYTES >> 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        file.seek(0)
        while file.read(1 << 20):
            pass
        return DISK_BYTES / max(1e-9, time.perf_counter() - began)
    return None


def bench_record(found: Bench) -> dict[str, Any]:
    """What `--json` prints: the figures in seconds and bytes, and the sentences."""
    models = {
        speed.name: {
            **asdict(speed),
            "images_per_s": speed.batch_size / speed.step_s,
            "waits": speed.waits,
            "limit": speed.limit,
            "trials": [{**asdict(trial), "gain": trial.gain} for trial in speed.trials],
            "says": list(limit_lines(speed)),
        }
        for speed in found.speeds
    }
    return {
        "name": found.name,
        "device": found.device,
        "jobs": len(found.slots),
        "models": models,
        "missing": list(found.missing),
        "disk": {"read": found.disk_read, "needed": found.disk_needed, "cache": found.cache,
                 "says": _disk_line(found)},
        "memory": {"free": found.free, "of_device": found.memory_of_device,
                   "says": _memory_line(found)},
    }  # fmt: skip


def bench_text(found: Bench) -> str:
    """What `distseg bench` prints."""
    slot = found.slots[0]
    lines = [
        f"{found.name} on {found.device}: {counted(len(found.slots), 'job')} at a time, "
        f"{counted(slot.threads, 'thread')} a rank"
    ]
    for speed in found.speeds:
        rate = speed.batch_size / speed.step_s
        lines += [
            "",
            f"{speed.name}: {rate:.1f} images/s in training, {speed.precision}, a batch of "
            f"{speed.batch_size}",
            _time_line("a step, as in training", speed.step_s, f"+- {speed.spread:.0%}"),
            _time_line("a step on data in memory", speed.memory_s),
            _time_line("the loader alone", speed.loader_s, counted(speed.workers, "process", "es")),
            _time_line("evaluation of an image", speed.evaluate_s),
            _time_line("prediction with all views", speed.predict_s),
        ]
        lines += [_trial_line(trial) for trial in speed.trials]
        lines += [f"  {text}" for text in limit_lines(speed)]
    lines += [f"{name}: not measured" for name in found.missing]
    return "\n".join([*lines, "", _disk_line(found), _memory_line(found)]).rstrip()


def _time_line(what: str, seconds: float, note: str = "") -> str:
    return f"  {what:<42} {seconds * 1000:>9.1f} ms  {note}".rstrip()


def _trial_line(trial: Trial) -> str:
    what = f"tried: {trial.key}: {trial.value}"
    note = "as in training" if trial.loading else "in memory"
    return _time_line(what, trial.step_s, f"{trial.gain:.2f} times as fast, {note}")


def _disk_line(found: Bench) -> str:
    return disk_line(found.disk_read, found.disk_needed, found.cache, found.free)


def _memory_line(found: Bench) -> str:
    need = max((speed.memory for speed in found.speeds), default=0)
    if not need:
        return ""
    return memory_line(need, found.memory_of_device, found.shared, found.device)
