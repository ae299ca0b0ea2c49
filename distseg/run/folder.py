"""The run folder as a driver takes it: same config, one driver at a time, signals."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.data.formats.folder import found
from distseg.data.formats.names import DEEP, above
from distseg.data.layouts import layout
from distseg.jobs.guard import die_with_parent
from distseg.jobs.versions import environment_record
from distseg.records.errors import Stopped, UserError
from distseg.records.files import atomic_write, real_path, write_json
from distseg.records.finished_member import any_trained
from distseg.records.paths import Run
from distseg.run.changes import accept, find_changes
from distseg.run.plan import amount, free_bytes

logger = logging.getLogger("distseg.run")

# What marks a folder as a run's, and what a run writes into it at its top.
RUN_MARKS = ("env.json", "ledger.jsonl", "run.log")
RUN_FILES = (
    *("config.yaml", "submission.csv", "test_masks", "report.html", "report.json"),
    *("ensemble.json", "accelerate.yaml", "data", "cache", "round_0"),
)


def refuse_foreign(config: Config, run: Run) -> None:
    """UserError where a run would overwrite files that no run has written, or put its own among
    the images. A folder with only a folds.csv is welcome: that is how a user divides the data."""
    refuse_taken(run)
    refuse_among_images(config, run)


def refuse_taken(run: Run) -> None:
    """UserError where a run would overwrite files that no run has written."""
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder}: is a file, not a folder")
    if not any((folder / name).exists() for name in RUN_MARKS):
        there = [name for name in RUN_FILES if (folder / name).exists()]
        if there:
            raise UserError(
                f"--out: {folder}: holds {there[0]} and is no run: it would be overwritten. Name a "
                "new folder"
            )


def refuse_among_images(config: Config, run: Run) -> None:
    """UserError where the folder of a run lies among the images and masks of its data."""
    folder = run.folder
    real, root = real_path(folder), Path(config.data.root).resolve()
    if config.data.format != "synthetic" and root in real.parents:
        form = layout(config.data.format)
        rows = [*form.train(config), *form.test(config)]
        homes, deep = {Path(row.image).parent.resolve() for row in rows}, set[Path]()
        if config.data.format == "folder":
            options = found(config)
            read = [options.images, options.masks, options.val_images, options.test_images]
            deep = {(root / above(one)).resolve() for one in read if one and DEEP in one}
            homes.add((root / options.masks).resolve())
        homes = homes - {root} | deep  # a run in the root is read where all below it is
        if inside := homes & {real, *real.parents}:
            raise UserError(
                f"--out: {folder}: lies in {inside.pop()}, among the images and masks of the data; "
                "name another folder"
            )


def open_run(config: Config, run: Run) -> None:
    """Write config.yaml and env.json, and mark what a changed config makes again. UserError where
    the run cannot have this config; it is then as it was."""
    found = find_changes(config, run)
    found.refuse()
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.env, environment_record())  # first: it marks the folder as a run's
    accept(found)
    atomic_write(run.config, dump_config(found.after))
    logger.info("run %s, %s free", run.folder, amount(free_bytes(run.folder)))


@contextlib.contextmanager
def unlocked_by_mistakes(run: Run) -> Iterator[None]:
    """Within: a mistake of the user's that comes before the train set is written leaves no config
    behind, so that the config may be mended and run in the same folder."""
    try:
        yield
    except UserError:
        if not run.truth.is_file() and not any_trained(run):
            run.config.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def driver_lock(run: Run, patience_s: float = 0.0) -> Iterator[None]:
    """One driver per run folder. UserError: another one works there.

    patience_s: how long a driver that is leaving gets. The lock is the kernel's: it goes with the
    process that holds it, so a driver that was killed leaves none.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise UserError(
            f"{run.folder}: another `distseg run` works on this folder; "
            f"see `distseg status {run.folder}`"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within: SIGINT and SIGTERM raise Stopped, and children that are forked die with us.

    It comes out as Stopped, too, where C code that the signal interrupted (Ray waits in such) makes
    an error of its own of it.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    _mark_forks()
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Stopped):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _mark_forks() -> None:
    """Pools that read images are forked from the driver: killed, it must not leave them.

    Once per process (so cached): what is registered at a fork cannot be taken back.
    """
    os.register_at_fork(after_in_child=_in_fork)


def _in_fork() -> None:
    die_with_parent()
    # The driver's handlers came along: in a child they would raise Stopped into the pool's code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
