"""What bounds the training of a model, from a few measured seconds: arithmetic and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

WAITING = 0.10  # share of a step that waits for images, from which the loader is the limit
WORTH = 1.05  # a gain that is no chance, from which a key is worth a change
LAUNCHED = 0.75  # a half batch that takes more of a step's time: kernels wait for their launch
BUSY = 0.25  # cores of the machine, as a share, that other processes keep busy


@dataclass(frozen=True, slots=True)
class Trial:
    """Another value of one key, measured beside the config's.

    step_s, base_s: seconds of a step with the other value, and with the config's. images, base: in
    each. loading: with images from the loader; else with data in memory. weights: other weights
    come out of a training.
    """

    key: str
    value: str
    step_s: float
    base_s: float
    images: int
    base: int
    loading: bool = False
    weights: bool = True

    @property
    def gain(self) -> float:
        """Images a second with it, over those without."""
        return (self.images / self.step_s) / (self.base / self.base_s)


@dataclass(frozen=True, slots=True)
class Speed:
    """One model on one rank of this machine.

    step_s: seconds of an update of batch_size images, as in training; memory_s: with data in
    memory; loader_s: of its images alone. spread: standard deviation of step_s, as a share.
    workers: loader processes. evaluate_s, predict_s: of an image; predict with all views.
    memory: bytes at the highest, of the process or on its GPU. gpu: whether there is one.
    others: cores that other processes kept busy meanwhile; cores: of the machine.
    precision: bf16, fp16 or fp32. half_s: seconds of a step of half a batch in memory, on a GPU.
    """

    name: str
    batch_size: int
    step_s: float
    memory_s: float
    loader_s: float
    spread: float
    workers: int
    evaluate_s: float
    predict_s: float
    memory: int
    gpu: bool
    others: float
    cores: int
    precision: str
    half_s: float | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def waits(self) -> float:
        """Share of a step that waits for images, 0..1: what it takes longer than with data in
        memory, and no more than the loader takes, since steps on a busy machine differ anyway."""
        return max(0.0, min(self.loader_s, self.step_s - self.memory_s)) / self.step_s

    @property
    def unsure(self) -> bool:
        """Whether other processes were too busy for single figures to be trusted."""
        return self.others > BUSY * self.cores

    @property
    def limit(self) -> str:
        """loader | host | device."""
        if self.waits > WAITING:
            return "loader"
        launches = self.half_s is not None and self.half_s > LAUNCHED * self.memory_s
        return "host" if launches or self.unsure else "device"


def parse_speed(line: Mapping[str, Any]) -> Speed | None:
    """A Speed of the JSON object that `asdict` has made of one; None of another."""
    known = {field.name for field in fields(Speed)}
    if set(line) != known:
        return None
    return Speed(**{**line, "trials": tuple(Trial(**one) for one in line["trials"])})


def limit_lines(speed: Speed) -> Iterator[str]:
    """What bounds a model's training, in whole sentences, and which key to change."""
    if speed.limit == "loader":
        yield (
            f"The loader is the limit: {speed.waits:.0%} of a step waits for images. "
            + _loader_keys(speed)
        )
    elif speed.limit == "host" and speed.half_s is not None:
        yield (
            f"The host is the limit: half a batch takes {speed.half_s / speed.memory_s:.0%} of the "
            "time, so the GPU waits for kernels to be launched. A larger train.batch_size, "
            "compute.cuda_graphs or compute.compile lets it work."
        )
    elif speed.limit == "host":
        yield (
            f"The host is the limit: other processes keep {speed.others:.1f} of {speed.cores} "
            "cores busy. End them, or give compute.cpu_threads the cores that are free."
        )
    else:
        what = "GPU" if speed.gpu else "CPU"
        yield (
            f"The device is the limit: {1 - speed.waits:.0%} of a step are the {what}'s forward "
            f"and backward passes; the loader alone is {speed.memory_s / speed.loader_s:.1f} times "
            "as fast. A smaller encoder, input.height and input.width cost less."
        )
    unsure = "; measure again on a quiet machine" if speed.unsure else ""
    best = [trial for trial in speed.trials if trial.gain >= WORTH]
    for trial in sorted(best, key=lambda trial: -trial.gain):
        weights = "; other weights come out" if trial.weights else ""
        yield f"{trial.key}: {trial.value} is {trial.gain:.2f} times as fast{weights}{unsure}."
    if speed.trials and not best:
        tried = ", ".join(f"{trial.key}: {trial.value}" for trial in speed.trials)
        yield f"No other value that was tried is faster ({tried}){unsure}."


def _loader_keys(speed: Speed) -> str:
    if speed.workers or speed.gpu:
        return (
            f"With {speed.workers} loader processes a batch takes {speed.loader_s * 1000:.0f} ms. "
            "More compute.workers help while cores are free; else fewer or cheaper `augment`, and "
            "smaller images."
        )
    return (
        "The process that trains reads and augments too (compute.workers: 0). compute.workers: 1 "
        "or more help where a core is free; else fewer or cheaper `augment`, and smaller images."
    )


def disk_line(read: float | None, needed: float, size: float, free: float) -> str:
    """Whether the disk is a limit. read: bytes a second that it gives; None: not measured. needed:
    bytes a second of all jobs. size: bytes of the decoded train set. free: bytes of free memory."""
    if read is None:
        return "Disk: it was not measured, because nothing can be written there."
    fits = size < free
    where = f"Disk: {read / 1e6:,.0f} MB/s are read, training needs {needed / 1e6:,.1f}"
    images = (
        f"the decoded images are {size / 1e9:.2f} GB and {free / 1e9:.1f} GB of memory are free"
    )
    if fits or needed < read / 2:
        return f"{where}; {images}: it is no limit."
    return f"{where}; {images}: it is the limit. Set data.cache_dir to a faster disk."


def memory_line(need: float, total: float, jobs: int, what: str) -> str:
    """Whether memory is a limit. need: bytes of one job at its highest; total: of the machine, or
    of one GPU."""
    share = need * jobs / total
    text = f"Memory: {jobs} x {need / 1e9:.1f} of {total / 1e9:.1f} GB ({what})"
    if share > 0.9:
        return f"{text}: it is the limit. A smaller train.batch_size, or more train.accumulation."
    return f"{text}: it is no limit."
