"""The table of out-of-fold scores: what is written is read back, and a missing one is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distseg.records.errors import UserError
from distseg.records.manifest import Manifest, Sample
from distseg.records.oof_table import read_counts, write_rows


def test_counts_come_back_by_id(tmp_path: Path) -> None:
    manifest = Manifest([Sample("a", "a.png", fold=0), Sample("b, c", "b.png", fold=1)])
    counts = np.arange(12, dtype=np.int64).reshape(2, 2, 3)
    write_rows(tmp_path / "oof.csv", manifest, [1, 0], ["1", "0"], counts, "dice")
    found = read_counts(tmp_path / "oof.csv")
    assert list(found) == ["b, c", "a"]
    assert np.array_equal(found["b, c"], counts[0]) and np.array_equal(found["a"], counts[1])


def test_a_table_that_is_gone_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"oof\.csv: no out-of-fold counts here"):
        read_counts(tmp_path / "oof.csv")
