"""The whole run, step by step: the one place that knows the order of the steps.

A step that is done is skipped: to resume, run it again. Steps do not call each other; what one
makes lies in the run folder, where the next one finds it.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from distseg.config.schema import Config
from distseg.jobs.job import RUN_MARK, Job, end_leftovers, end_processes
from distseg.jobs.scheduler import Executor
from distseg.records import log
from distseg.records.ensemble_record import is_whole, read_ensemble
from distseg.records.errors import Damaged, UserError
from distseg.records.files import read_json_or, remove_stale
from distseg.records.finished_member import is_done, why_again
from distseg.records.log import counted
from distseg.records.manifest import is_manifest
from distseg.records.oof_table import is_table
from distseg.records.paths import ALL_ROUNDS, RoundKey, Run, member_id
from distseg.records.predictions import Predictions
from distseg.run.changes import find_changes
from distseg.run.execute import end_cluster_jobs, open_executor, run_jobs, train_members
from distseg.run.folder import (
    driver_lock,
    open_run,
    refuse_foreign,
    stop_on_signals,
    unlocked_by_mistakes,
)
from distseg.run.members import MemberKey, known_members
from distseg.run.pace import remember
from distseg.run.submission import predict_test, score_test, set_aside_other, written_at
from distseg.run.summary import report
from distseg.run.until import Until, write_partial

logger = logging.getLogger("distseg.run")


def run(config: Config, folder: Path, until: Until | None = None) -> int:
    """Everything from data to report. Exit status: 0 done, 1 something needed is missing.

    until: when to end with what is finished; see `run/until.py`. That is no failure: 0, where there
    is an ensemble.

    Raises:
        UserError: a mistake in config or data, or another driver works on this folder.
        Stopped: a signal came; all jobs have saved and left.
    """
    run, end = Run(folder), until or Until()
    refuse_foreign(config, run)
    with driver_lock(run), stop_on_signals(), end.on_signal():
        log.setup(run.log)
        end.announce()
        left = end_jobs(config, run)
        remove_stale(run.folder, below=True)
        open_run(config, run)
        run.log_event("run_started", pid=os.getpid(), leftovers=left)
        began = time.monotonic()
        try:
            status = _steps(config, run, end)
        except BaseException as error:
            # A signal may have come between the start of a job and the scheduler's note of it:
            # it is found by its mark. On Ray, what runs is found by the next driver.
            if config.compute.executor == "local":
                end_processes(RUN_MARK, str(run.folder.resolve()), 0.0)
            run.log_event("run_ended", status="stopped", reason=f"{type(error).__name__}: {error}")
            raise
        run.log_event("run_ended", status=status, seconds=round(time.monotonic() - began, 1))
        return status


def end_jobs(config: Config, run: Run) -> int:
    """End what a killed driver of this run has left behind: processes on this machine and, where
    the config has changed, jobs on a cluster, which would go on with the old one. Returns how many
    processes there were. UserError: the run cannot have this config."""
    changed = find_changes(config, run)
    changed.refuse()
    before = changed.before
    if before and before.compute.executor == "ray" and changed.changes:
        end_cluster_jobs(before, run, needed=config.compute.executor == "ray")
    return end_leftovers(run, orphans=config.compute.executor == "ray")


def _steps(config: Config, run: Run, until: Until) -> int:
    """Data, rounds, submission, report. Exit status: 0 done, 1 something needed is missing."""
    from distseg.data.prepare import open_cache, prepare
    from distseg.data.units import check_inner_share

    with unlocked_by_mistakes(run):
        config = prepare(config, run)
    # once, before the jobs would all want to build it
    check_inner_share(config, run, open_cache(config, run, check=True))
    with open_executor(config, run) as executor:
        last, whole, rounds = make_rounds(config, run, executor, until)
        if last is None:
            logger.error("no member finished: there is nothing to ensemble")
            return 1
        choose_final(config, run, last)
        tested = predict_test(config, run, executor)
        track_scores(config, run, executor)
    remember(config, run)
    if tested:
        set_aside_other(config, run)
    # Where the prediction failed, the submission is still what it was.
    partial = tested is not False and write_partial(config, run, until, rounds)
    whole = whole or partial
    text = report(config, run, score_test(config, run) if tested else {})
    print(text, flush=True)
    log.keep(logger, text)
    return 0 if whole and tested is not False else 1


def make_rounds(
    config: Config, run: Run, executor: Executor, until: Until
) -> tuple[int | None, bool, int]:
    """(the last round that counts, or None; whether no round has failed; how many rounds the run
    goes through)."""
    last, rounds = None, len(config.rounds)
    for number in range(rounds):
        if not make_round(config, run, number, executor, until):
            return last, False, rounds
        last = number
        ends = config.stop == "no_gain" and number and not gains(config, run, number)
        if ends or (number and until.is_over() and not is_complete(config, run, number)):
            # It gains too little to go on, or is not whole, yet counts unless it is worse than the
            # one before.
            last -= read_score(run, number) < read_score(run, number - 1)
        if ends:
            return last, True, number + 1
    return last, True, rounds


def is_complete(config: Config, run: Run, number: int) -> bool:
    """Whether all members of a round are done."""
    return all(is_done(run.member(number, *one)) for one in known_members(config, run, number))


def make_round(config: Config, run: Run, number: int, executor: Executor, until: Until) -> bool:
    """Teachers, train sets, students, ensemble of one round; False: it has failed or was not begun
    in time, and the rounds before it are what there is."""
    round_config = config.rounds[number]
    if len(config.rounds) > 1:
        logger.info("round %d: %s (%s)", number, round_config.kind, config.flag(number))
    if number and not make_train_sets(config, run, number, executor, until):
        return False
    members = known_members(config, run, number)
    if not members:
        raise UserError("no member to train: data.folds.use and members.*.folds exclude all folds")
    train_members(config, run, members, executor, number, until)
    if not is_fitted(run, number, members) and drop_damaged(run, members, number):
        train_members(config, run, members, executor, number, until)
    done = [member for member in members if is_done(run.member(number, *member))]
    if not done:
        logger.error("round %d: no member finished", number)
        return False
    if number and until.is_over() and {fold for _, fold in done} < {fold for _, fold in members}:
        # Its score would be of other images than that of the round before.
        logger.warning("round %d: no member of some folds is done: it does not count yet", number)
        return False
    fit_ensemble(config, run, number, done)
    if config.predict.every_round and len(config.rounds) > 1 and not until.is_over():
        predict_test(config, run, executor, number)
    return True


def make_train_sets(
    config: Config, run: Run, number: int, executor: Executor, until: Until
) -> bool:
    """What a round learns from, made by the models of the round before; False: their job failed, or
    it was time to end."""
    from distseg.rounds.select import select, write_pair_sets
    from distseg.rounds.teacher_tasks import teacher_tasks
    from distseg.rounds.teachers import has_unlabeled, student_folds

    round_config = config.rounds[number]
    folds = student_folds(config, run, number)
    if all(is_manifest(run.train_set(number, fold)) for fold in folds):
        return True
    if until.is_over():  # nor may a round learn from those models alone that are done
        return False
    if round_config.needs_tests and not has_unlabeled(run):
        raise UserError(f"rounds.{number}.kind: {round_config.kind}: the data has no test images")
    if round_config.judges_labeled and round_config.judge == "pair":
        write_pair_sets(run, number)
        key = run.teachers(number)
        train_members(config, run, known_members(config, run, key), executor, key, until)
        if until.is_over():
            return False
    # What the teachers say of each image goes through their models: a job, on all GPUs.
    if teacher_tasks(config, run, number, folds):
        label, log_path = f"teach-round-{number}", run.round(number) / "teach.log"
        arguments = ("teach", str(run.folder), "--round", str(number))
        job = Job(label, arguments, log_path, progress=run.teach_progress)
        if run_jobs(config, run, [], [job], executor, whole_machine=True, until=until):
            logger.error("round %d: the teachers' predictions failed: see %s", number, job.log)
            return False
        if until.is_over():
            return False
    select(config, run, number)
    return True


def fit_ensemble(config: Config, run: Run, number: int, done: Sequence[MemberKey]) -> None:
    """Fit a round's ensemble, and that of all rounds so far, unless they are on disk and younger
    than what they are made of."""
    from distseg.ensemble.fit import fit_ensemble

    if not is_fitted(run, number, done):
        text = "fitting the ensemble of %s on out-of-fold predictions"
        logger.info(text, counted(len(done), "member"))
        fit_ensemble(config, run, number)
    rounds = [run.ensemble(before) for before in range(number + 1)]
    together = number and config.ensemble.rounds == "search"
    if together and not _is_younger(run, ALL_ROUNDS, rounds):
        logger.info("fitting the ensemble of the members of rounds 0 to %d", number)
        fit_ensemble(config, run, ALL_ROUNDS)


def is_fitted(run: Run, number: int, members: Sequence[MemberKey]) -> bool:
    """Whether a round's ensemble is whole, and younger than what it is made of."""
    return _is_younger(run, number, [run.member(number, *member).done for member in members])


def _is_younger(run: Run, key: RoundKey, sources: Sequence[Path]) -> bool:
    path = run.ensemble(key)
    if path.is_file() and not (is_whole(path) and is_table(run.oof_table(key))):
        logger.warning("%s: it or the oof.csv beside it is damaged or lost: made again", path)
        return False
    if why_again(read_json_or(path, {})):
        return False
    return written_at(path) >= max(map(written_at, sources), default=-1)


def drop_damaged(run: Run, members: Sequence[MemberKey], number: int) -> bool:
    """Remove out-of-fold predictions whose checksums are wrong: the members' snapshots make them
    again. Returns whether there were any."""
    dropped = False
    for member in members:
        paths = run.member(number, *member)
        if not is_done(paths):
            continue
        try:
            for folder in (paths.oof, *paths.oof_snapshots.glob("*")):
                Predictions(folder).check()
        except Damaged as damage:
            logger.warning("%s is made again: %s", member_id(*member), damage)
            shutil.rmtree(paths.oof)
            dropped = True
    return dropped


def track_scores(config: Config, run: Run, executor: Executor) -> None:
    """Copy the run's scores to what `track` names; a tracker that fails costs the run nothing."""
    if config.track:
        job = Job("track", ("track", str(run.folder)), run.folder / "track.log")
        if run_jobs(config, run, [], [job], executor):
            logger.warning("the scores were not tracked: see %s", job.log)


def read_score(run: Run, number: int) -> float:
    """The nested out-of-fold score of a round's ensemble."""
    return float(read_ensemble(run.ensemble(number))["scores"]["final"]["score"])


def gains(config: Config, run: Run, number: int) -> bool:
    """Whether a round gains more than the standard error of its gain; says so either way."""
    from distseg.rounds.choose import gain

    value, error = gain(run, config, number)
    if value >= error:
        logger.info("round %d gains %.4f (standard error %.4f)", number, value, error)
        return True
    logger.info(
        "round %d gains %.4f, less than the standard error %.4f: no more rounds",
        number, value, error,
    )  # fmt: skip
    run.log_event("rounds_stopped", round=number, gain=value, standard_error=error)
    return False


def choose_final(config: Config, run: Run, number: int) -> None:
    """Choose what makes the submission: the ensemble of round `number`, or that of all rounds."""
    from distseg.rounds.choose import choose_final

    chosen = choose_final(run, number, all_rounds=config.ensemble.rounds == "search")
    if number:
        which = "all rounds" if chosen["round"] == ALL_ROUNDS else f"round {number}"
        logger.info("the submission is made by the ensemble of %s", which)
