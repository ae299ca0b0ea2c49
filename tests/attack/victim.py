"""What is attacked: a small run that was really trained, and a command under limits."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from distseg import cli
from distseg.config.load import dump_config, parse_config
from distseg.data.prepare import prepare
from distseg.ensemble.fit import fit_ensemble
from distseg.records import log
from distseg.records.files import atomic_write
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from distseg.run.folder import open_run
from distseg.run.summary import report
from distseg.training.train import train_member
from tests.made_run import write_data

LIMIT_S, LIMIT_BYTES = 120, 2 << 30  # of one command
MAX_LINE = 4200  # characters of a line of a message


def victim_tree(root: Path) -> dict[str, Any]:
    """A config tree whose two members train in a second each."""
    return {
        "name": "victim",
        "data": {"format": "folder", "root": str(root), "folds": {"num": 2}},
        "input": {"height": 16, "width": 16, "channels": 1},
        "metric": "dice",
        "members": {"a": {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4}}},
        "stages": [
            {
                "loss": {"bce": 1.0},
                "optimizer": {"name": "adamw", "lr": 1e-3},
                "schedule": {"kind": "cosine", "cycles": 2, "epochs_per_cycle": 1},
                "keep": "cycles",
            }
        ],
        "train": {"batch_size": 4},
        "predict": {"tta": []},
        "compute": {"precision": "fp32", "cpu_threads": 1, "workers": 0, "retries": 0},
    }


def make_victim(folder: Path) -> Run:
    """`folder`/data, `folder`/config.yaml, and `folder`/run: trained, with ensemble and report. It
    has no test images: a second start of it starts no job."""
    torch.set_num_threads(1)
    write_data(folder / "data", num=12)
    for name in ("test_images", "test_masks"):
        (folder / "data" / name).rename(folder / name)
    tree = victim_tree(folder / "data")
    (folder / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    run = trained_run(tree, folder / "run")
    report(parse_config(tree, "victim"), run)
    log.setup(None)
    return run


def trained_run(tree: dict[str, Any], folder: Path) -> Run:
    """The run of a tree like `victim_tree`, whose folds are trained in this process."""
    config, run = parse_config(tree, "made"), Run(folder)
    open_run(config, run)
    prepare(config, run)
    run.log_event("run_started", pid=1)
    for fold in (0, 1):
        train_member(config, run.folder, 0, "a", fold)
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    return run


def copy_victim(run: Run, folder: Path) -> Run:
    """A copy whose run may be damaged and started again; its data is that of the original."""
    shutil.copytree(run.folder.parent, folder, dirs_exist_ok=True)
    return Run(folder / "run")


def move_victim(run: Run, folder: Path) -> Run:
    """A copy with data of its own, folder/data, which a test may change. A second start of the run
    would refuse them: they are other files."""
    copied = copy_victim(run, folder)
    tree = victim_tree(folder / "data")
    atomic_write(folder / "config.yaml", yaml.safe_dump(tree))
    atomic_write(copied.config, dump_config(parse_config(tree, "victim")))
    return copied


@dataclass(frozen=True)
class Outcome:
    """How a command ended. said: standard output, standard error and the log together."""

    status: int
    said: str
    errors: list[str]
    seconds: float
    peak: int


class TookTooLong(BaseException):
    """No `except Exception` of the command may swallow it."""


def attack(*arguments: object) -> Outcome:
    """One command in this process, under a limit of time, with the memory that it took at most.
    What it raises is raised: a traceback for the user."""
    said, errors = io.StringIO(), io.StringIO()
    _reset_peak()
    before = resident()
    began = time.monotonic()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), _alarm():
        log.setup(None)
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = int(left.code or 0)
        finally:
            logging.getLogger("distseg").handlers.clear()
    return Outcome(
        status,
        said.getvalue() + errors.getvalue(),
        [line for line in errors.getvalue().splitlines() if line.startswith("distseg: error: ")],
        time.monotonic() - began,
        peak() - before,
    )


def check(outcome: Outcome, statuses: tuple[int, ...], *words: str) -> None:
    """The command ended as it should: one of the statuses, a line that has the words, no traceback,
    within the limits."""
    shown = outcome.said[-3000:]
    assert outcome.status in statuses, shown
    assert "Traceback" not in outcome.said, shown
    for word in words:
        assert word in outcome.said, (word, shown)
    if outcome.status == 2:
        assert outcome.errors, shown
    assert all(len(line) <= MAX_LINE for line in outcome.said.splitlines()), shown
    assert outcome.seconds < LIMIT_S
    assert outcome.peak < LIMIT_BYTES, f"{outcome.peak / 1e9:.2f} GB"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> None:
    """Ask the kernel to forget the highest memory of this process so far (Linux, proc(5))."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    """Bytes of memory that this process has now."""
    return _status("VmRSS")


def peak() -> int:
    """Bytes of memory that this process had at most since `_reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {key}")
