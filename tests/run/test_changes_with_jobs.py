"""Changes and early ends of a run as a person makes them: the command line, real jobs, local and on
Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from distseg.data.layouts import layout
from distseg.records.files import read_json, read_lines
from distseg.records.paths import Run
from distseg.run.status import status_text
from distseg.run.submission import submission_problem
from tests.run.in_process import all_weights, config_of, differing, small_tree
from tests.tiny import PATIENCE_S, wait_until

EXECUTORS = [
    pytest.param("local", marks=pytest.mark.slow),
    pytest.param("ray", marks=pytest.mark.ray),
]


def write_tree(folder: Path, executor: str, **compute: Any) -> Path:
    tree = small_tree()
    tree["compute"] |= {"executor": executor, **compute}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def begin(config: Path, run: Run, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distseg", "run", str(config), "--out", str(run.folder)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    output = (run.folder.parent / f"{run.folder.name}.out").open("ab")
    return subprocess.Popen(
        [*command, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment
    )


def finish(config: Path, run: Run, *arguments: str) -> list[str]:
    """Start a run and wait for its end; the members that jobs were started for."""
    before = len(read_lines(run.ledger))
    status = begin(config, run, *arguments).wait(900)
    assert status == 0, (run.folder.parent / f"{run.folder.name}.out").read_text()[-4000:]
    events = read_lines(run.ledger)[before:]
    started = [event for event in events if event["event"] == "job_started"]
    return sorted(label for event in started for label in event["members"])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_key_makes_again(tmp_path: Path, executor: str) -> None:
    config = write_tree(tmp_path, executor)
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    everyone = ["a_fold0", "a_fold1", "b_fold0", "b_fold1"]
    assert finish(config, run) == everyone
    steps: list[tuple[str, list[str]]] = [
        ("compute.workers=1", []),
        ("postprocess.threshold=0.3", []),
        ("ensemble.space=prob", []),
        ("predict.tta=[]", everyone),
        ("members.b.folds=[0]", []),
        ("data.folds.use=[0]", []),
        ("data.folds.use=null", []),
        ("stages.0.schedule.cycles=3", ["a_fold0", "a_fold1", "b_fold0"]),
        ("members.b.folds=null", ["b_fold1"]),  # it comes back, and goes on as well
    ]
    given: list[str] = []
    for override, trained in steps:
        given.append(override)
        before, ensemble = all_weights(run), run.final.read_bytes()
        assert finish(config, run, *given) == trained, override
        after = all_weights(run)
        assert before.keys() <= after.keys() and differing(before, after) == [], override
        record = read_json(run.report_json)
        assert record["flag"] == "honest" and record["partial"] is None
        changed = json.loads(run.changes.read_text())[-1]["changed"]
        assert list(changed) == [override.partition("=")[0]]
        if changed.keys() <= {"compute.workers"}:
            assert run.final.read_bytes() == ensemble
    finish(config, whole, *given)
    again, undisturbed = all_weights(run), all_weights(whole)
    assert again.keys() == undisturbed.keys() and differing(again, undisturbed) == []
    assert run.submission.read_text() == whole.submission.read_text()
    refused = begin(config, run, *given, "seed=1")
    assert refused.wait(300) == 2


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("by", ["signal", "until"])
def test_an_early_end_goes_on_to_the_same_weights(tmp_path: Path, executor: str, by: str) -> None:
    config = write_tree(tmp_path, executor, members_per_job=1, slots=1)
    longer = ("stages.0.schedule.cycles=6",)
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    finish(config, whole, *longer)
    if by == "signal":
        driver = begin(config, run, *longer)
        first, second = run.member(0, "a", 0), run.member(0, "a", 1)
        wait_until(lambda: first.done.is_file() and read_lines(second.metrics), "in the middle")
        driver.send_signal(signal.SIGUSR1)
    else:
        ledger = read_lines(whole.ledger)
        done = [event["time"] for event in ledger if event["event"] == "job_done"]
        begun = next(event["time"] for event in ledger if event["event"] == "run_started")
        middle = (done[0] + done[1]) / 2 - begun
        driver = begin(config, run, *longer, "--until", f"{middle:.1f}s")
    status = driver.wait(PATIENCE_S)
    finished = len(list(run.folder.glob("round_0/members/*/DONE")))
    if by == "signal":
        assert 1 <= finished < 4
    assert status == (0 if finished else 1)  # a slower machine than a moment ago may finish none
    if finished:
        partial = read_json(run.report_json)["partial"]
        assert partial["done"] == finished and len(partial["missing"]) == 4 - finished
        assert "PARTIAL: ended early" in status_text(run.folder)
        spec = layout("synthetic").submission(config_of(yaml.safe_load(config.read_text())))
        assert submission_problem(spec, run.submission) == ""
        assert read_json(run.report_json)["flag"] == "honest"
    assert not [event for event in read_lines(run.ledger) if event["event"] == "job_failed"]
    finish(config, run, *longer)
    again, undisturbed = all_weights(run), all_weights(whole)
    assert again.keys() == undisturbed.keys() and differing(again, undisturbed) == []
    assert run.submission.read_text() == whole.submission.read_text()
    assert read_json(run.report_json)["partial"] is None


@pytest.mark.slow
def test_killed_while_it_ends_early(tmp_path: Path) -> None:
    """A kill between the early end and its report: the next start is as after any other kill."""
    config = write_tree(tmp_path, "local", members_per_job=1)
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    finish(config, whole)
    driver = begin(config, run)
    wait_until(run.member(0, "a", 0).done.is_file, "a member is done")
    driver.send_signal(signal.SIGUSR1)
    time.sleep(1.0)
    with contextlib.suppress(ProcessLookupError):
        driver.kill()
    driver.wait(PATIENCE_S)
    finish(config, run)
    again, undisturbed = all_weights(run), all_weights(whole)
    assert again.keys() == undisturbed.keys() and differing(again, undisturbed) == []
    assert not run.partial.exists()
