"""Commands by fork instead of exec, for a campaign that starts thousands of processes.

A rank takes seconds to import torch. Here the campaign has imported all that a command needs, and
has computed nothing; a command is a fork of it, and what the command itself starts (launchers,
ranks) is a fork of the command. Each has a pid, a parent, a group, signals, streams and, in the
kernel's eyes too, an environment of its own, as after exec: what ends processes cannot tell the
difference. Linux, with the right to set the bounds of its own environment (CAP_SYS_RESOURCE).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

ROOM, ROOM_BYTES = "DISTSEG_KILLS_ROOM", 30_000  # for environments that are longer than the first


class Forked:
    """What `subprocess.Popen` is to a caller, for `python [-u] -m MODULE ...` and scripts."""

    stdout = stderr = stdin = None

    def __init__(
        self, args: Sequence[str], *, env: Mapping[str, str], stdin: Any = None,
        stdout: IO[Any] | int | None = None, stderr: IO[Any] | int | None = None,
        process_group: int | None = None, start_new_session: bool = False,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.args, self.returncode = list(args), None if args else 0
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                _as_new(env, stdout, stderr, process_group, start_new_session, preexec_fn)
                status = _work(self.args[1:])
            except BaseException:  # noqa: BLE001 (as the interpreter does)
                traceback.print_exc()
            finally:
                _leave(status)

    def poll(self) -> int | None:
        return self._collect(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is None:
            self._collect(0)
        deadline = time.monotonic() + (timeout or 0.0)
        while (status := self._collect(os.WNOHANG)) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(0.01)
        return status

    def _collect(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def make_room() -> None:
    """Start the program anew, with room for other environments. To be called first."""
    if ROOM not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, ROOM: "x" * ROOM_BYTES})


def prepare() -> None:
    """Import what commands need, and let what they start be forked."""
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "5"  # read at import; distseg's jobs set it
    import accelerate.commands.launch  # noqa: F401
    import torch
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    import distseg.data.augment
    import distseg.export.export
    import distseg.inference.predict_files
    import distseg.jobs.local as local
    import distseg.rounds.predict_teachers
    import distseg.run.pipeline
    import distseg.run.summary
    import distseg.submission.score
    import distseg.training.train  # noqa: F401

    torch.set_num_threads(1)
    local.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=Forked, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT
    )
    subprocess_handler.Popen = Forked  # type: ignore[misc,assignment]


def _as_new(
    env: Mapping[str, str], stdout: IO[Any] | int | None, stderr: IO[Any] | int | None,
    process_group: int | None, start_new_session: bool, preexec_fn: Callable[[], None] | None,
) -> None:  # fmt: skip
    """In the child: what exec and Popen would have done."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if start_new_session:
        os.setsid()
    elif process_group is not None:
        os.setpgid(0, process_group)
    if preexec_fn:
        preexec_fn()
    out = _number(stdout, 1)
    error = out if stderr == subprocess.STDOUT else _number(stderr, 2)
    pair = os.dup(out), os.dup(error)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(pair[0], 1)
    os.dup2(pair[1], 2)
    os.closerange(3, 4096)
    _set_environment({key: value for key, value in env.items() if key != ROOM})
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    for name in (None, "distseg"):
        logging.getLogger(name).handlers.clear()


def _number(stream: IO[Any] | int | None, default: int) -> int:
    if stream is None:
        return default
    if stream == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR)
    return stream if isinstance(stream, int) else stream.fileno()


def _work(arguments: list[str]) -> int:
    """Run `[-u] -m MODULE ...` or `SCRIPT ...` as the interpreter does; its exit status."""
    while arguments[0] == "-u":
        arguments = arguments[1:]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    return 0


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


def _set_environment(environment: Mapping[str, str]) -> None:
    """Make this the environment of the process, for the kernel, too (/proc/PID/environ): that is
    the memory in which it was at the start, and which nothing points into once it is set anew."""
    os.environ.clear()
    os.environ.update(environment)
    start, end = (int(text) for text in _stat().split()[47:49])  # env_start, env_end of proc(5)
    text = b"\0".join(os.fsencode(f"{key}={value}") for key, value in environment.items()) + b"\0"
    assert len(text) <= end - start, "no room for the environment"
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _stat() -> str:
    """/proc/self/stat after the name, which may hold spaces: it begins with the state, field 3."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2]
