"""Where a run stands, from its files only: nothing here talks to a process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distseg.config.load import load_config
from distseg.records.ensemble_record import is_whole, read_ensemble
from distseg.records.errors import printable
from distseg.records.files import num_broken_lines, read_lines
from distseg.records.finished_member import why_again
from distseg.records.log import counted, duration
from distseg.records.paths import Run, find_run
from distseg.records.progress import read_position
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.members import known_members, round_keys, unused_members
from distseg.run.remaining import Remaining, running_predictions
from distseg.run.running import running_jobs
from distseg.run.until import partial_line, partial_record


def is_alive(run: Run) -> bool:
    """Whether a driver holds this run's lock."""
    # Not by a FileLock: that writes, and a run may be one that may only be read.
    try:
        with run.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except PermissionError:  # nor may its lock be read: what its ledger says is all there is
        return False
    except BlockingIOError:
        return True
    return False


def started_members(run: Run) -> dict[str, list[str]]:
    """The members of the jobs that run, in the order in which they train, by the job's label, as
    the ledger has them: of each job that has started and not ended. A member is ROUND:LABEL."""
    return {
        job: [f"{line.get('round', 0)}:{label}" for label in line.get("members") or []]
        for job, line in running_jobs(run).items()
    }


def num_slots(run: Run) -> int:
    """Jobs that train at the same time, by the slots that this start of the run has used."""
    used = set[tuple[object, object]]()
    for line in read_lines(run.ledger):
        if line.get("event") == "run_started":
            used.clear()
        elif line.get("event") == "job_started" and line.get("members"):
            used.add((line.get("node"), line.get("slot")))
    return max(1, len(used))


def at_work(jobs: Iterable[Sequence[str]], statuses: Sequence[MemberStatus], key: str) -> set[str]:
    """Labels of the members that train now: of each job the first that has not ended. The others
    of a job wait for it.

    jobs: members of each job in order, ROUND:LABEL. key: the round of `statuses`."""
    ended = {f"{key}:{s.label}" for s in statuses if s.state in ("done", "failed")}
    first = [next((one for one in job if one not in ended), None) for job in jobs]
    return {one.partition(":")[2] for one in first if one and one.startswith(f"{key}:")}


def left_out(run: Run) -> dict[str, str]:
    """Why members were left out by the last start of the run, by ROUND:LABEL."""
    found: dict[str, str] = {}
    for line in read_lines(run.ledger):
        if line.get("event") == "run_started":
            found.clear()
        elif line.get("event") == "member_left_out":
            label = f"{line.get('round', 0)}:{line.get('member')}"
            found[label] = f"{line.get('kind')}: {line.get('message')}"
    return found


def how_it_ended(run: Run) -> str:
    """What the last start of the run has come to: "" while nothing is known."""
    last: dict[str, Any] = {}
    for line in read_lines(run.ledger):
        if line.get("event") in ("run_started", "run_ended"):
            last = line
    if last.get("event") == "run_started":
        return "it was killed, or its machine went down; `distseg run` goes on"
    if last.get("status") == "stopped":
        reason = " ".join(str(last.get("reason")).split())[:300]
        return f"stopped: {reason}"
    ends = {0: "finished", 1: "ended without something that it needed"}
    return ends.get(last.get("status", -1), "")


def status_text(folder: Path) -> str:
    """The table that `distseg status RUN` prints. UserError when it is no run folder."""
    run = find_run(folder)
    config, alive = load_config(run.config), is_alive(run)
    jobs, given_up = started_members(run) if alive else {}, left_out(run)
    how = "running" if alive else f"not running: {how_it_ended(run)}".removesuffix(": ")
    lines = [f"{folder}: {how}"]
    lines += [line] if (line := partial_line(partial_record(run))) else []
    remaining = Remaining(config, run, num_slots(run)) if alive else None  # it reads the Manifests
    # While a prediction runs, no member trains, whatever has become of those that are not done.
    left = predicted = remaining.seconds_of_prediction() if remaining else None
    for round in [key for key in round_keys(config, run) if run.round(key).is_dir()] or [0]:
        members = known_members(config, run, round)
        statuses = [member_status(config, run, round, *member) for member in members]
        lines += [f"round {round}: {sum(s.state == 'done' for s in statuses)} of {len(statuses)}"]
        working = at_work(jobs.values(), statuses, str(round))
        lines += [
            _line(s, s.label in working, given_up.get(f"{round}:{s.label}")) for s in statuses
        ]
        ended = [s if f"{round}:{s.label}" not in given_up else replace(s, state="failed")
                 for s in statuses]  # fmt: skip
        waits = any(s.state not in ("done", "failed") for s in ended)
        if remaining and predicted is None and waits:
            left = remaining.seconds(round, ended)
        if run.ensemble(round).is_file():
            lines.append(f"ensemble: {run.ensemble(round)}{_damage(run.ensemble(round))}")
    if alive:
        kinds = {job.kind for job in running_predictions(run)}  # a killed job may leave its file
        if "predict-test" in kinds:
            lines += _prediction_lines("test prediction", run.all_predict_progress())
        if "teach" in kinds:
            lines += _prediction_lines("teachers' prediction", [run.teach_progress])
        lines += [f"the run ends in about {duration(left)}"] if left else []
    for path in (run.submission, run.test_masks, run.report_html):
        lines += [f"written: {path}"] if path.exists() else []
    if left_over := unused_members(config, run):
        lines.append(f"not used any more, but still there: {', '.join(left_over)}")
    if broken := num_broken_lines(run.ledger):
        lines.append(f"{run.ledger}: {counted(broken, 'broken line')} left out")
    return printable("\n".join(lines))


def _damage(path: Path) -> str:
    if not is_whole(path):
        return " (damaged: `distseg run` makes it again)"
    why = why_again(read_ensemble(path))
    return f" (`distseg run` makes it again: {why})" if why else ""


def _prediction_lines(what: str, paths: Iterable[Path]) -> list[str]:
    places = [place for path in paths if (place := read_position(path))]
    return [f"{what}: {place.done} of {place.total} images" for place in places]


def _line(status: MemberStatus, running: bool, given_up: str | None) -> str:
    state = status.state
    if state != "done":
        state = "running" if running else "failed" if given_up else state
    score = "" if status.score is None else f"  score {status.score:.4f}"
    eta = f"  ETA {duration(status.eta_s)}" if running and status.eta_s else ""
    why = given_up or status.message
    reason = f"  {why.splitlines()[0][:160]}" if why and state != "done" else ""
    at = status.position
    phase = f" ({at.phase} {at.share:.0%})" if running and at else ""
    text = f"  {status.label:<32} {state:<8} epoch {status.epoch}/{status.epochs}{phase}"
    return f"{text}{score}{eta}{reason}"
