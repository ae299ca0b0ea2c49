"""What is wrong with a config's data, as far as names and tables tell.

Each mistake is one line that begins with its key, or names the file. No image is decoded, but for
those that a user's own table of folds leaves out: one that cannot be read needs no fold.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from distseg.config.fields import Strict, changed_keys
from distseg.config.schema import Config
from distseg.config.validate import named_folds
from distseg.data.depths import Depths, load_depths
from distseg.data.folds import divide, find_file, read_groups
from distseg.data.formats import table
from distseg.data.formats.names import above
from distseg.data.formats.row import Row, plain
from distseg.data.id_tables import read_by_id
from distseg.data.inspect import is_good
from distseg.data.layouts import FORMATS, layout, submission_of
from distseg.records.errors import UserError
from distseg.records.files import path_problem
from distseg.records.paths import Run
from distseg.records.tables import read_rows

T = TypeVar("T")
SOME_LAYOUTS = (
    *("table", "border", "mask_values", "mask_channel", "colors", "overlap"),
    *("folder", "csv", "coco", "yolo", "labelme", "synthetic"),
)


def mistakes(config: Config, run: Run | None = None, *, sweep: bool = False) -> list[str]:
    """Every mistake that the data's names and tables show.

    Args:
        run: where a run is, or will be; a folds.csv of the user's may lie there.
        sweep: whether the folds of the `tune` section count.
    """
    own = run.folds if run is not None and run.folds.is_file() else None
    lines = [*_unread_keys(config), *_missing(config, own)]
    if any(line.startswith(("data.root: ", "data.table: ")) for line in lines):
        return lines  # everything below would only say so again
    rows = _rows(config, lines)
    tests = _test_rows(config, lines)
    if rows is not None:
        _attempt(lines, lambda: _folds(config, run, rows, lines, sweep))
    unlabeled = [n for n, entry in enumerate(config.rounds) if entry.needs_tests]
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
    except OSError as error:  # a folder that may not be entered, a name that is too long
        if not any(str(error.filename) in line for line in lines):  # its key has said so
            lines.append(f"{error.filename}: cannot be read: {error.strerror}")
    return None


# -- keys -----------------------------------------------------------------------------------------


def _unread_keys(config: Config) -> Iterator[str]:
    data, form = config.data, config.data.format
    reads = layout(form).READS
    for key in sorted(changed_keys(data) & set(SOME_LAYOUTS)):
        for name in _unread(key, getattr(data, key), reads):
            others = [other for other in FORMATS if _is_read(name, layout(other).READS)]
            yield (
                f"data.{name}: format: {form} does not read it; it is for format: "
                f"{', '.join(others)}"
            )
    if config.void is not None and "mask_values" not in reads:
        yield f"void: {config.void}: data.format: {form} has no mask files that could hold it"
    if form == "tgs" and not (Path(data.root) / "train" / "masks").is_dir():
        keys = sorted(changed_keys(data) & {"mask_values", "mask_channel", "colors"})
        keys += [f"folder.{key}" for key in sorted(changed_keys(data.folder))]
        for key in keys:
            yield f"data.{key}: is for mask files; without train/masks, train.csv is read"
    if form == "table":
        yield from _unread_of_table(config)
    if form == "folder" and data.folder.submission == "masks":
        for key in sorted(changed_keys(data.folder) & {"rle_order", "rle_base", "rle_empty"}):
            yield f"data.folder.{key}: is for data.folder.submission: rle, not masks"
    if data.mask_values is not None and form == "oxford_pet" and "border" in changed_keys(data):
        yield "data.border: data.mask_values says already what the border counts as"


def _unread_of_table(config: Config) -> Iterator[str]:
    """Keys for mask files, where the table holds RLEs, and the other way round."""
    try:
        holds_rles = table.has_rles(config)
    except (UserError, OSError):  # whoever lists its rows says so
        return
    data = config.data
    if not holds_rles:
        if table.sample_path(config) is None:  # the submission is masks, too
            for key in sorted(changed_keys(data.csv) & {"order", "base", "empty"}):
                yield f"data.csv.{key}: is for a table of RLEs; this one holds paths of masks"
        return
    if data.csv.masks is not None:
        yield "data.csv.masks: is for a table of paths of masks; this one holds RLEs"
    keys = sorted(changed_keys(data) & {"mask_values", "mask_channel", "colors"})
    keys += [f"folder.{key}" for key in sorted(changed_keys(data.folder))]
    for key in keys:
        yield f"data.{key}: is for mask files; the table holds RLEs"
    if config.void is not None:
        yield f"void: {config.void}: is for mask files; the table holds RLEs"


def _unread(key: str, value: object, reads: Sequence[str]) -> list[str]:
    """`folder.rle_order`, or `table`: what of `key` a layout that reads `reads` does not. A section
    of which it reads nothing is named once."""
    if not isinstance(value, Strict):
        return [] if _is_read(key, reads) else [key]
    if not any(read.partition(".")[0] == key for read in reads):
        keys = sorted(changed_keys(value))
        return [key] if len(keys) > 1 else [f"{key}.{one}" for one in keys]
    names = [f"{key}.{one}" for one in sorted(changed_keys(value))]
    return [name for name in names if not _is_read(name, reads)]


def _is_read(name: str, reads: Sequence[str]) -> bool:
    """Whether a layout that reads `reads` reads the key `name`, or some of the section `name`."""
    return any(
        name == read or name.startswith(f"{read}.") or read.startswith(f"{name}.") for read in reads
    )


def _missing(config: Config, own: Path | None) -> Iterator[str]:
    """Files and folders that the user named and that are not there. own: the run's folds.csv, in
    whose place no other table of folds is read."""
    data, root = config.data, Path(config.data.root)
    if data.cache_dir is not None:
        problem = path_problem(Path(data.cache_dir), "folder")
        if problem and not problem.startswith("no such"):  # it is made where it is not there
            yield f"data.cache_dir: {data.cache_dir}: {problem}"
    if data.format == "synthetic":
        root = Path()
    elif problem := path_problem(root, "folder"):
        yield f"data.root: {data.root}: {problem}"
        return
    named: list[tuple[str, Path, str]] = []
    for key in ("val_images", "val_masks", "test_images", "test_masks"):
        name = getattr(data.folder, key)
        if data.format == "folder" and name is not None and key in changed_keys(data.folder):
            named.append((f"folder.{key}", root / above(name), "folder"))
    if data.depths is not None:
        named.append(("depths", root / data.depths, "file"))
    if data.table is not None and "table" in layout(data.format).READS:
        named.append(("table", root / data.table, "file"))
    for key, path, what in named:
        if problem := path_problem(path, what):
            yield f"data.{key}: {path}: {problem}"
    for key in _fold_tables(config, own):
        name = getattr(data.folds, key)
        if path_problem(find_file(config, name)):
            yield f"data.folds.{key}: {name}: {path_problem(root / name)}"


def _fold_tables(config: Config, own: Path | None) -> list[str]:
    """Keys of the tables that dividing the rows reads."""
    folds = config.data.folds
    uses = ["groups"] if folds.kind == "group" else []
    if own is None:
        uses += ["path"] if folds.kind == "file" else ["strata"]
    return [key for key in uses if getattr(folds, key) is not None]


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
    if rows and depths is not None and not _names_any(rows, depths):
        lines.append(f"data.depths: {config.data.depths}: it names none of the train images")
    return rows or None


def _names_any(rows: Sequence[Row], depths: Depths) -> bool:
    return any(plain(Path(row.image).stem) in depths for row in rows)


def _depths(config: Config, lines: list[str]) -> Depths | None:
    depths = config.data.depths
    if depths is None or path_problem(Path(config.data.root) / depths):
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
    root = Path(config.data.root)
    named = options.test_masks is None or not path_problem(root / options.test_masks, "folder")
    if rows and named:  # a folder that is not there has a line of its own
        _attempt(lines, lambda: submission_of(config))
        _attempt(lines, lambda: form.test_truth(config))
    return len(rows)


# -- folds ----------------------------------------------------------------------------------------


def _folds(
    config: Config, run: Run | None, rows: Sequence[Row], lines: list[str], sweep: bool
) -> None:
    """Divide the rows as the run will, but for what only the masks tell."""
    options = config.data.folds
    own = run.folds if run is not None and run.folds.is_file() else None
    if any(path_problem(find_file(config, getattr(options, k))) for k in _fold_tables(config, own)):
        return
    path = own  # it is kept as it is: that is how a user replaces the division
    if path is None and options.kind == "file":
        path = find_file(config, str(options.path))
    if path is not None:
        rows = _in_table(config, path, run, rows)
    groups = read_groups(config, [row.id for row in rows])
    coverage = np.zeros((len(rows), len(config.classes)))
    folds = divide(config, own, rows, coverage, groups, [row.id for row in rows])
    known = sorted({fold for fold in folds if fold >= 0})
    named = named_folds(config, sweep=sweep)
    absent = [(where, fold) for where, fold in named if fold not in known]
    if path is not None:  # of other folds the config alone tells
        valid = f"valid: {', '.join(map(str, known))} (of {path})"
        lines += [f"{where}: fold {fold} does not exist; {valid}" for where, fold in absent]
        if not absent and not config.planned_members(known):
            lines.append(
                "data.folds.use: together with members.NAME.folds it leaves no fold to train"
            )
    pairs = [n for n, r in enumerate(config.rounds) if r.judges_labeled and r.judge == "pair"]
    if pairs and len(known) < 3 and path is not None:
        lines.append(
            f"rounds.{pairs[0]}.teacher: pair needs 3 or more folds, not {len(known)} (of {path})"
        )


def _in_table(config: Config, path: Path, run: Run | None, rows: Sequence[Row]) -> list[Row]:
    """The rows that a table of folds has to name. Those that it leaves out may be images that
    cannot be read, which have no fold; the run may know that already. They are opened up to the
    first that can be read: that one is a mistake, and the others are counted with it."""
    ids = set(read_by_id(path, "fold"))
    quarantine: list[dict[str, str]] = []
    with contextlib.suppress(UserError):  # a damaged one is made again
        quarantine = read_rows(run.data / "quarantine.csv") if run is not None else []
    known = ids | {plain(cells["id"]) for cells in quarantine}
    absent = [row for row in rows if plain(row.id) not in known]
    forgotten = itertools.dropwhile(lambda row: not _is_good(config, row), absent)
    wanted = ids | {plain(row.id) for row in forgotten}
    return [row for row in rows if plain(row.id) in wanted]


def _is_good(config: Config, row: Row) -> bool:
    return config.data.format == "synthetic" or is_good(config, row)
