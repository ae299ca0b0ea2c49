"""Checks before any GPU starts: every file is opened, and what is bad is set aside, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Keep
from distseg.data.fit import Fit
from distseg.data.formats.row import Row
from distseg.data.image_file import BadFile, decode, file_hash, is_constant, open_file, pixel_hash
from distseg.data.judge import EXCLUDED, Bad, Held, judge, judge_values, values_text
from distseg.data.layouts import said
from distseg.data.mask_file import BadMask
from distseg.data.passed_over import passed_over
from distseg.data.read_input import (
    deep_range,
    how_read,
    image_channels,
    reading_of,
    to_input,
)
from distseg.data.read_target import ALL, open_target
from distseg.data.threads import in_threads
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError, printable

# What is found out of a good row: its id, the image (H, W, C) and the target (K, H, W), uint8.
OfEach = Callable[[str, NDArray[np.uint8], NDArray[np.uint8]], Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a good row hold.

    sha1: of the image file's bytes.
    mode: Pillow's mode of the image file, or "npy", and what of it is taken for channels.
    content: SHA-1 of the pixels of image and target, as training sees them.
    coverage: share of each class among the pixels that are not void, 0..1.
    constant: whether all pixels of the image have one value.
    """

    sha1: str
    content: str
    mode: str
    coverage: tuple[float, ...]
    constant: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """good: the usable rows with their size, in order; facts: one for each of them; quarantine:
    the other rows; held: what each mask file that was read holds, those of bad rows too; found:
    what `of_each` has found out of each good row."""

    good: list[Row]
    facts: list[Facts]
    quarantine: list[Bad] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)

    @property
    def coverage(self) -> np.ndarray:
        """float64 (N, classes)."""
        return np.array([facts.coverage for facts in self.facts], dtype=np.float64)

    @property
    def duplicates(self) -> list[str]:
        """A key per good row: equal for byte-identical images."""
        return [facts.sha1 for facts in self.facts]

    @property
    def together(self) -> list[str]:
        """A key per good row: rows of one key stay in one fold, as byte-identical images do. Those
        of a single value do not: they show nothing that a model could know again, and where one
        fold has all of them, its models have never seen one."""
        pairs = zip(self.good, self.facts, strict=True)
        return [f"{f.sha1}/{row.id}" if f.constant else f.sha1 for row, f in pairs]


@dataclass(frozen=True, slots=True)
class _Good:
    """A row that can be used, with the pixels that were decoded to find that out."""

    row: Row
    facts: Facts
    image_HWC: NDArray[np.uint8]
    target_KHW: NDArray[np.uint8]
    held: tuple[Held, ...]
    found: Any


class NeedsLevels(Exception):
    """An image has more than 8 bits: `with_levels` must say first what becomes 0 and 255."""


def with_levels(config: Config, rows: Sequence[Row]) -> Config:
    """The config with `data.levels`, the lowest and highest value of the images of more than 8
    bits (real numbers of 0..1: 0 and 1); as it is where none of them has more. Reads each image
    once.

    UserError: some hold real numbers, others whole ones.
    """

    def measure(row: Row) -> tuple[float, float, bool] | None:
        try:
            with open_file(row.image) as file:
                return deep_range(decode(file, row.image, config.data.max_pixels))
        except (UserError, OSError, MemoryError):
            return None  # the check of the row says so

    found = [one for one in in_threads(measure, [r for r in rows if not r.problem]) if one]
    if len({is_real for *_, is_real in found}) > 1:
        raise UserError(
            f"{config.data.root}: some images hold real numbers, others whole ones of more than 8 "
            "bits; give all of them one kind"
        )
    if not found:
        return config
    low, high = min(one[0] for one in found), max(one[1] for one in found)
    if found[0][2] and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    levels = (low, high if high > low else low + 1)
    data = config.data.model_copy(update={"levels": levels})
    return config.model_copy(update={"data": data})


def inspect(
    config: Config,
    rows: Sequence[Row],
    keep: Keep | None = None,
    *,
    of_each: OfEach | None = None,
    whole: bool = True,
) -> Checked:
    """Open and decode every file once, check it, and judge what all of them hold together.

    keep: gets the pixels of each good row, in the rows' order, so that whoever wants them need
    not decode the files again. Pixels that nobody keeps are forgotten at once.
    of_each: is called with the pixels of each good row in the threads that decode them, in any
    order; `found` has what it returned, in the rows' order.
    whole: see `judge`.

    Raises:
        UserError: no row is good, one is bad and `data.strict` is set, or the set is not what the
            config takes it for (see `judge`).
        NeedsLevels: see there; without `keep` they are measured here.
    """
    try:
        checked = _examine(config, rows, keep, of_each)
    except NeedsLevels:
        if keep is not None:
            raise
        config = with_levels(config, rows)
        checked = _examine(config, rows, None, of_each)
    judge_values(config, checked.held)
    if checked.quarantine and (config.data.strict or not checked.good):
        _refuse(checked, len(rows))
    if not checked.good:
        raise UserError(f"{config.data.root}: no train rows here")
    judge(config, len(rows), checked.quarantine, checked.held, checked.coverage, whole=whole)
    return checked


def _refuse(checked: Checked, num_rows: int) -> NoReturn:
    name, file, reason = checked.quarantine[0]
    why = "data.strict is set" if checked.good else "no row is left"
    values = f"; the masks hold {values_text(checked.held)}" if checked.held else ""
    raise UserError(
        f"{file}: {reason} (id {name!r}); {len(checked.quarantine)} of {num_rows} rows are bad: "
        f"{why}{values}"
    )


def is_good(config: Config, row: Row) -> bool:
    """Whether a row can be used, for itself."""
    try:
        checked = _examine(config, [row])
    except NeedsLevels:
        checked = _examine(with_levels(config, [row]), [row])
    return bool(checked.good)


def _examine(
    config: Config, rows: Sequence[Row], keep: Keep | None = None, of_each: OfEach | None = None
) -> Checked:
    checked = Checked([], [])
    for result in in_threads(lambda row: _check(config, row, of_each), _without_repeats(rows)):
        checked.held.extend(result.held)
        if isinstance(result, _Good):
            checked.good.append(result.row)
            checked.facts.append(result.facts)
            checked.found.append(result.found)
            if keep is not None:
                keep(result.row.id, result.image_HWC, result.target_KHW)
        else:
            checked.quarantine.append(result.line)
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


@dataclass(frozen=True, slots=True)
class _BadRow:
    line: Bad
    held: tuple[Held, ...] = ()


def _check(config: Config, row: Row, of_each: OfEach | None) -> _Good | _BadRow:
    """Whatever is wrong with a row is found here, so that it never stops the others."""
    if row.problem:
        return _bad(row.id, row.image, row.problem)
    try:
        return _open(config, row, of_each)
    except BadMask as error:
        line = _bad(row.id, error.path, error.reason).line
        return _BadRow(line, ((ALL, error.coding),))
    except BadFile as error:
        return _bad(row.id, error.path, error.reason)
    except (UserError, OSError, MemoryError) as error:
        return _bad(row.id, row.image, str(error) or type(error).__name__)


def _bad(*texts: str) -> _BadRow:
    """A line of the quarantine; bytes of a name that are no UTF-8 are written as escapes."""
    name, file, reason = (text.encode(errors="backslashreplace").decode() for text in texts)
    return _BadRow((name, file, reason))


def _open(config: Config, row: Row, of_each: OfEach | None) -> _Good:
    """Read a row's files, once each. UserError or OSError: one of them cannot be used."""
    with open_file(row.image) as file:
        decoded = decode(file, row.image, config.data.max_pixels)
        sha1 = file_hash(file)
    if config.data.levels is None and deep_range(decoded) is not None:
        raise NeedsLevels
    image = to_input(decoded, reading_of(config))
    height, width = image.shape[:2]
    target = open_target(row.target, config, height, width)
    if reason := too_large(config, height, width):
        raise BadFile(row.image, reason)
    constant = is_constant(image)
    if constant and config.data.exclude_constant:
        raise BadFile(row.image, f"all pixels are {image[0, 0].tolist()} {EXCLUDED}")
    coverage = _coverage(target.planes, config)
    mode = how_read(decoded, image_channels(config))
    facts = Facts(sha1, pixel_hash(image, target.planes), mode, coverage, constant)
    sized = replace(row, height=height, width=width)
    found = of_each(row.id, image, target.planes) if of_each else None
    return _Good(sized, facts, image, target.planes, target.codings, found)


def too_large(config: Config, height: int, width: int, members: Sequence[str] = ()) -> str:
    """Why an image of this size cannot be trained on, for a person to read: a member's fit is pad,
    and the image larger than its canvas; "" where none of `members` (of all, if empty) has that."""
    for name in members or config.members:
        own = config.input_of(name)
        if own.fit == "pad" and Fit(own).canvas(height, width) != (own.height, own.width):
            return (
                f"{height}x{width} is larger than the input {own.height}x{own.width} of member "
                f"{name}: enlarge it, or set input.fit to crop or resize"
            )
    return ""


def _coverage(target_KHW: np.ndarray, config: Config) -> tuple[float, ...]:
    """Share of each class among the pixels that are not VOID, one value per class."""
    counts = [np.bincount(plane.ravel(), minlength=256) for plane in target_KHW]
    if config.task == "multiclass":
        known = max(1, int(counts[0][:VOID].sum()))
        return tuple(float(n) / known for n in counts[0][: len(config.classes)])
    return tuple(float(c[1]) / max(1, int(c[0] + c[1])) for c in counts)


def report(
    config: Config, checked: Checked, num_test: int = 0, unread: Sequence[str] | None = None
) -> str:
    """What `distseg inspect` prints. unread: what `passed_over` gives, where it is known."""
    rows, facts = checked.good, checked.facts
    coverage = checked.coverage
    sizes = Counter(f"{row.height}x{row.width}" for row in rows)
    copies = [n for n in Counter(checked.duplicates).values() if n > 1]
    source = f"{config.data.format} {config.data.root}"
    lines = [
        f"{source}: {len(rows)} train images, {num_test} test images",
        *(f"found: {line}" for line in said(config)),
        f"sizes (height x width): {_top(sizes)}",
        f"file modes: {_top(Counter(f.mode for f in facts))}; read as {config.input.channels} "
        "channel(s) of 8 bits",
        f"images of one value: {sum(f.constant for f in facts)}; byte-identical to another: "
        f"{sum(copies)} in {len(copies)} groups",
        *([f"values of the mask files: {values_text(checked.held)}"] if checked.held else []),
    ]
    for number, name in enumerate(config.classes):
        lines += _histogram(name, coverage[:, number])
    lines.append(f"quarantine: {len(checked.quarantine)}")
    lines += [f"  {name}  {file}: {reason}" for name, file, reason in checked.quarantine[:20]]
    if len(checked.quarantine) > 20:
        lines.append(f"  ... and {len(checked.quarantine) - 20} more")
    unread = passed_over(config) if unread is None else unread
    lines += [f"not read: {line}" for line in unread]
    return printable("\n".join(lines))


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
