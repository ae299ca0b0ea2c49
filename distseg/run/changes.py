"""A run whose config has changed: what may change, what is made again, how that is written down.

`config/changes.py` says which keys; here is what the run on disk adds: what is trained, and what
later rounds have learned from. A change is taken over in an order that a kill at any moment leaves
whole: first what is outdated is marked in its own record, then the history is written, and last
config.yaml. Until that, the next start finds the same change and does it again; a run that goes
back to its old config makes again what was marked, and no more.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from distseg.config.changes import (
    ENSEMBLE,
    MEMBERS,
    OUT_OF_FOLD,
    READ_BY_SUBMISSION,
    REPORT,
    STEPS,
    SUBMISSION,
    Change,
    config_changes,
    is_below,
)
from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.folds import is_own
from distseg.records.errors import UserError
from distseg.records.files import read_json_or, write_json
from distseg.records.finished_member import (
    any_trained,
    forget,
    forget_all,
    has_trained,
    outdate,
)
from distseg.records.log import counted
from distseg.records.paths import (
    ALL_ROUNDS,
    MemberPaths,
    RoundKey,
    Run,
    members_on_disk,
    rounds_on_disk,
)
from distseg.run.members import unused_members
from distseg.run.objections import OWN_OF_A_JOB, Objections, is_trained, lengths

logger = logging.getLogger("distseg.run")
# Values that need less of the out-of-fold predictions than the others of their keys.
NO_NEW_PREDICTIONS = (("ensemble.snapshots", "all"), ("postprocess.gate", "none"))


@dataclass
class Changed:
    """What differs between the config of a run and the one that it is started with.

    before: None where nothing is there yet, or where the run's own config cannot be read. after: as
    given, with the levels that were measured before.
    locked: whether a member has trained an epoch: before that everything may change.
    refused: a line for each change that is not possible.
    """

    run: Run
    before: Config | None
    after: Config
    locked: bool
    changes: list[Change] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def again(self) -> list[str]:
        """The steps that are made again, in the order of a run."""
        if not self.locked:
            return []
        found = {step for change in self.changes for step in self.steps(change)}
        return [step for step in STEPS if step in found]

    def steps(self, change: Change) -> tuple[str, ...]:
        """The steps that one change makes again."""
        if (change.key, change.new) in NO_NEW_PREDICTIONS:
            return tuple(step for step in change.again if step != OUT_OF_FOLD)
        if change.rule is not None:
            return change.again
        # of a model or of rounds of which nothing is trained
        return MEMBERS, *((ENSEMBLE,) if change.keys[0] == "members" else ()), SUBMISSION, REPORT

    def because(self, step: str) -> str:
        """The changes that make a step again."""
        return "; ".join(str(one) for one in self.changes if step in self.steps(one))

    def refuse(self) -> None:
        """UserError where the run cannot have this config."""
        if self.refused:
            shown = "; ".join(self.refused[:5])
            more = f"; and {len(self.refused) - 5} more" if len(self.refused) > 5 else ""
            raise UserError(
                f"{self.run.folder}: holds a run of another config ({shown}{more}). Use another "
                "--out, or undo the change; docs/changes.md lists the keys that may change"
            )

    def outdated(self) -> Iterator[tuple[RoundKey, MemberPaths, str]]:
        """Finished members that go on or are predicted again: (round, files, why)."""
        if self.before is None or not self.locked:
            return
        longer = {
            paths.folder: (key, paths, self.because(MEMBERS))
            for key, paths, trained, epochs in lengths(self.after, self.run)
            if paths.done.is_file() and trained < epochs
        }
        yield from longer.values()
        if OUT_OF_FOLD in self.again:
            apart = all(change.key == "ensemble.snapshots" for change in self._of(OUT_OF_FOLD))
            for key, paths in members_on_disk(self.run):
                if paths.folder in longer or not paths.done.is_file():
                    continue
                if not apart or (
                    self.after.ensemble.snapshots == "search" and _lacks_snapshots(paths)
                ):
                    yield key, paths, self.because(OUT_OF_FOLD)

    def _of(self, step: str) -> list[Change]:
        return [change for change in self.changes if step in self.steps(change)]

    def unmade_rounds(self) -> list[int]:
        """Later rounds whose train sets are there and are made again: none of their members has
        trained, and what they learn from changes."""
        if self.before is None or not self.locked:
            return []
        free = [n for n in range(1, len(self.before.rounds)) if not is_trained(self.run, n)]
        return [
            number
            for number in free
            if any(step in self.again for step in (MEMBERS, OUT_OF_FOLD))
            and self.run.round(number).is_dir()
        ]


def find_changes(config: Config, run: Run, *, locked: bool | None = None) -> Changed:
    """What differs, and what of it is refused. UserError: the config of a run that has trained
    cannot be read. locked: as of `Changed`; None: as the members on disk say."""
    if locked is None:
        locked = any_trained(run)
    if not run.config.is_file() and not locked:
        return Changed(run, None, config, locked)
    try:
        before = load_config(run.config) if run.config.is_file() else _as_trained(config, run)
    except UserError as error:
        if not locked:
            return Changed(run, None, config, locked)
        if not run.config.is_file():
            raise UserError(
                f"{error}\n{run.config}: is lost, and what the members were trained with cannot be "
                "read; use another --out"
            ) from None
        raise UserError(
            f"{error}\n{run.config}: the run's own config cannot be read. Where it was made with "
            "the same config, remove this file and start again; else use another --out"
        ) from None
    after = with_levels_of(config, before)
    found = Changed(run, before, after, locked, config_changes(before, after))
    if found.changes and not locked:
        found.after = config  # the levels may be those of other images
    elif found.changes:
        objections = Objections(before, after, run)
        for change in found.changes:
            why = objections.to(change)
            found.refused += [] if why is None else [f"{change}{f' ({why})' if why else ''}"]
    return found


def _as_trained(config: Config, run: Run) -> Config:
    """The config of a run that has lost its own, as its youngest member has noted it; the new one
    where none has. What a job may have otherwise is taken from the new one. UserError: that cannot
    be read."""
    trained = [paths.config for _, paths in members_on_disk(run) if has_trained(paths)]
    notes = [path for path in trained if path.is_file()]
    if not notes:
        return config
    own = load_config(max(notes, key=lambda path: path.stat().st_mtime_ns))
    train = own.train.model_copy(update={"accumulation": config.train.accumulation})
    data = own.data.model_copy(update={"cache_dir": config.data.cache_dir})
    return own.model_copy(update={"train": train, "data": data})


def with_levels_of(config: Config, before: Config) -> Config:
    """A config that leaves `data.levels` to be measured, with what was measured before."""
    if config.data.levels is not None:
        return config
    data = config.data.model_copy(update={"levels": before.data.levels})
    return config.model_copy(update={"data": data})


def accept(found: Changed) -> None:
    """Take over changes that are not refused, but for config.yaml, which the caller writes next.
    The caller holds the driver's lock, and no job of the run is alive."""
    found.refuse()
    run = found.run
    if not found.changes and (found.before or not run.config.is_file()):
        return
    for line in change_lines(found):
        logger.info("%s", line)
    if not found.locked:
        _forget_run(found)
    for _, paths, why in list(found.outdated()):
        outdate(paths.done, why)
    for change in found.changes:
        _forget_free(run, change)
    for number in found.unmade_rounds():
        _forget_round(run, number)
    if ENSEMBLE in found.again:
        keys: list[RoundKey] = [*rounds_on_disk(run), ALL_ROUNDS]
        for key in keys:
            outdate(run.ensemble(key), found.because(ENSEMBLE))
    if read := [one for one in found.changes if _is_read_by_submission(one)]:
        outdate(run.final, "; ".join(map(str, read)))
    _write_history(found)


def check_same(config: Config, run: Run) -> None:
    """UserError unless a process that is no driver may work with this config on the run: nothing
    would have to be made again for it.

    The accumulation is free in a launched job: after running out of memory it is doubled.
    """
    found = find_changes(config, run)
    if "DISTSEG_JOB" in os.environ:
        found.changes = [one for one in found.changes if one.key not in OWN_OF_A_JOB]
        found.refused = [line for line in found.refused if not line.startswith(OWN_OF_A_JOB)]
    found.refuse()
    if found.changes and (found.again or not found.locked):
        raise UserError(
            f"{run.folder}: the config has changed ({'; '.join(map(str, found.changes))}): "
            "`distseg run` takes that over first, and makes again what depends on it"
        )


def check_same_sweep(config: Config, run: Run) -> None:
    """UserError where a sweep, which is no run and trains nothing in its own folder, has another
    config: its trials would not be comparable."""
    found = find_changes(config, run, locked=True)
    found.refused = [str(one) for one in found.changes if one.rule is None or one.again]
    found.refuse()


def change_lines(found: Changed) -> list[str]:
    """What changed, what is made again for it, and what stays; for people."""
    if not found.changes:
        return []
    if not found.locked:
        return [f"{change}: no member has trained yet: all may change" for change in found.changes]
    lines = [
        f"{change}: made again: {', '.join(found.steps(change)) or 'nothing'}"
        for change in found.changes
    ]
    done = [paths.folder for _, paths in members_on_disk(found.run) if paths.done.is_file()]
    again = {paths.folder: why for _, paths, why in found.outdated()}
    lines += [f"{folder.name}: again: {why}" for folder, why in again.items()]
    stays = len([folder for folder in done if folder not in again])
    lines.append(f"{counted(stays, 'finished member')} of {len(done)} as they are")
    left = unused_members(found.after, found.run)
    return lines + ([f"not used any more, but still there: {', '.join(left)}"] if left else [])


def _lacks_snapshots(paths: MemberPaths) -> bool:
    """Whether a member has several snapshots, and has not kept the logits of each."""
    several = len(read_json_or(paths.done, {}).get("snapshots", [])) > 1
    return several and not paths.oof_snapshots.is_dir()


def _is_read_by_submission(change: Change) -> bool:
    return any(is_below(change.keys, key) for key in READ_BY_SUBMISSION) and (
        SUBMISSION in change.again
    )


def _forget_run(found: Changed) -> None:
    """Nothing is trained: what was prepared, and what members have begun, goes; logs stay. So does
    a folds.csv that the run has not written itself."""
    run = found.run
    forget_all(run)
    for number in rounds_on_disk(run):
        _forget_round(run, number)
    run.truth.unlink(missing_ok=True)
    if is_own(run):
        run.folds.unlink()
    elif run.folds.is_file() and any(one.keys[:2] == ("data", "folds") for one in found.changes):
        logger.warning("%s is not the run's own, and decides the folds as before", run.folds)
    shutil.rmtree(run.data, ignore_errors=True)


def _forget_round(run: Run, number: int) -> None:
    """The train sets of a round, and what has been said for them, go."""
    for key in (number, run.teachers(number)):
        for paths in _untrained(run, key):
            forget(paths)
    for path in run.round(number).glob("train_fold*.csv"):
        path.unlink()
    shutil.rmtree(run.select(number), ignore_errors=True)


def _forget_free(run: Run, change: Change) -> None:
    """What was begun of a model, or of rounds, of which nothing is trained and that change."""
    if change.keys[0] == "members":
        for _, paths in members_on_disk(run):
            own = paths.folder.name.rpartition("_fold")[0] == change.keys[1]
            if own and not has_trained(paths):
                forget(paths)
    if change.keys[0] == "rounds" and change.keys[1] != "0":
        for number in rounds_on_disk(run):
            if number >= int(change.keys[1]) and not is_trained(run, number):
                _forget_round(run, number)


def _untrained(run: Run, round: RoundKey) -> Iterable[MemberPaths]:
    return [p for key, p in members_on_disk(run) if key == round and not has_trained(p)]


def _write_history(found: Changed) -> None:
    """Add the changes to changes.json. A start that was killed before config.yaml was written has
    noted the same ones: they take the place of its note."""
    history: list[Any] = read_json_or(found.run.changes, [])
    entry = {
        "time": round(time.time(), 3),
        "changed": {one.key: {"old": one.old, "new": one.new} for one in found.changes},
        "made_again": found.again,
        "trained": found.locked,
    }
    if history and history[-1].get("changed") == entry["changed"]:
        history.pop()
    write_json(found.run.changes, [*history, entry])
    found.run.log_event("config_changed", changed=[str(one) for one in found.changes])
