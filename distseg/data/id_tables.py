"""Tables of a user's own that say something of each image by its id: folds, groups, depths."""

from __future__ import annotations

import math
from pathlib import Path

from distseg.data.formats.row import plain
from distseg.records.errors import UserError
from distseg.records.tables import read_table

Cells = dict[str, tuple[int, str]]  # by the plain id: the line, and what stands there


def read_by_id(path: Path, column: str) -> Cells:
    """A column of a CSV `id,<column>`, which may have others. Ids are compared as `plain` writes
    them. Several lines of one id have to say the same. UserError: they do not, or there is no such
    table or column."""
    found: Cells = {}
    for line, cells in read_table(path, ("id", column)):
        name, text = cells["id"] or "", (cells[column] or "").strip()
        _, first = found.setdefault(plain(name), (line, text))
        if first != text:
            raise UserError(
                f"{path}, line {line}: id {name!r} stands there twice, with {first!r} and {text!r}"
            )
    return found


def read_numbers(path: Path, column: str) -> dict[str, float]:
    """The same of a column of finite numbers. UserError: another cell."""
    return {
        name: _number(text, f"{path}, line {line}: {column}")
        for name, (line, text) in read_by_id(path, column).items()
    }


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {text!r} is no number")
    return number
