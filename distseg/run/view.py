"""What a person sees while jobs run: a live table on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distseg.config.schema import Config
from distseg.jobs.failure import Failure, tail
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job
from distseg.records.files import read_lines
from distseg.records.log import duration
from distseg.records.paths import RoundKey, Run, member_id
from distseg.run.members import MemberKey
from distseg.run.status import MemberStatus, member_status, remaining_s

REFRESH_S = 1.0


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
        self.num_slots, self.last_tick = num_slots, 0.0
        self.active: dict[str, Job] = {}
        self.began = time.monotonic()

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
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

    def summary(self, statuses: Sequence[MemberStatus]) -> str:
        """Members that are done, time that has passed, time that is left."""
        done = sum(s.state == "done" for s in statuses)
        left = remaining_s(statuses, self.num_slots)
        eta = f"ETA {duration(left)}" if left is not None else "ETA after the first epoch"
        passed = duration(time.monotonic() - self.began)
        return f"{done} of {len(statuses)} members, {passed}, {eta}"


class LineView(ProgressView):
    """One line per epoch of any member."""

    def __init__(
        self, config: Config, run: Run, members: Sequence[MemberKey], num_slots: int,
        round: RoundKey = 0, out: TextIO | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, members, num_slots, round)
        self.out = out or sys.stdout
        self.printed = {key: len(self._rows(key)) for key in self.members}

    def say(self, text: str) -> None:
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
        self.live = Live(console=console or Console(), auto_refresh=False)

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

    def show(self) -> None:
        statuses = self.statuses()
        running = {member_id(*key) for job in self.active.values() for key in job.members}
        table = Table(box=None, pad_edge=False)
        for column in ("member", "epoch", "", "loss", "score", "images/s", "ETA"):
            table.add_column(column, justify="left" if column in ("member", "") else "right")
        for status in statuses:
            if status.label in running and status.state != "done":
                table.add_row(*_cells(status))
        # A job without members (the test prediction) has no epochs to show.
        others = [job.label for job in self.active.values() if not job.members]
        texts = [Text(f"{label} ...") for label in others]
        self.live.update(Group(table, *texts, Text(self.summary(statuses))), refresh=True)


def _cells(status: MemberStatus) -> tuple[str, ...]:
    filled = round(20 * status.epoch / max(1, status.epochs))
    return (
        status.label,
        f"{status.epoch}/{status.epochs}",
        "━" * filled + "·" * (20 - filled),
        "" if status.loss is None else f"{status.loss:.4f}",
        "" if status.score is None else f"{status.score:.4f}",
        "" if status.images_per_s is None else f"{status.images_per_s:.1f}",
        "" if status.eta_s is None else duration(status.eta_s),
    )


def make_view(
    config: Config, run: Run, members: Sequence[MemberKey], num_slots: int, round: RoundKey = 0
) -> ProgressView:
    """The form that suits where standard output goes."""
    form = LiveView if sys.stdout.isatty() else LineView
    return form(config, run, members, num_slots, round)
