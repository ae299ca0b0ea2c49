"""How a process of a job ends when its parent or its driver is gone: by the kernel's signal, by a
thread that watches, and by a child that ends it where it is stopped, and ends what it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import psutil

ORPHAN_GRACE_S = 5.0  # what an orphaned rank gets for saving its state
GUARD_S = 0.1  # how often a guard looks at its rank
GUARD = "distseg-guard"  # the name of a rank's guard, at most 15 characters
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
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


def end_all(find: Callable[[], list[psutil.Process]], grace_s: float) -> int:
    """Wait up to grace_s for the processes that `find` finds to leave, then SIGKILL until it finds
    none. Returns how many had to be killed."""
    deadline = time.monotonic() + grace_s
    killed: set[int] = set()
    # Again and again, as a process may have forked between the look and its end.
    while alive := find():
        if time.monotonic() >= deadline:
            killed |= {process.pid for process in alive}
            send_signal(alive, signal.SIGKILL)
        time.sleep(0.05)
    return len(killed)


def is_guard(process: psutil.Process) -> bool:
    """Whether a process is the guard of a rank, which goes when all that it watches is gone."""
    with contextlib.suppress(psutil.Error):
        return process.name() == GUARD
    return False


def guard(alive: Sequence[psutil.Process], find_left: Callable[[], list[psutil.Process]]) -> None:
    """Fork a process that outlives this rank and ends what it cannot end by itself: the rank, where
    it is stopped (SIGSTOP, a debugger), runs no thread and takes no SIGTERM, yet keeps its GPU; and
    its children, where it was killed. It is forked before torch is imported.

    alive: whose end is the rank's end. find_left: what the rank may leave behind.
    """
    rank = psutil.Process()
    if os.fork():
        return
    try:
        os.setsid()  # what stops or kills the rank's group leaves its guard
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # meant for the rank
            signal.signal(number, signal.SIG_IGN)
        if _LIBC is not None:
            _LIBC.prctl(PR_SET_NAME, GUARD.encode())
        for stream in range(3):  # a log, or a pipe whose reader waits for its end
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        while os.getppid() == rank.pid and are_running(alive):
            time.sleep(GUARD_S)
        deadline = time.monotonic() + ORPHAN_GRACE_S + 1.0
        while os.getppid() == rank.pid and time.monotonic() < deadline:
            time.sleep(GUARD_S)
        if os.getppid() == rank.pid:
            others = [p for p in rank.children(recursive=True) if p.pid != os.getpid()]
            send_signal([*others, rank], signal.SIGKILL)
        end_all(find_left, 0.0)
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
