"""Tables: what comes back is what was written, and each mistake has its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.records.errors import UserError
from distseg.records.tables import (
    read_cells,
    read_rows,
    read_table,
    table_writer,
    write_table,
)

LONG = "1 2 " * 100_000  # an RLE beyond the 128 kB that Python's csv takes by default


def test_a_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, ["id", "rle"], [["a,b", LONG], ['say "c"', ""]])
    assert read_rows(path) == [{"id": "a,b", "rle": LONG}, {"id": 'say "c"', "rle": ""}]
    assert [line for line, _ in read_table(path, ["id", "rle"])] == [2, 3]
    assert b"\r" not in path.read_bytes()


def test_a_table_without_header_and_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    with table_writer(path, [], "\t") as write_row:
        write_row(["a", "1 2"])
    assert path.read_text() == "a\t1 2\n"
    assert list(read_cells(path, "\t,;")) == [(1, ["a", "1 2"])]


def test_a_writer_that_fails_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, ["id"], [["old"]])
    with pytest.raises(ValueError, match="no more"), table_writer(path, ["id"]) as write_row:
        write_row(["new"])
        raise ValueError("no more rows")
    assert read_rows(path) == [{"id": "old"}]
    assert [one.name for one in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,fold\na,0\n\nb,1,2\n", "t.csv, line 4: more cells than columns"),
        (b"id,folds\na,0\n", "t.csv: column 'fold' is missing; it has id, folds"),
        (b"", "t.csv: column 'id' is missing; it has no header"),
        (b'id,fold\na,"0\n', "t.csv, line 2: cannot be read as a table"),
        (b"id,fold\n\xff,0\n", "t.csv: cannot be read as a table: it is no text in UTF-8"),
        (None, "t.csv: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_have_their_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_table(path, ["id", "fold"]))
    assert said in str(error.value)


def test_a_short_row_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfid,fold\na\n")
    assert list(read_table(path, ["id"])) == [(2, {"id": "a", "fold": None})]
