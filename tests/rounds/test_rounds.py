"""Rounds: train sets made by the models themselves, and that no label leaks on the way."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distseg.config.load import dump_config
from distseg.ensemble.fit import fit_ensemble
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.manifest import Manifest, pair_folds
from distseg.records.paths import ALL_ROUNDS, Run
from distseg.rounds.choose import choose_final, gain
from distseg.rounds.predict_teachers import predict_teachers
from distseg.rounds.select import select
from distseg.rounds.teacher_predictions import TeacherPredictions
from distseg.rounds.teacher_tasks import teacher_tasks
from distseg.run.summary import write_report
from distseg.training.train import train_member
from tests.rounds.tiny_rounds import (
    BLEND,
    FOLDS,
    PSEUDO,
    config_of,
    play,
    same,
    weights,
    write_images,
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two data sets that differ in the labels of fold 0 alone, and runs of their first round and
    their pair teachers, which all canaries share."""
    found = []
    for noisy in (None, 0):
        folder = tmp_path_factory.mktemp(f"noisy_{noisy}")
        write_images(folder / "data", noisy_fold=noisy)
        config = config_of(folder / "data", {**BLEND, "teacher": "pair"})
        play(config, Run(folder / "run"), 1, folds=[])
        found.append(folder)
    return found[0], found[1]


@pytest.mark.parametrize(
    ("entry", "flag"),
    [
        ({**PSEUDO, "teacher": "fold"}, "honest"),
        ({**PSEUDO, "teacher": "all"}, "leaky"),
        ({**BLEND, "teacher": "pair"}, "honest"),
        ({**BLEND, "teacher": "oof"}, "indirect"),
        ({**BLEND, "teacher": "all"}, "leaky"),
        ({"kind": "distill", "teacher": "pair", "temperature": 2.0}, "honest"),
        ({"kind": "distill", "teacher": "fold"}, "honest"),
        ({"kind": "mean_teacher"}, "honest"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_canary(both: tuple[Path, Path], tmp_path: Path, entry: dict, flag: str) -> None:
    """Fold 0's labels become noise: its student must not notice, or the score says so."""
    students = []
    for number, folder in enumerate(both):
        run = Run(tmp_path / f"run{number}")
        shutil.copytree(folder / "run", run.folder)
        for path in [run.select(1), *run.round(1).glob("train_fold*.csv")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        config = config_of(folder / "data", entry)
        play(config, run, 1, folds=[0])
        students.append(weights(run, 1, 0))
    assert config.flag(1) == flag
    assert same(*students) == (flag == "honest")
    truth = [weights(Run(folder / "run"), 0, 0) for folder in both]
    assert same(*truth)  # round 0's student of fold 0 has never seen them
    others = [weights(Run(folder / "run"), 0, 1) for folder in both]
    assert not same(*others)


def test_a_leak_by_hand_is_refused(both: tuple[Path, Path], tmp_path: Path) -> None:
    """A Manifest that says that the teacher of a row has seen the student's fold."""
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    config = config_of(both[0] / "data", {**BLEND, "teacher": "pair"})
    path = run.train_set(1, 0)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    judged = next(row for row in rows if row["teacher_folds"] and row["fold"] != "0")
    judged["teacher_folds"] += " 0"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match=f"{judged['id']}.*may not train fold 0"):
        train_member(config, run.folder, 1, "a", 0)


def test_pair_teachers_see_neither_fold(both: tuple[Path, Path]) -> None:
    run = Run(both[0] / "run")
    assert pair_folds(range(FOLDS)) == {3: (0, 1), 4: (0, 2), 5: (1, 2)}
    for number, pair in pair_folds(range(FOLDS)).items():
        done = read_json(run.member(run.teachers(1), "a", number).done)
        assert set(done["trained_on"]) | set(pair) == set(range(FOLDS))
        assert len(done["trained_on"]) == FOLDS - 2
    manifest = Manifest.read(run.train_set(1, 0))
    for sample in manifest:
        if sample.fold in (1, 2):
            assert sample.teacher_folds == ({1: 2, 2: 1}[sample.fold],)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"action": "drop"}, lambda s: s.weight == 0 and s.origin == "labeled"),
        ({"action": "weight", "weight": 0.25}, lambda s: s.weight == 0.25),
        (
            {"action": "replace"},
            lambda s: s.origin == "distilled" and s.target.startswith("rle:") and not s.soft,
        ),
        (
            {"action": "replace", "targets": "soft"},
            lambda s: s.origin == "distilled" and s.soft and s.soft_weight == 1,
        ),
        ({"action": "blend", "soft_weight": 0.3}, lambda s: s.soft and s.soft_weight == 0.3),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_happens_to_suspicious_rows(
    both: tuple[Path, Path], tmp_path: Path, change: dict, check: Any
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    for path in [run.select(1), *run.round(1).glob("train_fold*.csv")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    entry = {"kind": "self_distill", "rules": {"worst": 0.5}, **change}
    config = config_of(both[0] / "data", entry)
    select(config, run, 1)
    manifest = Manifest.read(run.train_set(1, 0))
    with (run.select(1) / "fold0.csv").open(newline="") as file:
        decisions = {row["id"]: row for row in csv.DictReader(file)}
    suspicious = {name for name, row in decisions.items() if row["kept"] == "0"}
    assert len(decisions) == 20 and len(suspicious) == 8
    for sample in manifest:
        assert bool(check(sample)) == (sample.id in suspicious), sample
    assert {row["reason"] for row in decisions.values()} == {"", "worst"}
    for name in ("labeled_kept_fold0.png", "labeled_dropped_fold0.png", "balance_fold0.csv"):
        assert (run.select(1) / name).stat().st_size > 0
    assert read_json(run.select(1) / "rule.json")["checks"] == {"worst": 0.5}
    if change["action"] in ("blend", "replace"):
        train_member(config, run.folder, 1, "a", 0)
        assert run.member(1, "a", 0).done.is_file()


def test_pseudo_labels_are_the_teachers_masks(both: tuple[Path, Path], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    shutil.rmtree(run.round(1))
    entry = {**PSEUDO, "top": 4, "pseudo_weight": 0.7, "targets": "soft"}
    config = config_of(both[0] / "data", entry)
    play(config, run, 1, folds=[0])
    taught = TeacherPredictions(run.taught(1, "unlabeled", "fold0"))
    rows = [s for s in Manifest.read(run.train_set(1, 0)) if s.origin == "pseudo"]
    order = np.argsort(-taught.table["decided"], kind="stable")[:4]
    assert {s.id for s in rows} == {f"test:{taught.ids[i]}" for i in order}
    for sample in rows:
        assert sample.fold == -1 and sample.weight == 0.7 and sample.teacher_folds == (1, 2)
        assert sample.target == f"rle:{taught.masks[taught.ids.index(sample.id[5:])]}"
        assert sample.soft and sample.soft_weight == 1


@pytest.mark.slow
def test_ratio_trains_on_two_ranks_as_on_one(
    both: tuple[Path, Path], tmp_path: Path, launch: Any
) -> None:
    entry = {**PSEUDO, "mix": "ratio", "share": 0.5}
    config = config_of(both[0] / "data", entry)
    losses = []
    for ranks in (1, 2):
        run = Run(tmp_path / f"run{ranks}")
        shutil.copytree(both[0] / "run", run.folder)
        shutil.rmtree(run.round(1))
        run.config.write_text(dump_config(config))
        play(config, run, 1, folds=[])
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        process = launch(ranks, str(path), "--member", "a", "--fold", "0", "--round", "1",
                         "--out", str(run.folder))  # fmt: skip
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        losses.append([row["loss"] for row in read_lines(run.member(1, "a", 0).metrics)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_rounds_together_and_gain(both: tuple[Path, Path], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    shutil.rmtree(run.round(1))
    config = config_of(both[0] / "data", PSEUDO)
    play(config, run, 1)
    together = fit_ensemble(config, run, ALL_ROUNDS)
    models = {member["name"].partition("#")[0] for member in together["members"]}  # less a snapshot
    assert models <= {"a@0", "a@1"} <= set(together["weights"])
    value, error = gain(run, config, 1)
    scores = [read_json(run.ensemble(n))["scores"]["final"]["score"] for n in (0, 1)]
    assert value == pytest.approx(scores[1] - scores[0]) and error > 0
    chosen = choose_final(run, 1)
    best = max((read_json(run.ensemble(k)) for k in (1, ALL_ROUNDS)),
               key=lambda r: r["scores"]["final"]["score"])  # fmt: skip
    assert chosen["scores"]["final"]["score"] == best["scores"]["final"]["score"]
    record = write_report(config, run)
    assert [r["round"] for r in record["rounds"]] == [0, 1, "all"]


def test_the_models_that_validated_the_fold_distill_it(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    """`teacher: fold` says something of every other row, and nothing of the student's own; data
    without test images has no pseudo-labels, and that is no mistake."""
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    shutil.rmtree(run.round(1))
    Manifest([]).write(run.data / "test.csv")
    config = config_of(both[0] / "data", {"kind": "distill", "teacher": "fold"})
    assert [task.who for task in teacher_tasks(config, run, 1, [0])] == ["fold0"]
    predict_teachers(run.folder, config, 1)
    select(config, run, 1)
    for fold in range(FOLDS):
        said = TeacherPredictions(run.taught(1, "labeled", f"fold{fold}"))
        others = [s.id for s in Manifest.read(run.truth) if s.fold != fold]
        assert said.ids == others
        for sample in Manifest.read(run.train_set(1, fold)):
            assert sample.origin == "labeled"
            assert bool(sample.soft) == (sample.fold != fold) == bool(sample.teacher_folds)
            assert fold not in sample.teacher_folds


def test_without_teachers_rows_stay(
    both: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pair teachers have failed or are damaged: what they would have judged stays as it is, and
    the reasons are said."""
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    for path in [run.select(1), *run.round(1).glob("train_fold*.csv")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.member(run.teachers(1), "a", 3).done.unlink()  # the pair (0, 1)
    next(run.member(run.teachers(1), "a", 5).snapshots.glob("*.safetensors")).unlink()  # (1, 2)
    config = config_of(both[0] / "data", {**BLEND, "teacher": "pair"})
    select(config, run, 1)
    assert "round 1/teachers: a_fold3 is no teacher: it has not finished" in caplog.text
    assert "round 1/teachers: a_fold5 is no teacher: its snapshot" in caplog.text
    assert "no teacher has finished that may judge fold 1 for the student of fold 0" in caplog.text
    manifest = Manifest.read(run.train_set(1, 0))
    assert all(not s.teacher_folds for s in manifest if s.fold == 1)
    assert all(s.teacher_folds for s in manifest if s.fold == 2)
    manifest = Manifest.read(run.train_set(1, 1))
    assert all(not s.teacher_folds for s in manifest if s.fold in (0, 2))


def test_teachers_of_test_images_need_their_snapshots_alone(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(both[0] / "run", run.folder)
    shutil.rmtree(run.select(1))
    for fold in range(FOLDS):
        shutil.rmtree(run.member(0, "a", fold).oof)
    tasks = teacher_tasks(config_of(both[0] / "data", PSEUDO), run, 1, [0, 1, 2])
    assert [(task.who, len(task.teachers)) for task in tasks] == [
        (f"fold{fold}", 1) for fold in range(FOLDS)
    ]
