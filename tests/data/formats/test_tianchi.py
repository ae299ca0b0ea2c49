"""Tianchi: tables of tabs without a header, in both directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.functional.rle import encode
from distseg.records.errors import UserError
from tests.data.formats.layout_helpers import config_of, tianchi
from tests.tiny import write_submission


def test_tianchi_reads_and_writes_tabs_without_a_header(tmp_path: Path) -> None:
    masks = tianchi(tmp_path)
    config = config_of("tianchi", tmp_path)
    rows = layout("tianchi").train(config)
    for row, mask in zip(rows, masks, strict=True):
        assert not row.problem and np.array_equal(read_target(row.target, config, 16, 24)[0], mask)
    made = {"T0.jpg": masks[0][None], "T1.jpg": masks[2][None]}
    write_submission(layout("tianchi").submission(config), tmp_path / "s.csv", made)
    assert (tmp_path / "s.csv").read_text() == f"T1.jpg\t\nT0.jpg\t{encode(masks[0])}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [("X.jpg\t1 3\n", "no image X.jpg"), ("../B0.jpg\t1 3\n", "leaves its folder")],
)
def test_bad_lines_of_tianchi(tmp_path: Path, line: str, said: str) -> None:
    tianchi(tmp_path)
    with (tmp_path / "train_mask.csv").open("a") as file:
        file.write(line)
    rows = layout("tianchi").train(config_of("tianchi", tmp_path))
    assert sum(bool(row.problem) for row in rows) == 1 and said in rows[-1].problem


def test_a_comma_table_is_no_tianchi_table(tmp_path: Path) -> None:
    tianchi(tmp_path)
    (tmp_path / "train_mask.csv").write_text("B0.jpg\t1 3\tx\n")
    with pytest.raises(UserError, match="3 cells"):
        layout("tianchi").train(config_of("tianchi", tmp_path))
