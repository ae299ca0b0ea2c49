from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.jobs.hardware import Slot
from distseg.jobs.job import measured_pace
from distseg.records.files import append_line, mark_done
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run
from distseg.records.tables import write_table
from distseg.run.measure import data_size
from distseg.run.members import known_members
from distseg.run.plan import (
    DataSize,
    ModelSize,
    amount,
    disk_bytes,
    make_jobs,
    member_images,
    memory_bytes,
    plan_text,
)
from distseg.run.work import epoch_cost, val_images, work_of
from tests.init.made_sets import folder
from tests.tiny import tiny_tree

SIZE = DataSize(100, 20, 10, 10)
MODELS = {"a": ModelSize(1000, 4000), "b": ModelSize(3000, 8000)}


def config_of(**changes: object) -> Config:
    tree = tiny_tree(**changes)
    tree["members"]["b"] = tree["members"]["a"]
    return parse_config(tree, "test")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_members_are_models_by_folds(run: Run) -> None:
    config = config_of()
    assert known_members(config, run) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    folds = {**tiny_tree()["data"], "folds": {"kind": "stratified", "num": 4, "use": [1, 3]}}
    assert config_of(data=folds).planned_members(range(4)) == [
        ("a", 1), ("a", 3), ("b", 1), ("b", 3),
    ]  # fmt: skip


def test_the_manifest_says_which_folds_there_are(run: Run) -> None:
    Manifest([Sample("x", "x.png", fold=2), Sample("y", "y.png", fold=-1)]).write(run.truth)
    assert known_members(config_of(), run) == [("a", 2), ("b", 2)]


def test_jobs_leave_out_what_is_done(run: Run) -> None:
    config = config_of()
    mark_done(run.member(0, "a", 1).done, {})
    jobs = make_jobs(config, run, known_members(config, run), 1)
    assert [job.members for job in jobs] == [(("a", 0),), (("b", 0),), (("b", 1),)]


@pytest.mark.parametrize(("num_slots", "sizes"), [(1, [3, 1]), (2, [2, 2]), (4, [1, 1, 1, 1])])
def test_members_in_a_row_leave_no_slot_empty(run: Run, num_slots: int, sizes: list[int]) -> None:
    config = config_of(compute={"members_per_job": 3})
    jobs = make_jobs(config, run, known_members(config, run), num_slots)
    assert [len(job.members) for job in jobs] == sizes


def test_estimates() -> None:
    config = config_of()
    members = config.planned_members([0, 1])
    assert member_images(config, "a", SIZE, 2) == 50 * 2  # half the rows, two epochs
    parts = disk_bytes(config, SIZE, MODELS, {0: members}, 1, 2)
    assert parts["decode cache"] == 100 * 100 * 2
    logits = "out-of-fold logits (float16)"
    assert parts[logits] == 4 * 50 * 100 * 2 * (1 + 2)  # of the mean, and of each snapshot
    means = config_of(ensemble={"snapshots": "all"})
    assert disk_bytes(means, SIZE, MODELS, {0: members}, 1, 2)[logits] == 4 * 50 * 100 * 2
    assert parts["snapshots"] == 2 * 2 * 4 * (1000 + 3000)
    slot = Slot(0, (), 2, 1)
    assert memory_bytes(config, MODELS, slot)["a"] == 16 * 1000 + 4 * 4000  # 8 images, 2 ranks


def test_estimates_of_a_mean_teacher() -> None:
    """A quarter of each batch are test images, the batch keeps its size; a step takes a forward
    pass more; the teacher's weights take room, and the test images some in the cache."""
    rounds = [{}, {"kind": "mean_teacher", "share": 0.25}]
    plain, config = config_of(), config_of(rounds=rounds)
    images = [member_images(config, "a", SIZE, 2, key) for key in (0, 1)]
    assert images == [100, 2 * round(50 / 0.75)]
    works = [work_of(config, "a", 96, 50, key).updates for key in (0, 1)]
    assert works == [12, pytest.approx(12 * 4 / 3)]
    assert [epoch_cost(config, key) for key in (0, 1)] == [1, pytest.approx(4 / 3 / 0.75)]
    steps = config_of(rounds=rounds, train={"batch_size": 8, "steps_per_epoch": 5})
    assert epoch_cost(steps, 1) == pytest.approx(4 / 3)
    slot, members = Slot(0, (), 1, 1), config.planned_members([0, 1])
    memory = [memory_bytes(one, MODELS, slot)["a"] for one in (plain, config)]
    assert memory[1] - memory[0] == 4 * 1000
    disk = [disk_bytes(one, SIZE, MODELS, {0: members}, 1, 2) for one in (plain, config)]
    assert disk[1]["decode cache"] - disk[0]["decode cache"] == 20 * 100 * 2


def test_pace_comes_from_the_first_epoch(run: Run) -> None:
    config = config_of()
    slots, members = [Slot(0, (), 1, 2)], config.planned_members([0, 1])
    text = plan_text(config, run, slots, SIZE, MODELS)
    assert "unknown until the first epoch" in text
    assert "4 jobs to start" in text
    assert not run.folder.exists()
    for name, pace in (("a", 10.0), ("b", 5.0)):
        append_line(run.member(0, name, 0).metrics, {"epoch": 0, "images_per_s": pace})
    assert measured_pace(run, members) == {"a": 10.0, "b": 5.0}
    assert "about 1m00s" in plan_text(config, run, slots, SIZE, MODELS)


def test_amount() -> None:
    assert [amount(n) for n in (0, 999, 1500, 2.5e9)] == ["0 B", "999 B", "1.5 kB", "2.5 GB"]


def test_the_pace_of_a_run_does_not_divide_the_last_member(run: Run) -> None:
    """Four members on eight slots take as long as one of the slowest; a second round as long again,
    and three on two slots as the first that is free."""
    config, many = config_of(), [Slot(i, (), 1, 2) for i in range(8)]
    for name, pace in (("a", 10.0), ("b", 5.0)):  # 10 and 20 seconds a member
        append_line(run.member(0, name, 0).metrics, {"epoch": 0, "images_per_s": pace})
    assert "time: about 20s, at the pace" in plan_text(config, run, many, SIZE, MODELS)
    assert "time: about 30s, at the pace" in plan_text(config, run, many[:2], SIZE, MODELS)
    for member in (("a", 0), ("a", 1), ("b", 0)):
        mark_done(run.member(0, *member).done, {})
    assert "time: about 20s, at the pace" in plan_text(config, run, many, SIZE, MODELS)
    two = config_of(rounds=[{}, {"kind": "self_distill", "teacher": "oof"}])
    assert "time: about 40s, at the pace" in plan_text(two, run, many, SIZE, MODELS)


def test_a_part_of_the_data_set_s_own_counts_as_it_is(run: Run) -> None:
    """A tenth, or what a table of folds or the run's Manifest has, and no fifth of a hold-out."""
    data = tiny_tree()["data"]
    config = config_of(data={**data, "folds": {"kind": "split"}})
    size = replace(SIZE, held=0.1)
    assert member_images(config, "a", size, 1) == 90 * 2
    assert val_images(config, size, 1) == pytest.approx(10)
    assert member_images(config, "a", SIZE, 1) == 80 * 2
    Manifest([Sample(f"r{i}", "x.png", height=8, width=8, fold=0 if i < 3 else -1)
              for i in range(30)]).write(run.truth)  # fmt: skip
    Manifest([Sample("t", "x.png", height=16, width=16)]).write(run.data / "test.csv")
    found = data_size(config, run)
    assert (found.held, found.test_share) == (pytest.approx(0.1), 4.0)


def test_files_say_what_a_fold_holds(run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=20, size=(32, 32))
    ids = [one.stem for one in sorted((root / "images").iterdir())]
    write_table(
        root / "f.csv", ("id", "fold"), [(n, i % 2 if i < 8 else -1) for i, n in enumerate(ids)]
    )
    (root / "test_images").mkdir()
    Image.new("L", (64, 96)).save(root / "test_images/t.png")
    data = {"format": "folder", "root": str(root), "folds": {"kind": "file", "path": "f.csv"},
            "folder": {"test_images": "test_images"}}  # fmt: skip
    config = config_of(data=data, task="binary", classes=["a"])
    found = data_size(config, run)
    assert (found.held, found.test_share) == (pytest.approx(0.2), 6.0)
    (root / "val_images").mkdir()
    (root / "val_masks").mkdir()
    for kind in ("images", "masks"):
        for name in ids[:4]:
            source = root / kind / f"{name}.png"
            source.rename(root / f"val_{kind}" / f"{name}.png")
    parts = {"val_images": "val_images", "val_masks": "val_masks"}
    split = {**data, "folds": {"kind": "split"}, "folder": parts}
    found = data_size(config_of(data=split, task="binary", classes=["a"]), run)
    assert found.held == pytest.approx(0.2)
