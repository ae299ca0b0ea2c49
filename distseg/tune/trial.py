"""One trial of a sweep: the very job that `distseg run` starts, followed epoch by epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.jobs.failure import Failure
from distseg.jobs.hardware import Slot
from distseg.jobs.job import RUN_MARK, Job, end_leftovers, end_processes, train_job
from distseg.jobs.local import CommandBuilder, LocalExecutor, launch_command
from distseg.jobs.scheduler import Scheduler
from distseg.records.files import (
    atomic_write,
    read_json,
    read_lines,
    write_json,
)
from distseg.records.finished_member import is_done, planned_epochs
from distseg.records.paths import Run
from distseg.run.folder import driver_lock
from distseg.run.members import MemberKey
from distseg.tune.space import Setting, members_of, with_setting
from distseg.tune.table import SweepFolder

LEAVING_S = 30.0  # an earlier start of the trial that was killed is gone by then
Report = Callable[[dict[str, Any]], None]


class TrialFailed(RuntimeError):
    """A member could not be trained; the message is its cause."""


def run_trial(
    config: Config,
    sweep: SweepFolder,
    name: str,
    setting: Setting,
    slot: Slot,
    report: Report,
    command: CommandBuilder = launch_command,
) -> None:
    """Train the members of one setting on `slot`, in the trial's own run folder.

    What an earlier start of the trial has done is kept, and reported again.

    Args:
        config: the sweep's, with `tune`.
        report: gets {"score", "epoch", "finished"} after each evaluated epoch and, finished, at
            the end. It may raise, which ends the trial and everything that it runs.

    Raises:
        UserError: the setting makes no valid config.
        TrialFailed: a member failed, after its retries.
    """
    own, run, members = with_setting(config, setting), sweep.trial(name), members_of(config)
    follower = Follower(run, members, report)
    with driver_lock(run, LEAVING_S):
        _prepare(sweep, run, own, setting)
        end_leftovers(run)  # ranks of an earlier start of this trial, which Ray has killed
        todo = [member for member in members if not is_done(run.member(0, *member))]
        if todo:
            executor = LocalExecutor(run, [slot], command)
            Scheduler(own, run, executor, follower).execute([train_job(run, 0, todo)])
    follower.tick()
    follower.finish()


def _prepare(sweep: SweepFolder, run: Run, config: Config, setting: Setting) -> None:
    """The trial's folder, with the sweep's folds and what is known of the data."""
    shared = sweep.run
    for source, target in ((shared.folds, run.folds), (shared.truth, run.truth)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.copytree(
        shared.data, run.data, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock")
    )
    write_json(run.folder / "setting.json", setting)
    atomic_write(run.config, dump_config(config))


class Follower:
    """The scheduler's observer in a trial: reads what the members write, and reports it to Ray.

    The score of an epoch is the mean of the final scores of the members before and of that
    epoch's, so that trials are compared at the same epoch of the same member: one that has ended
    early counts with all epochs that it was to train.
    """

    def __init__(self, run: Run, members: Sequence[MemberKey], report: Report) -> None:
        self.run, self.members, self.report = run, members, report
        self.finals: list[float] = []  # of the members that are done, in order
        self.before = 0  # epochs that these were to train
        self.seen = 0  # epochs of the current member that were read

    def started(self, job: Job, slot: Slot, attempt: int) -> None:
        """Nothing to show."""

    def finished(self, job: Job) -> None:
        """Nothing to show."""

    def failed(self, failure: Failure) -> None:
        """A failure that is final ends the trial."""
        if failure.final:
            raise TrialFailed(f"{failure.kind}: {failure.message}; its log: {failure.job.log}")

    def tick(self) -> None:
        """Report what is new."""
        while len(self.finals) < len(self.members):
            paths = self.run.member(0, *self.members[len(self.finals)])
            done = paths.done.is_file()  # before its metrics are read: they are then complete
            for row in read_lines(paths.metrics)[self.seen :]:
                self.seen = row["epoch"] + 1
                if row.get("score") is not None:
                    self._send(row["score"], self.before + self.seen)
            if not done:
                return
            record = read_json(paths.done)
            self.finals.append(float(record["score"]))
            self.before, self.seen = self.before + (planned_epochs(record) or self.seen), 0

    def finish(self) -> None:
        """Report the mean of the out-of-fold scores, with TTA."""
        self._send(None, self.before, finished=True)

    def _send(self, score: float | None, epoch: int, finished: bool = False) -> None:
        scores = [*self.finals, *([] if score is None else [score])]
        record = {"score": sum(scores) / len(scores), "epoch": epoch, "finished": finished}
        try:
            self.report(record)
        except BaseException:
            # The sweep ends this trial. Its ranks need not save, and may not outlive it.
            end_processes(RUN_MARK, str(self.run.folder.resolve()), 0.0)
            raise
