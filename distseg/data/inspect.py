"""Checks before any GPU starts: every file is opened, and what is bad is set aside, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Keep
from distseg.data.depths import load_depths
from distseg.data.fit import Fit
from distseg.data.formats.row import Row
from distseg.data.image_file import BadFile, decode, file_hash, open_file
from distseg.data.read_input import to_input
from distseg.data.read_target import read_target
from distseg.data.threads import in_threads
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError

Bad = tuple[str, str, str]  # id, file, reason


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a good row hold.

    sha1: of the image file's bytes.
    mode: Pillow's mode of the image file, or "npy".
    coverage: share of each class among the pixels that are not void, 0..1.
    constant: whether all pixels of the image have one value.
    """

    sha1: str
    mode: str
    coverage: tuple[float, ...]
    constant: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """good: the usable rows with their size, in order; facts: one for each of them; quarantine:
    the other rows."""

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


@dataclass(frozen=True, slots=True)
class _Good:
    """A row that can be used, with the pixels that were decoded to find that out."""

    row: Row
    facts: Facts
    image_HWC: NDArray[np.uint8]
    target_KHW: NDArray[np.uint8]


def inspect(config: Config, rows: Sequence[Row], keep: Keep | None = None) -> Checked:
    """Open and decode every file once, and check it.

    keep: gets the pixels of each good row, in the rows' order, so that whoever wants them need
    not decode the files again. Pixels that nobody keeps are forgotten at once.

    UserError: no row is good, or one is bad and `data.strict` is set.
    """
    checked = Checked([], [])
    for result in in_threads(lambda row: _check(config, row), _without_repeats(rows)):
        if isinstance(result, _Good):
            checked.good.append(result.row)
            checked.facts.append(result.facts)
            if keep is not None:
                keep(result.row.id, result.image_HWC, result.target_KHW)
        else:
            checked.quarantine.append(result)
    if checked.quarantine and (config.data.strict or not checked.good):
        name, file, reason = checked.quarantine[0]
        why = "data.strict is set" if checked.good else "no row is left"
        raise UserError(
            f"{file}: {reason} (id {name!r}); {len(checked.quarantine)} of {len(rows)} rows are "
            f"bad: {why}"
        )
    if not checked.good:
        raise UserError(f"{config.data.root}: no train rows here")
    return checked


def _without_repeats(rows: Sequence[Row]) -> list[Row]:
    """The rows, where a row whose id an earlier row has gets that as its problem."""
    first: dict[str, Row] = {}
    checked = []
    for row in rows:
        if first.setdefault(row.id, row) is not row and not row.problem:
            row = replace(row, problem=f"id {row.id!r} is already that of {first[row.id].image}")
        checked.append(row)
    return checked


def _check(config: Config, row: Row) -> _Good | Bad:
    """Whatever is wrong with a row is found here, so that it never stops the others."""
    if row.problem:
        return _bad(row.id, row.image, row.problem)
    try:
        return _open(config, row)
    except BadFile as error:
        return _bad(row.id, error.path, error.reason)
    except (UserError, OSError, MemoryError) as error:
        return _bad(row.id, row.image, str(error) or type(error).__name__)


def _bad(*texts: str) -> Bad:
    """A line of the quarantine; bytes of a name that are no UTF-8 are written as escapes."""
    name, file, reason = (text.encode(errors="backslashreplace").decode() for text in texts)
    return name, file, reason


def _open(config: Config, row: Row) -> _Good:
    """Read a row's files, once each. UserError or OSError: one of them cannot be used."""
    with open_file(row.image) as file:
        decoded = decode(file, row.image)
        sha1 = file_hash(file)
    image = to_input(decoded, config.input.channels, load_depths(config))
    height, width = image.shape[:2]
    target = read_target(row.target, config, height, width)
    _check_fits(config, row, height, width)
    constant = bool((image == image[0, 0]).all())
    if constant and config.data.exclude_constant:
        raise BadFile(row.image, f"all pixels are {image[0, 0].tolist()} (data.exclude_constant)")
    facts = Facts(sha1, decoded.mode, _coverage(target, config), constant)
    return _Good(replace(row, height=height, width=width), facts, image, target)


def _check_fits(config: Config, row: Row, height: int, width: int) -> None:
    """BadFile for an image that is larger than the canvas of a member whose fit is pad."""
    for name in config.members:
        own = config.input_of(name)
        if own.fit == "pad" and Fit(own).canvas(height, width) != (own.height, own.width):
            raise BadFile(
                row.image,
                f"{height}x{width} is larger than the input {own.height}x{own.width} of member "
                f"{name}: enlarge it, or set input.fit to crop or resize",
            )


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
    """The most frequent values with their counts, and how many more there are."""
    shown = ", ".join(f"{name} ({n})" for name, n in counter.most_common(num))
    return shown + (f", and {len(counter) - num} more" if len(counter) > num else "")


def _histogram(name: str, coverage: np.ndarray) -> list[str]:
    """Lines of a histogram: how many images hold none of a class, and how many hold up to a tenth
    of their pixels, up to two tenths, and so on."""
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
