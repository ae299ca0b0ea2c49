"""The command and the environment of a job, and that no process outlives what started it."""

from __future__ import annotations

import contextlib
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
    RUN_MARK,
    end_leftovers,
    find_processes,
    launch_command,
    launch_environment,
    train_job,
    write_launch_yaml,
)
from distseg.records.files import read_lines
from distseg.records.paths import Run
from tests.jobs.driver import scripted
from tests.tiny import PATIENCE_S, wait_until

DRIVER = Path(__file__).with_name("driver.py")


def flags(command: list[str]) -> str:
    return " ".join(command[: command.index("-m", 3)])


def test_command(tmp_path: Path) -> None:
    run = Run(tmp_path)
    job = train_job(run, 0, [("a", 0), ("b", 2)])
    assert job.label == "a_fold0+1"
    one = launch_command(job, Slot(0, (), 1, 2), tmp_path / "x.yaml")
    assert one == launch_command(job, Slot(0, ("3",), 1, 4), tmp_path / "x.yaml")
    assert one[1:4] == ["-m", "distseg", "train"]  # one rank needs no launcher
    assert one[-2:] == ["--members", "a:0,b:2"]
    two = launch_command(job, Slot(0, (), 2, 1), tmp_path / "x.yaml")
    assert "--multi_gpu --main_process_port 0 --num_processes 2" in flags(two)
    assert two[two.index("-m", 3) :] == one[1:]


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    shell = {
        *("TORCHELASTIC_RUN_ID", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "SLURM_PROCID"),
        *("ACCELERATE_MIXED_PRECISION", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    }
    for name in shell:
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")  # changes no weights
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    run = Run(tmp_path)
    cpu = launch_environment(Slot(0, (), 2, 3), run, "m")
    assert cpu["ACCELERATE_USE_CPU"] == "true"
    assert cpu["CUDA_VISIBLE_DEVICES"] == ""
    assert cpu["OMP_NUM_THREADS"] == "3"
    assert not {"RANK", *shell} & set(cpu) and cpu["NCCL_DEBUG"] == "INFO"
    gpus = launch_environment(Slot(0, ("2", "3"), 2, 3), run, "m")
    assert gpus["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "ACCELERATE_USE_CPU" not in gpus


class Started:
    """A driver process with one job: driver, launcher where `start` has one, rank, loader."""

    def __init__(self, run: Run, start: str) -> None:
        self.run = run
        command = [sys.executable, str(DRIVER), str(run.folder), start, "a:0", "1"]
        self.driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until((run.member(0, "a", 0).folder / "ready").is_file, "the job is at work")
        self.launcher = read_lines(run.ledger)[0]["pid"]
        alone = start == "alone"
        self.rank = self.launcher if alone else psutil.Process(self.launcher).children()[0].pid

    def alive(self) -> list[psutil.Process]:
        return find_processes(RUN_MARK, str(self.run.folder))


STARTS = ["alone", "same", "session"]


@pytest.mark.parametrize("start", STARTS)
def test_kill_9_of_the_driver_leaves_nothing(tmp_path: Path, start: str) -> None:
    started = Started(scripted(tmp_path, a0=["sleep"]), start)
    # the rank, its loader, and a launcher above them; the guard does not count
    assert len(started.alive()) == (2 if start == "alone" else 3)
    started.driver.kill()
    started.driver.wait(PATIENCE_S)
    wait_until(lambda: not started.alive(), "nothing is left alive")


@pytest.mark.parametrize("start", ["alone", "session"])
def test_kill_9_of_driver_and_rank_at_once_leaves_nothing(tmp_path: Path, start: str) -> None:
    """As a node dies, or memory runs out: the rank cannot end the children that it leaves."""
    started = Started(scripted(tmp_path, a0=["sleep"]), start)
    for pid in (started.driver.pid, started.launcher, started.rank):
        with contextlib.suppress(ProcessLookupError):  # the kernel was faster
            os.kill(pid, signal.SIGKILL)
    started.driver.wait(PATIENCE_S)
    wait_until(lambda: not started.alive(), "nothing is left alive")


def runs(process: psutil.Process) -> bool:
    """A zombie that its new parent has not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("start", "victim"), [("session", "launcher"), ("session", "rank"), ("alone", "rank")]
)
def test_kill_9_inside_a_job_starts_it_again(tmp_path: Path, start: str, victim: str) -> None:
    started = Started(scripted(tmp_path, a0=["sleep", "done"]), start)
    before = started.alive()
    os.kill(getattr(started, victim), signal.SIGKILL)
    assert started.driver.wait(PATIENCE_S) == 0
    assert not [p for p in before if runs(p)]
    assert started.run.member(0, "a", 0).done.is_file()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_ranks_save(
    tmp_path: Path, number: signal.Signals, status: int, start: str
) -> None:
    started = Started(scripted(tmp_path, a0=["save"]), start)
    started.driver.send_signal(number)
    assert started.driver.wait(PATIENCE_S) == status
    assert started.run.member(0, "a", 0).state.is_dir()
    assert not started.alive()


def test_a_rank_whose_launcher_was_gone_before_it_looked(tmp_path: Path) -> None:
    """Of a launch by hand: no driver ends it, and it would wait for the others."""
    code = (
        "import pathlib, time\n"
        "from distseg.jobs.job import watch_launcher\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "while not (here / 'gone').is_file():\n"
        "    time.sleep(0.05)\n"
        "watch_launcher()\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "rank.py").write_text(code)
    shell = f"{sys.executable} {tmp_path}/rank.py & echo $!"
    environment = {**os.environ, "ACCELERATE_DYNAMO_BACKEND": "no", "LOCAL_RANK": "0"}
    with (tmp_path / "said").open("w") as said:  # a pipe would wait for the rank
        subprocess.run(["sh", "-c", shell], env=environment, stdout=said, check=True)
    rank = psutil.Process(int((tmp_path / "said").read_text()))
    (tmp_path / "gone").touch()
    wait_until(lambda: not runs(rank), "the rank has left", 60.0)


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    started = Started(scripted(tmp_path, a0=["sleep"]), "session")
    started.driver.send_signal(signal.SIGTERM)
    time.sleep(1.0)  # the rank is deaf: the driver waits for it
    assert started.driver.poll() is None
    started.driver.send_signal(signal.SIGTERM)
    assert started.driver.wait(PATIENCE_S) == 143
    assert not started.alive()


def test_leftovers_of_a_killed_driver_are_ended(tmp_path: Path) -> None:
    """A process that carries the run's mark and has no watch of its own."""
    run = Run(tmp_path)
    environment = {**os.environ, RUN_MARK: str(tmp_path.resolve()), JOB_MARK: "x"}
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    stray = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_until(lambda: find_processes(RUN_MARK, str(tmp_path.resolve())), "the stray runs")
    assert end_leftovers(run, grace_s=0.5) == 1
    assert stray.wait(PATIENCE_S) == -signal.SIGKILL
    assert end_leftovers(run) == 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_real_launch_leaves_nothing(tmp_path: Path, ranks: int) -> None:
    """One rank, or `accelerate launch` of two, asleep after the imports: kill -9 of the driver."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, pathlib, time\n"
        "from distseg.jobs.job import watch_parent\n"
        "watch_parent()\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ready' + os.environ.get('RANK', '0')).touch()\n"
        "time.sleep(600)\n"
    )
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import time\nfrom pathlib import Path\n"
        "from distseg.jobs.hardware import Slot\n"
        "from distseg.jobs.job import Job, launch_command\n"
        "from distseg.jobs.local import LocalExecutor\n"
        "from distseg.records.paths import Run\n"
        f"run, slot = Run(Path({str(tmp_path)!r})), Slot(0, (), {ranks}, 1)\n"
        "def command(*args):\n"
        "    full = launch_command(*args)\n"
        f"    at = full.index('distseg') - 1\n"
        f"    return [*full[:at], {str(script)!r}]\n"
        "job = Job('x', (), run.folder / 'launch.log')\n"
        "handle = LocalExecutor(run, [slot], command).start(job, slot)\n"
        "time.sleep(600)\n"
    )
    write_launch_yaml(Run(tmp_path))
    process = subprocess.Popen([sys.executable, str(driver)])
    wait_until(lambda: len(list(tmp_path.glob("ready*"))) == ranks, "all ranks are ready")
    assert len(find_processes(RUN_MARK, str(tmp_path.resolve()))) >= (1 + ranks if ranks > 1 else 1)
    process.kill()
    process.wait(PATIENCE_S)
    wait_until(
        lambda: not find_processes(RUN_MARK, str(tmp_path.resolve())), "nothing is left alive"
    )
