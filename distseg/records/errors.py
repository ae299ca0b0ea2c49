"""What ends a command early: the user's mistakes (exit status 2), and a signal."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from pathlib import Path

from distseg.functional.naming import unknown_text

MAX_WORD, MAX_LINE = 200, 4000  # characters of a value, and of a line, that a message shows
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD + 1},}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def printable(text: str) -> str:
    """`text` as a message may show it: bytes that are no UTF-8 and control characters are escaped,
    and values that would fill the screen are cut. Names come from files of others."""
    text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    text = text.encode("utf-8", "backslashreplace").decode()
    text = _LONG_WORD.sub(lambda found: f"{found[0][:MAX_WORD]}...", text)
    lines = text.split("\n")
    return "\n".join(one if len(one) <= MAX_LINE else f"{one[:MAX_LINE]}..." for one in lines)


def printable_path(path: str | Path) -> str:
    """A path on one line: a name may hold line feeds, too."""
    return printable(str(path).replace("\n", "\\n"))


def shown(value: object) -> str:
    """`repr` of a value, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_WORD else f"{text[:MAX_WORD]}..."


class UserError(ValueError):
    """A mistake that the user can mend; the message says what, where and what is valid."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


MAKE_AGAIN = "remove it, and `distseg run` makes it again"


class Damaged(UserError):
    """A file of a run that does not hold what distseg wrote into it, and what to do about it."""

    def __init__(self, path: str | Path, reason: str, advice: str = MAKE_AGAIN) -> None:
        super().__init__(f"{printable_path(path)}: damaged: {reason}; {advice}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[type[Damaged], tuple[str, str]]:
        return Damaged, (self.path, self.reason)  # between processes; the advice is the usual one


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
