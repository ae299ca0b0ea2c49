"""Work in a process of its own: what it gives back, and how it ends."""

from __future__ import annotations

import ast
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
from tests.house import PACKAGE
from tests.init.made_sets import folder
from tests.tiny import ROOT


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


def test_what_cannot_be_sent_is_told_all_the_same() -> None:
    """An error whose copy cannot be made again, and one that holds what no other process can."""
    done = alone("""
        class Two(Exception):
            def __init__(self, a, b):
                super().__init__(f"{a} and {b}")
        class Held(Exception):
            pass
        def work(error):
            raise error
        held = Held("held")
        held.lock = __import__("threading").Lock()
        for error in (Two(1, 2), held):
            try:
                apart(work, error)
            except RuntimeError as raised:
                print(raised, "in work" in raised.__notes__[0])
    """)
    assert done.stdout == "Two: 1 and 2 True\nHeld: held True\n", done.stderr


def test_one_without_an_answer() -> None:
    """Only what the kernel does for want of memory is told as that."""
    done = alone("""
        for work in (lambda: os.kill(os.getpid(), signal.SIGKILL),
                     lambda: os.kill(os.getpid(), signal.SIGSEGV), lambda: os._exit(3)):
            try:
                apart(work)
            except (MemoryError, RuntimeError) as error:
                print(type(error).__name__, error)
    """)
    assert done.stdout.splitlines() == [
        "MemoryError the check was killed",
        "RuntimeError the check has ended by signal 11, without a word",
        "RuntimeError the check has ended with exit status 3, without a word",
    ], done.stderr


def test_it_cleans_up_and_takes_no_handler_along(tmp_path: Path) -> None:
    """Ctrl-C reaches both: what the process has begun, it ends. A handler of SIGTERM is not its."""
    done = alone(f"""
        import pathlib, tempfile, threading
        folder = pathlib.Path({str(tmp_path)!r})
        signal.signal(signal.SIGTERM, lambda *_: (folder / "handled").touch())
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
        def work():
            with tempfile.TemporaryDirectory(dir=folder):
                os.kill(os.getppid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
        apart(int)
        try:
            apart(work)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert done.stdout == "interrupted\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_a_pool_runs_it_itself() -> None:
    done = alone("""
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(1) as pool:
            worker = pool.apply(os.getpid)
            print(pool.apply(apart, (os.getpid,)) == worker)
    """)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_the_process_that_waits(number: signal.Signals) -> None:
    script = "import signal, time; from distseg.jobs.apart import apart\n"
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may ignore it
    script += "apart(time.sleep, 300)"
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
    folder(tmp_path / "data", num=12, size=(48, 48))
    script = textwrap.dedent("""
        import sys
        from distseg import api
        from distseg.run import pipeline
        def run(config, folder, until):
            print(config.name, "torch" in sys.modules, "timm" in sys.modules)
            return 1
        pipeline.run = run
        import distseg.init.make as make
        from tests.init.made_sets import PACE
        make.measured_paces = lambda *_: {"m0": PACE, "m1": PACE}
        for config, keys, options in (
            ("quickstart", ["train.batch_size=4"], {}),
            (sys.argv[2], [], {"budget": "1m"}),
            ("quickstart", ["stages.0.optimizer.name=adamm"], {}),
        ):
            try:
                api.run(config, keys, out=sys.argv[1] + str(len(keys)), **options)
            except api.RunFailed:
                pass
            except ValueError as error:
                print(error)
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    first, second, third = done.stdout.splitlines()
    assert first == "quickstart False False", done.stderr
    assert second == "data False False"
    assert "stages.0.optimizer.name" in third and "adamm" in third


def test_what_the_driver_loads_later_holds_no_torch() -> None:
    """All that the files of the pipeline import, within their functions too."""
    files = ["run/pipeline", "run/submission", "run/summary", "run/execute", "run/folder",
             "run/until", "run/ending", "run/view", "rounds/select", "ensemble/fit"]  # fmt: skip
    trees = [ast.parse((PACKAGE / f"{file}.py").read_text(encoding="utf-8")) for file in files]
    names = {
        node.module for tree in trees for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("distseg.")
    }  # fmt: skip
    assert {"distseg.rounds.teacher_tasks", "distseg.ensemble.fit"} <= names
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print({'torch', 'timm', 'albumentations'} & {*sys.modules})"
    command = [sys.executable, "-c", code, *sorted(names)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
