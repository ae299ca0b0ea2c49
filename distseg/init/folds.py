"""How the train images are divided: the divisions that a budget may choose from, within what the
user has said of `data.folds`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.config.data import FoldsConfig
from distseg.config.schema import Config
from distseg.data.folds import find_file, read_groups
from distseg.data.formats.row import Row, plain
from distseg.data.id_tables import read_by_id
from distseg.records.errors import UserError
from distseg.records.files import path_problem
from distseg.records.log import counted

LEAST_HELD_OUT = 6  # images of which a fifth can be held out
_NUMBERED = re.compile(r"^(.*\D)[_\-. ][A-Za-z]{0,8}\d+$|^(.+?)[_\-. ][A-Za-z]{0,8}\d+$")
MEANS = {"fraction": "holdout", "path": "file", "column": "group", "groups": "group"}


@dataclass(frozen=True, slots=True)
class Folds:
    """A division: of `num` folds, `used` are trained. share: of the images that one member trains
    on; full: every image is validated."""

    kind: str
    num: int
    used: int
    share: float
    full: bool

    def scored(self, num_train: int) -> float:
        """Images that some member validates."""
        return num_train * min(1.0, self.used * (1 - self.share))


def with_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user has said of folds, with the kind that alone reads a key of it."""
    kinds = {MEANS[key] for key, value in given.items() if key in MEANS and value is not None}
    if "kind" in given or len(kinds) != 1:
        return dict(given)
    return {"kind": kinds.pop(), **given}


def lacks_table(given: Mapping[str, Any]) -> bool:
    """Whether folds of groups are asked for without saying which table has the groups: then those
    of the names are meant."""
    return given.get("kind") == "group" and not (given.get("groups") or given.get("column"))


def refuse_unknown(
    given: Mapping[str, Any], root: str, in_names: Mapping[str, str] | None, rows: Sequence[Row], *,
    implied: bool,
) -> None:  # fmt: skip
    """UserError: the division that the user asks for needs what the data does not have, or would
    tear the groups of the names apart though nobody has said that they mean nothing.

    Args:
        given: what is said of folds, by `with_kind`. implied: its kind is not said, but implied.
        in_names: the groups of the names, see `groups_of`.
    """
    if lacks_table(given) and not in_names:
        raise UserError(
            f"{root}: data.folds.kind: group: the names show no groups; name a CSV with id and "
            "the group of each image: data.folds.groups=FILE data.folds.column=COLUMN"
        )
    if given.get("kind") == "split" and not any(row.validates for row in rows):
        raise UserError(
            f"{root}: data.folds.kind: split: the data has no validation part; valid: stratified, "
            "holdout"
        )
    if implied and given.get("kind") == "holdout" and in_names:
        raise UserError(
            f"{root}: data.folds.fraction: {given['fraction']}: {groups_text(in_names)}, which a "
            "hold-out of single images does not keep together. Say data.folds.num=5 for folds of "
            "whole groups, or data.folds.kind=holdout where the names mean something else"
        )


def counts(config: Config, rows: Sequence[Row]) -> tuple[int, tuple[int, ...]]:
    """(groups in the table that the config names, 0 without one; rows of each fold that its table
    of folds has). UserError: a table cannot be read, or lacks an image."""
    folds = config.data.folds
    if key := {"file": "path", "group": "groups"}.get(folds.kind):
        path = find_file(config, str(getattr(folds, key)))
        if problem := path_problem(path):
            raise UserError(f"{config.data.root}: data.folds.{key}: {path}: {problem}")
    if folds.kind == "file":
        path = find_file(config, str(folds.path))
        table = read_by_id(path, "fold")
        names = {plain(row.id) for row in rows}
        found = Counter(text for name, (_, text) in table.items() if name in names)
        held = {fold: number for fold, number in found.items() if fold.isdecimal()}
        if not held:
            raise UserError(f"{path}: no image here has a fold from 0 on")
        return 0, tuple(held[fold] for fold in sorted(held, key=int))
    if folds.kind == "group" and folds.groups and folds.column:
        return len(set(read_groups(config, [row.id for row in rows]))), ()
    return 0, ()


def divisions(
    num_train: int, asked: FoldsConfig, *, groups: int = 0, validated: int = 0,
    listed: Sequence[int] = (),
) -> Iterator[Folds]:  # fmt: skip
    """The divisions that the data can have, the cheapest first.

    Args:
        asked: keys that are set are the user's, or the data set's own (kind: split).
        groups: of images that belong together, 0 where none are known.
        validated: images of the data set's own validation part.
        listed: images of each fold of the user's own table.
    """
    kind = asked.kind if "kind" in asked.model_fields_set else None
    if kind == "split":
        yield Folds("split", 1, 1, 1 - validated / num_train, False)
    elif kind == "holdout":
        yield Folds("holdout", 1, 1, 1 - asked.fraction, False)
    elif kind == "file":
        used = len(listed) if asked.use is None else len(set(asked.use))
        share = 1 - sum(listed) / len(listed) / num_train
        yield Folds("file", len(listed), used, share, used == len(listed))
    else:
        yield from _dealt(num_train, asked, kind, groups)


def _dealt(num_train: int, asked: FoldsConfig, kind: str | None, groups: int) -> Iterator[Folds]:
    """Divisions into equal folds, of which the user may have said the number, or which to train."""
    may_hold_out = kind is None and not groups
    kind = kind or ("group" if groups else "stratified")
    units, use = (groups if kind == "group" else num_train), asked.use
    if "num" in asked.model_fields_set:
        yield _of(kind, asked.num, use)
        return
    if units < LEAST_HELD_OUT and kind != "group":  # a fifth of them is none
        yield _of(kind, num_train, use)
        return
    if may_hold_out and (use is None or set(use) == {0}):
        yield Folds("holdout", 1, 1, 0.8, False)
    elif use is None:
        yield _of(kind, max(2, min(5, units)), [0])
    nums = [num for num in (3, 5) if num_train >= 4 * num and num <= units]
    if use is not None:
        nums = [num for num in nums if max(use) < num] or [max(2, max(use) + 1)]
    for num in nums:
        yield _of(kind, num, use)


def _of(kind: str, num: int, use: Sequence[int] | None) -> Folds:
    used = num if use is None else len(set(use))
    return Folds(kind, num, used, 1 - 1 / num, used == num)


# -- groups in names ----------------------------------------------------------------------------


def groups_of(ids: Sequence[str]) -> dict[str, str] | None:
    """By id, the part of its name that several images share: `patient07` of `patient07_slice12`;
    None where the names show no such groups, see `_are_groups`."""
    found: dict[str, str] = {}
    for name in ids:
        stem = Path(name).stem if Path(name).suffix else name
        match = _NUMBERED.match(stem)
        found[name] = (match[1] or match[2]) if match else stem
    return found if _are_groups(found) else None


def groups_of_rows(rows: Sequence[Row]) -> dict[str, str] | None:
    """The groups in the names of images; or in those of their folders, where these are groups and
    no group of the names lies in several of them: a folder for each patient, of several videos."""
    names = groups_of([row.id for row in rows])
    places = {row.id: Path(row.image).parent for row in rows}
    top = os.path.commonpath(places.values())
    folders = {own: place.relative_to(top).as_posix() for own, place in places.items()}
    pairs = {(group, folders[own]) for own, group in (names or {}).items()}
    is_within = len(pairs) == len({group for group, _ in pairs})
    return folders if is_within and _are_groups(folders) else names


def _are_groups(found: Mapping[str, str]) -> bool:
    """Whether what images are called by may be who they are of.

    They are no groups where they are too few or too many, where one holds most images, or where
    they are words that only count or name a kind (`beagle_12`, `image_12`): who is one of several
    has a number of its own.
    """
    sizes = Counter(found.values())
    shared = sum(n for n in sizes.values() if n > 1)
    if not 5 <= len(sizes) <= len(found) // 2 or shared < 0.8 * len(found):
        return False
    numbered = sum(any(c.isdigit() for c in group) for group in found.values())
    return numbered >= 0.8 * len(found) and max(sizes.values()) <= 0.5 * len(found)


def groups_text(groups: Mapping[str, str]) -> str:
    """`12 groups in the names (patient01, patient02, ...)`."""
    names = sorted(set(groups.values()))
    return f"{counted(len(names), 'group')} in the names ({', '.join(names[:2])}, ...)"
