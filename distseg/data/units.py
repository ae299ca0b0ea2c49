"""Train rows that belong together, copies, near copies and the rows of a group, and a small part of
a member's own rows that it does not train on, by which it is watched."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.folds import join, read_groups
from distseg.data.image_file import pixel_hash
from distseg.data.survey.measure import SIDE
from distseg.data.survey.similar import LEAST_CONTRAST, alike
from distseg.data.threads import in_threads
from distseg.functional.drawing import as_rgb
from distseg.records.errors import UserError
from distseg.records.log import counted
from distseg.records.manifest import Manifest, pair_folds
from distseg.records.paths import Run
from distseg.records.tables import read_rows, write_table

logger = logging.getLogger(__name__)


def open_units(config: Config, run: Run, cache: Cache) -> dict[str, str]:
    """By id, the unit of each row of the train set: the id of its first row. RUN/data/units.csv
    keeps them: the first to come looks at each image once."""
    path, ids = run.units, [sample.id for sample in Manifest.read(run.truth)]
    with FileLock(run.data / ".units.lock"):
        if path.is_file():
            known = {row["id"]: row["unit"] for row in read_rows(path)}
            if known.keys() == set(ids):
                return known
        found = find_units(config, ids, cache)
        write_table(path, ("id", "unit"), found.items())
    return found


def find_units(config: Config, ids: Sequence[str], cache: Cache) -> dict[str, str]:
    """The same, from the images: rows whose pixels are the same or nearly so (`inspect` says how
    near), and rows of one group (data.folds.kind: group), directly or through another row."""
    looks = list(in_threads(lambda name: _look(cache.image(name)), ids))
    pixels = [sha for sha, _ in looks]
    grays = np.stack([gray for _, gray in looks])
    useful = np.flatnonzero(grays.std(axis=(1, 2)) >= LEAST_CONTRAST)  # flat ones are all alike
    near = [""] * len(ids)
    for row, group in zip(useful, alike(grays[useful]), strict=True):
        near[row] = str(group)
    units = join(len(ids), [pixels, near, read_groups(config, ids)])
    return {ids[row]: ids[unit[0]] for unit in units for row in unit}


def _look(image_HWC: NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
    """A hash of the pixels, "" for those of a single value, which belong to nothing, and a gray
    thumbnail."""
    thumb = cv2.resize(as_rgb(image_HWC), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    constant = image_HWC.min() == image_HWC.max()
    return "" if constant else pixel_hash(image_HWC), cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY)


def held_out(units: Sequence[str], share: float, *seed: object) -> set[str]:
    """The units that are held out: in the order of a hash of the seed and their names, those that
    still fit into `share` of the rows (at least one row).

    units: of each row. A pure function of its arguments. UserError: nothing fits.
    """
    sizes: dict[str, int] = {}
    for unit in units:
        sizes[unit] = sizes.get(unit, 0) + 1
    room = max(1, math.floor(share * len(units)))
    chosen: set[str] = set()
    for unit in sorted(sizes, key=lambda name: _hash(*seed, name)):
        if sizes[unit] <= room and len(chosen) + 1 < len(sizes):
            chosen.add(unit)
            room -= sizes[unit]
    if not chosen:
        raise UserError(
            f"train.inner_share: {share:g}: the {len(units)} train rows are "
            f"{counted(len(sizes), 'unit')} of images that belong together, and none that small "
            "can be held out; write a larger share, or 0"
        )
    return chosen


def check_inner_share(config: Config, run: Run, cache: Cache) -> None:
    """UserError where `train.inner_share` leaves members of a fold, or pair teachers of a round,
    nothing to be watched by; looks at the images, if it is set, before the first job would."""
    share = config.train.inner_share
    if not share:
        return
    units, manifest = open_units(config, run, cache), Manifest.read(run.truth)
    for whose, left_out in _train_sets(config, manifest.folds).items():
        own = manifest.train_rows(left_out[0])
        rows = [row for row in own if manifest[row].fold not in left_out]
        try:
            held_out([units[manifest[row].id] for row in rows], share)
        except UserError as error:
            raise UserError(f"{error} ({whose})") from None


def _train_sets(config: Config, folds: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Who trains on the rows that people have labeled, and the folds whose rows they leave out: the
    members of each fold, and the pair teachers that rounds need."""
    found: dict[str, tuple[int, ...]] = {}
    for number, entry in enumerate(config.rounds):
        trained = {fold for _, fold in config.planned_members(folds, number)}
        if entry.judges_labeled and entry.judge == "pair":
            found |= {
                f"rounds.{number}: pair teachers without the folds {pair[0]} and {pair[1]}": pair
                for pair in pair_folds(folds).values()
                if trained & set(pair)
            }
        found |= {f"members of fold {fold}": (fold,) for fold in sorted(trained)}
    return found


def _hash(*parts: object) -> bytes:
    return hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()
