"""A whole run in this process: the pipeline as it is, with jobs that are function calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.config.load import load_config, parse_config
from distseg.config.schema import Config
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job
from distseg.jobs.scheduler import Started
from distseg.models import checkpoint
from distseg.records.files import read_json
from distseg.records.paths import Run, members_on_disk
from distseg.run import pipeline
from distseg.run.launched import (
    parse_members,
    parse_round,
    predict_test_here,
    teach_here,
    train_here,
)
from distseg.run.until import Until
from tests.tiny import tiny_tree


class Called:
    """A job that has ended when it starts."""

    pid, cause = None, None

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int:
        return self.status

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class InProcess:
    """Does the work of a job at once. jobs: the commands of all that were started. before: called
    before each; what it raises is the job's failure."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.jobs: list[list[str]] = []
        self.before: Callable[[Job], None] = lambda job: None

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        return [Slot(0, (), 1, 1)]

    def adopt(self) -> list[Started]:
        return []

    def start(self, job: Job, slot: Slot) -> Called:
        command = job.command()
        self.jobs.append(command)
        try:
            self.before(job)
            self._work(command)
        except RuntimeError as error:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.write_text(f"RuntimeError: {error}\n")
            return Called(1)
        return Called(0)

    def _work(self, command: list[str]) -> None:
        torch.set_num_threads(1)
        if command[0] == "train":
            config = load_config(self.run.config)
            members = parse_members(config, command[command.index("--members") + 1])
            train_here(
                config, self.run, parse_round(command[command.index("--round") + 1]), members
            )
        elif command[0] == "teach":
            teach_here(self.run, int(command[-1]))
        else:
            round = int(command[command.index("--round") + 1]) if "--round" in command else None
            at = command.index("--share")
            first, count, total = map(int, command[at + 1 : at + 4])
            predict_test_here(self.run, round, first, count, total)

    @property
    def trained(self) -> list[str]:
        """unet:0 of each member that a job was started for."""
        named = [one[one.index("--members") + 1] for one in self.jobs if "--members" in one]
        return sorted(name for names in named for name in names.split(","))

    @property
    def predicted(self) -> bool:
        return any(one[0] == "predict-test" for one in self.jobs)


def start(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, until: str | None = None,
    before: Callable[[Job], None] | None = None,
) -> tuple[int, InProcess]:  # fmt: skip
    """(exit status, what was done) of one start of the run."""
    executor = InProcess(run)
    executor.before = before or executor.before

    @contextlib.contextmanager
    def opened(_config: Config, _run: Run) -> Iterator[Any]:
        yield executor

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "open_executor", opened)
        return pipeline.run(config, run.folder, Until.of(until)), executor


def small_tree(**changes: Any) -> dict[str, Any]:
    """Two models of two folds, which train an epoch in half a second."""
    tree = tiny_tree()
    tree["data"]["synthetic"] |= {"num_train": 24, "num_test": 3}
    net = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2}}
    tree["members"] = {"a": dict(net), "b": dict(net)}
    tree["compute"] |= {"members_per_job": 9, "workers": 0, "retries": 0}
    tree["ensemble"] = {"simpler": "never"}
    tree.update(changes)
    return tree


def config_of(tree: dict[str, Any]) -> Config:
    return parse_config(tree, "test")


def all_weights(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of every snapshot on disk, by its path in the run."""
    found = {}
    for _, paths in members_on_disk(run):
        if paths.done.is_file():
            for name in read_json(paths.done)["snapshots"]:
                file = paths.snapshots / name
                key = file.relative_to(run.folder).as_posix()
                found[key] = checkpoint.load_snapshot(file)[0]
    return found


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Snapshots of both that are not the same to the bit."""
    return [
        name
        for name in left.keys() & right.keys()
        if not all(torch.equal(left[name][key], right[name][key]) for key in left[name])
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    """By path: what a folder holds."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
