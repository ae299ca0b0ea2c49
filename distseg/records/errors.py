"""What ends a command early: the user's mistakes (exit status 2), and a signal."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend; the message says what, where and what is valid."""


class Stopped(BaseException):
    """SIGINT or SIGTERM reached the driver; `status` is the exit status to leave with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def nearest(value: object, valid: Iterable[object]) -> str | None:
    """The name among `valid` that is spelled most like `value`, or None when none is close."""
    names = [str(name) for name in valid]
    lowered = {name.lower(): name for name in reversed(names)}
    match = difflib.get_close_matches(str(value).lower(), list(lowered), n=1, cutoff=0.5)
    return lowered[match[0]] if match else None


def unknown(what: str, value: object, valid: Iterable[object], where: str = "") -> UserError:
    """UserError for a name that is not among `valid`, with the nearest one suggested."""
    names = [str(name) for name in valid]
    close = nearest(value, names)
    hint = f" Did you mean {close!r}?" if close else ""
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return UserError(f"{where}unknown {what} {str(value)!r}.{hint} Valid: {listed or 'none'}")


def unknown_line(where: str, what: str, value: object, valid: Iterable[object]) -> str:
    """The message of `unknown`, for those who collect lines: `where` is the key."""
    return str(unknown(what, value, valid, f"{where}: "))
