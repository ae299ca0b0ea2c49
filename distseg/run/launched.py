"""What a launched job does, on every rank: train members, make teachers' or test predictions.

Each begins with `watch_launcher` (`train` in the command line), before the seconds that importing
torch takes: a rank whose launcher or driver is killed meanwhile must go, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from filelock import FileLock

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.jobs.job import is_driven, watch_launcher
from distseg.records.errors import UserError, unknown
from distseg.records.manifest import Manifest
from distseg.records.paths import RoundKey, Run
from distseg.records.progress import ProgressFile
from distseg.run.changes import check_same, find_changes
from distseg.run.ending import summary_numbers
from distseg.run.folder import open_run, refuse_foreign, unlocked_by_mistakes
from distseg.run.members import MemberKey
from distseg.run.submission import made_from, submission_path

MIN_STEPS = 10  # updates of a learning-rate range test: with fewer the curve says nothing


def wait_for_first(load: Callable[[], Config], run_of: Callable[[Config], Run]) -> Config:
    """The config, in another rank than the first of its machine, once that one has looked at
    everything and has opened the run. Where the first finds a mistake, it says so and ends, and the
    launcher ends those that wait: a rank that left before would end the first."""
    config = None
    with contextlib.suppress(UserError):
        config = load()
    while config is None or not run_of(config).config.is_file():
        time.sleep(0.1)
    return config


def train_here(config: Config, run: Run, round: RoundKey, members: Sequence[MemberKey]) -> None:
    """All ranks: train members in a row in this process group. UserError for unknown members."""
    from distseg.data.prepare import prepare
    from distseg.training.train import train_member

    if not is_driven():
        refuse_foreign(config, run)
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.open_lock):  # ranks come at the same time
        changed = find_changes(config, run)
        may_change = not changed.locked and not is_driven()
        if not run.config.is_file() or (changed.changes and may_change):
            open_run(config, run)
        check_same(config, run)
    with unlocked_by_mistakes(run):
        config = prepare(config, run)
    for name, fold in members:
        path = run.train_set(round, fold)
        known = Manifest.read(path if path.is_file() else run.truth).folds
        if fold not in known:
            raise unknown(f"fold of round {round}", fold, known, "--fold: ")
        if not path.is_file():
            raise UserError(f"--round {round}: its train sets are not made yet: `distseg run` does")
        train_member(config, run.folder, round, name, fold)


def parse_members(config: Config, text: str) -> list[MemberKey]:
    """("unet", 0) and ("fpn", 1) of "unet:0,fpn:1". UserError: no such member of the config."""
    members = []
    for one in text.split(","):
        name, _, fold = one.rpartition(":")
        if not name or not fold.isdigit():
            raise UserError(f"train: {one!r}: write a member as NAME:FOLD")
        if name not in config.members:
            raise unknown("member", name, config.members, "--member: ")
        members.append((name, int(fold)))
    return members


def parse_round(text: str) -> RoundKey:
    """1 of "1"; "1/teachers" stays as it is. UserError: neither."""
    number, slash, rest = text.partition("/")
    if not number.isdigit() or (slash and rest != "teachers"):
        raise UserError(f"--round: {text!r}: write it as 1 or 1/teachers")
    return text if slash else int(number)


def find_lr_here(config: Config, run: Run, name: str, fold: int, steps: int) -> dict[str, Any]:
    """One process: the learning-rate range test of a member; its record. UserError: no such
    member or fold, or too few steps."""
    from distseg.data.prepare import prepare
    from distseg.training.find_lr import find_lr

    if name not in config.members:
        raise unknown("member", name, config.members, "--member: ")
    if steps < MIN_STEPS:
        raise UserError(f"--steps: {steps}: needs {MIN_STEPS} or more")
    refuse_foreign(config, run)
    run.folder.mkdir(parents=True, exist_ok=True)
    config = prepare(config, run)
    known = Manifest.read(run.truth).folds
    if fold not in known:
        raise unknown("fold", fold, known, "--fold: ")
    return find_lr(config, run, name, fold, steps)


def teach_here(run: Run, round: int) -> None:
    """All ranks: the teachers' predictions that a round needs."""
    watch_launcher()
    from distseg.rounds.predict_teachers import predict_teachers

    predict_teachers(run.folder, load_config(run.config), round)


def track_here(run: Run) -> None:
    """One process: the nested score, those of models and rounds, to what `track` names."""
    watch_launcher()
    from distseg.training.tracking import SUMMARY, Tracking

    tracking = Tracking(load_config(run.config), run, SUMMARY)
    tracking.summarize(summary_numbers(run))
    tracking.close()


def predict_test_here(run: Run, round: int | None, first: int, count: int, total: int) -> None:
    """All ranks: shares `first` to `first + count - 1` of `total` of the test images into
    folders beside the submission, divided over however many ranks this launch has."""
    watch_launcher()
    from distseg.data.layouts import submission_of
    from distseg.inference.predict import predict_test
    from distseg.submission.write import ShareWriter, share_path

    config = load_config(run.config)
    spec = submission_of(config)
    path = submission_path(run, spec.kind, round)
    source = run.final if round is None else run.ensemble(round)
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    progress = ProgressFile(None if rank else run.predict_progress(first))
    for share in range(first + rank, first + count, world):
        made = share_path(path, share, total)
        if made.is_dir() and made.stat().st_mtime_ns >= made_from(run, source):
            continue  # an earlier start of the run has made it
        writer = ShareWriter(spec, path, share=(share, total), task=config.task)
        predict_test(run.folder, writer, round, (share, total), progress)
        writer.close()
    progress.close()
