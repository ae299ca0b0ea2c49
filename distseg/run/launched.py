"""What a launched job does, on every rank: train members, make teachers' or test predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from filelock import FileLock

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import RoundKey, Run
from distseg.run.folder import check_same, open_run
from distseg.run.members import MemberKey
from distseg.run.submission import submission_path


def train_here(config: Config, run: Run, round: RoundKey, members: Sequence[MemberKey]) -> None:
    """All ranks: train members in a row in this process group. UserError for unknown members."""
    from distseg.data.prepare import prepare
    from distseg.training.train import train_member

    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.open_lock):  # ranks come at the same time
        check_same(config, run)
        if not run.config.is_file():
            open_run(config, run)
    prepare(config, run)
    for name, fold in members:
        path = run.train_set(round, fold)
        known = Manifest.read(path if path.is_file() else run.truth).folds
        if fold not in known:
            raise UserError(f"--fold {fold}: no such fold in round {round}; this run has {known}")
        if not path.is_file():
            raise UserError(f"--round {round}: its train sets are not made yet: `distseg run` does")
        train_member(config, run.folder, round, name, fold)


def teach_here(run: Run, round: int) -> None:
    """All ranks: the teachers' predictions that a round needs."""
    from distseg.rounds.predict_teachers import predict_teachers

    predict_teachers(run.folder, load_config(run.config), round)


def predict_test_here(run: Run, round: int | None, first: int, count: int, total: int) -> None:
    """All ranks: shares `first` to `first + count - 1` of `total` of the test images into parts of
    the submission, divided over however many ranks this launch has."""
    from distseg.data.formats import layout
    from distseg.inference.predict import predict_test
    from distseg.submission.write import PartWriter, part_path

    config = load_config(run.config)
    spec = layout(config.data.format).submission(config)
    path = submission_path(run, spec.kind, round)
    source = run.final if round is None else run.ensemble(round)
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    for share in range(first + rank, first + count, world):
        part = part_path(path, share, total)
        if part.is_dir() and part.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            continue  # an earlier start of the run has made it
        writer = PartWriter(spec, path, share=(share, total), task=config.task)
        predict_test(run.folder, writer, round, (share, total))
        writer.close()
