"""How the jobs of a step are run: where, in which order, and what is said of those that fail."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from distseg.config.schema import Config
from distseg.jobs.failure import Failure
from distseg.jobs.hardware import make_slots, num_cores, visible_gpus
from distseg.jobs.job import Job
from distseg.jobs.local import LocalExecutor
from distseg.jobs.scheduler import Executor, Scheduler
from distseg.records.errors import UserError
from distseg.records.files import read_json_or
from distseg.records.finished_member import loss_of, why_again
from distseg.records.log import counted
from distseg.records.paths import RoundKey, Run, is_teachers, member_id, round_number
from distseg.run.members import MemberKey
from distseg.run.plan import make_jobs
from distseg.run.until import Until
from distseg.run.view import make_view

logger = logging.getLogger("distseg.run")


@contextlib.contextmanager
def open_executor(config: Config, run: Run) -> Iterator[Executor]:
    """The executor that `compute.executor` names. UserError: no node of the cluster answers."""
    if config.compute.executor == "local":
        yield LocalExecutor(run, make_slots(config.compute, visible_gpus(), num_cores()))
        return
    from distseg.jobs.ray import RayExecutor

    executor = RayExecutor(config, run)
    try:
        yield executor
    finally:
        executor.close()


def end_cluster_jobs(config: Config, run: Run, *, needed: bool) -> None:
    """End the jobs that an earlier driver of the run has left on a Ray cluster. needed: whether it
    is an error that no cluster answers; else the run goes on elsewhere."""
    if "RAY_ADDRESS" not in os.environ:  # a cluster of this machine ends with its driver
        return
    from distseg.jobs.ray import RayExecutor

    try:
        executor = RayExecutor(config, run)
    except UserError as error:
        if needed:
            raise
        logger.warning("jobs of the run may still be on the cluster: %s", error)
        return
    scheduler = Scheduler(config, run, executor, make_view(config, run, [], 1))
    scheduler.running = executor.adopt()
    scheduler.end()
    executor.close()


def train_members(
    config: Config, run: Run, members: Sequence[MemberKey], executor: Executor, key: RoundKey = 0,
    until: Until | None = None,
) -> list[Failure]:  # fmt: skip
    """Train what is not done, until it is time to end; returns what was given up, after it has said
    so."""
    for member in members:
        paths = run.member(key, *member)
        if why := why_again(read_json_or(paths.done, {})):
            logger.info("%s is made again: %s", member_id(*member), why)
        elif loss := loss_of(paths):
            logger.warning("%s is not whole and is made again: %s", member_id(*member), loss)
            run.log_event("member_lost", round=key, member=member_id(*member), reason=loss)
    jobs = make_jobs(config, run, members, len(executor.slots()), key)
    if not jobs:
        return []
    ready = len(members) - sum(len(job.members) for job in jobs)
    todo = counted(len(members) - ready, "teacher" if is_teachers(key) else "member")
    which = f" of round {round_number(key)}" if is_teachers(key) else ""
    logger.info("%s%s to train, %d done", todo, which, ready)
    failures = run_jobs(config, run, members, jobs, executor, key, until=until)
    for failure in failures:
        for member in failure.job.members:
            text, who = "LEFT OUT: %s: %s: %s; its log: %s", member_id(*member)
            logger.error(text, who, failure.kind, failure.message, failure.job.log)
    return failures


def run_jobs(
    config: Config, run: Run, members: Sequence[MemberKey], jobs: list[Job], executor: Executor,
    key: RoundKey = 0, *, whole_machine: bool = False, until: Until | None = None,
) -> list[Failure]:  # fmt: skip
    """Run jobs and show how they go; returns the final failures. whole_machine: each job gets a
    machine of its own. until: when they are stopped; what is not done then is no failure."""
    is_over = (until or Until()).is_over
    with make_view(config, run, members, len(executor.slots()), key) as view:
        scheduler = Scheduler(config, run, executor, view, is_over=is_over)
        return scheduler.execute(jobs, whole_machine)
