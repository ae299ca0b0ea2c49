"""Scheduling policy: which job runs where, and what happens to one that fails.

How a job is started is the executor's affair: `LocalExecutor` starts child processes,
`RayExecutor` actors on the nodes of a cluster.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from distseg.config.schema import Config
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job, narrow
from distseg.jobs.pace import measured_pace
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.paths import Run, member_id

POLL_S = 0.2
STOP_GRACE_S = 30.0
ACCUMULATION = "train.accumulation="
LOG_BYTES = 64_000  # of a log's end, where its errors stand
USER_ERROR = "distseg: error: "  # how cli.main begins the line
ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
LAUNCHER_ERRORS = ("subprocess.CalledProcessError", "torch.distributed.elastic")


class Handle(Protocol):
    """A job that was started. cause: (kind, message) where its files cannot say why it ended, as
    when its node is gone; pid: None where it is another machine's."""

    @property
    def pid(self) -> int | None: ...

    @property
    def cause(self) -> tuple[str, str] | None: ...

    def poll(self) -> int | None:
        """Exit status when the job has ended and left no process, None before."""

    def terminate(self) -> None:
        """Ask the job to save its state and leave."""

    def kill(self) -> None:
        """End the job now, all of its processes."""


@dataclass(frozen=True, slots=True)
class Started:
    """A job that runs. log_start: bytes of the log that earlier attempts wrote."""

    job: Job
    slot: Slot
    handle: Handle
    log_start: int
    since: float = field(default_factory=time.monotonic)


class Executor(Protocol):
    """Where jobs run."""

    def slots(self, wide: bool = False) -> list[Slot]:
        """Room for jobs, best first; one job per slot at a time. It may be another each time:
        nodes come and go. wide: one slot a machine, with all of it."""

    def start(self, job: Job, slot: Slot) -> Handle:
        """Start a job on a free slot and return at once."""

    def adopt(self) -> list[Started]:
        """Jobs that an earlier driver of the run has started and that it has left behind."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without its work.

    kind: out_of_memory | non_finite | user | node_lost | error.
    """

    job: Job
    kind: str
    message: str
    status: int
    final: bool  # the member is left out; else it is tried again


class View(Protocol):
    """What shows the progress to a person."""

    def started(self, job: Job, slot: Slot, attempt: int) -> None: ...

    def finished(self, job: Job) -> None: ...

    def failed(self, failure: Failure) -> None: ...

    def tick(self) -> None: ...


@dataclass
class Scheduler:
    """Runs jobs until each is done or given up. `left_out` holds what was given up. `sleep` waits
    between two looks at the jobs; a simulation moves its clock with it."""

    config: Config
    run: Run
    executor: Executor
    view: View
    running: list[Started] = field(default_factory=list)
    left_out: list[Failure] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep

    def execute(self, jobs: Sequence[Job], wide: bool = False) -> list[Failure]:
        """Run all jobs, in this order; returns the final failures. Whatever interrupts this ends
        all jobs. wide: each gets a whole machine. UserError: a job has found a mistake of the
        user's."""
        queue = deque(self._adopt(jobs))
        try:
            while queue or self.running:
                busy = {entry.slot for entry in self.running}
                free = [s for s in self.executor.slots(wide) if s not in busy] if queue else []
                for slot in free[: len(queue)]:
                    self._start(queue.popleft(), slot)
                ended = [(entry, entry.handle.poll()) for entry in self.running]
                for entry, status in ended:
                    if status is not None:
                        self.running.remove(entry)
                        queue.extendleft(reversed(self._ended(entry, status)))
                self.view.tick()
                if not any(status is not None for _, status in ended):
                    self.sleep(POLL_S)
        finally:
            self._stop()
        return self.left_out

    def _adopt(self, jobs: Sequence[Job]) -> list[Job]:
        """Take over what an earlier driver has started, and end what is not wanted any more.
        Returns the jobs that are left to start."""
        todo = list(jobs)
        for entry in self.executor.adopt():
            job = entry.job
            wanted = [one for one in todo if _overlap(one, job)]
            if not wanted:
                entry.handle.kill()
                continue
            self.running.append(entry)
            self.run.log_event(
                "job_adopted", job=job.label, round=job.round, members=_labels(job),
                node=entry.slot.node, host=entry.slot.host,
            )  # fmt: skip
            self.view.started(job, entry.slot, 1)
            for one in wanted:
                rest = [member for member in one.members if member not in job.members]
                place = todo.index(one)
                todo[place : place + 1] = [narrow(one, self.run, rest)] if rest else []
        return todo

    def _start(self, job: Job, slot: Slot) -> None:
        for member in job.members:
            self.run.member(job.round, *member).failure.unlink(missing_ok=True)
        log_start = job.log.stat().st_size if job.log.is_file() else 0
        handle = self.executor.start(job, slot)
        self.running.append(Started(job, slot, handle, log_start))
        attempt = self.attempts.get(_head(job), 0) + 1
        self.run.log_event(
            "job_started", job=job.label, round=job.round, members=_labels(job),
            pid=handle.pid, attempt=attempt, slot=slot.number, devices=list(slot.devices),
            node=slot.node, host=slot.host, overrides=list(job.overrides),
        )  # fmt: skip
        self.view.started(job, slot, attempt)

    def _ended(self, entry: Started, status: int) -> list[Job]:
        """Note how a job ended; returns what has to be started next in its place."""
        job, seconds = entry.job, round(time.monotonic() - entry.since, 3)
        todo = [m for m in job.members if not self.run.member(job.round, *m).done.is_file()]
        if not todo and (job.members or status == 0):
            self.run.log_event(
                "job_done", job=job.label, round=job.round, members=_labels(job), seconds=seconds,
                images_per_s=measured_pace(self.run, job.members, job.round),
            )  # fmt: skip
            self.view.finished(job)
            return []
        rest = [narrow(job, self.run, todo[1:])] if todo[1:] else []
        head = narrow(job, self.run, todo[:1]) if todo else job
        again, failure = self._judge(head, status, entry)
        self.run.log_event(
            "job_failed", job=job.label, round=job.round, members=_labels(job), seconds=seconds,
            status=status, kind=failure.kind, message=failure.message, log=str(job.log),
            final=failure.final, node=entry.slot.node, host=entry.slot.host,
        )  # fmt: skip
        # The job's own log, which several members may share, is where the cause stands.
        failure = replace(failure, job=replace(head, log=job.log))
        self.view.failed(failure)
        if failure.kind == "user":
            # the same config waits for every other member: nothing is gained by going on
            raise UserError(f"{_head(head)}: {failure.message} (its log: {job.log})")
        if failure.final:
            self.left_out.append(failure)
            for member in _labels(head):
                reason = {"kind": failure.kind, "message": failure.message}
                self.run.log_event("member_left_out", round=head.round, member=member, **reason)
        return [*([again] if again else []), *rest]

    def _judge(self, job: Job, status: int, entry: Started) -> tuple[Job | None, Failure]:
        """The retry rule. A node that is gone: again, and it does not count. Out of memory: half
        the micro-batch, twice the accumulation. The user's mistake: no retry, and the run ends.
        All else: again, from the last saved state."""
        kind, message = self._cause(job, status, entry)
        if kind == "node_lost":
            return job, Failure(job, kind, message, status, final=False)
        attempt = self.attempts[_head(job)] = self.attempts.get(_head(job), 0) + 1
        again: Job | None = job
        if kind == "out_of_memory":
            again = smaller_batch(job, self.config, entry.slot.processes)
        if kind == "user" or attempt > self.config.compute.retries:
            again = None
        return again, Failure(job, kind, message, status, final=again is None)

    def _cause(self, job: Job, status: int, entry: Started) -> tuple[str, str]:
        """(kind, message): what the handle knows, failure.json, or what this attempt wrote to its
        log."""
        if entry.handle.cause is not None:
            return entry.handle.cause
        path = self.run.member(job.round, *job.members[0]).failure if job.members else None
        if path and path.is_file():
            record = read_json(path)
            return str(record.get("kind", "error")), str(record.get("message", ""))
        if status == 0:
            return "error", "the job ended without DONE"
        return cause_in_log(entry.job.log, entry.log_start) or ("error", f"exit status {status}")

    def _stop(self) -> None:
        """End what still runs: SIGTERM, wait for the states to be saved, SIGKILL."""
        try:
            for entry in self.running:
                entry.handle.terminate()
            deadline = time.monotonic() + STOP_GRACE_S
            waiting = [entry.handle for entry in self.running]
            while waiting and time.monotonic() < deadline:
                waiting = [handle for handle in waiting if handle.poll() is None]
                time.sleep(0.05)
        finally:  # a second signal lands here too
            for entry in self.running:
                entry.handle.kill()
            self.running.clear()


def smaller_batch(job: Job, config: Config, processes: int) -> Job | None:
    """The job with half the micro-batch and twice the accumulation: the same global batch. None
    when the batch cannot be divided further. A job without members, which has none, as it is."""
    if not job.members:
        return job
    now = config.train.accumulation
    for text in job.overrides:
        if text.startswith(ACCUMULATION):
            now = int(text.removeprefix(ACCUMULATION))
    recipe = config.recipe(job.round)
    for size in [config.batch_size_of(name) for name, _ in job.members]:
        share = round(size * recipe.share) if recipe.mix == "ratio" else 0
        if size % (2 * now * processes) or share % (2 * now * processes):
            return None
    kept = tuple(text for text in job.overrides if not text.startswith(ACCUMULATION))
    return replace(job, overrides=(*kept, f"{ACCUMULATION}{2 * now}"))


def cause_in_log(path: Path, start: int) -> tuple[str, str] | None:
    """(kind, message) of the last error that a rank wrote after byte `start`. The launcher's own
    error, which only says that a rank has failed, comes after it and does not count."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - LOG_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith(USER_ERROR):
            return "user", line.removeprefix(USER_ERROR)
        if ERROR_LINE.match(line) and not line.startswith(LAUNCHER_ERRORS):
            return "error", line[:500]
    return None


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _head(job: Job) -> str:
    return member_id(*job.members[0]) if job.members else job.label


def _overlap(one: Job, other: Job) -> bool:
    """Whether two jobs do the same work, or a part of it."""
    if one.round != other.round or not (one.members and other.members):
        return one.arguments == other.arguments and one.members == other.members
    return bool(set(one.members) & set(other.members))


def _labels(job: Job) -> list[str]:
    return [member_id(*member) for member in job.members]
