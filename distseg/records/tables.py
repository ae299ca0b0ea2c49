"""Tables on disk: CSV files with a header, read with the line of every mistake, written whole."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distseg.records.errors import UserError
from distseg.records.files import temporary_name

MAX_CELL = 1 << 30  # characters: one RLE of a large mask exceeds the 128 kB of Python's csv
WriteRow = Callable[[Sequence[object]], Any]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line number, cells) of a CSV with a header; UserError names the file and the line."""
    csv.field_size_limit(MAX_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or [])
            for column in columns:
                if column not in names:
                    raise UserError(f"{path}: column {column!r} is missing; it has {names}")
            for cells in reader:
                if None in cells:
                    raise UserError(f"{path}, line {reader.line_num}: more cells than columns")
                yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV: {error}") from None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that distseg wrote, by column; [] where there is no such file."""
    if not path.is_file():
        return []
    csv.field_size_limit(MAX_CELL)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def table_writer(path: Path, header: Sequence[object]) -> Iterator[WriteRow]:
    """A function that appends a row to a CSV; the file takes its name when the block ends.

    Rows go to a temporary file as they come, so memory does not grow with their number. When the
    block raises, `path` is as it was before. Lines end with a line feed on every system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
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
