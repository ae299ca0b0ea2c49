"""Folds: a division of the rows that keeps duplicates, and the rows of a group, in one fold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distseg.config.data import FoldsConfig
from distseg.config.schema import Config
from distseg.data.formats.row import Row, plain
from distseg.data.id_tables import read_by_id, read_numbers
from distseg.records.errors import UserError
from distseg.records.files import read_json_or, write_json
from distseg.records.log import counted
from distseg.records.paths import Run
from distseg.records.tables import read_table, write_table

COLUMNS = ("id", "fold")
_BINS = 30  # at most so many strata of the non-empty masks, by coverage


def divide(
    config: Config,
    own: Path | None,
    rows: Sequence[Row],
    coverage: NDArray[np.float64],
    groups: Sequence[str],
    duplicates: Sequence[str],
) -> list[int]:
    """The fold of each row: from `own`, a CSV `id,fold`, where that file is there, else as
    `data.folds` says. The other arguments are those of `assign_folds`.

    UserError: see `read_folds` and `assign_folds`.
    """
    if own is not None and own.is_file():
        return read_folds(own, rows, duplicates, groups)
    return assign_folds(config, rows, coverage, groups, duplicates)


def assign_folds(
    config: Config,
    rows: Sequence[Row],
    coverage: NDArray[np.float64],
    groups: Sequence[str],
    duplicates: Sequence[str],
) -> list[int]:
    """The fold of each row: 0..num-1, or -1 (holdout, file): trains in every fold. A hold-out has
    one unit on each side at least, where its fraction is half a unit or more.

    Args:
        coverage: (N, classes), share of each class in the row's mask.
        groups: a key per row; rows of one stay together (kind group).
        duplicates: a key per row, equal for those that always stay together: `Checked.together`.
    """
    options = config.data.folds
    if options.kind == "file":
        path = find_file(config, str(options.path))
        return read_folds(path, rows, duplicates)
    if options.kind == "split":
        return _own_split(rows, duplicates)
    keys = [duplicates, groups] if options.kind == "group" else [duplicates]
    units = join(len(rows), keys)
    shares = [1 / options.num] * options.num
    if options.kind == "holdout":
        shares = [options.fraction, 1 - options.fraction]
    if len(units) < len(shares):
        raise UserError(
            f"data.folds: {len(units)} independent images or groups cannot make {len(shares)} folds"
        )
    strata = np.concatenate([_strata(coverage, config), _quarters(config, rows)], axis=1)
    folds, regrets = _deal(units, strata, shares, options)
    if options.kind == "holdout":
        if len(set(folds)) == 1:
            if min(shares) * len(units) < 0.5:
                raise UserError(
                    f"data.folds.fraction: {options.fraction:g} of {len(units)} independent images "
                    f"holds out {'none' if folds[0] else 'all'} of them; valid here: about "
                    f"{1 / len(units):.2g} to {1 - 1 / len(units):.4g}"
                )
            for row in _moved(units, regrets, object_share(config, coverage)):
                folds[row] = 1 - folds[row]
        folds = [-1 if fold == 1 else 0 for fold in folds]
    return folds


def _moved(
    units: Sequence[list[int]], regrets: NDArray[np.float64], amount: NDArray[np.float64]
) -> list[int]:
    """The rows of the unit that changes sides where a hold-out has left one empty: of units with an
    object, if there are several (a score of an empty image says little), the one whose choice was
    the nearest. amount: `object_share`."""
    filled = [number for number, rows in enumerate(units) if (amount[rows] > 0).any()]
    choice = filled if len(filled) > 1 else range(len(units))
    return units[min(choice, key=lambda number: float(regrets[number]))]


def _own_split(rows: Sequence[Row], duplicates: Sequence[str]) -> list[int]:
    """Fold 0 for the rows of the data set's own validation part and for their duplicates, which
    must not train the model that they validate; -1 for all others."""
    if not any(row.validates for row in rows):
        raise UserError(
            "data.folds.kind: split: the data has no validation part; valid: stratified, holdout"
        )
    held = {key for row, key in zip(rows, duplicates, strict=True) if row.validates}
    return [0 if key in held else -1 for key in duplicates]


def join(num: int, keys: Sequence[Sequence[str]]) -> list[list[int]]:
    """The rows, divided into units that must stay together: rows that share a key, directly or
    through another row. keys: columns of a key per row; "" is no key. (Union-find.)"""
    parent = list(range(num))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in keys:
        first: dict[str, int] = {}
        for row, key in enumerate(column):
            if key:
                parent[root(row)] = root(first.setdefault(key, row))
    units: dict[int, list[int]] = {}
    for row in range(num):
        units.setdefault(root(row), []).append(row)
    return list(units.values())


def _strata(coverage: NDArray[np.float64], config: Config) -> NDArray[np.float64]:
    """Which strata each row belongs to, 0/1 (N, strata), so that folds can be balanced over them.

    The strata are: all rows; the rows that hold a class, for each of several classes; the empty
    rows; and the others in equal shares, sorted by how much the classes cover (multiclass: all but
    the background).
    """
    amount = object_share(config, coverage)
    filled = np.flatnonzero(amount > 0)
    bins = np.zeros(len(amount), dtype=np.int64)
    num_bins = max(1, min(_BINS, len(filled) // (2 * config.data.folds.num)))
    ranks = np.argsort(np.argsort(amount[filled], kind="stable"), kind="stable")
    bins[filled] = 1 + ranks * num_bins // max(1, len(filled))
    one_hot = np.eye(num_bins + 1)[bins]
    presence = (coverage > 0).astype(np.float64)[:, : coverage.shape[1] * (coverage.shape[1] > 1)]
    return np.concatenate([np.ones((len(amount), 1)), presence, one_hot], axis=1)


def object_share(config: Config, coverage: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the share of each row that its classes cover; multiclass: without the first class,
    the background."""
    return coverage[:, int(config.task == "multiclass") :].sum(axis=1)


def _quarters(config: Config, rows: Sequence[Row]) -> NDArray[np.float64]:
    """0/1 (N, 4): in which quarter of the values of data.folds.strata each row lies; (N, 0) where
    the config names no such table."""
    options = config.data.folds
    if options.strata is None:
        return np.zeros((len(rows), 0))
    path, column = find_file(config, options.strata), options.strata_column
    values = read_numbers(path, column)
    lacking = [row.id for row in rows if plain(row.id) not in values]
    if lacking:
        raise UserError(f"{path}: id {lacking[0]!r} has no {column!r}; {len(lacking)} ids lack it")
    own = [values[plain(row.id)] for row in rows]
    ranks = np.argsort(np.argsort(own, kind="stable"), kind="stable")
    return np.eye(4)[ranks * 4 // len(rows)]


def _deal(
    units: list[list[int]], strata: NDArray[np.float64], shares: list[float], options: FoldsConfig
) -> tuple[list[int], NDArray[np.float64]]:
    """(The fold of each row; for each unit how much more its second choice costs.) Each unit, the
    largest first, goes to the fold that lacks most of what the unit holds.

    The cost of a fold is how full it already is in the unit's strata, each relative to the
    stratum's total and the fold's share, so that rare strata are spread first.

    Args:
        units: rows that must stay together; each row is in one unit.
        strata: 0/1 (N, strata).
        shares: the share of the rows that each fold should get; they add up to 1.
    """
    rng = np.random.default_rng([options.seed, len(units)])
    order = rng.permutation(len(units))
    order = order[np.argsort([-len(units[u]) for u in order], kind="stable")]
    totals = np.maximum(strata.sum(axis=0), 1)
    full = np.zeros((len(shares), strata.shape[1]))
    scale = totals[None] * np.array(shares)[:, None]
    folds, regrets = [0] * len(strata), np.zeros(len(units))
    for unit in order:
        rows = units[unit]
        holds = strata[rows].sum(axis=0)
        # what would be full afterwards: without `+ holds` a small share would fill up first
        cost = ((full + holds) / scale) @ (holds / totals)
        fold = int(np.argmin(cost))
        regrets[unit] = np.delete(cost, fold).min(initial=np.inf) - cost[fold]
        full[fold] += holds
        for row in rows:
            folds[row] = fold
    return folds, regrets


def read_groups(config: Config, ids: Sequence[str]) -> list[str]:
    """A key per id, from the table of data.folds.groups; [] unless data.folds.kind is group."""
    options = config.data.folds
    if options.kind != "group":
        return []
    assert options.groups is not None and options.column is not None
    path = find_file(config, options.groups)
    table = read_by_id(path, options.column)
    groups = [table.get(plain(name), (0, ""))[1] for name in ids]
    for name, group in zip(ids, groups, strict=True):
        if not group:
            raise UserError(f"{path}: id {name!r} has no {options.column!r}")
    return groups


def find_file(config: Config, name: str) -> Path:
    """The path of a file that the config names: relative to data.root where it is there, else to
    the folder that distseg was started in."""
    inside = Path(config.data.root) / name
    try:
        return inside if inside.is_file() else Path(name)
    except OSError:  # the name is too long: whoever opens it says so
        return inside


def read_folds(
    path: Path, rows: Sequence[Row], duplicates: Sequence[str], groups: Sequence[str] = ()
) -> list[int]:
    """The fold of each row from a CSV `id,fold`.

    UserError: a row has no fold or two, a fold is no number, no row is validated, or duplicates or
    the rows of a group lie in different folds.
    """
    table: dict[str, int] = {}
    for name, (line, text) in read_by_id(path, "fold").items():
        if not (text.isdecimal() or text == "-1"):
            raise UserError(f"{path}, line {line}: fold {text!r} is no whole number from -1 on")
        table[name] = int(text)
    missing = [row.id for row in rows if plain(row.id) not in table]
    if missing:
        how_many = f"{counted(len(missing), 'id')} {'are' if missing[1:] else 'is'} missing"
        raise UserError(f"{path}: no fold for id {missing[0]!r} ({how_many})")
    folds = [table[plain(row.id)] for row in rows]
    if max(folds, default=-1) < 0:
        raise UserError(f"{path}: no row is validated; folds count from 0")
    _check_together(path, rows, duplicates, folds, "are the same image")
    _check_together(path, rows, groups, folds, "belong to one group")
    return folds


def _check_together(
    path: Path, rows: Sequence[Row], keys: Sequence[str], folds: Sequence[int], why: str
) -> None:
    """UserError for two rows with the same key in different folds; "" is no key."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        other = first.setdefault(key, row) if key else row
        if folds[other] != folds[row]:
            raise UserError(
                f"{path}: {rows[other].id!r} (fold {folds[other]}) and {rows[row].id!r} (fold "
                f"{folds[row]}) {why}; give them one fold"
            )


def write_folds(path: Path, ids: Sequence[str], folds: Sequence[int]) -> None:
    """Write a CSV `id,fold`, atomically; a row of fold -1 trains in every fold."""
    write_table(path, COLUMNS, zip(ids, folds, strict=True))


def write_own(run: Run, ids: Sequence[str], folds: Sequence[int]) -> None:
    """Write a run's folds.csv, and first what tells it from one that a person has changed."""
    write_json(run.own_folds, {"digest": digest(ids, folds)})
    write_folds(run.folds, ids, folds)


def digest(ids: Sequence[str], folds: Sequence[int]) -> str:
    """A hash of a table of folds."""
    return hashlib.sha256(repr(sorted(zip(ids, folds, strict=True))).encode()).hexdigest()


def is_own(run: Run) -> bool:
    """Whether a run has written its folds.csv itself, and nobody has changed it since."""
    try:
        pairs = [(c["id"] or "", int(c["fold"] or "")) for _, c in read_table(run.folds, COLUMNS)]
    except (UserError, OSError, ValueError):
        return False
    made = digest([name for name, _ in pairs], [fold for _, fold in pairs])
    return read_json_or(run.own_folds, {}).get("digest") == made


def balance(
    config: Config, folds: Sequence[int], coverage: NDArray[np.float64]
) -> list[tuple[str | int | float, ...]]:
    """A header, and a line per fold: images, share of empties, and for each class the share of
    images with it and its mean coverage (N, classes). Shares are 0..1."""
    array, empty = np.asarray(folds), object_share(config, coverage) == 0
    names = [f"{what}_{name}" for name in config.classes for what in ("with", "coverage")]
    table: list[tuple[str | int | float, ...]] = [("fold", "images", "empty", *names)]
    for fold in sorted(set(folds)):
        chosen = array == fold
        per_class = [
            value
            for column in coverage[chosen].T
            for value in (round(float((column > 0).mean()), 4), round(float(column.mean()), 4))
        ]
        share = round(float(empty[chosen].mean()), 4)
        table.append((fold, int(chosen.sum()), share, *per_class))
    return table


def write_balance(path: Path, table: Sequence[Sequence[str | int | float]]) -> None:
    """Write the balance table as a CSV, atomically."""
    header, *lines = table
    write_table(path, header, lines)


def balance_text(table: Sequence[Sequence[str | int | float]]) -> str:
    """The balance table in aligned columns, one for each fold: many classes make many lines, and
    each of them can be read."""
    lines = [[str(cell) for cell in line] for line in zip(*table, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
