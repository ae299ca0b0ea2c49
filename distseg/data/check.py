"""What is wrong with a config's data, as far as names and tables tell: nothing is decoded.

Each mistake is one line that begins with its key, or names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from distseg.config.data import Strict, written
from distseg.config.schema import Config
from distseg.config.validate import named_folds
from distseg.data.depths import load_depths
from distseg.data.folds import assign_folds, find_file, read_folds, read_groups
from distseg.data.formats.row import Row
from distseg.data.inspect import inspect
from distseg.data.layouts import FORMATS, layout
from distseg.functional.naming import nearest
from distseg.records.errors import UserError
from distseg.records.paths import Run
from distseg.records.tables import read_table

T = TypeVar("T")
SOME_LAYOUTS = ("table", "border", "mask_values", "folder", "synthetic")


def mistakes(config: Config, run: Run | None = None) -> list[str]:
    """Every mistake that the data's names and tables show. `run`: where a run is, or will be; a
    folds.csv of the user's may lie there."""
    lines = [*_unread_keys(config), *_missing(config)]
    if config.data.format != "synthetic" and not Path(config.data.root).is_dir():
        return lines  # everything below would only say so again
    if any(line.startswith("data.table: ") for line in lines):
        return lines
    rows = _rows(config, lines)
    tests = _test_rows(config, lines)
    if rows is not None:
        _attempt(lines, lambda: _folds(config, run, rows, lines))
    unlabeled = [n for n, entry in enumerate(config.rounds) if entry.uses_unlabeled]
    if tests == 0 and unlabeled and not any("test_images" in line for line in lines):
        kind = config.rounds[unlabeled[0]].kind
        lines.append(f"rounds.{unlabeled[0]}.kind: {kind}: the data has no test images")
    return lines


def _attempt(lines: list[str], read: Callable[[], T]) -> T | None:
    """What `read` returns; where it finds a mistake, that is added to `lines`."""
    try:
        return read()
    except UserError as error:
        lines += str(error).splitlines()
        return None


# -- keys -----------------------------------------------------------------------------------------


def _unread_keys(config: Config) -> Iterator[str]:
    data, form = config.data, config.data.format
    reads = layout(form).READS
    for key in sorted(written(data) & set(SOME_LAYOUTS)):
        for name in _unread(key, getattr(data, key), reads):
            others = [other for other in FORMATS if _is_read(name, layout(other).READS)]
            yield (
                f"data.{name}: format: {form} does not read it; it is for format: "
                f"{', '.join(others)}"
            )
    if form == "folder" and data.folder.submission == "masks":
        for key in sorted(written(data.folder) & {"rle_order", "rle_base", "rle_empty"}):
            yield f"data.folder.{key}: is for data.folder.submission: rle, not masks"
    if data.mask_values is not None and form == "oxford_pet" and "border" in written(data):
        yield "data.border: data.mask_values says already what the border counts as"


def _unread(key: str, value: object, reads: Sequence[str]) -> list[str]:
    """`folder.rle_order`, or `table`: what of `key` a layout that reads `reads` does not. A section
    of which it reads nothing is named once."""
    if not isinstance(value, Strict):
        return [] if _is_read(key, reads) else [key]
    if not any(read.partition(".")[0] == key for read in reads):
        keys = sorted(written(value))
        return [key] if len(keys) > 1 else [f"{key}.{one}" for one in keys]
    names = [f"{key}.{one}" for one in sorted(written(value))]
    return [name for name in names if not _is_read(name, reads)]


def _is_read(name: str, reads: Sequence[str]) -> bool:
    """Whether a layout that reads `reads` reads the key `name`, or some of the section `name`."""
    return any(
        name == read or name.startswith(f"{read}.") or read.startswith(f"{name}.") for read in reads
    )


def _missing(config: Config) -> Iterator[str]:
    """Files and folders that the user named and that are not there."""
    data, root = config.data, Path(config.data.root)
    cache = Path(data.cache_dir or ".")
    if cache.exists() and not cache.is_dir():
        yield f"data.cache_dir: {cache}: is no folder"
    if data.format == "synthetic":
        root = Path()
    elif not root.is_dir():
        yield f"data.root: {data.root}: no such folder.{_near(root)}"
        return
    for key in ("test_images", "test_masks"):
        name = getattr(data.folder, key)
        asked = data.format == "folder" and name is not None and key in written(data.folder)
        if asked and not (root / name).is_dir():
            yield f"data.folder.{key}: {root / name}: no such folder.{_near(root / name)}"
    if data.depths is not None and not (root / data.depths).is_file():
        yield f"data.depths: {root / data.depths}: no such file.{_near(root / data.depths)}"
    table = data.table if "table" in layout(data.format).READS else None
    if table is not None and not (root / table).is_file():
        yield f"data.table: {root / table}: no such file.{_near(root / table)}"
    uses = {"group": ("groups",), "file": ("path",)}.get(data.folds.kind, ())
    for key in (*uses, "strata"):
        name = getattr(data.folds, key)
        if name is not None and not find_file(config, name).is_file():
            yield f"data.folds.{key}: {name}: no such file.{_near(root / name)}"


def _near(path: Path) -> str:
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return f" Did you mean {close!r}?" if close else ""


# -- rows -----------------------------------------------------------------------------------------


def _rows(config: Config, lines: list[str]) -> list[Row] | None:
    """The train rows that are not known to be bad; None where they cannot be listed."""
    if config.data.format == "synthetic":  # made by the run, and always good
        made = [Row(f"train_{i:05d}", "") for i in range(config.data.synthetic.num_train)]
        return made[: config.data.limit]
    listed = _attempt(lines, lambda: layout(config.data.format).train(config))
    if listed is None:
        return None
    rows = list({row.id: row for row in reversed(listed) if not row.problem}.values())[::-1]
    bad = [row for row in listed if row.problem]
    if bad and (config.data.strict or not rows):
        why = "data.strict is set" if rows else "no row is left"
        lines.append(
            f"{bad[0].image}: {bad[0].problem} (id {bad[0].id!r}); {len(bad)} of {len(listed)} "
            f"rows are bad: {why}"
        )
    depths = _depths(config, lines)
    if rows and depths is not None and not any(Path(row.image).stem in depths for row in rows):
        lines.append(f"data.depths: {config.data.depths}: it names none of the train images")
    return rows or None


def _depths(config: Config, lines: list[str]) -> dict[str, int] | None:
    if config.data.depths is None or not (Path(config.data.root) / config.data.depths).is_file():
        return None
    return _attempt(lines, lambda: load_depths(config))


def _test_rows(config: Config, lines: list[str]) -> int | None:
    """How many images there are to predict; None where they cannot be listed."""
    if config.data.format == "synthetic":
        return config.data.synthetic.num_test
    form, options = layout(config.data.format), config.data.folder
    rows = _attempt(lines, lambda: form.test(config))
    if rows is None:
        return None
    named = options.test_masks is None or (Path(config.data.root) / options.test_masks).is_dir()
    if rows and named:  # a folder that is not there has a line of its own
        _attempt(lines, lambda: form.submission(config))
        _attempt(lines, lambda: form.test_truth(config))
    return len(rows)


# -- folds ----------------------------------------------------------------------------------------


def _folds(config: Config, run: Run | None, rows: Sequence[Row], lines: list[str]) -> None:
    """Divide the rows as the run will, but for what only the masks tell."""
    options = config.data.folds
    tables = [getattr(options, key) for key in ("groups", "path", "strata")]
    if any(name is not None and not find_file(config, name).is_file() for name in tables):
        return
    as_groups = options.model_copy(update={"kind": "group"})
    data = config.data.model_copy(update={"folds": as_groups})
    grouped = config.model_copy(update={"data": data})
    has_groups = options.groups is not None and options.column is not None
    own = run.folds if run is not None else None
    path = find_file(config, options.path) if options.kind == "file" and options.path else None
    if own is not None and own.is_file():
        path = own  # it is kept as it is: that is how a user replaces the division
    if path is not None:
        rows = _in_table(config, path, rows)
    groups = _attempt(lines, lambda: read_groups(grouped, rows)) if has_groups else []
    if groups is None:
        return
    if path is not None:
        folds = read_folds(path, rows, (), groups)
    else:
        coverage = np.zeros((len(rows), len(config.classes)))
        folds = assign_folds(config, rows, coverage, groups, [row.id for row in rows])
    known = sorted({fold for fold in folds if fold >= 0})
    valid = ", ".join(map(str, known))
    for where, fold in named_folds(config):
        if fold not in known and (options.kind == "file" or path is not None):
            lines.append(f"{where}: fold {fold} does not exist; valid: {valid} (of {path})")
    elsewhere = [fold for _, fold in named_folds(config) if fold not in known]
    if options.kind == "file" and not elsewhere and not config.planned_members(known):
        lines.append("data.folds.use: together with members.NAME.folds it leaves no fold to train")
    pairs = [n for n, r in enumerate(config.rounds) if r.judges_labeled and r.judge == "pair"]
    if pairs and len(known) < 3 and options.kind in ("file", "holdout"):
        lines.append(f"rounds.{pairs[0]}.teacher: pair needs 3 or more folds, not {len(known)}")


def _in_table(config: Config, path: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows that a table of folds has to name. One that it leaves out may be an image that
    cannot be read, which has no fold; so the first of those that can be read is what counts."""
    ids = {cells["id"] for _, cells in read_table(path, ("id", "fold"))}
    forgotten = (row for row in rows if row.id not in ids and _is_good(config, row))
    first = next(forgotten, None)
    return [row for row in rows if row.id in ids or row is first]


def _is_good(config: Config, row: Row) -> bool:
    if config.data.format == "synthetic":
        return True
    try:
        inspect(config, [row])
    except UserError:
        return False
    return True
