"""What only the whole set tells: whether its masks mean what the config takes them for.

A mask of 1 and 2, one of 0 and 1 beside others of 0 and 255, a palette in another order: each file
could be read for itself, and would be read wrongly. What is not surely understood is refused here,
with what was found and the key that says what it means.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.mask_file import Coding, Color
from distseg.data.read_target import ALL
from distseg.records.errors import UserError

Bad = tuple[str, str, str]  # id, file, reason
Held = tuple[int, Coding]  # what a mask file holds, and the class that it is for (ALL: for all)
EXCLUDED = "(data.exclude_constant)"  # ends the reason of a row that the config leaves out
GO_ON = "or go on with data.allow_bad: true"
SHOWN = 8  # values that a message lists
BLACK: Color = (0, 0, 0)


def judge(
    config: Config,
    num_rows: int,
    quarantine: Sequence[Bad],
    held: Sequence[Held],
    coverage: NDArray[np.float64],
    *,
    whole: bool = True,
) -> None:
    """Raise UserError, a line each, for what is wrong with a set of rows.

    Args:
        num_rows: all rows of the set.
        quarantine: the bad ones.
        held: what their mask files hold, those of bad rows too.
        coverage: (N, classes), of the good rows.
        whole: whether these are all rows; in a sample a rare class may be missing, and all objects.
    """
    judge_values(config, held)
    if not config.data.allow_bad:
        lines = list(_frequent(num_rows, quarantine, held))
        if whole and not lines:
            lines = list(_absent(config, held, coverage))
        _refuse(config, lines)


def judge_listed(config: Config, num_rows: int, quarantine: Sequence[Bad]) -> None:
    """Raise UserError, as a run would, for rows that are bad before a file of theirs is opened."""
    if quarantine and config.data.strict:
        _, file, reason = quarantine[0]
        _refuse(config, [f"{file}: {reason}; data.strict is set"])
    if not config.data.allow_bad:
        _refuse(config, list(_frequent(num_rows, quarantine, ())))


def judge_values(config: Config, held: Sequence[Held]) -> None:
    """Raise UserError where what the mask files hold is not what the config takes it for."""
    found = [*_palettes(config, held), *_binary_values(config, held), *_numbers(config, held)]
    _refuse(config, found)


def _refuse(config: Config, lines: Sequence[str]) -> None:
    if lines:
        raise UserError("\n".join(f"{config.data.root}: {line}" for line in lines))


def values_text(held: Iterable[Held], limit: int = SHOWN) -> str:
    """`0 in 20 files (91.2% of the pixels), 255 in 12 files (8.8%)`, the most frequent first."""
    files, pixels = Counter[int](), Counter[int]()
    for _, coding in held:
        files.update(list(coding.counts))
        pixels.update(coding.counts)
    total = max(1, pixels.total())
    shown = [value for value, _ in files.most_common(limit)]
    text = ", ".join(
        f"{value} in {_files(files[value])} ({pixels[value] / total:.1%})"
        for value in sorted(shown)
    )
    return text + (f", and {len(files) - limit} more values" if len(files) > limit else "")


def _is_per_class(held: Iterable[Held]) -> bool:
    return any(number != ALL for number, _ in held)


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


# -- what the values mean --------------------------------------------------------------------------


def _palettes(config: Config, held: Sequence[Held]) -> Iterator[str]:
    """Palettes that differ from file to file; in a binary set, one that does not begin with the
    background."""
    first: dict[int, tuple[Color, str]] = {}
    is_binary = config.task == "binary" or _is_per_class(held)
    for _, coding in held:
        for value, color in coding.palette.items():
            if config.data.folder.numbered and value:
                continue  # objects have other numbers, and so other colors, in each file
            known, path = first.setdefault(value, (color, coding.path))
            if known != color:
                yield (
                    f"palettes differ from file to file: {value} is {list(known)} in {path} and "
                    f"{list(color)} in {coding.path}; say with data.colors what each color means"
                )
                return
            guessed = config.data.mask_values is None and (value == 0) != (color == BLACK)
            if is_binary and guessed:
                yield (
                    f"{coding.path}: {value} is {list(color)} in its palette, and whether that is "
                    "the object is not known; say with data.colors what each color means"
                )
                return


def _binary_values(config: Config, held: Sequence[Held]) -> Iterator[str]:
    """Masks of two values of which one is not 0, or not the same in all files."""
    data = config.data
    told = data.value_map is not None or data.colors is not None
    told = told or data.folder.threshold > 0 or data.folder.numbered
    if told or not (config.task == "binary" or _is_per_class(held)):
        return
    by_class: dict[int, list[Coding]] = defaultdict(list)
    two = [(n, coding) for n, coding in held if len(set(coding.counts) - {config.void}) <= 2]
    if (len(held) - len(two)) * 10 > len(held) > len(two) + 1:
        return  # rows that are bad for themselves, and too many: `_frequent` says so
    for number, coding in two:
        by_class[number].append(coding)
    for number, codings in by_class.items():
        own = [(number, coding) for coding in codings]
        name = config.classes[max(number, 0)]
        values = {value for coding in codings for value in coding.counts} - {config.void}
        objects = {value for coding in codings if coding.bits > 1 for value in coding.counts}
        objects -= {0, config.void}
        if values and 0 not in values:
            yield (
                f"no mask of {name} holds the value 0, the background: {values_text(own)}. Say "
                f"what they mean, as data.mask_values: {_example(values)}"
            )
        elif len(objects) > 1 and not _full(codings, config.void):
            low, high = min(objects), max(objects)
            yield (
                f"the masks of {name} do not hold the same two values: {values_text(own)}; one "
                f"with {low} is {_example_file(codings, low)}. Noise of JPEG: "
                f"data.folder.threshold: {high // 2}; else say what they mean, as "
                f"data.mask_values: {_example({0, *objects})}"
            )


def _example(values: Iterable[int]) -> str:
    """`{0: 0, 1: 1, 255: 1}`: how a config says what values mean."""
    pairs = (f"{value}: {int(place > 0)}" for place, value in enumerate(sorted(values)))
    return "{" + ", ".join(pairs) + "}"


def _example_file(codings: Iterable[Coding], value: int) -> str:
    return next(coding.path for coding in codings if value in coding.counts)


def _full(codings: Iterable[Coding], void: int | None) -> bool:
    """Whether every file's object is the highest value of its type: 255 of 8 bits and 65535 of 16
    are the same white."""
    objects = ((c.bits, v) for c in codings for v in c.counts if v not in (0, void))
    return all(bits == 1 or value == (1 << bits) - 1 for bits, value in objects)


def _numbers(config: Config, held: Sequence[Held]) -> Iterator[str]:
    """Class numbers that go one beyond the classes: the names are not those that were meant."""
    data = config.data
    if config.task == "binary" or data.value_map is not None or data.colors is not None:
        return
    if _is_per_class(held):  # a file per class
        return
    num = len(config.classes)
    beyond = num + 1 if config.task == "multilabel" else num
    if beyond == config.void or sum(beyond in coding.counts for _, coding in held) < 2:
        return  # one file with an odd value is one bad file
    values = values_text(held, 256)
    if config.task == "multiclass":
        yield (
            f"the masks hold the value {beyond}, and 0 is the first of {num} classes, "
            f"{config.classes[0]!r}: {values}. Where 0 is the background, name it first: classes: "
            f"[background, {', '.join(config.classes)}]; else set void, or data.mask_values"
        )
    else:
        yield (
            f"the masks hold the value {beyond}, and {num} is the last of {num} classes, "
            f"{config.classes[-1]!r} (0 is no class): {values}. Add to classes, set void, or "
            "data.mask_values"
        )


# -- what is left ----------------------------------------------------------------------------------


def _frequent(num_rows: int, quarantine: Sequence[Bad], held: Sequence[Held]) -> Iterator[str]:
    """Reasons for which more than a tenth of the rows are bad, and more than one row."""
    groups: dict[str, list[Bad]] = defaultdict(list)
    for bad in quarantine:
        if not bad[2].endswith(EXCLUDED):
            groups[_kind(bad[2])].append(bad)
    for rows in groups.values():
        if len(rows) > 1 and len(rows) * 10 > num_rows:
            files = {file for _, file, _ in rows}
            own = [(n, coding) for n, coding in held if coding.path in files]
            values = f"; these masks hold {values_text(own)}" if own else ""
            ids = ", ".join(name for name, _, _ in rows[:3])
            more = ", ..." if len(rows) > 3 else ""
            yield (
                f"{len(rows)} of {num_rows} rows are bad for one reason: {rows[0][2]} (ids {ids}"
                f"{more}){values}. Mend it, {GO_ON}"
            )


def _kind(reason: str) -> str:
    """A reason without its numbers and names, to count those that are alike."""
    return re.sub(r"'[^']*'|\S*[/\\]\S*|-?\d+(\.\d+)?", "#", reason)


def _absent(config: Config, held: Sequence[Held], coverage: NDArray[np.float64]) -> Iterator[str]:
    """Classes that no good row holds, and a binary set without background."""
    present: NDArray[np.bool_] = np.any(coverage > 0, axis=0)
    objects = present[int(config.task == "multiclass") :]
    values = f"; the masks hold {values_text(held)}" if held else ""
    void = f" (void is {config.void})" if config.void is not None and held else ""
    keys = "void, data.mask_values and classes" if held else "classes and the table"
    if len(coverage) and not objects.any():
        yield f"no image of {len(coverage)} holds an object{values}{void}. Look at {keys}, {GO_ON}"
    elif config.task == "binary" and (coverage == 1).all():
        yield (
            f"every pixel of {len(coverage)} images is {config.classes[0]}{values}{void}. Look at "
            f"data.folder.inverted and threshold, and data.mask_values, {GO_ON}"
        )
    elif not present.all() and config.data.limit is None:
        names = [name for name, there in zip(config.classes, present, strict=True) if not there]
        yield (
            f"class {', '.join(names)} is in no image of {len(coverage)}{values}{void}. Look at "
            f"{keys}, {GO_ON}"
        )
