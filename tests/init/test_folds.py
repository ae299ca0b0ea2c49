"""distseg.init.folds: the divisions that a budget may choose from, and what the user says."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from distseg.config.data import FoldsConfig
from distseg.config.load import parse_config
from distseg.data.formats.row import Row
from distseg.init.folds import Folds, counts, divisions, groups_of_rows, with_kind
from distseg.init.start import start
from distseg.records.errors import UserError
from distseg.records.tables import write_table
from tests.init.made_sets import Make, folder

FIFTHS, THIRDS = Folds("stratified", 5, 5, 0.8, True), Folds("stratified", 3, 3, 1 - 1 / 3, True)
HELD = Folds("holdout", 1, 1, 0.8, False)


def asked(**keys: object) -> FoldsConfig:
    return FoldsConfig.model_validate(keys)


def test_where_nothing_is_said_a_hold_out_and_folds_are_tried() -> None:
    assert list(divisions(1000, asked())) == [HELD, THIRDS, FIFTHS]
    assert [folds.kind for folds in divisions(10, asked())] == ["holdout"]
    assert list(divisions(4, asked())) == [Folds("stratified", 4, 4, 0.75, True)]
    own = list(divisions(1000, asked(kind="split"), validated=200))
    assert own == [Folds("split", 1, 1, 0.8, False)] and own[0].scored(1000) == pytest.approx(200)
    grouped = list(divisions(1000, asked(), groups=12))
    assert {folds.kind for folds in grouped} == {"group"} and grouped[0].used == 1


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"num": 4}, [Folds("stratified", 4, 4, 0.75, True)]),
        ({"kind": "holdout"}, [HELD]),
        ({"kind": "holdout", "fraction": 0.5}, [Folds("holdout", 1, 1, 0.5, False)]),
        ({"kind": "stratified"}, [Folds("stratified", 5, 1, 0.8, False), THIRDS, FIFTHS]),
        ({"kind": "bootstrap", "num": 3}, [Folds("bootstrap", 3, 3, 1 - 1 / 3, True)]),
        ({"num": 4, "use": [0, 2]}, [Folds("stratified", 4, 2, 0.75, False)]),
        ({"use": [3]}, [Folds("stratified", 5, 1, 0.8, False)]),
        ({"use": [0]}, [HELD, Folds("stratified", 3, 1, 1 - 1 / 3, False),
                        Folds("stratified", 5, 1, 0.8, False)]),
        ({"seed": 3}, [HELD, THIRDS, FIFTHS]),
    ],
)  # fmt: skip
def test_what_is_said_is_what_is_tried(keys: dict[str, object], found: list[Folds]) -> None:
    assert list(divisions(1000, asked(**keys))) == found


def test_a_table_of_the_user_s_says_how_many_folds_and_images() -> None:
    (found,) = divisions(100, asked(kind="file", path="f.csv"), listed=(10, 20))
    assert found == Folds("file", 2, 2, 0.85, True) and found.scored(100) == pytest.approx(30)
    few = list(divisions(1000, asked(kind="group", column="a", groups="g.csv"), groups=2))
    assert few == [Folds("group", 2, 1, 0.5, False)]


def test_a_key_that_one_kind_alone_reads_says_the_kind() -> None:
    assert with_kind({"fraction": 0.3})["kind"] == "holdout"
    assert with_kind({"path": "f.csv"})["kind"] == "file"
    assert with_kind({"groups": "g.csv", "column": "a"})["kind"] == "group"
    for unclear in ({"num": 3}, {"seed": 1}, {"path": "f.csv", "fraction": 0.3}, {}):
        assert with_kind(unclear) == unclear


def named_by_patient(root: Path, num: int = 30) -> Path:
    """Five slices of each patient."""
    folder(root, num=num)
    for place in ("images", "masks"):
        for number, path in enumerate(sorted((root / place).iterdir())):
            path.rename(path.with_name(f"patient{number // 5:02d}_slice{number % 5}.png"))
    return root


@pytest.mark.parametrize(
    ("keys", "kind", "num", "members"),
    [
        (["kind=stratified", "num=5"], "stratified", 5, 5),
        (["num=3"], "stratified", 3, 3),
        (["kind=holdout"], "holdout", 5, 1),
        (["fraction=0.4"], "holdout", 5, 1),
        (["num=4", "use=[1, 2]"], "stratified", 4, 2),
    ],
)
@pytest.mark.parametrize("budget", [120.0, 7200.0])  # for either, another division would be best
def test_the_time_is_spent_on_the_folds_that_are_said(
    made: Make, tmp_path: Path, keys: list[str], kind: str, num: int, members: int, budget: float
) -> None:
    root = folder(tmp_path / "set", num=30)
    config, written = made(root, *(f"data.folds.{key}" for key in keys), budget=budget)
    assert (config.data.folds.kind, config.data.folds.num) == (kind, num)
    planned = len(config.planned_members(range(1 if kind == "holdout" else num)))
    assert planned == written.spent.members == members * len(config.members)
    assert written.spent.forecast.seconds <= budget
    assert "# as given\n  folds:" in written.text


def test_names_with_groups_and_what_is_said(made: Make, tmp_path: Path) -> None:
    root, path = named_by_patient(tmp_path / "set"), tmp_path / "my.yaml"
    with pytest.raises(UserError, match=r"fraction: 0.3: 6 groups in the names .*folds.num=5"):
        made(root, "data.folds.fraction=0.3")
    for keys, kind in (
        (["kind=stratified"], "stratified"), (["kind=holdout", "fraction=0.3"], "holdout"),
    ):  # fmt: skip
        config, written = made(root, *(f"data.folds.{key}" for key in keys))
        assert config.data.folds.kind == kind and written.groups is None
        assert config.data.folds.column is None
        path.unlink()
    config, written = made(root, "data.folds.num=3")
    assert (config.data.folds.kind, config.data.folds.num) == ("group", 3)
    assert written.groups is not None and written.spent.folds.used == 3
    path.unlink()
    (tmp_path / "my_groups.csv").unlink()
    config, written = made(root, "data.folds.kind=group", budget=60.0)
    assert config.data.folds.column == "group" and written.groups is not None
    with pytest.raises(UserError, match="the names show no groups; name a CSV"):
        made(folder(tmp_path / "other"), "data.folds.kind=group")


def test_tables_of_the_user_s(made: Make, tmp_path: Path) -> None:
    root, path = named_by_patient(tmp_path / "set"), tmp_path / "my.yaml"
    ids = [one.stem for one in sorted((root / "images").iterdir())]
    write_table(root / "mine.csv", ("id", "hospital"), [(n, i % 3) for i, n in enumerate(ids)])
    write_table(root / "my_folds.csv", ("id", "fold"),
                [(n, i % 2 if i < 20 else -1) for i, n in enumerate(ids)])  # fmt: skip
    config, written = made(root, "data.folds.groups=mine.csv", "data.folds.column=hospital")
    assert (config.data.folds.kind, config.data.folds.groups) == ("group", "mine.csv")
    assert written.groups is None and config.data.folds.num <= 3
    assert written.spent.folds.num == config.data.folds.num
    path.unlink()
    config, written = made(root, "data.folds.path=my_folds.csv")
    assert config.data.folds.kind == "file"
    assert written.spent.folds == Folds("file", 2, 2, 1 - 10 / 30, True)
    with pytest.raises(UserError, match=r"data.folds.path: none.csv: no such file"):
        made(root, "data.folds.path=none.csv")
    with pytest.raises(UserError, match="the data has no validation part"):
        made(root, "data.folds.kind=split")


def test_a_table_of_folds_fits_names_from_a_mac(tmp_path: Path) -> None:
    names = [f"r\u00f6ntgen{number}" for number in range(6)]
    write_table(tmp_path / "f.csv", ("id", "fold"), [(n, i % 2) for i, n in enumerate(names)])
    folds = {"kind": "file", "path": "f.csv"}
    data = {"format": "folder", "root": str(tmp_path), "folds": folds}
    config = parse_config({"name": "t", "data": data, "members": {"a": {}}}, "t")
    rows = [Row(unicodedata.normalize("NFD", name), "", "") for name in names]
    assert counts(config, rows) == (0, (3, 3))


def test_a_folds_csv_in_the_run_folder_counts(made: Make, tmp_path: Path) -> None:
    """It divides the images of the run, whatever the config says."""
    root, out = folder(tmp_path / "set", num=30), tmp_path / "a run"
    ids = [one.stem for one in sorted((root / "images").iterdir())]
    out.mkdir()
    write_table(out / "folds.csv", ("id", "fold"), [(n, i % 4) for i, n in enumerate(ids)])
    with pytest.raises(UserError, match=r"folds.csv: divides the images: leave data.folds.num out"):
        start(root, ["data.folds.num=3"], out, "10m", None)
    path, _ = start(root, ["seed=1"], out, "10m", None)
    text = Path(path).read_text()
    assert "kind: file" in text and str(out / "folds.csv") in text


@pytest.mark.parametrize(
    ("image", "group"),
    [
        ("/d/patient{p}/scan_{n}{p}.png", "patient{p}"),  # the names show none
        ("/d/patient{p}/v{p}{h}_f{n}.png", "patient{p}"),  # two videos of each
        ("/d/batch{b}/v{p}_f{n}.png", "v{p}"),  # of each patient a half in each folder
        ("/d/kind{c}/scan_{n}{p}.png", ""),  # kinds: no number says who it is
    ],
)
def test_folders_are_groups_where_no_group_of_names_lies_in_two(image: str, group: str) -> None:
    rows, expected = [], {}
    for p in range(6):
        for n in range(10):
            parts = {"p": p, "n": n, "h": n % 2, "b": n % 5, "c": "abcdef"[p]}
            path = Path(image.format(**parts))
            rows.append(Row(path.stem, str(path)))
            expected[path.stem] = group.format(**parts)
    assert groups_of_rows(rows) == (expected if group else None)
