"""Reading a finished member: what it holds, and the reason where it cannot be used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distseg.records.files import read_json, write_json
from distseg.records.finished_member import FinishedMember, UnusableMember
from distseg.records.manifest import Manifest
from distseg.records.paths import MemberPaths, Run
from tests.made_run import made_config, made_run, write_data


def read(run: Run) -> FinishedMember:
    manifest = Manifest.read(run.truth)
    rows = [manifest[row] for row in manifest.val_rows(1)]
    return FinishedMember.read(run, 0, "a", 1, rows=rows, num_outputs=1).opened()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_data(tmp_path / "data")
    return made_run(tmp_path, made_config(tmp_path / "data", ("a",)))


def test_what_a_member_holds(run: Run) -> None:
    member = read(run)
    manifest = Manifest.read(run.truth)
    assert member.predictions.ids == [manifest[row].id for row in manifest.val_rows(1)]
    assert member.trained_on == {0, 2}
    assert member.snapshots == [
        f"round_0/members/a_fold1/snapshots/snapshot_{i}.safetensors" for i in range(2)
    ]
    stems = ("mean", "snapshot_0", "snapshot_1")
    assert member.variants.keys() == {
        f"{stem}_{kind}" for stem in stems for kind in ("tta", "plain")
    }
    assert {table.shape for table in member.variants.values()} == {(8, 1, 3)}


def drop(path: Path, *keys: str) -> None:
    """Remove a value of a JSON file, by the keys that lead to it."""
    record: Any = read_json(path)
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    write_json(path, record)


def shuffle(path: Path) -> None:
    record = read_json(path)
    write_json(path, {**record, "ids": record["ids"][::-1]})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda paths: paths.done.unlink(), "it has not finished"),
        (lambda paths: paths.done.write_text("{"), "Expecting property name"),
        (lambda paths: drop(paths.done, "trained_on"), "has no 'trained_on'"),
        (lambda paths: next(paths.snapshots.iterdir()).unlink(), "is missing"),
        (lambda paths: (paths.oof / "index.csv").unlink(), "no predictions here"),
        (lambda paths: cut(paths.oof / "logits.f16"), "its index says"),
        (lambda paths: paths.oof_scores.unlink(), "No such file"),
        (lambda paths: shuffle(paths.oof_scores), "counts other images"),
        (lambda paths: drop(paths.oof_scores, "variants", "mean_tta"), "no counts of 'mean_tta'"),
        (lambda paths: paths.oof_scores.write_text('{"ids": []}'), "counts other images"),
        (lambda paths: paths.oof_scores.write_text("{}"), "^one of its files has no 'ids'$"),
    ],
)  # fmt: skip
def test_a_damaged_member_says_why(
    run: Run, damage: Callable[[MemberPaths], object], reason: str
) -> None:
    damage(run.member(0, "a", 1))
    with pytest.raises(UnusableMember, match=reason):
        read(run)


def test_whoever_predicts_other_images_needs_no_out_of_fold_files(run: Run) -> None:
    paths = run.member(0, "a", 1)
    shutil.rmtree(paths.oof)
    paths.oof_scores.unlink()
    member = FinishedMember.read(run, 0, "a", 1, rows=[], num_outputs=1)
    assert len(member.snapshots) == 2 and member.trained_on == {0, 2}
    for name, reason in (("predictions", "no predictions here"), ("variants", "No such file")):
        with pytest.raises(UnusableMember, match=reason):
            getattr(member, name)


def test_why_a_member_failed(run: Run) -> None:
    paths = run.member(0, "a", 1)
    paths.done.unlink()
    write_json(paths.failure, {"kind": "out_of_memory", "message": "no room"})
    with pytest.raises(UnusableMember, match=r"^it failed \(out_of_memory\): no room$"):
        read(run)


def test_logits_of_other_data_are_refused(run: Run) -> None:
    manifest = Manifest.read(run.truth)
    rows = [manifest[row] for row in manifest.val_rows(1)]
    with pytest.raises(UnusableMember, match=r"are \(1, 12, 10\), not \(2, 12, 10\)"):
        FinishedMember.read(run, 0, "a", 1, rows=rows, num_outputs=2).opened()
    other = [manifest[row] for row in manifest.val_rows(2)]
    with pytest.raises(UnusableMember, match="are None, not"):
        FinishedMember.read(run, 0, "a", 1, rows=other, num_outputs=1).opened()
