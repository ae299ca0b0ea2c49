"""Logging: one format, one file per rank, progress that suits where it is read."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO

FORMAT = "%(asctime)s %(levelname).1s %(message)s"


def setup(path: Path | None = None, level: int = logging.INFO, *, console: bool = True) -> None:
    """Send the logs of `distseg` to standard error and, when given, to the file `path`."""
    logger = logging.getLogger("distseg")
    logger.setLevel(level)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [_Console()] if console else []
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)


def keep(logger: logging.Logger, text: str) -> None:
    """Log what is shown by other means already: it goes to the file alone."""
    logger.info("%s", text, extra={"shown": True})


class _Console(logging.StreamHandler[TextIO]):
    """Standard error as it is at the moment: a live table that stands below the lines of the log
    puts itself in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: not getattr(record, "shown", False))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # a StreamHandler keeps what it is given
        return sys.stderr


def counted(number: int, what: str, ending: str = "s") -> str:
    """1 job, 2 jobs, 2 batches: a number with its noun, which takes `ending` for several."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}{ending}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m05s, 2h07m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
