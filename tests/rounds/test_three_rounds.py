"""A run of three rounds by the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distseg.records.files import read_json, read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.rounds.tiny_rounds import (
    FOLDS,
    NUM,
    PSEUDO,
    write_images,
)
from tests.tiny import tiny_tree


@pytest.mark.slow  # test_mean_teacher.py runs two rounds
def test_a_run_of_three_rounds(tmp_path: Path) -> None:
    """By the command line: teachers, train sets, students, ensembles, submissions, report."""
    write_images(tmp_path / "data")
    rounds = [
        {"kind": "self_distill", "rules": {"worst": 0.2}, "init": "previous"},
        {**PSEUDO, "mix": "ratio", "share": 0.5},
    ]
    data = {"format": "folder", "root": str(tmp_path / "data"),
            "folds": {"kind": "file", "path": str(tmp_path / "data/folds.csv")}}  # fmt: skip
    tree = tiny_tree(data=data, rounds=[{"kind": "supervised"}, *rounds],
                     predict={"tta": [], "every_round": True})  # fmt: skip
    tree["stages"][0]["schedule"] = {"kind": "cosine", "epochs_per_cycle": 1}
    tree["compute"] |= {"members_per_job": 9}
    path, run = tmp_path / "tiny.yaml", Run(tmp_path / "run")
    path.write_text(yaml.safe_dump(tree))

    def distseg(*arguments: str) -> str:
        command = [sys.executable, "-m", "distseg", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    planned = distseg("plan", str(path), "--out", str(run.folder))
    assert "= 12 members" in planned and "teachers of round 1" in planned
    output = distseg("run", str(path), "--out", str(run.folder))
    for line in ("round 0: dice", "round 1: dice", "round 2: dice", "all rounds: dice"):
        assert line in output
    assert "(nested: honest)" in output
    for number in range(3):
        assert len(list((run.round(number) / "test_masks").iterdir())) == 6
    assert len(list(run.test_masks.iterdir())) == 6
    for fold in range(FOLDS):
        manifest = Manifest.read(run.train_set(2, fold))
        origins = [s.origin for s in manifest]
        assert origins.count("labeled") == NUM and origins.count("pseudo") == 6
        dropped = [s for s in manifest if s.weight == 0]
        assert len(dropped) == int(0.2 * 16) and all(s.fold != fold for s in dropped)
        for sample in manifest:
            assert (fold in sample.teacher_folds) is False or sample.fold == fold
        assert read_json(run.member(2, "a", fold).done)["trained_on"] == [
            f for f in range(FOLDS) if f != fold
        ]
    report = read_json(run.report_json)
    assert report["flag"] == "honest" and len(report["rounds"]) == 4
    assert report["rounds"][1]["selection"]["0"] == {"labeled_kept": 17, "labeled_dropped": 3}
    status = distseg("status", str(run.folder))
    assert status.count("done") >= 12 and "round 1/teachers: 3 of 3" in status
    before = len(read_lines(run.ledger))
    distseg("run", str(path), "--out", str(run.folder))
    events = [line["event"] for line in read_lines(run.ledger)[before:]]
    assert "job_started" not in events
