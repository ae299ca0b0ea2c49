"""Work in a process of its own, so that its memory goes with it.

A driver waits for days beside the jobs that it has started, and shares their machine. Its checks
need torch and timm, which would stay with it: more than half a gigabyte.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from distseg.jobs.guard import die_with_parent

Result = TypeVar("Result")
Given = ParamSpec("Given")


def apart(
    function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """What `function` returns or raises, from a fork of this process. Where torch is loaded already
    or other threads run, as in a notebook, nothing is won or a fork is not safe: it runs here.

    Raises:
        MemoryError: the process was killed, as the kernel does where memory runs out.
    """
    forks = "fork" in multiprocessing.get_all_start_methods()
    if not forks or "torch" in sys.modules or threading.active_count() > 1:
        return function(*args, **kwargs)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        die_with_parent(signal.SIGTERM)
        ours.close()
        _answer(theirs, lambda: function(*args, **kwargs))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        good, value = ours.recv()
    except EOFError:
        process.join()
        raise MemoryError(f"the check was ended by signal {-(process.exitcode or 0)}") from None
    finally:
        process.terminate()
        process.join()
        ours.close()
    if good:
        return value
    raise value


def _answer(out: Connection, function: Callable[[], object]) -> None:
    """Send (True, what `function` returns) or (False, what it raises)."""
    try:
        answer = (True, function())
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is raised on the other side)
        error.add_note("".join(traceback.format_exception(error)))  # where it came from
        answer = (False, error)
    out.send(answer)
    out.close()
