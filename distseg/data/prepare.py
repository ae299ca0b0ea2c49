"""From files to the first Manifest and the decode cache: list, check, divide, write down."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.data import folds
from distseg.data.cache import (
    Cache,
    build_cache,
    cache_key,
    cache_lock,
    check_space,
    decode_each,
    fill_cache,
    find_cache,
    stamps_of,
)
from distseg.data.depths import load_depths
from distseg.data.formats.row import Row
from distseg.data.image_file import image_size
from distseg.data.inspect import Checked, NeedsLevels, inspect, with_levels
from distseg.data.layouts import layout, said, with_own_split
from distseg.data.listed import Listed
from distseg.data.mask_values import write_values
from distseg.data.passed_over import passed_over
from distseg.data.read_input import image_channels
from distseg.data.threads import in_threads
from distseg.records.errors import UserError, printable
from distseg.records.files import atomic_write, read_json, read_json_or, write_json
from distseg.records.finished_member import any_trained, forget_all
from distseg.records.manifest import Manifest, Sample, table_problem
from distseg.records.paths import Run
from distseg.records.tables import read_rows, write_table

logger = logging.getLogger(__name__)
NOT_IN_KEY: Any = {"cache_dir": True, "feature_cache_gb": True, "levels": True, "folds": {"use"}}


def prepare(config: Config, run: Run) -> Config:
    """Write folds.csv, round 0's Manifest, data/{quarantine,balance,files,test}.csv,
    statistics.json and the decode cache of a run. Where that was done for the same settings, folds
    and files, nothing happens.

    A folds.csv that exists is kept as it is, and checked: that is how a user replaces it.

    Returns:
        The config with `data.levels` as the train images have it, and with the data set's own split
        (`with_own_split`); run.config is written anew where levels are new.

    Raises:
        UserError: no usable data, a folds.csv that does not fit, or data that changed under members
            that were trained on it.
    """
    check_settings(config)
    config = with_own_split(config)
    with FileLock(_made(run.data) / ".lock"):
        statistics = run.data / "statistics.json"
        known = read_json_or(statistics, {}) if run.truth.is_file() else {}
        done, levels = dict(known), known.get("levels")
        if done.get("key") == _key(config, run) and _is_driven():
            return _leveled(config, levels)  # whose driver has looked at the files
        listed = Listed.of(config)
        if damage := done and _damage(run, done):
            logger.warning("%s: made again", damage)
            done = {}
        if done.get("key") != _key(config, run) or done.get("train_files") != listed.train_files:
            levels = _prepare(config, run, listed, statistics, _digest_in(known, run.truth.name))
            done = read_json(statistics)
        if done.get("test_files") != listed.test_files:
            digest = _write_tests(config, run, listed, known.get("test_files"))
            found = {"test": len(listed.test), "test_files": listed.test_files}
            found["digests"] = {**done["digests"], "test.csv": digest}
            write_json(statistics, {**done, **found})
        resolved = _leveled(config, levels)
        if resolved != config and run.config.is_file():
            atomic_write(run.config, dump_config(resolved))  # jobs read it
        return resolved


def _digest_in(statistics: Mapping[str, Any], name: str) -> str | None:
    """The digest that a table was written with, as far as that is known."""
    return statistics.get("digests", {}).get(name)


def _is_driven() -> bool:
    return "DISTSEG_JOB" in os.environ


def _leveled(config: Config, levels: Sequence[float] | None) -> Config:
    if levels is None or config.data.levels is not None:
        return config
    data = config.data.model_copy(update={"levels": (levels[0], levels[1])})
    return config.model_copy(update={"data": data})


def _damage(run: Run, statistics: Mapping[str, Any]) -> str:
    """Which table of a prepared run is lost, or does not hold the rows that it was written with."""
    paths = (run.truth, run.data / "test.csv")
    problems = (table_problem(path, _digest_in(statistics, path.name)) for path in paths)
    return next((problem for problem in problems if problem), "")


def check_settings(config: Config) -> None:
    """What the schema cannot see. UserError names the key."""
    layout(config.data.format)
    load_depths(config)


def _prepare(
    config: Config, run: Run, listed: Listed, statistics: Path, digest: str | None
) -> tuple[float, float] | None:
    """The train set of a run, from its files; returns `data.levels`, where there are any. digest:
    that of the Manifest on disk when it was written, which may be damaged."""
    folder = cache_folder(config, run)
    try:
        checked = _inspect_into_cache(config, listed.train, folder)
    except NeedsLevels:
        config = with_levels(config, listed.train)
        checked = _inspect_into_cache(config, listed.train, folder)
    _refuse_change(run, checked)
    divided = _folds(config, run, checked)
    samples = [
        Sample(row.id, row.image, row.target, fold, height=row.height, width=row.width)
        for row, fold in zip(checked.good, divided, strict=True)
    ]
    manifest = Manifest(samples)
    _refuse_other_rows(run, manifest, digest)
    if not any_trained(run):
        forget_all(run)  # states of other rows, at most
    write_table(run.data / "quarantine.csv", ("id", "file", "reason"), checked.quarantine)
    write_table(run.data / "files.csv", ("id", "content"), _contents(checked).items())
    write_values(config, checked.held, run.data)
    table = folds.balance(config, divided, checked.coverage)
    folds.write_balance(run.data / "balance.csv", table)
    manifest.write(run.truth)
    run.units.unlink(missing_ok=True)  # of other rows or groups
    digests = {run.truth.name: manifest.digest}
    known = {"key": _key(config, run), "levels": config.data.levels, "digests": digests}
    found = _statistics(config, checked, len(listed.test))
    write_json(statistics, {**known, "train_files": listed.train_files, **found})
    run.log_event("prepared", train=len(manifest), test=len(listed.test), bad=found["quarantine"])
    logger.info("%d train images, %d test images, folds:", len(manifest), len(listed.test))
    for line in folds.balance_text(table).splitlines():
        logger.info("  %s", line)
    if checked.quarantine:
        _, file, reason = checked.quarantine[0]
        logger.warning(
            "%d rows are left out, see %s; the first: %s: %s",
            len(checked.quarantine), run.data / "quarantine.csv", file, reason,
        )  # fmt: skip
    for line in said(config):
        logger.info("%s", printable(line))
    for line in passed_over(config):
        logger.warning("%s", printable(line))
    return config.data.levels


def _write_tests(config: Config, run: Run, listed: Listed, files: str | None) -> str:
    """The Manifest of the test images, which changed; returns its digest. What was predicted of the
    old ones is older than it, and is made again. files: `Listed.test_files` of before; where they
    are the same, it is the table that was damaged.

    UserError: a round has learned from the old ones.
    """
    path, tests = run.data / "test.csv", test_manifest(config, listed.test)
    changed = path.is_file() and listed.test_files != files
    if changed and (run.unlabeled.is_file() or any(run.folder.glob("round_*/select"))):
        old = {sample.id for sample in Manifest.read(path)}
        new = {row.id for row in listed.test}
        raise UserError(
            f"{path}: {_differences(old, new, set()) or 'test images changed'}, after a round has "
            "learned from them; start a new run with --out, or undo the change"
        )
    tests.write(path)
    return tests.digest


def _inspect_into_cache(config: Config, rows: Sequence[Row], folder: Path) -> Checked:
    """Check every row; in the same pass the pixels of the good ones become the cache, where
    `folder` does not hold it already. The rows of the cache are the good ones, in order."""
    stamps = stamps_of(row for row in rows if not row.problem)
    with cache_lock(folder):
        if find_cache(folder, cache_key(config, stamps.values())) is None:
            check_space(config, _measured(config, rows), folder)
            return fill_cache(config, folder, stamps, lambda keep: inspect(config, rows, keep))
    return inspect(config, rows)


def _folds(config: Config, run: Run, checked: Checked) -> list[int]:
    """The fold of each good row, from folds.csv, which is written where it is missing."""
    rows, duplicates = checked.good, checked.together
    groups = folds.read_groups(config, [row.id for row in rows])
    divided = folds.divide(config, run.folds, rows, checked.coverage, groups, duplicates)
    if not run.folds.is_file():
        folds.write_own(run, [row.id for row in rows], divided)
    return divided


def _contents(checked: Checked) -> dict[str, str]:
    """By id, a hash of what training sees of a row."""
    pairs = zip(checked.good, checked.facts, strict=True)
    return {row.id: facts.content for row, facts in pairs}


def _refuse_change(run: Run, checked: Checked) -> None:
    """UserError where members were trained on other pixels or labels than the files hold now."""
    path = run.data / "files.csv"
    if not path.is_file() or not any_trained(run):
        return
    old, new = {row["id"]: row["content"] for row in read_rows(path)}, _contents(checked)
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    told = _differences(set(old), set(new), changed)
    if told:
        raise UserError(
            f"{path}: the train data changed after members were trained on it: {told}; start a new "
            "run with --out, or undo the change"
        )


def _differences(old: set[str], new: set[str], changed: set[str]) -> str:
    """`3 changed (a, b, c), 1 added (d)`; "" where nothing differs."""
    parts = (("changed", changed), ("added", new - old), ("removed", old - new))
    return ", ".join(
        f"{len(ids)} {what} ({', '.join(sorted(ids)[:3])}{', ...' * (len(ids) > 3)})"
        for what, ids in parts
        if ids
    )


def _refuse_other_rows(run: Run, manifest: Manifest, digest: str | None) -> None:
    """UserError where members were trained on a train set that differs from this one. digest: that
    of the one on disk when it was written."""
    if not run.truth.is_file() or not any_trained(run) or manifest.digest == digest:
        return
    if Manifest.read(run.truth).samples != manifest.samples:
        raise UserError(
            f"{run.truth}: the data, the folds or their settings changed after members were "
            "trained on it; start a new run with --out, or undo the change"
        )


def test_manifest(config: Config, rows: Sequence[Row]) -> Manifest:
    """The Manifest of the test rows, with their sizes. An image without a size, 0 x 0, is reported
    at prediction."""
    measured = _measured(config, rows)
    return Manifest(
        [Sample(r.id, r.image, r.target, height=r.height, width=r.width) for r in measured]
    )


def _measured(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The rows with the sizes that their files' headers say; 0 x 0 where none can be read."""

    def measure(row: Row) -> Row:
        try:
            height, width = (0, 0) if row.problem else _size(config, row)
        except UserError:
            height, width = 0, 0
        return replace(row, height=height, width=width)

    return list(in_threads(measure, rows))


def _size(config: Config, row: Row) -> tuple[int, int]:
    return image_size(row.image, config.data.max_pixels, image_channels(config))


def _key(config: Config, run: Run) -> str:
    """A hash of what the Manifest was made from: the settings and folds.csv. The place of the cache
    is no part of it: each node of a cluster has its own; nor are the measured levels and `use`."""
    inputs = sorted({config.input_of(name).model_dump_json() for name in config.members})
    data = config.data.model_dump_json(exclude=NOT_IN_KEY)
    depths = load_depths(config)
    parts = [data, config.task, config.classes, config.void, inputs, sorted((depths or {}).items())]
    written = run.folds.read_bytes() if run.folds.is_file() else b""
    return hashlib.sha1(repr(parts).encode() + written, usedforsecurity=False).hexdigest()


def _statistics(config: Config, checked: Checked, num_test: int) -> dict[str, object]:
    """Counts of rows, and shares of pixels and images (0..1), for the report."""
    return {
        "train": len(checked.good),
        "test": num_test,
        "quarantine": len(checked.quarantine),
        "constant": sum(facts.constant for facts in checked.facts),
        "coverage": [round(value, 6) for value in checked.coverage.mean(axis=0).tolist()],
        "empty": round(float((folds.object_share(config, checked.coverage) == 0).mean()), 6),
        # byte-identical images beside the first of each; the key keeps its old name for its readers
        "twins": len(checked.duplicates) - len(set(checked.duplicates)),
    }


def cache_folder(config: Config, run: Run) -> Path:
    """Where the caches lie: `data.cache_dir`, or inside the run."""
    return Path(config.data.cache_dir) if config.data.cache_dir else run.cache


def open_cache(config: Config, run: Run, *, check: bool = False) -> Cache:
    """The decoded train set of a prepared run. `prepare` has made it, so no image is opened; only
    where its folder is another one (a cluster's node), is gone or damaged, the first to come
    builds it. check: compare its bytes with its content hash, one pass over the files."""
    return build_cache(config, Manifest.read(run.truth), cache_folder(config, run), check=check)


def open_unlabeled_cache(config: Config, run: Run) -> Cache:
    """The decoded test images that can be read: `run.unlabeled` names them."""
    folder = cache_folder(config, run)
    if not run.unlabeled.is_file():
        with FileLock(run.data / ".lock"):
            if not run.unlabeled.is_file():  # no other rank was first
                _make_unlabeled(config, run, folder)
    return build_cache(config, Manifest.read(run.unlabeled), folder)


def _make_unlabeled(config: Config, run: Run, folder: Path) -> None:
    """Decode the test images into a cache, and write down which can be read. The others stay out:
    one broken test image must not end a round."""
    tests = Manifest.read(run.data / "test.csv")
    stamps = stamps_of(tests)
    key = cache_key(config, stamps.values())
    with cache_lock(folder):
        known = find_cache(folder, key)
        if known is None:
            check_space(config, tests, folder)
            bad = fill_cache(
                config, folder, stamps, lambda keep: list(decode_each(config, tests, keep))
            )
        else:  # another run made it: only the reasons of the broken ones are not known
            bad = list(decode_each(config, [s for s in tests if s.id not in known.index]))
    for sample, reason in bad:
        logger.warning("%s: %s: no round learns from it", sample.image, reason)
        run.log_event("broken_image", id=sample.id, reason=reason)
    broken = {sample.id for sample, _ in bad}
    Manifest([sample for sample in tests if sample.id not in broken]).write(run.unlabeled)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
