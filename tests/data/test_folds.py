from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.data import folds
from distseg.data.formats.row import Row
from distseg.records.errors import UserError
from tests.data.data_helpers import config


def case(num: int = 403, seed: int = 0) -> tuple[list[Row], np.ndarray, list[str]]:
    """Rows, of which 39 % are empty and the others skewed, and keys without duplicates."""
    rng = np.random.default_rng(seed)
    coverage = np.where(rng.random(num) < 0.39, 0, rng.beta(0.6, 1.5, num))[:, None]
    return [Row(f"r{i}", f"r{i}.png") for i in range(num)], coverage, [f"k{i}" for i in range(num)]


def divide(
    root: Path, options: dict[str, Any], rows: Any, coverage: Any, keys: Any, groups: Any = None
) -> list[int]:
    c = config(root, data__folds=options)
    return folds.assign_folds(c, rows, coverage, groups or [""] * len(rows), keys)


@pytest.mark.parametrize("kind", ["stratified", "bootstrap"])
def test_stratified_by_emptiness_and_coverage(tmp_path: Path, kind: str) -> None:
    rows, coverage, keys = case()
    found = np.array(divide(tmp_path, {"kind": kind, "num": 5}, rows, coverage, keys))
    sizes = np.bincount(found)
    empties = np.bincount(found[coverage[:, 0] == 0])
    assert len(sizes) == 5 and np.ptp(sizes) <= 2 and np.ptp(empties) <= 1
    filled = coverage[:, 0] > 0
    means = [coverage[filled & (found == f), 0].mean() for f in range(5)]
    assert np.ptp(means) < 0.02  # random folds differ by .07 here
    large = coverage[:, 0] > np.quantile(coverage[filled, 0], 0.9)
    assert np.ptp(np.bincount(found[large], minlength=5)) <= 2


def test_the_division_is_a_function_of_the_seed(tmp_path: Path) -> None:
    args = case(60)
    one, two, other = (divide(tmp_path, {"num": 3, "seed": seed}, *args) for seed in (0, 0, 1))
    assert one == two != other


def test_quarters_of_a_column_are_spread_too(tmp_path: Path) -> None:
    rows, coverage, keys = case()
    depth = np.random.default_rng(1).gamma(2.0, 200.0, len(rows))
    lines = [f"{row.id},{z}" for row, z in zip(rows, depth, strict=True)]
    (tmp_path / "depths.csv").write_text("\n".join(["id,z", *lines]))
    options = {"num": 5, "strata": "depths.csv"}
    found = np.array(divide(tmp_path, options, rows, coverage, keys))
    quarter = np.searchsorted(np.quantile(depth, [0.25, 0.5, 0.75]), depth)
    for q in range(4):
        assert np.ptp(np.bincount(found[quarter == q], minlength=5)) <= 3
    assert np.ptp(np.bincount(found[coverage[:, 0] == 0])) <= 3

    (tmp_path / "depths.csv").write_text("\n".join(["id,z", *lines[1:]]))
    with pytest.raises(UserError, match="'r0' has no 'z'"):
        divide(tmp_path, options, rows, coverage, keys)
    (tmp_path / "depths.csv").write_text("\n".join(["id,z", "r0,deep", *lines[1:]]))
    with pytest.raises(UserError, match="line 2: z: 'deep' is no number"):
        divide(tmp_path, options, rows, coverage, keys)


def test_duplicates_stay_together(tmp_path: Path) -> None:
    rows, coverage, keys = case(80)
    keys = [f"k{i // 4}" for i in range(80)]
    for options in ({"num": 4}, {"kind": "holdout", "fraction": 0.25}, {"kind": "bootstrap"}):
        found = divide(tmp_path, options, rows, coverage, keys)
        assert all(len(set(found[i : i + 4])) == 1 for i in range(0, 80, 4))


def test_groups_and_duplicates_together(tmp_path: Path) -> None:
    """Twins in two groups bind the groups."""
    rows, coverage, keys = case(60)
    groups = [f"g{i // 5}" for i in range(60)]
    keys[0] = keys[7]  # g0 and g1
    options = {"kind": "group", "num": 3, "column": "patient", "groups": "g.csv"}
    found = divide(tmp_path, options, rows, coverage, keys, groups)
    assert all(len(set(found[i : i + 5])) == 1 for i in range(0, 60, 5)) and found[0] == found[5]
    assert min(Counter(found).values()) >= 15


def test_groups_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("id,patient\na,x\nb,y\n")
    options = {"kind": "group", "num": 2, "column": "patient", "groups": "g.csv"}
    assert folds.read_groups(config(tmp_path, data__folds=options), ["b", "a"]) == ["y", "x"]


NAME = "b\u00e4ume"
MAC = unicodedata.normalize("NFD", NAME)


@pytest.mark.parametrize(("file", "written"), [(NAME, MAC), (MAC, NAME)])
def test_tables_fit_files_from_a_mac(tmp_path: Path, file: str, written: str) -> None:
    """Groups, folds and strata, whichever form of Unicode is where."""
    assert file != written
    rows = [Row(f"{file}_{i}", f"{file}_{i}.png") for i in range(8)]
    lines = [f"{written}_{i},p{i // 2},{i % 2},{i}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["id,patient,fold,z", *lines]))
    options = {"kind": "group", "num": 2, "column": "patient", "groups": "t.csv"}
    c = config(tmp_path, data__folds=options)
    assert folds.read_groups(c, [row.id for row in rows]) == [f"p{i // 2}" for i in range(8)]
    keys = [row.id for row in rows]
    assert folds.read_folds(tmp_path / "t.csv", rows, keys) == [i % 2 for i in range(8)]
    options = {"kind": "stratified", "num": 2, "strata": "t.csv"}
    assert set(divide(tmp_path, options, rows, np.ones((8, 1)), keys)) == {0, 1}


def test_a_table_that_says_two_things_of_an_id_is_refused(tmp_path: Path) -> None:
    """One of its lines would be dropped. Lines that say the same are none of these."""
    path = tmp_path / "t.csv"
    options = {"kind": "group", "num": 2, "column": "patient", "groups": "t.csv"}
    c = config(tmp_path, data__folds=options)
    path.write_text("id,patient,z\na,x,1\nb,y,2\na,x,1\n")
    assert folds.read_groups(c, ["a", "b"]) == ["x", "y"]
    path.write_text("id,patient,z\na,x,1\nb,y,2\na,y,2\n")
    with pytest.raises(UserError, match=r"t\.csv, line 4: id 'a' stands there twice, with 'x' and"):
        folds.read_groups(c, ["a", "b"])
    rows, keys = [Row("a", "a.png"), Row("b", "b.png")], ["a", "b"]
    strata = {"kind": "stratified", "num": 2, "strata": "t.csv"}
    with pytest.raises(UserError, match="line 4: id 'a' stands there twice, with '1' and '2'"):
        divide(tmp_path, strata, rows, np.ones((2, 1)), keys)
    path.write_text("id,patient,z\na,x,nan\nb,y,2\n")
    with pytest.raises(UserError, match="line 2: z: 'nan' is no number"):
        divide(tmp_path, strata, rows, np.ones((2, 1)), keys)


def test_holdout_is_the_share_asked_for_and_stratified(tmp_path: Path) -> None:
    rows, coverage, keys = case(400)
    found = np.array(divide(tmp_path, {"kind": "holdout", "fraction": 0.2}, rows, coverage, keys))
    assert set(found) == {0, -1} and abs((found == 0).sum() - 80) <= 4
    empty = coverage[:, 0] == 0
    assert abs(empty[found == 0].mean() - empty.mean()) < 0.02


@pytest.mark.parametrize(("fraction", "what"), [(0.01, "none"), (0.99, "all")])
def test_a_holdout_of_none_or_all_is_refused(tmp_path: Path, fraction: float, what: str) -> None:
    rows, coverage, keys = case(6)
    with pytest.raises(ValueError, match=f"of 6 independent images holds out {what} of them"):
        divide(tmp_path, {"kind": "holdout", "fraction": fraction}, rows, coverage, keys)


@pytest.mark.parametrize(
    ("coverage", "fraction"),
    [
        ([0.1, 0.1], 0.25),  # what measures a pace
        ([0, 0.2, 0, 0.2], 0.25),
        ([0.3, 0, 0.2, 0, 0.1, 0], 0.2),
        ([0.3, 0, 0.2, 0, 0.1, 0], 0.8),
        ([0, 0, 0, 0, 0, 0.1], 0.2),
    ],
)
def test_a_holdout_leaves_neither_side_empty(
    tmp_path: Path, coverage: list[float], fraction: float
) -> None:
    rows, _, keys = case(len(coverage))
    amount = np.array(coverage)
    for seed in range(5):
        options = {"kind": "holdout", "fraction": fraction, "seed": seed}
        found = np.array(divide(tmp_path, options, rows, amount[:, None], keys))
        assert set(found) == {0, -1}
        if (amount > 0).sum() > 1:  # both sides have something to learn, or to score
            assert min((amount[found == side] > 0).sum() for side in (0, -1)) > 0


def test_each_class_is_spread(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coverage = (rng.random((200, 3)) < [0.5, 0.2, 0.05]) * rng.random((200, 3))
    c = config(tmp_path, task="multilabel", classes=["a", "b", "c"], data__folds={"num": 5})
    rows, _, keys = case(200)
    found = np.array(folds.assign_folds(c, rows, coverage, [""] * 200, keys))
    for column in coverage.T:
        assert np.ptp(np.bincount(found[column > 0], minlength=5)) <= 2


def test_too_few_images(tmp_path: Path) -> None:
    rows, coverage, _ = case(6)
    with pytest.raises(ValueError, match="2 independent images or groups cannot make 5 folds"):
        divide(tmp_path, {"num": 5}, rows, coverage, ["a", "a", "a", "b", "b", "b"])


def test_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id,fold\nr2,-1\nr1,1\nr0,0\nunknown,0\n")
    rows, coverage, keys = case(3)
    options = {"kind": "file", "path": "f.csv"}
    assert divide(tmp_path, options, rows, coverage, keys) == [0, 1, -1]


def test_balance_table(tmp_path: Path) -> None:
    coverage = np.array([[0.0], [0.5], [0.25], [0.0]])
    table = folds.balance(config(tmp_path), [0, 0, 1, 1], coverage)
    assert table == [
        ("fold", "images", "empty", "with_object", "coverage_object"),
        (0, 2, 0.5, 0.5, 0.25),
        (1, 2, 0.5, 0.5, 0.125),
    ]
    assert folds.balance_text(table).splitlines() == [
        "fold                0      1",
        "images              2      2",
        "empty             0.5    0.5",
        "with_object       0.5    0.5",
        "coverage_object  0.25  0.125",
    ]
