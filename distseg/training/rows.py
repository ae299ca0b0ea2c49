"""Which rows of its Manifest a member learns from, and which of them watch it."""

from __future__ import annotations

from typing import NamedTuple

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.units import held_out, open_units
from distseg.records.manifest import Manifest
from distseg.records.paths import RoundKey, Run, is_teachers, round_number, round_of


class OwnRows(NamedTuple):
    """Rows of a member's Manifest: it learns from `train`, and is scored on `watched` while it
    trains."""

    train: list[int]
    watched: list[int]


def own_rows(
    config: Config, run: Run, key: RoundKey, name: str, fold: int, manifest: Manifest, cache: Cache
) -> OwnRows:
    """The rows of the member `name` on `fold` in a round. UserError: `Manifest.train_rows` refuses
    them, or `train.inner_share` leaves nothing to watch it by."""
    rows = manifest.train_rows(fold, leaky=config.teacher_flag(key) != "honest")
    if not config.train.inner_share:
        return OwnRows(rows, manifest.val_rows(fold))
    held = _held_out(config, run, key, name, fold, manifest, cache)
    labeled = [row for row in rows if manifest[row].origin == "labeled"]
    # Where this round has dropped or replaced all of them: a label that is in doubt is better than
    # none, and the decode cache has it.
    watched = [row for row in labeled if manifest[row].id in held] or [
        row for row, sample in enumerate(manifest) if sample.id in held
    ]
    return OwnRows([row for row in rows if manifest[row].id not in held], watched)


def _held_out(
    config: Config, run: Run, key: RoundKey, name: str, fold: int, manifest: Manifest, cache: Cache
) -> set[str]:
    """Ids of the human labels that the member never trains on, which are the same in every round,
    whatever its rules drop or replace: a student may start from the weights of the round before.
    What belongs together (`data/units.py`) is on one side."""
    units = open_units(config, run, cache)
    whole = manifest if is_teachers(key) else Manifest.read(run.truth)
    own = [units.get(whole[row].id, "") for row in whole.train_rows(fold)]
    seed = (config.seed + config.members[name].seed, name, fold)
    held = held_out(own, config.train.inner_share, *seed)
    return {s.id for s in whole if s.fold != fold and s.target and units.get(s.id) in held}


def soft_temperatures(config: Config, manifest: Manifest, key: RoundKey) -> dict[str, float]:
    """By folder of soft targets, the temperature of the round that has made them: rows keep their
    targets in later rounds, and with them this. Of other folders, as of a train set that somebody
    has edited, that of the round which trains."""
    found = {}
    for path in sorted({sample.soft for sample in manifest if sample.soft}):
        number = round_of(path)
        if number is None or number >= len(config.rounds):
            number = round_number(key)
        found[path] = config.rounds[number].temperature
    return found
