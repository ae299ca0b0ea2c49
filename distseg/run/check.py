"""Everything that can be known before the first job: all mistakes of a config on this machine.

`plan`, `inspect`, `doctor`, `run`, `train`, `find-lr` and `tune` begin with it. No image is
decoded: names, tables, headers and networks without weights tell in seconds what a job would tell
after its GPU time is spent.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from distseg.config.load import Read
from distseg.config.schema import Config
from distseg.config.training import OptimizerConfig, StageConfig
from distseg.jobs.hardware import make_slots, num_cores, visible_gpus
from distseg.records.errors import UserError
from distseg.records.paths import Run

# The package that each executor or key needs beside the core's, and the extra that brings it.
RAY_PACKAGES = ("ray",)
TUNE_PACKAGES = ("ray", "optuna", "matplotlib")
DEEPSPEED_PACKAGES = ("deepspeed",)


def mistakes(config: Config, run: Run | None = None, *, data: bool = True) -> list[str]:
    """One line for each mistake, cheap checks first.

    Args:
        run: where the run is, or will be.
        data: whether to look at the data; what is wrong with the `data` section is known, else.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no check asks the network for that
    lines = list(_extras(config))
    processes = _processes(config, lines)
    from distseg.data.check import mistakes as data_mistakes

    lines += data_mistakes(config, run) if data else []
    lines += optimizer_mistakes(config)
    lines += network_mistakes(config, processes)
    return list(dict.fromkeys(lines))


def refuse(read: Read, where: str, run: Run | None, extra: Sequence[str] = ()) -> Config:
    """The config of `read`, where neither reading nor looking at this machine finds a mistake.

    UserError lists all of them, `extra` too; each line begins with `where`.
    """
    found = list(extra)
    if read.config:
        # A wrong data.format or data.root: the default that stands in its place has no files.
        found += mistakes(read.config, run, data="data" not in read.spoiled)
    lines = [*read.lines, *(line for line in found if read.judges(line))]
    if lines:
        raise UserError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines)))
    assert read.config is not None
    return read.config


# -- this machine ---------------------------------------------------------------------------------


def missing(packages: tuple[str, ...]) -> str:
    """The packages that are not installed, joined by commas."""
    return ", ".join(name for name in packages if not _is_installed(name))


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # its import was switched off: sys.modules[package] is None
        return False


def _extras(config: Config) -> Iterator[str]:
    compute = config.compute
    if compute.executor == "ray" and (names := missing(RAY_PACKAGES)):
        yield f"compute.executor: ray: {names} is not installed: pip install 'distseg[ray]'"
    if compute.zero and (names := missing(DEEPSPEED_PACKAGES)):
        yield (
            f"compute.zero: {compute.zero}: {names} is not installed: "
            "pip install 'distseg[deepspeed]'"
        )


def _processes(config: Config, lines: list[str]) -> int:
    """Ranks of a job, by this machine's GPUs; the batch must divide into them."""
    try:
        slots = make_slots(config.compute, visible_gpus(), num_cores())
        processes = slots[0].processes
    except UserError as error:
        if config.compute.executor == "local":  # a cluster's nodes have GPUs of their own
            lines.append(str(error))
        processes = config.compute.processes_per_job or 1
    parts = processes * config.train.accumulation
    for name in config.members:
        batch = config.batch_size_of(name)
        if batch % parts and not batch % config.train.accumulation:
            lines.append(
                f"train.batch_size: {batch} (members.{name}) cannot be split over {processes} "
                f"processes x {config.train.accumulation} micro-batches"
            )
        for number, entry in enumerate(config.rounds):
            share = round(batch * entry.share) if entry.mix == "ratio" else 0
            if share % parts or ((batch - share) % parts and not batch % parts):
                lines.append(
                    f"rounds.{number}.share: {entry.share} of a batch of {batch} cannot be split "
                    f"over {processes} processes x {config.train.accumulation} micro-batches"
                )
    return processes


# -- optimizers and networks ----------------------------------------------------------------------


def network_mistakes(config: Config, processes: int | None = None) -> list[str]:
    """Encoders, options, weights and sizes that do not work. Imports torch, a few seconds.
    `processes`: ranks of a job; None: as this machine makes them."""
    from distseg.models.check import mistakes as model_mistakes

    return model_mistakes(config, _processes(config, []) if processes is None else processes)


def stages(config: Config) -> Iterator[tuple[str, StageConfig]]:
    """(key, stage) of every stage that the config writes down, also those that no round uses."""
    lists = {"stages": config.stages}
    lists |= {f"members.{n}.stages": m.stages for n, m in config.members.items() if m.stages}
    lists |= {f"rounds.{n}.stages": r.stages for n, r in enumerate(config.rounds) if r.stages}
    for prefix, own in lists.items():
        yield from ((f"{prefix}.{number}", stage) for number, stage in enumerate(own))


def optimizer_mistakes(config: Config) -> list[str]:
    """Optimizers and options that do not exist, in any stage. Imports torch, a few seconds."""
    found = [(key, _optimizer_problem(stage.optimizer)) for key, stage in stages(config)]
    return [f"{key}.{problem}" for key, problem in found if problem]


def _optimizer_problem(cfg: OptimizerConfig) -> str:
    """What building the optimizer, or one step of it on a layer of four weights, complains of."""
    import torch

    from distseg.training.optim import build_optimizer

    layer = torch.nn.Linear(2, 2)
    try:
        optimizer = build_optimizer(cfg, layer)
        layer(torch.ones(2, 2)).sum().backward()
        optimizer.step()
    except UserError as error:
        return str(error)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        text = " ".join(str(error).split())
        return f"optimizer.options: {cfg.options}: {cfg.name} cannot make a step with them: {text}"
    return ""


def run_of(folder: Path | None, config: Config | None) -> Run | None:
    """The run folder that a command means: --out, else runs/<name>."""
    if folder is not None:
        return Run(folder)
    return None if config is None else Run(Path("runs") / config.name)
