"""Tables on disk: CSV files with a header, read with the line of every mistake, written whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from distseg.records.errors import UserError
from distseg.records.files import atomic_write

MAX_CELL = 1 << 30  # characters: one RLE of a large mask exceeds the 128 kB of Python's csv


def read_table(
    path: Path, columns: Sequence[str], *, separator: str = ",", header: bool = True
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line number, cells by column) of a user's table; a cell is None where its line ends early.

    columns: what must be there; without a header: all columns, in order.

    UserError: the file cannot be read as a table, lacks a column, or a line has too many cells;
    the message names the file and the line.
    """
    csv.field_size_limit(MAX_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = None if header else list(columns)
            reader = csv.DictReader(file, names, delimiter=separator, strict=True)
            names = list(reader.fieldnames or [])
            for column in columns:
                if column not in names:
                    raise UserError(f"{path}: column {column!r} is missing; it has {names}")
            for cells in reader:
                if None in cells:
                    number = len(names) + len(cells[None] or ())
                    raise UserError(
                        f"{path}, line {reader.line_num}: more cells than columns: {number} cells "
                        f"for {names}"
                    )
                yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def read_header(path: Path) -> list[str]:
    """The names of a user's columns, in order; UserError: the file cannot be read as a CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that distseg wrote, by column; [] where there is no such file."""
    if not path.is_file():
        return []
    csv.field_size_limit(MAX_CELL)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV with a header, atomically; lines end with a line feed on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as a CSV: {error}")
