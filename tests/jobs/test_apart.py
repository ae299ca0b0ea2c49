"""Work in a process of its own: what it gives back, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from distseg.jobs.apart import apart


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has no torch and no other thread."""
    head = "import os, signal, sys, time\nfrom distseg.jobs.apart import apart\n"
    script = head + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_what_it_returns_comes_back_and_its_memory_goes() -> None:
    done = alone("""
        def work(size, *, name):
            import torch
            return os.getpid(), torch.zeros(size).numel(), name
        pid, size, name = apart(work, 3, name="x")
        print(pid != os.getpid(), size, name, "torch" in sys.modules)
    """)
    assert done.stdout.split() == ["True", "3", "x", "False"], done.stderr


def test_what_it_raises_is_raised_here() -> None:
    done = alone("""
        from distseg.records.errors import Damaged, UserError
        def work(error):
            raise error
        for error in (UserError("lr: wrong"), Damaged("a", "short"), KeyboardInterrupt()):
            try:
                apart(work, error)
            except BaseException as raised:
                print(type(raised) is type(error), str(raised) == str(error))
        apart(work, KeyError("where"))
    """)
    assert done.stdout.split() == ["True"] * 6
    assert done.returncode == 1
    assert "KeyError: 'where'" in done.stderr and "in work" in done.stderr, "where it came from"


def test_one_that_is_killed_is_no_result() -> None:
    done = alone("""
        try:
            apart(os.kill, os.getpid(), 0) or apart(lambda: os.kill(os.getpid(), signal.SIGKILL))
        except MemoryError as error:
            print(error)
    """)
    assert done.stdout == "the check was ended by signal 9\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_the_process_that_waits(number: signal.Signals) -> None:
    script = "import time; from distseg.jobs.apart import apart; apart(time.sleep, 300)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    parent, children = psutil.Process(process.pid), list[psutil.Process]()
    while not children:
        assert process.poll() is None
        time.sleep(0.05)
        children = parent.children()
    time.sleep(0.2)  # it is within recv
    process.send_signal(number)
    assert process.wait(10) != 0
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_with_torch_loaded_it_runs_here() -> None:
    import torch

    assert torch.__version__
    assert apart(os.getpid) == os.getpid()


def test_a_driver_holds_no_torch(tmp_path: Path) -> None:
    """`distseg run CONFIG` and `distseg run DATA` check and plan in a process of their own."""
    script = textwrap.dedent("""
        import sys
        from distseg import api
        from distseg.run import pipeline
        def run(config, folder, until):
            print(config.name, "torch" in sys.modules, "timm" in sys.modules)
            return 1
        pipeline.run = run
        try:
            api.run("quickstart", ["train.batch_size=4"], out=sys.argv[1])
        except api.RunFailed:
            pass
        try:
            api.run("quickstart", ["stages.0.optimizer.name=adamm"], out=sys.argv[1])
        except ValueError as error:
            print(error)
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == "quickstart False False", done.stderr
    assert "stages.0.optimizer.name" in second and "adamm" in second
