"""Which rows of its Manifest a member learns from, and which of them watch it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.inspect import too_large
from distseg.data.units import held_out, open_units
from distseg.records.errors import UserError
from distseg.records.log import counted
from distseg.records.manifest import FROM_TEST, Manifest
from distseg.records.paths import RoundKey, Run, is_teachers, round_number, round_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnRows:
    """Rows of a member's Manifest.

    train: it learns from them. watched: it is scored on them while it trains.
    unlike: how that, or its temperatures, differ from what distseg did before states said their
        form (`state.FORM`), for a person to read; empty: not at all.
    """

    train: list[int]
    watched: list[int]
    unlike: list[str] = field(default_factory=list)


def own_rows(
    config: Config, run: Run, key: RoundKey, name: str, fold: int, manifest: Manifest, cache: Cache
) -> OwnRows:
    """The rows of the member `name` on `fold` in a round. UserError: `Manifest.train_rows` refuses
    them, or `train.inner_share` leaves nothing to watch it by."""
    rows = manifest.train_rows(fold, leaky=config.teacher_flag(key) != "honest")
    large = {row for row in rows if _is_large(config, name, manifest, row)}
    unlike = []
    if large:  # `select` leaves them out; a train set that an older distseg made may have them
        said = counted(len(large), "test image")
        logger.warning("%s larger than the input: not trained on", said)
        unlike.append("trained on test images that are larger than the input")
        rows = [row for row in rows if row not in large]
    own = config.recipe(key).temperature
    if any(one != own for one in soft_temperatures(config, manifest, key).values()):
        unlike.append("took one temperature for the soft targets of all rounds")
    if not config.train.inner_share:
        return OwnRows(rows, manifest.val_rows(fold), unlike)
    held, moved = _held_out(config, run, key, name, fold, manifest, rows, cache)
    if moved:
        unlike.append("held out other rows in each round")
    labeled = [row for row in rows if manifest[row].origin == "labeled"]
    # Where this round has dropped or replaced all of them: a label that is in doubt is better than
    # none, and the decode cache has it.
    watched = [row for row in labeled if manifest[row].id in held] or [
        row for row, sample in enumerate(manifest) if sample.id in held
    ]
    return OwnRows([row for row in rows if manifest[row].id not in held], watched, unlike)


def _is_large(config: Config, name: str, manifest: Manifest, row: int) -> bool:
    sample = manifest[row]
    from_test = sample.origin in FROM_TEST
    return from_test and bool(too_large(config, sample.height, sample.width, [name]))


def _held_out(
    config: Config, run: Run, key: RoundKey, name: str, fold: int, manifest: Manifest,
    rows: list[int], cache: Cache,
) -> tuple[set[str], bool]:  # fmt: skip
    """Ids of the human labels that the member never trains on, which are the same in every round,
    whatever its rules drop or replace: a student may start from the weights of the round before.
    What belongs together (`data/units.py`) is on one side.

    Also whether older versions, which divided the rows of each round anew, held out others.
    """
    units = open_units(config, run, cache)
    model = config.members[name]
    seed = (config.seed + model.seed, name, fold)

    def divided(ids: list[str]) -> set[str]:
        return held_out([units.get(one, "") for one in ids], config.train.inner_share, *seed)

    whole = manifest if is_teachers(key) else Manifest.read(run.truth)
    chosen = divided([whole[row].id for row in whole.train_rows(fold)])
    try:
        before = divided([manifest[r].id for r in rows if manifest[r].origin == "labeled"])
    except UserError:
        before = set()
    own = {s.id for s in whole if s.fold != fold and s.target and units.get(s.id) in chosen}
    return own, before != chosen


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
