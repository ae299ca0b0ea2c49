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
from multiprocessing.reduction import ForkingPickler
from typing import Any, ParamSpec, TypeVar

from distseg.jobs.guard import die_with_parent

Result = TypeVar("Result")
Given = ParamSpec("Given")
CLEAN_UP_S = 5.0  # for the process, after Ctrl-C: the terminal has told it, too


def apart(
    function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """What `function` returns or raises, from a fork of this process. Where torch is loaded already
    nothing is won, and where other threads run, as in a notebook, or in a worker of a pool, no fork
    is safe: it runs here.

    Raises:
        MemoryError: the process was killed, as the kernel does where memory runs out.
        RuntimeError: it has ended otherwise without an answer.
    """
    forks = "fork" in multiprocessing.get_all_start_methods()
    alone = threading.active_count() == 1 and not multiprocessing.current_process().daemon
    if not forks or not alone or "torch" in sys.modules:
        return function(*args, **kwargs)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what this process does then is not its own
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
        raise _ended(process.exitcode or 0) from None
    except BaseException:
        process.join(CLEAN_UP_S)
        process.terminate()
        raise
    finally:
        process.join()
        ours.close()
    if good:
        return value
    raise value


def _ended(status: int) -> Exception:
    """Why there is no answer."""
    if status == -signal.SIGKILL:
        return MemoryError("the check was killed")
    how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
    return RuntimeError(f"the check has ended {how}, without a word")


def _answer(out: Connection, function: Callable[[], object]) -> None:
    """Send (True, what `function` returns) or (False, what it raises)."""
    answer: tuple[bool, Any]
    try:
        answer = (True, function())
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is raised on the other side)
        error.add_note("".join(traceback.format_exception(error)))  # where it came from
        answer = (False, _sendable(error))
    out.send(answer)
    out.close()


def _sendable(error: BaseException) -> BaseException:
    """The error itself, or one that says the same where it cannot be sent between processes."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # noqa: BLE001 (its own code runs here)
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            plain.add_note(note)
        return plain
    return error
