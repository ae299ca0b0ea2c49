from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distseg.data.inspect import inspect
from distseg.data.layouts import layout
from distseg.data.prepare import open_cache, prepare
from distseg.records.errors import UserError
from distseg.records.files import append_line, read_json, read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.data.data_helpers import config, folder, gray, save, tgs


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written_once(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "data"), Run(tmp_path / "run")
    (root / "images/a5.png").write_bytes(b"")
    (root / "test_images/t1.png").write_bytes(b"")
    c = config(root)
    prepare(c, run)
    manifest = Manifest.read(run.truth)
    assert [s.id for s in manifest] == [f"a{i}" for i in range(5)] and manifest.folds == [0, 1]
    assert all((s.height, s.width) == (16, 16) for s in manifest)
    assert [row["id"] for row in rows_of(run.data / "quarantine.csv")] == ["a5"]
    assert sum(int(row["images"]) for row in rows_of(run.data / "balance.csv")) == 5
    tests = Manifest.read(run.data / "test.csv")
    assert [(s.id, s.height) for s in tests] == [("t0", 16), ("t1", 0)]
    assert read_json(run.data / "statistics.json")["quarantine"] == 1
    assert [e["event"] for e in read_lines(run.ledger)] == ["prepared"]
    stamps = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}
    prepare(c, run)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    cache = open_cache(c, run)
    assert set(cache.index) == {s.id for s in manifest} and cache.folder.is_relative_to(run.cache)


def test_the_users_folds_are_kept_and_checked(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "data"), Run(tmp_path / "run")
    text = "id,fold\n" + "".join(f"a{i},{int(i > 1)}\n" for i in range(6))
    run.folder.mkdir()
    run.folds.write_text(text)
    prepare(config(root), run)
    assert run.folds.read_text() == text
    assert [s.fold for s in Manifest.read(run.truth)] == [0, 0, 1, 1, 1, 1]
    run.folds.write_text(text.replace("a0,0", "a0,1"))  # edited before anything was trained
    prepare(config(root), run)
    assert [s.fold for s in Manifest.read(run.truth)] == [1, 0, 1, 1, 1, 1]
    run.folds.write_text("id,fold\na0,0\n")
    with pytest.raises(UserError, match=r"folds\.csv: no fold for id 'a1' \(5 ids are missing\)"):
        prepare(config(root), run)


def test_another_cache_folder_is_no_change(tmp_path: Path) -> None:
    """A node of a cluster has a cache of its own, and must not prepare the data again."""
    root, run = folder(tmp_path / "data"), Run(tmp_path / "run")
    prepare(config(root), run)
    before = (run.data / "statistics.json").stat().st_mtime_ns
    prepare(config(root, data__cache_dir=str(tmp_path / "elsewhere")), run)
    assert (run.data / "statistics.json").stat().st_mtime_ns == before


def test_replaced_folds_keep_groups_together(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "data"), Run(tmp_path / "run")
    (root / "groups.csv").write_text("id,who\n" + "".join(f"a{i},p{i // 2}\n" for i in range(6)))
    options = {"kind": "group", "num": 2, "groups": "groups.csv", "column": "who"}
    run.folder.mkdir()
    run.folds.write_text("id,fold\n" + "".join(f"a{i},{i % 2}\n" for i in range(6)))
    with pytest.raises(UserError, match=r"'a0' \(fold 0\) and 'a1' \(fold 1\) belong to one group"):
        prepare(config(root, data__folds=options), run)


def test_a_change_under_trained_members_is_refused(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "data"), Run(tmp_path / "run")
    prepare(config(root), run)
    append_line(run.member(0, "a", 0).metrics, {"epoch": 0})
    run.folds.write_text("id,fold\n" + "".join(f"a{i},{i % 2}\n" for i in range(6)))
    with pytest.raises(UserError, match="changed after members were trained"):
        prepare(config(root), run)


def test_byte_identical_images_share_a_fold(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "data", 20), Run(tmp_path / "run")
    for i in range(10, 20):
        (root / f"images/a{i}.png").write_bytes((root / f"images/a{i - 10}.png").read_bytes())
    prepare(config(root), run)
    fold = {s.id: s.fold for s in Manifest.read(run.truth)}
    assert all(fold[f"a{i}"] == fold[f"a{i + 10}"] for i in range(10))


def test_images_of_a_single_value_are_spread_over_the_folds(tmp_path: Path) -> None:
    """They are the same bytes, too; the models of a fold that had all would have seen none."""
    root, run = folder(tmp_path / "data", 20), Run(tmp_path / "run")
    for i in range(10):
        for kind in ("images", "masks"):
            save(root / f"{kind}/a{i}.png", np.zeros((16, 16), np.uint8))
    prepare(config(root, data__folds={"num": 5}), run)
    folds = Counter(s.fold for s in Manifest.read(run.truth) if int(s.id[1:]) < 10)
    assert len(folds) >= 3 and max(folds.values()) <= 4


def test_paths_in_a_table_never_leave_the_folder(tmp_path: Path) -> None:
    """Whatever an id says, no row that is kept points outside of the images' folder."""
    root = tgs(tmp_path / "data", masks=False)
    save(tmp_path / "secret.png", gray(0))
    save(tmp_path / "data/train/secret.png", gray(0))
    ids = ["../secret", "../../../secret", str(tmp_path / "secret"), "images/../../secret", "..",
           ".", "a0/../a0", "./a1", "a1\0", " a1", "~/x", "..\\secret"]  # fmt: skip
    with (root / "train.csv").open("a", newline="") as file:
        csv.writer(file).writerows([[name, "1 1"] for name in ids if "\0" not in name])
    c = config(root, data__format="tgs", data__allow_bad=True)
    checked = inspect(c, layout("tgs").train(c))
    assert {Path(row.image).resolve().parent for row in checked.good} == {root / "train/images"}
    assert len(checked.quarantine) == len(ids) - 1


@pytest.mark.data
def test_all_of_tgs_survives(tmp_path: Path, data_root: Path) -> None:
    root, run = data_root / "tgs", Run(tmp_path / "run")
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    c = config(
        root, data__format="tgs", data__folds={"num": 5}, input__height=128, input__width=128
    )
    prepare(c, run)
    manifest, balance = Manifest.read(run.truth), rows_of(run.data / "balance.csv")
    assert len(manifest) == 3198 and not rows_of(run.data / "quarantine.csv")
    assert len(Manifest.read(run.data / "test.csv")) == 2402
    empty = [float(row["empty"]) for row in balance]
    assert max(empty) - min(empty) < 0.01
    assert read_json(run.data / "statistics.json")["constant"] > 0


@pytest.mark.data
def test_tgs_masks_are_what_the_table_says(data_root: Path) -> None:
    from distseg.data.read_target import read_target

    root = data_root / "tgs"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    c = config(root, data__format="tgs")
    with (root / "train.csv").open(newline="") as file:
        table = list(csv.DictReader(file))[::16]
    for row in table:
        from_file = read_target(f"file:{root}/train/masks/{row['id']}.png", c, 101, 101)
        assert (from_file == read_target(f"rle:{row['rle_mask']}", c, 101, 101)).all()


@pytest.mark.data
def test_camvid_and_pets_through_the_folder_layout(data_root: Path) -> None:
    camvid = data_root / "camvid"
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
             "pedestrian", "bicyclist"]  # fmt: skip
    options = {"images": "val", "masks": "valannot", "test_images": "test"}
    if not camvid.is_dir():
        pytest.skip(f"{camvid} is not there")
    c = config(
        camvid, task="multiclass", classes=names, void=11, stages=[{"loss": {"cross_entropy": 1}}],
        data__folder=options, input__channels=3, input__fit="crop",
    )  # fmt: skip
    checked = inspect(c, layout("folder").train(c))
    assert len(checked.good) == 34 and not checked.quarantine
    assert abs(checked.coverage.sum(axis=1) - 1).max() < 1e-9
    pets = {"images": "images", "masks": "annotations/trimaps", "threshold": 1, "inverted": True}
    c = config(
        data_root / "oxford_pet",
        void=3,
        data__folder=pets,
        data__allow_bad=True,
        input__fit="resize",
    )
    checked = inspect(c, layout("folder").train(c))
    assert len(checked.good) + len(checked.quarantine) >= 20
    assert all(0.01 < f.coverage[0] < 0.99 for f in checked.facts)


def test_synthetic_data_may_have_no_test_images(tmp_path: Path) -> None:
    sizes = {"num_train": 6, "num_test": 0, "height": 16, "width": 16}
    settings = {"data__format": "synthetic", "data__synthetic": sizes}
    c = config(tmp_path, data__cache_dir=str(tmp_path / "cache"), **settings)
    run = Run(tmp_path / "run")
    prepare(c, run)
    assert len(Manifest.read(run.truth)) == 6 and not Manifest.read(run.data / "test.csv")
    assert layout("synthetic").submission(c).ids == []
    assert layout("synthetic").test_truth(c) is None
