"""What a person sees while jobs run: a live table on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from distseg.config.schema import Config
from distseg.jobs.failure import Failure, tail
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job
from distseg.records import log
from distseg.records.files import read_lines
from distseg.records.log import counted, duration
from distseg.records.paths import RoundKey, Run, find_run, member_id
from distseg.records.progress import Position, read_position
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.members import MemberKey
from distseg.run.remaining import Remaining
from distseg.run.status import at_work, is_alive, status_text
from distseg.run.view_table import job_table, members_table, title

logger = logging.getLogger("distseg.run")
REFRESH_S = 1.0
WATCH_S = 2.0


class ProgressView(ABC):
    """The progress of all members of a round, read from the files that they write.

    A view never talks to a job: what a job has not written, it does not show.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        members: Sequence[MemberKey],
        num_slots: int,
        round: RoundKey = 0,
    ) -> None:
        self.config, self.run, self.members, self.round = config, run, list(members), round
        self.last_tick = 0.0
        self.remaining = Remaining(config, run, num_slots)
        self.active: dict[str, Job] = {}
        self.began = time.monotonic()
        self.ended = False

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.ended = True  # what stays on the screen must not say what is left
        self.tick(force=True)

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def show(self) -> None:
        """Show where the members stand."""

    def started(self, job: Job, slot: Slot, attempt: int) -> None:
        """Say where a job has been started."""
        self.active[job.label] = job
        where = f"GPU {','.join(slot.devices)}" if slot.devices else f"CPU slot {slot.number}"
        where += f" of {slot.host}" if slot.host else ""
        again = f", attempt {attempt}" if attempt > 1 else ""
        changed = f" with {' '.join(job.overrides)}" if job.overrides else ""
        self.say(f"{job.label}: started on {where}{again}{changed}")

    def finished(self, job: Job) -> None:
        """Say that a job is done."""
        self.tick(force=True)
        self.active.pop(job.label, None)
        self.say(f"{job.label}: done")

    def failed(self, failure: Failure) -> None:
        """Say why a job failed, with the last lines of its log."""
        self.tick(force=True)
        self.active.pop(failure.job.label, None)
        job = failure.job
        who = member_id(*job.members[0]) if job.members else job.label
        what = "LEFT OUT" if failure.final else "failed, will be tried again"
        self.say(f"{who}: {what}: {failure.kind}: {failure.message}")
        if failure.kind != "user":
            self.say(f"the last lines of {job.log}:\n{tail(job.log)}\n")

    def tick(self, force: bool = False) -> None:
        """Show where the members stand, at most once in REFRESH_S."""
        if force or time.monotonic() - self.last_tick >= REFRESH_S:
            self.last_tick = time.monotonic()
            self.show()

    def statuses(self) -> list[MemberStatus]:
        """Where each member stands."""
        return [member_status(self.config, self.run, self.round, *key) for key in self.members]

    def working(self, statuses: Sequence[MemberStatus]) -> set[str]:
        """Labels of the members that train now; others of their jobs wait for them."""
        jobs = [
            [f"{self.round}:{member_id(*key)}" for key in job.members]
            for job in self.active.values()
        ]
        return at_work(jobs, statuses, str(self.round))

    def positions(self) -> list[tuple[Job, Position | None]]:
        """Where the jobs stand that train no member: predictions."""
        jobs = [job for job in self.active.values() if not job.members]
        return [(job, read_position(job.progress) if job.progress else None) for job in jobs]

    def summary(self, statuses: Sequence[MemberStatus]) -> str:
        """Members that are done, time that has passed, time until the run's end."""
        passed = duration(time.monotonic() - self.began)
        if not statuses:
            left = self.remaining.seconds_of_prediction()
            return passed if left is None else f"{passed}, {eta(left)}"
        done = sum(s.state == "done" for s in statuses)
        text = f"{done} of {counted(len(statuses), 'member')}, {passed}"
        if self.ended:
            return text
        left = self.remaining.seconds(self.round, statuses)
        return f"{text}, " + ("ETA after the first steps" if left is None else eta(left))


class LineView(ProgressView):
    """One line per epoch of any member, in the log: on standard error and in run.log."""

    def __init__(
        self, config: Config, run: Run, members: Sequence[MemberKey], num_slots: int,
        round: RoundKey = 0, out: TextIO | None = None,
    ) -> None:  # fmt: skip
        """out: where the lines go in place of the log."""
        super().__init__(config, run, members, num_slots, round)
        self.out = out
        self.printed = {key: len(self._rows(key)) for key in self.members}

    def say(self, text: str) -> None:
        if self.out is None:
            logger.info("%s", text)
        else:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=self.out, flush=True)

    def _rows(self, key: MemberKey) -> list[dict[str, object]]:
        return read_lines(self.run.member(self.round, *key).metrics)

    def show(self) -> None:
        running = [key for job in self.active.values() for key in job.members]
        for key in running:
            rows = self._rows(key)
            new = rows[self.printed[key] :] if len(rows) >= self.printed[key] else []
            self.printed[key] = len(rows)  # a resumed member may have fewer: its file is cut
            for row in new:
                self._line(key, row)

    def _line(self, key: MemberKey, row: dict[str, object]) -> None:
        score = row.get("score")
        shown = f" score {score:.4f}" if isinstance(score, float) else ""
        loss = row.get("loss")
        loss_text = f" loss {loss:.4f}" if isinstance(loss, float) else ""
        epoch = int(str(row.get("epoch", 0))) + 1
        pace = f" {row['images_per_s']:.1f} images/s" if row.get("images_per_s") else ""
        self.say(
            f"{member_id(*key)}: epoch {epoch}/{row.get('epochs', '?')}{loss_text}{shown}{pace} "
            f"({self.summary(self.statuses())})"
        )


class LiveView(ProgressView):
    """A table that stays in place, with events above it."""

    def __init__(
        self, config: Config, run: Run, members: Sequence[MemberKey], num_slots: int,
        round: RoundKey = 0, console: Console | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, members, num_slots, round)
        # No refresh thread: the scheduler's own loop draws, so that the driver forks safely.
        # Of a prediction nothing stays but its events; a table of members does.
        console = console or Console()
        self.live = Live(console=console, auto_refresh=False, transient=not members)

    def __enter__(self) -> LiveView:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        super().__exit__(kind, error, trace)
        self.live.stop()

    def say(self, text: str) -> None:
        self.live.console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"))
        log.keep(logger, text)

    def show(self) -> None:
        statuses, (width, height) = self.statuses(), self.live.console.size
        parts: list[RenderableType] = []
        if statuses:
            parts.append(Text(title(self.config, self.run, self.round)))
            parts.append(members_table(statuses, self.working(statuses), width, height))
        if others := self.positions():
            parts.append(job_table(others))
        self.live.update(Group(*parts, Text(self.summary(statuses))), refresh=True)


def eta(seconds: float) -> str:
    """ETA 2h07m"""
    return f"ETA {duration(seconds)}"


def make_view(
    config: Config, run: Run, members: Sequence[MemberKey], num_slots: int, round: RoundKey = 0
) -> ProgressView:
    """The form that suits where standard output goes."""
    form = LiveView if sys.stdout.isatty() else LineView
    return form(config, run, members, num_slots, round)


def watch(folder: Path, every_s: float = WATCH_S) -> None:
    """`status_text`, again and again in place, until the run ends. On a terminal; elsewhere once.
    UserError when it is no run folder."""
    console, run = Console(), find_run(folder)
    text = status_text(folder)
    if not console.is_terminal:
        print(text)
        return
    with Live(Text(text), console=console, auto_refresh=False) as live:
        while is_alive(run):
            time.sleep(every_s)
            live.update(Text(status_text(folder)), refresh=True)
        live.update(Text(status_text(folder)), refresh=True)  # it may have ended since
