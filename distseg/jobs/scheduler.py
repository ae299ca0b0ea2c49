"""Scheduling policy: which job runs where, and what happens to one that fails.

How a job is started is the executor's affair: `LocalExecutor` starts child processes,
`RayExecutor` actors on the nodes of a cluster.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from distseg.config.schema import Config
from distseg.jobs.failure import Failure, cause_in_log, how_it_ended, smaller_batch
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job, measured_pace, narrow
from distseg.records.errors import UserError
from distseg.records.files import read_json_or
from distseg.records.finished_member import is_done
from distseg.records.paths import Run, member_id

POLL_S = 0.2  # between two looks at the jobs
STOP_GRACE_S = 30.0  # what jobs get to save their state when the run is stopped


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

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        """Room for jobs, best first; one job per slot at a time. The list may differ each time:
        nodes come and go. whole_machine: one slot a machine, with all that it has."""

    def start(self, job: Job, slot: Slot) -> Handle:
        """Start a job on a free slot and return at once."""

    def adopt(self) -> list[Started]:
        """Jobs that an earlier driver of the run has started and that it has left behind."""


class SchedulerObserver(Protocol):
    """What is told of every job: a view for a person, or a sweep's trial."""

    def started(self, job: Job, slot: Slot, attempt: int) -> None:
        """A job has been started, or taken over from an earlier driver. attempt: 1, 2, ..."""

    def finished(self, job: Job) -> None:
        """A job has ended with its work done."""

    def failed(self, failure: Failure) -> None:
        """A job has ended without its work; `failure.final` says whether it is given up."""

    def tick(self) -> None:
        """The scheduler has looked at all jobs once more."""


@dataclass
class Scheduler:
    """Runs jobs until each is done or given up.

    running: the jobs that have been started and have not ended.
    left_out: what was given up.
    attempts: failed attempts by member (of a job without members, by its label).
    sleep: waits between two looks at the jobs; a simulation moves its clock with it.
    is_over: whether the run is to end early: then no job is started any more, and those that run
        save their state and leave; it is no failure of theirs.
    """

    config: Config
    run: Run
    executor: Executor
    observer: SchedulerObserver
    running: list[Started] = field(default_factory=list)
    left_out: list[Failure] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep
    is_over: Callable[[], bool] = lambda: False

    def execute(self, jobs: Sequence[Job], whole_machine: bool = False) -> list[Failure]:
        """Run all jobs, in this order; returns the final failures.

        Whatever interrupts this ends all jobs. whole_machine: each job gets a whole machine.

        Raises:
            UserError: a job has found a mistake of the user's, which the next would find, too.
        """
        queue = deque(self._adopt(jobs))
        try:
            while (queue or self.running) and not self.is_over():
                # The slots are asked for anew each time: on a cluster nodes come and go, and a
                # job whose node is gone must find another.
                busy = {started.slot for started in self.running}
                slots = self.executor.slots(whole_machine) if queue else []
                for slot in [slot for slot in slots if slot not in busy][: len(queue)]:
                    self._start(queue.popleft(), slot)
                statuses = [(started, started.handle.poll()) for started in self.running]
                ended = [(started, code) for started, code in statuses if code is not None]
                for started, status in ended:
                    self.running.remove(started)
                    # To the front: the queue goes from the longest job to the shortest, and this
                    # one was longer than all that are left.
                    queue.extendleft(reversed(self._ended(started, status)))
                self._refuse()
                self.observer.tick()
                if not ended:  # a slot that has become free is filled without waiting
                    self.sleep(POLL_S)
        finally:
            self.end()
        return self.left_out

    def _adopt(self, jobs: Sequence[Job]) -> list[Job]:
        """Take over what an earlier driver has started, and end what is not wanted any more.
        Returns the jobs that are left to start.

        Only on a cluster do jobs outlive their driver. To start a member that such a job is
        training would put two writers into one folder.
        """
        todo = list(jobs)
        for started in self.executor.adopt():
            job = started.job
            wanted = [one for one in todo if _overlap(one, job)]
            if not wanted:  # of a round that is done, or of members that the config has no more
                started.handle.kill()
                continue
            self.running.append(started)
            self.run.log_event(
                "job_adopted", job=job.label, round=job.round, members=_labels(job),
                node=started.slot.node, host=started.slot.host,
            )  # fmt: skip
            self.observer.started(job, started.slot, 1)
            # This driver may have packed the members into other jobs: what the adopted job
            # trains is taken out of them.
            for one in wanted:
                rest = [member for member in one.members if member not in job.members]
                place = todo.index(one)
                todo[place : place + 1] = [narrow(one, self.run, rest)] if rest else []
        return todo

    def _start(self, job: Job, slot: Slot) -> None:
        # What an earlier attempt has left would be taken for this one's cause: its failure.json
        # goes, and its lines of the log, which is appended to, are skipped.
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
        self.observer.started(job, slot, attempt)

    def _ended(self, started: Started, status: int) -> list[Job]:
        """Note how a job ended; returns what has to be started next in its place.

        DONE counts, not the exit status: a launcher may fail after its ranks have finished.
        """
        job, seconds = started.job, round(time.monotonic() - started.since, 3)
        todo = [m for m in job.members if not is_done(self.run.member(job.round, *m))]
        if not todo and (job.members or status == 0):
            self.run.log_event(
                "job_done", job=job.label, round=job.round, members=_labels(job), seconds=seconds,
                images_per_s=measured_pace(self.run, job.members, job.round),
            )  # fmt: skip
            self.observer.finished(job)
            return []
        # Members are trained in a row: the first one without DONE has failed, the others have
        # not begun, and must not be given up with it.
        rest = [narrow(job, self.run, todo[1:])] if todo[1:] else []
        head = narrow(job, self.run, todo[:1]) if todo else job
        again, failure = self._judge(head, status, started)
        self.run.log_event(
            "job_failed", job=job.label, round=job.round, members=_labels(job), seconds=seconds,
            status=status, kind=failure.kind, message=failure.message, log=str(job.log),
            final=failure.final, node=started.slot.node, host=started.slot.host,
        )  # fmt: skip
        # The job's own log, which several members may share, is where the cause stands.
        self._give_notice(replace(failure, job=replace(head, log=job.log)))
        return [*([again] if again else []), *rest]

    def _give_notice(self, failure: Failure) -> None:
        """Tell of a failure; a final one leaves its members out."""
        self.observer.failed(failure)
        if not failure.final:
            return
        self.left_out.append(failure)
        for member in _labels(failure.job):
            reason = {"kind": failure.kind, "message": failure.message}
            self.run.log_event("member_left_out", round=failure.job.round, member=member, **reason)

    def _refuse(self) -> None:
        """UserError where a member has found a mistake of the user's. The members share the config
        and the data: each would find the same mistake, after some minutes of its own. A job of
        predictions is left out as for any other reason: what is trained stays of use."""
        found = [one for one in self.left_out if one.kind == "user" and one.job.members]
        if found:
            lines = [f"{_head(f.job)}: {f.message} (its log: {f.job.log})" for f in found]
            raise UserError("\n".join(lines))

    def _judge(self, job: Job, status: int, started: Started) -> tuple[Job | None, Failure]:
        """(the job to try again, or None; the failure): the retry rule.

        A node that is gone, or that lost the run folder: again, and it does not count as an
        attempt. Out of memory: half the
        micro-batch, twice the accumulation. The user's mistake, or a file that is damaged: no
        retry. All else: again, from the last saved state.
        """
        kind, message = self._cause(job, status, started)
        if kind in ("node_lost", "node_unfit"):
            return job, Failure(job, kind, message, status, final=False)
        attempt = self.attempts[_head(job)] = self.attempts.get(_head(job), 0) + 1
        again: Job | None = job
        if kind == "out_of_memory":
            again = smaller_batch(job, self.config, started.slot.processes)
        if kind in ("user", "damaged") or attempt > self.config.compute.retries:
            again = None
        return again, Failure(job, kind, message, status, final=again is None)

    def _cause(self, job: Job, status: int, started: Started) -> tuple[str, str]:
        """(kind, message), from the surest witness: the handle, which knows of a node that is
        gone; failure.json, which the rank wrote; what this attempt wrote to its log."""
        if started.handle.cause is not None:
            return started.handle.cause
        path = self.run.member(job.round, *job.members[0]).failure if job.members else None
        if path and path.is_file():
            record = read_json_or(path, {})
            return str(record.get("kind", "error")), str(record.get("message", ""))
        if status == 0:
            return "error", "the job ended without DONE"
        found = cause_in_log(started.job.log, started.log_start)
        return found or ("error", how_it_ended(status))

    def end(self) -> None:
        """End what still runs: SIGTERM, wait for the states to be saved, SIGKILL."""
        try:
            for started in self.running:
                started.handle.terminate()
            deadline = time.monotonic() + STOP_GRACE_S
            waiting = [started.handle for started in self.running]
            while waiting and time.monotonic() < deadline:
                waiting = [handle for handle in waiting if handle.poll() is None]
                time.sleep(0.05)
        finally:  # a second signal raises out of the wait: it means at once
            for started in self.running:
                started.handle.kill()
                seconds = round(time.monotonic() - started.since, 3)
                self.run.log_event("job_stopped", job=started.job.label, seconds=seconds)
            self.running.clear()


def _head(job: Job) -> str:
    return member_id(*job.members[0]) if job.members else job.label


def _overlap(one: Job, other: Job) -> bool:
    """Whether two jobs do the same work, or a part of it."""
    if one.round != other.round or not (one.members and other.members):
        return one.arguments == other.arguments and one.members == other.members
    return bool(set(one.members) & set(other.members))


def _labels(job: Job) -> list[str]:
    return [member_id(*member) for member in job.members]
