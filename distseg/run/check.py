"""Everything that can be known before the first job: all mistakes of a config on this machine.

`plan`, `inspect`, `doctor`, `run`, `train`, `find-lr` and `tune` begin with it: names, tables,
headers and networks without weights tell in seconds what a job would tell after its GPU time is
spent.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distseg.config.load import Read
from distseg.config.schema import Config
from distseg.config.training import OptimizerConfig
from distseg.jobs.hardware import make_slots, num_cores, visible_gpus
from distseg.jobs.versions import install_hint
from distseg.records.errors import UserError
from distseg.records.finished_member import is_done
from distseg.records.log import counted
from distseg.records.paths import Run
from distseg.run.members import known_members, round_keys

if TYPE_CHECKING:
    from distseg.models.check import Tried

# The package that each executor or key needs beside the core's, and the extra that brings it.
RAY_PACKAGES = ("ray",)
TUNE_PACKAGES = ("ray", "optuna", "matplotlib")
DEEPSPEED_PACKAGES = ("deepspeed",)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a command is about to do with a config, as far as its mistakes depend on it.

    run: where the run is, or will be; None: the command makes and reads none.
    ranks: processes of a job; None: as this machine makes them.
    trains: whether networks are trained, so that weights must be at hand.
    sweep: whether it is `tune`: its section counts, and Ray makes the jobs.
    data: whether to look at the data; what is wrong with the `data` section is known, else.
    """

    run: Run | None = None
    ranks: int | None = None
    trains: bool = True
    sweep: bool = False
    data: bool = True


ANY = Purpose()


def mistakes(config: Config, purpose: Purpose = ANY, tried: Tried | None = None) -> list[str]:
    """One line for each mistake, cheap checks first. tried: what was found of networks before, and
    is found here; a sweep has many configs of the same networks."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no check asks the network for that
    lines = list(_extras(config))
    try:
        ranks = purpose.ranks or processes_of(config, purpose)
    except UserError as error:
        lines.append(str(error))
        ranks = config.compute.processes_per_job or 1
    lines += batch_mistakes(config, ranks)
    if purpose.data:
        from distseg.data.check import mistakes as data_mistakes

        lines += data_mistakes(config, purpose.run, sweep=purpose.sweep)
    lines += augment_mistakes(config)
    lines += optimizer_mistakes(config)
    from distseg.models.check import mistakes as network_mistakes

    weights = _to_train(config, purpose.run) if purpose.trains else set()
    lines += network_mistakes(config, ranks, weights, {} if tried is None else tried)
    return list(dict.fromkeys(lines))


def refuse(
    read: Read,
    where: str,
    purpose: Purpose,
    extra: Sequence[str] = (),
    tried: Tried | None = None,
) -> Config:
    """The config of `read`, where neither reading nor looking at this machine finds a mistake.

    UserError lists all of them, `extra` too; each line begins with `where`. tried: see `mistakes`.
    """
    found = list(extra)
    if read.config:
        # A wrong data.format or data.root: the default that stands in its place has no files.
        known = replace(purpose, data="data" not in read.spoiled)
        found += mistakes(read.config, known, tried)
    lines = [*read.lines, *(line for line in found if read.judges(line))]
    if lines:
        raise UserError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines)))
    assert read.config is not None
    return read.config


def _to_train(config: Config, run: Run | None) -> set[str]:
    """The models of which a member is not done: the others need no weights any more."""
    if run is None or not run.config.is_file():
        return set(config.members)
    try:
        planned = [
            (run.member(key, *member), member)
            for key in round_keys(config, run)
            for member in known_members(config, run, key)
        ]
    except UserError:  # a table of folds that cannot be read has a line of its own
        return set(config.members)
    return {name for paths, (name, _) in planned if not is_done(paths)}


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
        yield f"compute.executor: ray: {names} is not installed: {install_hint('ray')}"
    if compute.zero and (names := missing(DEEPSPEED_PACKAGES)):
        yield (
            f"compute.zero: {compute.zero}: {names} is not installed: {install_hint('deepspeed')}"
        )
    for tracker in config.track:
        if missing((tracker,)):
            package = tracker.replace("_", "-")
            yield f"track: {tracker}: {tracker} is not installed: pip install {package}"


def processes_of(config: Config, purpose: Purpose = ANY) -> int:
    """Ranks of a job, by this machine's GPUs. UserError: it does not have enough of them.

    The nodes of a cluster have GPUs of their own, of which only the nodes can tell.
    """
    on_ray = purpose.sweep or config.compute.executor == "ray"
    if on_ray and os.environ.get("RAY_ADDRESS"):
        return config.compute.processes_per_job or 1
    return make_slots(config.compute, visible_gpus(), num_cores())[0].processes


def batch_mistakes(config: Config, ranks: int) -> Iterator[str]:
    """Batches that cannot be divided into the micro-batches of so many ranks."""
    parts = ranks * config.train.accumulation
    each = (
        f"{counted(ranks, 'process', 'es')} x "
        f"{counted(config.train.accumulation, 'micro-batch', 'es')}"
    )
    for name in config.members:
        batch = config.batch_size_of(name)
        own = config.members[name].batch_size is not None
        key = f"members.{name}.batch_size" if own else "train.batch_size"
        if batch % parts and not batch % config.train.accumulation:
            yield f"{key}: {batch} cannot be split over {each}"
        for number, entry in enumerate(config.rounds):
            share = round(batch * entry.share) if entry.mixes else 0
            if share % parts or ((batch - share) % parts and not batch % parts):
                yield (
                    f"rounds.{number}.share: {entry.share} of a batch of {batch} cannot be split "
                    f"over {each}"
                )


# -- augmentation ---------------------------------------------------------------------------------


def augment_mistakes(config: Config) -> list[str]:
    """Transforms that go by albumentations' names and that it refuses, in any list."""
    lists = {key: steps for key, steps in config.augment_lists() if any(s.A for s in steps)}
    if not lists:
        return []
    from distseg.data.augment import mistakes as transform_mistakes  # imports albumentations

    channels = config.input.channels - (config.data.depths is not None)
    return [f"{key}.{line}" for key, steps in lists.items()
            for line in transform_mistakes(steps, channels)]  # fmt: skip


# -- optimizers -----------------------------------------------------------------------------------


def optimizer_mistakes(config: Config) -> list[str]:
    """Optimizers and options that do not exist, in any stage. Imports torch, a few seconds."""
    found = [(key, _optimizer_problem(stage.optimizer)) for key, stage in config.written_stages()]
    return [f"{key}.{problem}" for key, problem in found if problem]


def _optimizer_problem(cfg: OptimizerConfig) -> str:
    """What building the optimizer, or one step of it on a layer of four weights, complains of."""
    import torch

    from distseg.training.optim import build_optimizer

    layer = torch.nn.Linear(2, 2)
    # On a GPU it may be true; the layer here is on the CPU, where it may not.
    options = {key: value for key, value in cfg.options.items() if key != "capturable"}
    try:
        build_optimizer(cfg, layer)
        optimizer = build_optimizer(cfg.model_copy(update={"options": options}), layer)
        layer(torch.ones(2, 2)).sum().backward()
        optimizer.step()
    except UserError as error:
        return str(error)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        text = " ".join(str(error).split())
        return f"optimizer.options: {cfg.options}: {cfg.name} cannot make a step with them: {text}"
    return ""
