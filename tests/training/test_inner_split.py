"""`train.inner_share`: a member is watched by rows of its own, and the fold's labels choose
nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.data.prepare import prepare
from distseg.distributed import make_accelerator
from distseg.functional.metrics import summarize
from distseg.inference.load import load_snapshot_model
from distseg.models import checkpoint
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import MemberPaths, Run
from distseg.run.folder import open_run
from distseg.training.member import Member
from distseg.training.state import FORM
from distseg.training.train import train_member
from tests.made_run import write_data
from tests.run.in_process import config_of, small_tree, start
from tests.training.tiny_training import assert_same_bits, train_until


def tree_of(root: Path, **train: Any) -> dict[str, Any]:
    """Five epochs at most; the best snapshot is kept."""
    tree = small_tree()
    tree["members"].pop("b")
    folds = {"kind": "file", "path": "folds.csv"}
    tree["data"] = {"format": "folder", "root": str(root), "folds": folds}
    tree["stages"] = [{
        "schedule": {"kind": "plateau", "epochs_per_cycle": 5, "patience": 0},
        "optimizer": {"name": "adamw", "lr": 3e-2}, "keep": "best",
        "early_stopping": {"patience": 3},
    }]  # fmt: skip
    tree["train"] = {"batch_size": 8, "inner_share": 0.25, **train}
    return tree


def write_folds(root: Path) -> None:
    names = sorted(path.stem for path in (root / "images").iterdir())
    lines = [f"{name},{place % 2}" for place, name in enumerate(names)]
    (root / "folds.csv").write_text("\n".join(["id,fold", *lines]))


def trained(folder: Path, tree: dict[str, Any]) -> MemberPaths:
    torch.set_num_threads(1)
    config, run = config_of(tree), Run(folder)
    open_run(config, run)
    prepare(config, run)
    train_member(config, run.folder, 0, "a", 0)
    return run.member(0, "a", 0)


def test_no_label_of_the_fold_chooses_weights(tmp_path: Path) -> None:
    """With the masks of the fold turned round, the same weights are kept to the bit."""
    roots = [tmp_path / "as_it_is", tmp_path / "turned"]
    for root in roots:
        write_data(root)
        write_folds(root)
    names = sorted(path.stem for path in (roots[1] / "images").iterdir())
    for name in names[::2]:  # fold 0
        path = roots[1] / "masks" / f"{name}.png"
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    paths = [trained(tmp_path / f"run_{root.name}", tree_of(root)) for root in roots]
    assert_same_bits(*paths)
    done = [read_json(one.done) for one in paths]
    assert done[0]["score"] != done[1]["score"] and done[0]["epochs"] == done[1]["epochs"]
    rows = [[(r["score"], r["lr"]) for r in read_lines(one.metrics)] for one in paths]
    assert rows[0] == rows[1]
    config = config_of(tree_of(roots[0]))
    assert config.flag(0) == "honest" and done[0]["watched_by"] == 3  # of 12

    member = Member(config, Run(tmp_path / "run_as_it_is"), 0, "a", 0,
                    make_accelerator(config, cpu=True))  # fmt: skip
    file = paths[0].snapshots / done[0]["snapshots"][0]
    model = load_snapshot_model(file, torch.device("cpu"), True)[0]
    counts, _ = member.watcher.run(model, 1)
    best = max(score for score, _ in rows[0])
    assert summarize(counts, config.metric)["score"] == pytest.approx(best)
    assert len(counts) == 3 and len(member.val_rows) == 12


def test_rows_that_watch_do_not_train(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_folds(tmp_path / "data")
    copy = tmp_path / "data"
    names = sorted(path.stem for path in (copy / "images").iterdir())
    for source, target in ((1, 3), (5, 7)):  # copies within fold 1
        for part in ("images", "masks"):
            (copy / part / f"{names[target]}.png").write_bytes(
                (copy / part / f"{names[source]}.png").read_bytes()
            )
    rounds = [{"kind": "supervised"}, {"kind": "supervised"}]
    config, run = config_of({**tree_of(copy), "rounds": rounds}), Run(tmp_path / "run")
    prepare(config, run)
    run.train_set(1, 0).parent.mkdir(parents=True)
    run.train_set(1, 0).write_bytes(run.train_set(0, 0).read_bytes())
    first, again = (
        Member(config, run, key, "a", 0, make_accelerator(config, cpu=True)) for key in (0, 1)
    )
    assert len(first.rows) + len(first.watched_rows) == 12
    assert not set(first.rows) & set(first.watched_rows)
    assert first.watched_rows == again.watched_rows, "a student may start from the round before"
    assert {first.manifest[row].fold for row in first.watched_rows} == {1}
    for source, target in ((1, 3), (5, 7)):
        pair = (names[source], names[target])
        places = [row for row, s in enumerate(first.manifest) if s.id in pair]
        assert len({row in first.watched_rows for row in places}) == 1
    other = Member(config, run, 0, "a", 1, make_accelerator(config, cpu=True))
    assert {other.manifest[row].fold for row in other.watched_rows} == {0}
    assert other.val_rows == [row for row, s in enumerate(other.manifest) if s.fold == 1]


def test_a_share_that_cannot_be_is_found_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "data")
    write_folds(tmp_path / "data")
    same = (tmp_path / "data" / "images" / "images000.png").read_bytes()
    names = sorted(path.stem for path in (tmp_path / "data" / "images").iterdir())
    for name in names[::2]:  # all of fold 0, which trains fold 1
        (tmp_path / "data" / "images" / f"{name}.png").write_bytes(same)
    run, jobs = Run(tmp_path / "run"), list[Any]()
    with pytest.raises(UserError, match=r"inner_share: 0\.25: the 12 train rows are 1 unit"):
        start(config_of(tree_of(tmp_path / "data")), run, monkeypatch, before=jobs.append)
    assert jobs == []


def test_the_best_snapshot_of_each_cycle(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_folds(tmp_path / "data")
    tree = tree_of(tmp_path / "data")
    tree["stages"] = [{
        "schedule": {"kind": "cosine", "cycles": 2, "epochs_per_cycle": 3},
        "optimizer": {"name": "adamw", "lr": 3e-2}, "keep": "best_of_cycles",
    }]  # fmt: skip
    paths = trained(tmp_path / "run", tree)
    scores = [row["score"] for row in read_lines(paths.metrics)]
    best = [max(range(first, first + 3), key=lambda e: scores[e]) for first in (0, 3)]
    kept = [f"stage0_epoch{epoch + 1:04d}.safetensors" for epoch in best]
    assert read_json(paths.done)["snapshots"] == kept
    assert sorted(path.name for path in paths.snapshots.glob("*.safetensors")) == kept


def rounds_of(folder: Path) -> tuple[Any, Run]:
    """A run of two rounds, the second of which may start from the weights of the first."""
    write_data(folder / "data")
    write_folds(folder / "data")
    rounds = [{"kind": "supervised"}, {"kind": "self_distill", "init": "previous"}]
    folds = {"kind": "file", "path": "folds.csv"}
    tree = tree_of(folder / "data")
    tree["data"] = {"format": "folder", "root": str(folder / "data"), "folds": folds}
    names = sorted(path.stem for path in (folder / "data" / "images").iterdir())
    lines = [f"{name},{place % 3}" for place, name in enumerate(names)]
    (folder / "data" / "folds.csv").write_text("\n".join(["id,fold", *lines]))
    config, run = config_of({**tree, "rounds": rounds}), Run(folder / "run")
    open_run(config, run)
    prepare(config, run)
    run.train_set(1, 0).parent.mkdir(parents=True)
    return config, run


def member_of(config: Any, run: Run, key: int) -> Member:
    return Member(config, run, key, "a", 0, make_accelerator(config, cpu=True))


@pytest.mark.parametrize("lost", ["some", "all", "replaced"])
def test_rules_of_a_round_move_nobody_between_the_parts(tmp_path: Path, lost: str) -> None:
    """The student that starts from the weights of the round before is watched by none of the rows
    that those have learned, whatever this round drops or replaces."""
    torch.set_num_threads(1)
    config, run = rounds_of(tmp_path)
    train_member(config, run.folder, 0, "a", 0)
    first = member_of(config, run, 0)
    held, learned = ([first.manifest[row].id for row in rows]
                     for rows in (first.watched_rows, first.rows))  # fmt: skip
    assert len(held) == 4 and len(learned) == 12
    gone = {*(held if lost != "some" else held[:2]), *learned[:3]}
    samples = [
        s if s.id not in gone
        else replace(s, weight=0.0) if lost != "replaced"
        else replace(s, target="rle:1 30", origin="distilled")
        for s in first.manifest
    ]  # fmt: skip
    Manifest(samples).write(run.train_set(1, 0))
    later = member_of(config, run, 1)
    watched = {later.manifest[row].id for row in later.watched_rows}
    trained = {later.manifest[row].id for row in later.rows}
    assert watched == (set(held[2:]) if lost == "some" else set(held))
    assert not trained & set(held)
    assert trained == set(learned) - (gone if lost != "replaced" else set())
    paths = run.member(1, "a", 0)
    train_member(config, run.folder, 1, "a", 0)
    assert read_json(paths.done)["watched_by"] == len(watched)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    """One from before the first step goes on: nothing has been trained."""
    torch.set_num_threads(1)
    config, run = rounds_of(tmp_path)
    paths = run.member(0, "a", 0)
    train_until(config, run, 0, steps=1)
    tree, record = checkpoint.load_state(paths.state) or ({}, {})
    assert record.pop("form") == FORM and record["total_steps"]
    checkpoint.save_state(paths.state, tree, record)
    with pytest.raises(UserError, match=r"another version of distseg; .* Delete the folder"):
        train_member(config, run.folder, 0, "a", 0)
    begun = {**record, "step": 0, "total_steps": 0, "loss_sum": 0.0}
    checkpoint.save_state(paths.state, tree, begun)
    train_member(config, run.folder, 0, "a", 0)
    assert paths.done.is_file()


def test_pair_teachers_without_anybody_to_watch_them_are_found_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold has two units of four images: one of four is a quarter of two folds, and the half
    of one."""
    config, run = rounds_of(tmp_path)
    images = tmp_path / "data" / "images"
    for fold in range(3):
        ids = [sample.id for sample in Manifest.read(run.truth) if sample.fold == fold]
        for first in (0, 4):
            for name in ids[first + 1 : first + 4]:
                shutil.copy(images / f"{ids[first]}.png", images / f"{name}.png")
    jobs = list[Any]()
    with pytest.raises(UserError, match=r"inner_share: 0\.25: the 8 train rows are 2 units"):
        start(config, Run(tmp_path / "other"), monkeypatch, before=jobs.append)
    assert jobs == []
