"""Kill -9 at random moments: what is left goes on to the same weights, and nothing survives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from distseg.jobs.job import JOB_MARK, RUN_MARK, find_processes
from distseg.models import checkpoint
from distseg.records.files import read_json, read_lines
from distseg.records.paths import Run
from tests.tiny import PATIENCE_S, tiny_tree, wait_until

pytestmark = pytest.mark.slow
NUM_KILLS = 12


def tree(ranks: int) -> dict[str, Any]:
    changed = tiny_tree()
    changed["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 3, "epochs_per_cycle": 12}
    changed["data"]["synthetic"]["num_train"] = 151
    changed["data"]["folds"] = {"kind": "stratified", "num": 2, "use": [0]}
    changed["compute"] |= {"processes_per_job": ranks, "retries": 0}
    return changed


def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distseg", "run", str(config), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def marked(run: Run) -> list[psutil.Process]:
    return find_processes(RUN_MARK, str(run.folder.resolve()))


def victim(driver: int, run: Run, whom: str) -> int | None:
    """Pid of the driver, of what it has started (a rank, or the launcher of several), or of one of
    a launcher's ranks."""
    if whom == "driver":
        return driver
    jobs = [p for p in marked(run) if JOB_MARK in p.environ()]
    with contextlib.suppress(psutil.Error):
        started = [p for p in jobs if p.ppid() == driver]
        below = [p for p in jobs if p.pid not in {process.pid for process in started}]
        found = below if whom == "rank" else started
        return random.choice(found).pid if found else None
    return None


def check_gone(run: Run, whom: str) -> None:
    """No process of the run is left after a kill, and no file is half-written."""
    wait_until(lambda: not marked(run), f"nothing is left alive after {whom} was killed")
    check_files(run.folder)


def check_files(folder: Path) -> None:
    """Every record and every weight file that is in place is whole."""
    for path in folder.rglob("*"):
        if path.suffix == ".json" or path.name == "DONE":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors" and not path.name.startswith("."):
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  no mapping
                    file.get_slice(key).get_shape()
        elif path.name == "submission.csv":
            assert path.read_text().endswith("\n")


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments(tmp_path: Path, ranks: int) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tree(ranks)))
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    assert start(config, whole.folder).wait(600) == 0
    undisturbed = weights(whole)

    random.seed(ranks)
    kills: list[str] = []
    while len(kills) < NUM_KILLS and not cut.report_json.is_file():
        driver = start(config, cut.folder)
        victims = ("started", "driver") if ranks == 1 else ("rank", "started", "driver")
        whom = victims[len(kills) % len(victims)]
        wait_for_moment(cut, driver, epochs=random.randint(0, 2))
        pid = victim(driver.pid, cut, whom)
        if pid is None or driver.poll() is not None:
            driver.wait(PATIENCE_S)
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        kills.append(whom)
        driver.wait(PATIENCE_S)  # killed, or it reports the failed job and leaves
        check_gone(cut, whom)

    assert len(kills) >= 10, f"it finished after {kills}: too quick to show anything"
    assert start(config, cut.folder).wait(600) == 0
    again = weights(cut)
    assert again.keys() == undisturbed.keys()
    different = [key for key in again if not torch.equal(again[key], undisturbed[key])]
    assert not different, f"{len(different)} tensors differ after {kills}"
    assert cut.submission.read_bytes() == whole.submission.read_bytes()
    assert read_json(cut.report_json).keys() == read_json(whole.report_json).keys()


def wait_for_moment(run: Run, driver: subprocess.Popen[bytes], epochs: int) -> None:
    """A random moment after `epochs` more epochs have ended; with 0, while the job starts."""
    metrics = run.member(0, "a", 0).metrics
    goal = len(read_lines(metrics)) + epochs

    def early() -> bool:
        return len(read_lines(metrics)) < goal if epochs else not marked(run)

    wait_until(lambda: driver.poll() is not None or not early(), "the moment to kill")
    time.sleep(random.uniform(0.0, 0.5 if epochs else 8.0))


def weights(run: Run) -> dict[str, torch.Tensor]:
    paths = run.member(0, "a", 0)
    found: dict[str, torch.Tensor] = {}
    for name in read_json(paths.done)["snapshots"]:
        state, _ = checkpoint.load_snapshot(paths.snapshots / name)
        found |= {f"{name}.{key}": value for key, value in state.items()}
    return found


def rounds_tree() -> dict[str, Any]:
    """Teachers, filtering, soft blends, warm starts and pseudo-labels, each a few seconds long."""
    changed = tiny_tree()
    changed["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 1, "epochs_per_cycle": 3}
    changed["data"]["synthetic"] |= {"num_train": 60, "num_test": 12}
    changed["data"]["folds"] = {"kind": "stratified", "num": 3}
    changed["rounds"] = [
        {"kind": "supervised"},
        {"kind": "self_distill", "rules": {"worst": 0.3}, "action": "blend", "targets": "soft",
         "init": "previous"},
        {"kind": "pseudo_label", "rules": {}, "match_strata": False, "mix": "ratio"},
    ]  # fmt: skip
    changed["compute"] |= {"members_per_job": 3, "retries": 99}
    return changed


def test_killed_in_any_round(tmp_path: Path) -> None:
    """Kills spread over the whole run: training, teachers, selection, ensembles, prediction."""
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(rounds_tree()))
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    assert start(config, whole.folder).wait(900) == 0

    random.seed(7)
    kills: list[str] = []
    while len(kills) < 30 and not cut.report_json.is_file():
        driver = start(config, cut.folder)
        for whom in ("started", "driver"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(random.uniform(6.0, 12.0))
            pid = victim(driver.pid, cut, whom) if driver.poll() is None else None
            if pid is not None:  # a job that was killed is tried again
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                kills.append(whom)
        driver.wait(PATIENCE_S)
        check_gone(cut, whom)
    assert len(kills) >= 4, f"it finished after {kills}: too quick to show anything"
    assert start(config, cut.folder).wait(900) == 0

    members = sorted(whole.folder.glob("round_*/**/DONE"))
    assert len(members) == 12
    for done in members:
        other = cut.folder / done.relative_to(whole.folder)
        for name in read_json(done)["snapshots"]:
            states = [
                checkpoint.load_snapshot(path.parent / "snapshots" / name)[0]
                for path in (done, other)
            ]
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), done
    for path in whole.folder.glob("round_*/train_fold*.csv"):
        assert path.read_text() == (cut.folder / path.relative_to(whole.folder)).read_text()
