"""What bounds a model's training here: its step taken apart, and a few keys tried, in seconds."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distseg.config.device import device_mistakes
from distseg.config.schema import Config
from distseg.data.loader import PREFETCH
from distseg.distributed import make_accelerator
from distseg.functional.limits import Speed, Trial
from distseg.jobs.load import busy_others
from distseg.records.paths import MemberPaths, Run
from distseg.training.batches import Loaded
from distseg.training.member import Member
from distseg.training.pace import evaluation_times, peak_memory, step_times
from distseg.training.stage import Stage, set_up_stage

IN_MEMORY = 4  # steps whose images are kept
SHARES = {"both": 0.25, "memory": 0.2, "loader": 0.1, "evaluation": 0.15}  # of a model's time
Change = tuple[str, str, dict[str, Any]]  # key and value as a config has them, and the update


def bench_member(config: Config, run: Run, name: str, seconds: float) -> Speed:
    """Take the steps of model `name` of a prepared run apart, on throw-away weights.

    One process. seconds: about what it may take; a few steps of each kind are taken in any case.
    torch.OutOfMemoryError: the batch does not fit.
    """
    config = _with(config, zero=0)
    began = time.perf_counter()
    with _stage(config, run, name) as (member, stage):
        both = step_times(member, [stage], time.perf_counter(), seconds * SHARES["both"])[1:]
        loader_s = _loader_time(stage, seconds * SHARES["loader"])
        with busy_others() as others:
            memory_s = _memory_time(member, stage, seconds * SHARES["memory"])
        evaluate_s, predict_s = evaluation_times(
            member, config.predict.tta, seconds * SHARES["evaluation"]
        )
        found = Speed(
            name, member.batch_size, statistics.median(both), memory_s, loader_s,
            spread=statistics.pstdev(both) / statistics.median(both), workers=member.workers,
            evaluate_s=evaluate_s, predict_s=predict_s, memory=peak_memory(member.accelerator),
            gpu=member.accelerator.device.type == "cuda", others=others(),
            cores=os.cpu_count() or 1, precision=_precision(member),
        )  # fmt: skip
    changes = list(_changes(config, found))
    left = max(0.0, began + seconds - time.perf_counter()) / max(1, len(changes))
    trials = [_tried(config, run, found, change, left) for change in changes]
    if found.gpu:
        half = _tried(config, run, found, _batch_change(found.batch_size // 2), left)
        found = replace(found, half_s=half.step_s if half else None)
    return replace(found, trials=tuple(trial for trial in trials if trial))


@contextmanager
def _stage(config: Config, run: Run, name: str) -> Iterator[tuple[Member, Stage]]:
    """A member and its last stage, in a process group of their own and a folder that goes."""
    accelerator = make_accelerator(config)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            member = Member(config, run, 0, name, 0, accelerator, MemberPaths(Path(scratch)))
            stage = set_up_stage(member, len(member.stages) - 1)
            yield member, stage
            stage.close()
            member.close()
    finally:
        accelerator.free_memory()


def _memory_time(member: Member, stage: Stage, seconds: float) -> float:
    """Median seconds of a step whose images lie in memory."""
    count = IN_MEMORY * member.config.train.accumulation
    loaded = list(itertools.islice(stage.batches.epoch(0), count))

    def again(_epoch: int) -> Iterator[Loaded]:
        return itertools.cycle(loaded)

    return statistics.median(step_times(member, [stage], time.perf_counter(), seconds, again)[1:])


def _loader_time(stage: Stage, seconds: float) -> float:
    """Mean seconds in which the loader alone makes the images of a step."""
    member, each = stage.batches.member, stage.batches.member.config.train.accumulation
    ready = 2 * PREFETCH * member.workers + 1  # what the processes have made while nobody asked
    batches = itertools.chain.from_iterable(map(stage.batches.epoch, itertools.count(1)))
    for _ in range(ready):
        next(batches)
    began, taken = time.perf_counter(), 0
    while taken < 2 * each or time.perf_counter() - began < seconds:
        next(batches)
        taken += 1
    return (time.perf_counter() - began) / taken * each


# -- other values of the keys ----------------------------------------------------------------------


def _changes(config: Config, speed: Speed) -> Iterator[Change]:
    """The values to try, one key at a time: those that a few steps can show."""
    compute = config.compute
    other = {"fp32": "bf16", "bf16": "fp32"}.get(speed.precision)
    if other and not (other == "bf16" and speed.gpu and not torch.cuda.is_bf16_supported()):
        yield "compute.precision", other, {"precision": other}
    last = not compute.channels_last
    yield "compute.channels_last", str(last).lower(), {"channels_last": last}
    if speed.limit == "loader":
        more = max(1, 2 * speed.workers)
        yield "compute.workers", str(more), {"workers": more}
        on_device = _with(config, augment_on="device")
        if (
            speed.gpu
            and config.compute.augment_on == "host"
            and not any(device_mistakes(on_device))
        ):
            yield "compute.augment_on", "device", {"augment_on": "device"}
    if speed.gpu:
        graphs = not compute.cuda_graphs
        yield "compute.cuda_graphs", str(graphs).lower(), {"cuda_graphs": graphs}
        yield _batch_change(2 * speed.batch_size)
    elif torch.get_num_threads() >= 4:  # two threads of a core share its multipliers
        half = torch.get_num_threads() // 2
        yield "compute.cpu_threads", str(half), {"cpu_threads": half}


def _batch_change(size: int) -> Change:
    return "train.batch_size", str(size), {"batch_size": size}


def _tried(config: Config, run: Run, speed: Speed, change: Change, seconds: float) -> Trial | None:
    """A step with another value of a key; None where it cannot be trained."""
    key, value, update = change
    images, threads = update.get("batch_size", speed.batch_size), torch.get_num_threads()
    if images < 1 or images % config.train.accumulation:
        return None
    if key == "train.batch_size":
        members = dict(config.members)
        members[speed.name] = members[speed.name].model_copy(update=update)
        config = config.model_copy(update={"members": members})
    else:
        config = _with(config, **update)
    loading = key in ("compute.workers", "compute.augment_on")
    try:
        torch.set_num_threads(update.get("cpu_threads", threads))
        with _stage(config, run, speed.name) as (member, stage):
            if loading:
                times = step_times(member, [stage], time.perf_counter(), seconds)
                step_s = statistics.median(times[1:])
            else:
                step_s = _memory_time(member, stage, seconds)
    except RuntimeError:  # the memory is too small, or the device has no such kernel
        return None
    finally:
        torch.set_num_threads(threads)
    base_s = speed.step_s if loading else speed.memory_s
    free = ("compute.workers", "compute.cpu_threads")
    return Trial(
        key, value, step_s, base_s, images, speed.batch_size, loading, weights=key not in free
    )


def _with(config: Config, **compute: Any) -> Config:
    return config.model_copy(update={"compute": config.compute.model_copy(update=compute)})


def _precision(member: Member) -> str:
    precision = member.accelerator.mixed_precision
    return "fp32" if precision == "no" else precision
