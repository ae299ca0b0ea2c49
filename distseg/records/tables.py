"""Tables on disk: CSV files with a header, read with the line of every mistake, written whole."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from distseg.records.errors import Damaged, UserError
from distseg.records.files import open_regular, whole_file

MAX_CELL = 1 << 26  # characters: one RLE of a large mask exceeds the 128 kB of Python's csv
MAX_CELLS = 10_000  # of a line
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
        with open_regular(path, newline="", encoding="utf-8-sig") as file:
            start = file.readline(MAX_CELL)
            file.seek(0)
            separator = next((mark for mark in separators if mark in start), separators[0])
            reader = csv.reader(_bounded(file, separator), delimiter=separator, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read as a table: it is no text in UTF-8") from None
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UserError(f"{path}, line {line}: cannot be read as a table: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _bounded(file: TextIO, separator: str) -> Iterator[str]:
    """The lines of a table; csv.Error for one that is larger than any table's, before it is a list
    of cells, which takes many times its memory."""
    while line := file.readline(MAX_CELL + 1):
        if len(line) > MAX_CELL:
            raise csv.Error(f"it is longer than {MAX_CELL:,} characters")
        if (found := line.count(separator)) >= MAX_CELLS:
            raise csv.Error(f"it has {found + 1:,} cells; at most {MAX_CELLS:,} are read")
        yield line


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
    """The rows of a table that distseg wrote, by column; [] where there is no such file. Damaged:
    it is empty, no table, or a line has too few cells."""
    if not path.is_file():
        return []
    try:
        rows = list(read_table(path, ()))
    except Damaged:
        raise
    except UserError as error:
        raise Damaged(path, str(error).removeprefix(f"{path}")[2:]) from None
    if not rows and not path.stat().st_size:
        raise Damaged(path, "it is empty")
    found = []
    for line, cells in rows:
        if None in cells.values():
            raise Damaged(path, f"line {line} ends too early")
        found.append({name: cell or "" for name, cell in cells.items()})
    return found


@contextlib.contextmanager
def table_writer(path: Path, header: Sequence[object], separator: str = ",") -> Iterator[WriteRow]:
    """A function that appends a row to a CSV; the file takes its name when the block ends.

    Rows go to a temporary file as they come, so memory does not grow with their number. When the
    block raises, `path` is as it was before. Lines end with a line feed on every system. An empty
    `header` writes none.
    """
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        if header:
            writer.writerow(header)
        yield writer.writerow
        file.flush()
        os.fsync(file.fileno())


def write_table(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV with a header, whole or not at all."""
    with table_writer(path, header) as write_row:
        for row in rows:
            write_row(row)
