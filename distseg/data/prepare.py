"""From files to the first Manifest: list, check, divide, write down."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from distseg.config.schema import Config
from distseg.data import folds
from distseg.data.cache import Cache, build_cache
from distseg.data.depths import Depths, load_depths, read_input
from distseg.data.formats import Row, layout
from distseg.data.inspect import Bad, Checked, inspect
from distseg.data.read_input import image_size
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_json, write_json
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run

logger = logging.getLogger(__name__)


def prepare(config: Config, run: Run) -> None:
    """Write folds.csv, round 0's Manifest, and data/{quarantine,balance,test}.csv and
    statistics.json of a run. Done before for the same settings and folds: nothing happens.

    A folds.csv that exists is kept as it is, and checked: that is how a user replaces it.
    UserError: no usable data, a folds.csv that does not fit, or a train set that would change
    under members that were trained on it.
    """
    check_settings(config)
    with FileLock(_made(run.data) / ".lock"):
        statistics = run.data / "statistics.json"
        done = run.truth.is_file() and statistics.is_file()
        if done and read_json(statistics)["key"] == _key(config, run):
            return
        _prepare(config, run, statistics)


def check_settings(config: Config) -> None:
    """What the schema cannot see. UserError names the key."""
    layout(config.data.format)
    load_depths(config)


def _prepare(config: Config, run: Run, statistics: Path) -> None:
    module = layout(config.data.format)
    checked = inspect(config, module.train(config))
    divided = _folds(config, run, checked)
    samples = [
        Sample(row.id, row.image, row.target, fold, height=row.height, width=row.width)
        for row, fold in zip(checked.good, divided, strict=True)
    ]
    manifest, tests = Manifest(samples), test_manifest(module.test(config))
    _refuse_change(run, manifest)
    _write_quarantine(run.data / "quarantine.csv", checked.quarantine)
    table = folds.balance(config, divided, checked.coverage)
    folds.write_balance(run.data / "balance.csv", table)
    tests.write(run.data / "test.csv")
    manifest.write(run.truth)
    write_json(statistics, {"key": _key(config, run), **_statistics(config, checked, len(tests))})
    run.log_event("prepared", train=len(manifest), test=len(tests), bad=len(checked.quarantine))
    logger.info("%d train images, %d test images, folds:", len(manifest), len(tests))
    for line in folds.balance_text(table).splitlines():
        logger.info("  %s", line)
    if checked.quarantine:
        _, file, reason = checked.quarantine[0]
        logger.warning(
            "%d rows are left out, see %s; the first: %s: %s",
            len(checked.quarantine), run.data / "quarantine.csv", file, reason,
        )  # fmt: skip


def _folds(config: Config, run: Run, checked: Checked) -> list[int]:
    """Those of folds.csv, which is written first where it is missing."""
    rows, twins = checked.good, checked.duplicates
    groups = folds.read_groups(config, rows)
    if not run.folds.is_file():
        divided = folds.assign_folds(config, rows, checked.coverage, groups, twins)
        folds.write_folds(run.folds, [row.id for row in rows], divided)
    return folds.read_folds(run.folds, rows, twins, groups)


def _refuse_change(run: Run, manifest: Manifest) -> None:
    path = run.truth
    if not path.is_file() or not any((run.round(0) / "members").glob("*")):
        return
    if Manifest.read(path).samples != manifest.samples:
        raise UserError(
            f"{path}: the data, the folds or their settings changed after members were trained on "
            "it; start a new run with --out, or undo the change"
        )


def test_manifest(rows: Sequence[Row]) -> Manifest:
    """Test rows with their size from the file's header; 0 where it cannot be read: such an image
    is reported at prediction, and gets an empty mask."""

    def sample(row: Row) -> Sample:
        try:
            height, width = (0, 0) if row.problem else image_size(row.image)
        except UserError:
            height, width = 0, 0
        return Sample(row.id, row.image, row.target, height=height, width=width)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return Manifest(list(pool.map(sample, rows)))


def _key(config: Config, run: Run) -> str:
    """Of what the Manifest was made from: settings and folds.csv. Where the cache lies is none of
    it: each node of a cluster has its own."""
    inputs = {name: config.input_of(name).model_dump_json() for name in config.members}
    data = config.data.model_dump_json(exclude={"cache_dir"})
    parts = [data, config.task, config.classes, config.void, inputs]
    written = run.folds.read_bytes() if run.folds.is_file() else b""
    return hashlib.sha1(repr(parts).encode() + written, usedforsecurity=False).hexdigest()


def _write_quarantine(path: Path, quarantine: Sequence[Bad]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("id", "file", "reason"), *quarantine])
    atomic_write(path, text.getvalue())


def _statistics(config: Config, checked: Checked, num_test: int) -> dict[str, object]:
    return {
        "train": len(checked.good),
        "test": num_test,
        "quarantine": len(checked.quarantine),
        "constant": sum(facts.constant for facts in checked.facts),
        "coverage": [round(value, 6) for value in checked.coverage.mean(axis=0).tolist()],
        "empty": round(float((folds.object_share(config, checked.coverage) == 0).mean()), 6),
        "twins": len(checked.duplicates) - len(set(checked.duplicates)),
    }


def open_cache(config: Config, run: Run) -> Cache:
    """The decoded train set of a prepared run; built under a lock by whoever comes first."""
    folder = Path(config.data.cache_dir) if config.data.cache_dir else run.cache
    return build_cache(config, Manifest.read(run.truth), folder)


def open_unlabeled_cache(config: Config, run: Run) -> Cache:
    """The decoded test images that can be read: `run.unlabeled` names them."""
    if not run.unlabeled.is_file():
        with FileLock(run.data / ".lock"):
            if not run.unlabeled.is_file():  # no other rank was first
                _write_unlabeled(config, run)
    folder = Path(config.data.cache_dir) if config.data.cache_dir else run.cache
    return build_cache(config, Manifest.read(run.unlabeled), folder)


def _write_unlabeled(config: Config, run: Run) -> None:
    tests = Manifest.read(run.data / "test.csv")
    good, bad = _readable(tests, config.input.channels, load_depths(config))
    for sample, reason in bad:
        logger.warning("%s: %s: gets no pseudo-label", sample.image, reason)
        run.log_event("broken_image", id=sample.id, reason=reason)
    Manifest(good).write(run.unlabeled)


def _readable(
    tests: Manifest, channels: int, depths: Depths | None
) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    """The samples whose file decodes, and the others with the reason."""

    def problem(sample: Sample) -> str:
        try:
            read_input(sample.image, channels, depths)
        except (UserError, OSError, MemoryError) as error:
            return str(error) or type(error).__name__
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(zip(tests, pool.map(problem, tests), strict=True))
    return [s for s, reason in found if not reason], [pair for pair in found if pair[1]]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
