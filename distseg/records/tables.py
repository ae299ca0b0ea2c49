"""Tables on disk: CSV files with a header, read with the line of every mistake, written whole."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from distseg.records.errors import UserError
from distseg.records.files import temporary_name

MAX_CELL = 1 << 30  # characters: one RLE of a large mask exceeds the 128 kB of Python's csv
WriteRow = Callable[[Sequence[object]], Any]


def read_cells(path: Path, separators: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the rows of a table that are not blank, a header's too.

    separators: what may stand between cells; the first of them that the first line has does.

    Raises:
        UserError: naming the file, and the line of what is wrong in it.
    """
    csv.field_size_limit(MAX_CELL)
    reader = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            start = file.readline()
            file.seek(0)
            separator = next((mark for mark in separators if mark in start), separators[0])
            reader = csv.reader(file, delimiter=separator, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read as a table: it is no text in UTF-8") from None
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UserError(f"{path}, line {line}: cannot be read as a table: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line number, cells by column) of a CSV with a header, which has `columns` and may have
    others; None for a cell that a short row lacks. UserError names the file and the line."""
    rows = read_cells(path)
    _, names = next(rows, (1, []))
    for column in columns:
        if column not in names:
            found = ", ".join(names) or "no header"
            raise UserError(f"{path}: column {column!r} is missing; it has {found}")
    for line, cells in rows:
        if len(cells) > len(names):
            raise UserError(f"{path}, line {line}: more cells than columns")
        yield line, dict(zip_longest(names, cells))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that distseg wrote, by column; [] where there is no such file."""
    if not path.is_file():
        return []
    csv.field_size_limit(MAX_CELL)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def table_writer(path: Path, header: Sequence[object], separator: str = ",") -> Iterator[WriteRow]:
    """A function that appends a row to a CSV; the file takes its name when the block ends.

    Rows go to a temporary file as they come, so memory does not grow with their number. When the
    block raises, `path` is as it was before. Lines end with a line feed on every system. An empty
    `header` writes none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\n")
            if header:
                writer.writerow(header)
            yield writer.writerow
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def write_table(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV with a header, whole or not at all."""
    with table_writer(path, header) as write_row:
        for row in rows:
            write_row(row)
