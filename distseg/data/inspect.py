"""Checks before any GPU starts: every file is opened, and what is bad is set aside, by name."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from distseg.config.schema import Config
from distseg.data.depths import load_depths, read_input
from distseg.data.fit import Fit
from distseg.data.formats.row import Row
from distseg.data.read_input import VOID, BadFile, read_target
from distseg.records.errors import UserError

Bad = tuple[str, str, str]  # id, file, reason


@dataclass(frozen=True, slots=True)
class Facts:
    """What a good row's files hold. coverage: share of known pixels per class, 0..1. sha1: of the
    image file's bytes. mode: Pillow's. constant: the image has a single value."""

    sha1: str
    mode: str
    coverage: tuple[float, ...]
    constant: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """good: rows with their size, in order; facts: one for each; quarantine: the others."""

    good: list[Row]
    facts: list[Facts]
    quarantine: list[Bad] = field(default_factory=list)

    @property
    def coverage(self) -> np.ndarray:
        """float64 (N, classes)."""
        return np.array([facts.coverage for facts in self.facts], dtype=np.float64)

    @property
    def duplicates(self) -> list[str]:
        """A key per good row: equal for byte-identical images."""
        return [facts.sha1 for facts in self.facts]


def inspect(config: Config, rows: Sequence[Row]) -> Checked:
    """Open everything. UserError with data.strict and a bad row, or when no row is good."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda row: _check(config, row), _twice(rows)))
    good = [result for result in results if not isinstance(result[0], str)]
    quarantine = [result for result in results if isinstance(result[0], str)]
    if quarantine and (config.data.strict or not good):
        name, file, reason = quarantine[0]
        why = "data.strict is set" if good else "no row is left"
        raise UserError(
            f"{file}: {reason} (id {name!r}); {len(quarantine)} of {len(rows)} rows are bad: {why}"
        )
    if not good:
        raise UserError(f"{config.data.root}: no train rows here")
    return Checked([row for row, _ in good], [facts for _, facts in good], quarantine)


def _twice(rows: Sequence[Row]) -> list[Row]:
    """The rows, where a later one of the same id has that as its problem."""
    first: dict[str, Row] = {}
    checked = []
    for row in rows:
        if first.setdefault(row.id, row) is not row and not row.problem:
            row = replace(row, problem=f"id {row.id!r} is already that of {first[row.id].image}")
        checked.append(row)
    return checked


def _check(config: Config, row: Row) -> tuple[Row, Facts] | Bad:
    if row.problem:
        return row.id, row.image, row.problem
    try:
        return _open(config, row)
    except BadFile as error:
        return row.id, error.path, error.reason
    except (UserError, OSError, MemoryError) as error:
        return row.id, row.image, str(error) or type(error).__name__


def _open(config: Config, row: Row) -> tuple[Row, Facts]:
    image = read_input(row.image, config.input.channels, load_depths(config))
    height, width = image.shape[:2]
    target = read_target(row.target, config, height, width)
    _check_fits(config, row, height, width)
    constant = bool((image == image[0, 0]).all())
    if constant and config.data.exclude_constant:
        raise BadFile(row.image, f"all pixels are {image[0, 0].tolist()} (data.exclude_constant)")
    sha1 = hashlib.sha1(Path(row.image).read_bytes(), usedforsecurity=False).hexdigest()
    facts = Facts(sha1, _mode(row.image), _coverage(target, config), constant)
    return replace(row, height=height, width=width), facts


def _check_fits(config: Config, row: Row, height: int, width: int) -> None:
    for name in config.members:
        size = config.input_of(name)
        if size.fit == "pad" and Fit(size).canvas(height, width) != (size.height, size.width):
            raise BadFile(
                row.image,
                f"{height}x{width} is larger than the input {size.height}x{size.width} of member "
                f"{name}: enlarge it, or set input.fit to crop or resize",
            )


def _mode(path: str) -> str:
    if path.endswith(".npy"):
        return "npy"
    with Image.open(path) as image:
        return image.mode


def _coverage(target_KHW: np.ndarray, config: Config) -> tuple[float, ...]:
    """Share of each class among the pixels that are not VOID, one value per class."""
    counts = [np.bincount(plane.ravel(), minlength=256) for plane in target_KHW]
    if config.task == "multiclass":
        known = max(1, int(counts[0][:VOID].sum()))
        return tuple(float(n) / known for n in counts[0][: len(config.classes)])
    return tuple(float(c[1]) / max(1, int(c[0] + c[1])) for c in counts)


def report(config: Config, checked: Checked, num_test: int = 0) -> str:
    """What `distseg inspect` prints."""
    rows, facts = checked.good, checked.facts
    coverage = checked.coverage
    sizes = Counter(f"{row.height}x{row.width}" for row in rows)
    copies = [n for n in Counter(checked.duplicates).values() if n > 1]
    source = f"{config.data.format} {config.data.root}"
    lines = [
        f"{source}: {len(rows)} train images, {num_test} test images",
        f"sizes (height x width): {_top(sizes)}",
        f"file modes: {_top(Counter(f.mode for f in facts))}; read as {config.input.channels} "
        "channel(s) of 8 bits",
        f"images of one value: {sum(f.constant for f in facts)}; byte-identical to another: "
        f"{sum(copies)} in {len(copies)} groups",
    ]
    for number, name in enumerate(config.classes):
        lines += _histogram(name, coverage[:, number])
    lines.append(f"quarantine: {len(checked.quarantine)}")
    lines += [f"  {name}  {file}: {reason}" for name, file, reason in checked.quarantine[:20]]
    if len(checked.quarantine) > 20:
        lines.append(f"  ... and {len(checked.quarantine) - 20} more")
    return "\n".join(lines)


def _top(counter: Counter[str], num: int = 6) -> str:
    shown = ", ".join(f"{name} ({n})" for name, n in counter.most_common(num))
    return shown + (f", and {len(counter) - num} more" if len(counter) > num else "")


def _histogram(name: str, coverage: np.ndarray) -> list[str]:
    """Images by share of pixels of one class: none, then tenths."""
    empty = int((coverage == 0).sum())
    tenths = np.histogram(coverage[coverage > 0], bins=10, range=(0, 1))[0]
    longest = max(1, empty, *tenths.tolist())
    labels = ["empty", *(f"{i * 10:>3}-{i * 10 + 10}%" for i in range(10))]
    bars = [
        f"  {label:>8} {count:>7} {'#' * round(40 * count / longest)}"
        for label, count in zip(labels, [empty, *tenths.tolist()], strict=True)
    ]
    mean = float(coverage.mean()) if len(coverage) else 0.0
    return [f"class {name}: mean coverage {mean:.2%}, {empty} of {len(coverage)} empty", *bars]
