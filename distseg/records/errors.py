"""What ends a command early: the user's mistakes (exit status 2), and a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from distseg.functional.naming import unknown_text


class UserError(ValueError):
    """A mistake that the user can mend; the message says what, where and what is valid."""


class Stopped(BaseException):
    """SIGINT or SIGTERM reached the driver; `status` is the exit status to leave with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def unknown(what: str, value: object, valid: Iterable[object], where: str = "") -> UserError:
    """UserError for a name that is not among `valid`, with the nearest one suggested."""
    return UserError(f"{where}{unknown_text(what, value, valid)}")


def unknown_line(where: str, what: str, value: object, valid: Iterable[object]) -> str:
    """The message of `unknown`, for those who collect lines: `where` is the key."""
    return str(unknown(what, value, valid, f"{where}: "))
