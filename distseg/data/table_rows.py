"""The lines of a table by image and class: one image may have several, whose masks are a union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.columns import Form, is_empty, is_path, read_form
from distseg.data.convention import Base, Order
from distseg.functional.naming import as_name
from distseg.records.errors import UserError


@dataclass
class Entry:
    """What a table says of one image.

    line: the first of its lines. cells: masks by class, in the order of the lines, the empty ones
    left out; a class that is named without an object has none. is_whole: a line without a class
    says that no class has an object.
    """

    line: int
    cells: dict[int, list[str]] = field(default_factory=dict)
    problem: str = ""
    is_whole: bool = False


@dataclass
class Listing:
    """A table, read. empties: what it writes for a mask without an object, as it is written.
    class_ids: how it writes each of the config's classes; "" where it cannot name one.
    is_paths: its masks are files, not RLEs. has_empty_classes: it has lines for empty classes.
    counted: order and base of its RLEs, once they are known."""

    form: Form
    class_ids: tuple[str, ...]
    entries: dict[str, Entry] = field(default_factory=dict)
    empties: dict[str, None] = field(default_factory=dict)
    is_paths: bool = False
    has_empty_classes: bool = False
    counted: tuple[Order, Base] | None = None


def read_listing(path: Path, config: Config) -> Listing:
    """Read a train table. UserError: it is no such table, or its form is not known for sure."""
    form = read_form(path, config.data.csv)
    if len(config.classes) > 1 and not form.has_classes and not _is_of_paths(form):
        raise UserError(
            f"{path}: no column is known to hold the class, and the config has "
            f"{len(config.classes)} classes; write data.csv.class_column"
        )
    split = [
        (line, (*form.parts(cells, config.classes), cells[form.mask]))
        for line, cells in form.lines()
    ]
    if not split:
        raise UserError(f"{path}: has no rows")
    values = list(dict.fromkeys(value for _, (_, value, _) in split if value))
    listing = Listing(form, class_ids_of(values, config))
    known = {value: number for number, value in enumerate(listing.class_ids) if value}
    masks = (text for _, (_, _, text) in split if not is_empty(text))
    listing.is_paths = is_path(next(masks, ""))
    for line, (name, value, text) in split:
        _add(listing, line, name, value, text, known, form.has_classes)
    return listing


def _is_of_paths(form: Form) -> bool:
    texts = (cells[form.mask] for _, cells in form.lines())
    return is_path(next((text for text in texts if not is_empty(text)), ""))


def class_ids_of(values: Sequence[str], config: Config) -> tuple[str, ...]:
    """How a table writes each class, from the values that it has: its name (a config writes
    `large_bowel` for `large bowel`), or its number. The background of a multiclass set that it does
    not name is "": no object has it."""
    classes = config.classes
    spelled = {as_name(value): value for value in reversed(values)}
    spelled |= {value: value for value in values}
    if any(name in spelled for name in classes) or not values:
        ids = [spelled.get(name, name) for name in classes]
        if config.task == "multiclass" and classes[0] not in spelled:
            ids[0] = ""
        return tuple(ids)
    if config.task == "binary" and len(values) == 1:
        return (values[0],)
    first = config.data.csv.first_class
    if first is None and (numbered := _numbered(values, config)):
        return numbered
    if first is None:
        first = 0 if config.task == "multiclass" or "0" in values else 1
    ids = [str(number) for number in range(first, first + len(classes))]
    if config.task == "multiclass" and ids[0] not in values:
        ids[0] = ""
    _refuse_gaps(values, ids)
    return tuple(ids)


def _numbered(values: Sequence[str], config: Config) -> tuple[str, ...]:
    """The numbers that classes called `class_4` say themselves, where all that the table has are
    among them; () where they are called otherwise."""
    classes = config.classes
    ids = [name.removeprefix("class_") for name in classes]
    if config.task == "multiclass" and not ids[0].isdecimal():
        ids[0] = ""  # the background
    if any(one == name for one, name in zip(ids, classes, strict=True)):
        return ()
    if not all(one.isdecimal() for one in ids if one) or not set(values) <= set(ids):
        return ()
    return tuple(ids)


def _refuse_gaps(values: Sequence[str], ids: Sequence[str]) -> None:
    """UserError: as many numbers as classes, or fewer, that are no numbers in a row: which class
    each of them is, is not known."""
    known = [one for one in ids if one]
    odd = [value for value in values if value.isdecimal() and value not in known]
    if not odd or len(values) > len(known):
        return
    numbers = sorted(filter(str.isdecimal, values), key=int)
    raise UserError(
        f"classes: the table numbers its classes {', '.join(numbers)}, and the config's count "
        f"{known[0]} to {known[-1]}: say which is which by their names, as "
        f"{', '.join(f'class_{number}' for number in numbers)}, or with data.csv.first_class where "
        "they count from another number"
    )


def _add(
    listing: Listing, line: int, name: str, value: str, text: str, known: dict[str, int],
    has_classes: bool,
) -> None:  # fmt: skip
    table = listing.form.path
    if not name:
        raise UserError(f"{table}, line {line}: the image is empty")
    entry = listing.entries.setdefault(name, Entry(line))
    empty = is_empty(text)
    if empty:
        listing.empties[text] = None
    if not has_classes or (not value and empty):
        number, entry.is_whole = 0, entry.is_whole or has_classes
    elif value in known:
        number = known[value]
        listing.has_empty_classes = listing.has_empty_classes or empty
    else:
        valid = ", ".join(name for name in listing.class_ids if name)
        entry.problem = entry.problem or (
            f"{table.name}, line {line}: class {value[:40]!r}; valid: {valid} (config: classes)"
        )
        return
    cells = entry.cells.setdefault(number, [])
    if not empty:
        cells.append(text)
        if is_path(text) != listing.is_paths:
            kinds = ("paths of masks", "an RLE") if listing.is_paths else ("RLEs", "a path")
            entry.problem = entry.problem or (
                f"{table.name}, line {line}: {text[:40]!r} is {kinds[1]}, the others are {kinds[0]}"
            )
        elif not listing.is_paths and ("|" in text or ";" in text):
            entry.problem = entry.problem or f"{table.name}, line {line}: {text[:40]!r} is no RLE"
