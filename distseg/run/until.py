"""The early end that a person asks for: `--until`, or SIGUSR1 to the driver.

Nothing is trained from then on: jobs save their state and leave, and what is finished makes an
ensemble, a submission and a report, which say what they lack. The next start goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.files import read_json_or, write_json
from distseg.records.finished_member import is_done
from distseg.records.log import counted, duration
from distseg.records.paths import Run, member_id, round_number
from distseg.run.members import known_members, round_keys

logger = logging.getLogger("distseg.run")
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
MOST_S = 100 * 365 * 86400.0  # more is a mistake
PARTIAL = "PARTIAL"


def seconds_until(text: str, now: datetime.datetime | None = None) -> float:
    """Seconds from now that `--until` gives: 8h, 30m, 1h30m, or a time of day, 22:30, which is the
    next such. UserError: it is none of these."""
    if found := re.fullmatch(r"(\d{1,2}):(\d{2})", text.strip()):
        hour, minute = int(found[1]), int(found[2])
        if hour < 24 and minute < 60:
            now = now or datetime.datetime.now()
            then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if then <= now:
                then += datetime.timedelta(days=1)
            return (then - now).total_seconds()
    elif re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text.strip()):
        parts = re.findall(r"([\d.]+)([dhms])", text)
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
        if 0 < seconds < MOST_S:
            return seconds
    raise UserError(f"--until: {text!r}: write a time from now (8h, 30m, 1h30m) or of day (22:30)")


@dataclass
class Until:
    """When a run ends with what is finished.

    at: of time.monotonic(); None: when a signal says so, or never. asked: by whom, once it is time.
    text: what `--until` said.
    """

    at: float | None = None
    text: str = ""
    asked: str = field(default="", init=False)
    said: bool = field(default=False, init=False)

    @classmethod
    def of(cls, text: str | None) -> Until:
        """UserError: see `seconds_until`."""
        return cls() if text is None else cls(time.monotonic() + seconds_until(text), text)

    def is_over(self) -> bool:
        """Whether it is time; says so the first time."""
        if not self.asked and self.at is not None and time.monotonic() >= self.at:
            self.asked = f"--until {self.text}"
        if self.asked and not self.said:
            self.said = True
            text = "%s: nothing more is trained; what is finished makes the ensemble"
            logger.warning(text, self.asked)
        return bool(self.asked)

    def announce(self) -> None:
        """Log when it will be time."""
        if self.at is not None:
            left = duration(max(0.0, self.at - time.monotonic()))
            logger.info("trains for %s at most (--until %s)", left, self.text)

    @contextlib.contextmanager
    def on_signal(self) -> Iterator[None]:
        """Within: SIGUSR1 says that it is time. Handlers are the main thread's."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.asked = self.asked or "SIGUSR1"

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)


def write_partial(config: Config, run: Run, until: Until, rounds: int) -> bool:
    """Write what the ensemble of a run that ended early lacks, or remove what was written of an
    earlier end, where it lacks nothing. Returns whether it lacks something.

    rounds: how many the run goes through; with `stop: no_gain` there may be fewer than planned.
    """
    planned, missing = 0, []
    for key in round_keys(config, run):
        members = known_members(config, run, key) if round_number(key) < rounds else []
        undone = [member for member in members if not is_done(run.member(key, *member))]
        planned += len(members)
        missing += [f"{key}:{member_id(*member)}" for member in undone]
    if not missing or not until.is_over():
        run.partial.unlink(missing_ok=True)
        return False
    record: dict[str, Any] = {"asked_by": until.asked, "time": round(time.time(), 3)}
    counts: dict[str, Any] = {
        "planned": planned,
        "done": planned - len(missing),
        "missing": missing,
    }
    write_json(run.partial, {**record, **counts})
    run.log_event("ended_early", **record, **counts)
    return True


def partial_record(run: Run) -> dict[str, Any] | None:
    """What the ensemble that makes the submission lacks; None where it is whole."""
    return read_json_or(run.partial, {}) or None


def partial_line(record: dict[str, Any] | None) -> str:
    """The same for people, on one line; "" where it is whole."""
    if record is None:
        return ""
    missing = [str(one) for one in record.get("missing", [])]
    more = f", and {len(missing) - 6} more" if len(missing) > 6 else ""
    return (
        f"{PARTIAL}: ended early ({record.get('asked_by')}): "
        f"{record.get('done')} of {counted(int(record.get('planned', 0)), 'member')} done; the "
        f"ensemble, the score and the submission are without {', '.join(missing[:6])}{more}. "
        "`distseg run` goes on"
    )
