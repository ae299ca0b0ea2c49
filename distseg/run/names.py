"""What `distseg list` shows: the names that a config or a command line may use, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from distseg.config.augment import AugmentConfig
from distseg.config.find import config_names, shipped
from distseg.config.member import Architecture
from distseg.functional.loss_names import LOSS_TASKS


def names(kind: str) -> list[str]:
    """The lines of a kind of names; some import torch, a few seconds."""
    return list(KINDS[kind]())


def _configs() -> Iterable[str]:
    """Each with the hardware and time that its third line tells."""
    for name, path in config_names().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        told = next((line.lstrip("# ") for line in lines if "Hardware:" in line), "")
        yield f"{name:<40} {told}".rstrip()


def _launch() -> Iterable[str]:
    """Files for `accelerate launch`, Ray and Slurm, by their whole path."""
    folder = shipped("launch")
    return (str(path) for path in sorted(folder.rglob("*.*")) if "__pycache__" not in path.parts)


def _encoders() -> Iterable[str]:
    from distseg.models.encoders import encoder_names

    return encoder_names()


def _losses() -> Iterable[str]:
    return (f"{name:<16} for task: {', '.join(tasks)}" for name, tasks in LOSS_TASKS.items())


def _metrics() -> Iterable[str]:
    from distseg.functional.metrics import METRICS

    return METRICS


def _augmentations() -> Iterable[str]:
    for name, field in AugmentConfig.model_fields.items():
        yield f"{'A.NAME' if name == 'A' else name:<20} {field.description}"


def _optimizers() -> Iterable[str]:
    from distseg.training.optim import optimizer_names

    return optimizer_names()


KINDS: dict[str, Callable[[], Iterable[str]]] = {
    "configs": _configs,
    "launch": _launch,
    "architectures": lambda: get_args(Architecture),
    "encoders": _encoders,
    "losses": _losses,
    "metrics": _metrics,
    "augmentations": _augmentations,
    "optimizers": _optimizers,
}
