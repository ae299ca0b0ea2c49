"""How a process of a job ends when its parent or its driver is gone: by the kernel's signal, by a
thread that watches, and by a child that can end it where it is stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import psutil

ORPHAN_GRACE_S = 5.0  # what an orphaned rank gets for saving its state
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to send `number` to this process when its parent dies.

    Linux only; elsewhere nothing happens, and an orphan is found by its marks at the next start.
    It is called between fork and exec, where a lock that another thread held stays locked for
    ever: it must not import or log, so _LIBC is loaded beforehand.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number))


def begin_child() -> None:
    """Between fork and exec of a job's process: it dies with us, and SIGUSR1, which a scheduler may
    send to all processes of an allocation, ends none of its own: the driver alone heeds it."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def status_of(process: psutil.Process) -> str:
    """psutil's word for how a process is; a zombie where it is gone."""
    with contextlib.suppress(psutil.Error):
        return process.status()
    return psutil.STATUS_ZOMBIE


def send_signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def guard(alive: Sequence[psutil.Process]) -> None:
    """Fork a process that kills this rank where the rank cannot leave by itself: one that is
    stopped (SIGSTOP, a debugger) runs no thread and takes no SIGTERM, yet keeps its GPU. It dies
    with the rank, and is forked before torch is imported."""
    rank = psutil.Process()
    if os.fork():
        return
    try:
        os.setsid()  # what stops the rank's group does not stop its guard
        die_with_parent()
        for stream in range(3):  # a log, or a pipe whose reader waits for its end
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        while os.getppid() == rank.pid and are_running(alive):
            time.sleep(0.5)
        time.sleep(ORPHAN_GRACE_S + 1.0)
        others = [p for p in rank.children(recursive=True) if p.pid != os.getpid()]
        send_signal([*others, rank], signal.SIGKILL)
    finally:
        os._exit(0)


def are_running(alive: Sequence[psutil.Process]) -> bool:
    """is_running compares start times too: a pid that was given again does not deceive it."""
    return all(p.is_running() and status_of(p) != psutil.STATUS_ZOMBIE for p in alive)


def watch(parent: int, alive: Sequence[psutil.Process]) -> None:
    """A thread of a rank: leave when the parent or one of `alive` is gone."""
    while os.getppid() == parent and are_running(alive):
        time.sleep(0.5)
    leave(ORPHAN_GRACE_S)


def leave(grace_s: float) -> None:
    """End this process: SIGTERM to itself, which saves the state, and SIGKILL after grace_s. The
    children, loader processes, go first: nothing would end them afterwards."""
    if grace_s:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
    with contextlib.suppress(psutil.Error):
        send_signal(psutil.Process().children(recursive=True), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def process_age() -> float:
    """Seconds since this process was started, its imports too."""
    return max(0.0, time.time() - psutil.Process().create_time())
