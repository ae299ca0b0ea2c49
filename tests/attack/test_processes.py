"""Processes of a job: who can reach them, and whether they end with their driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distseg.jobs.hardware import Slot
from distseg.jobs.job import (
    JOB_MARK,
    Job,
    find_processes,
    launch_command,
    launch_environment,
    write_launch_yaml,
)
from distseg.records.paths import Run
from tests.tiny import ROOT, wait_until

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
# A rank that meets the others and waits; what `distseg` is in these tests.
RANK = """
import os, sys, time
from pathlib import Path
from distseg.jobs.job import watch_launcher
watch_launcher()
import torch.distributed as dist
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    dist.init_process_group("gloo")
    dist.barrier()
Path(sys.argv[1], f"rank{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
time.sleep(600)
"""


def start(tmp_path: Path, processes: int) -> tuple[subprocess.Popen[bytes], str]:
    """A job of ranks that wait, as the local executor starts it; (the launcher, its mark)."""
    run, mark = Run(tmp_path / "run"), f"attack-{os.getpid()}-{time.monotonic_ns()}"
    slot = Slot(0, (), processes, 1)
    (tmp_path / "rank.py").write_text(RANK)
    command = launch_command(Job("x", (), tmp_path / "log"), slot, write_launch_yaml(run))
    place = command.index("distseg")
    command = [*command[: place - 1], str(tmp_path / "rank.py"), str(tmp_path)]
    environment = launch_environment(slot, run, mark)
    environment["PYTHONPATH"] = str(ROOT)
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    names = [tmp_path / f"rank{number}" for number in range(processes)]
    wait_until(lambda: all(n.is_file() and n.read_text() for n in names), "all ranks have met")
    return started, mark


def end(started: subprocess.Popen[bytes], mark: str) -> None:
    for process in find_processes(JOB_MARK, mark):
        process.kill()
    started.wait()


def test_ranks_of_one_machine_listen_on_its_loopback(tmp_path: Path) -> None:
    started, mark = start(tmp_path, 2)
    try:
        listening = [
            connection.laddr.ip
            for process in find_processes(JOB_MARK, mark)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening, "the launcher's store and the ranks listen"
        assert set(listening) <= set(LOOPBACK), listening
    finally:
        end(started, mark)


def test_a_cache_that_others_have_prepared_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a temporary folder that everybody may write to: by a link, open rights or a file."""
    ray = pytest.importorskip("distseg.jobs.ray", reason="ray is not installed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = ray.node_cache(Path("/run"))
    assert first == ray.node_cache(Path("/run")) and first.stat().st_mode & 0o777 == 0o700
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    first.rmdir()
    for prepare in (
        lambda: first.symlink_to(elsewhere),
        lambda: first.touch(),
        lambda: (first.mkdir(), first.chmod(0o777)),
    ):
        prepare()
        other = ray.node_cache(Path("/run"))
        assert other != first and other.stat().st_mode & 0o777 == 0o700
        first.rmdir() if first.is_dir() and not first.is_symlink() else first.unlink()


DRIVER = """
import subprocess, sys, time
from pathlib import Path
from tests.attack.test_processes import start
started, mark = start(Path(sys.argv[1]), int(sys.argv[2]))
Path(sys.argv[1], "mark").write_text(mark)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_rank_dies_with_its_driver(processes: int, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(processes)], cwd=ROOT
    )
    path = tmp_path / "mark"
    wait_until(lambda: path.is_file() and path.read_text(), "the job runs")
    mark = path.read_text()
    try:
        for number in range(processes):
            os.kill(int((tmp_path / f"rank{number}").read_text()), signal.SIGSTOP)
        driver.kill()
        driver.wait()
        wait_until(lambda: not find_processes(JOB_MARK, mark), "stopped ranks are gone", 60.0)
    finally:
        for process in find_processes(JOB_MARK, mark):
            process.kill()
