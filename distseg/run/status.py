"""Where a run stands, from its files only: nothing here talks to a process."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.records.ensemble_record import is_whole
from distseg.records.errors import printable
from distseg.records.files import num_broken_lines, read_json_or, read_lines
from distseg.records.finished_member import loss_of
from distseg.records.log import counted, duration
from distseg.records.paths import RoundKey, Run, find_run, member_id
from distseg.run.members import known_members, round_keys


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member. state: done | damaged | failed | running | stopped | waiting; eta_s: seconds, of
    what the member's own epochs still need; message: why it failed."""

    name: str
    fold: int
    state: str
    epoch: int
    epochs: int
    score: float | None = None
    loss: float | None = None
    images_per_s: float | None = None
    seconds: float = 0.0
    eta_s: float | None = None
    message: str = ""

    @property
    def label(self) -> str:
        """unet_fold0"""
        return member_id(self.name, self.fold)


def member_status(config: Config, run: Run, round: RoundKey, name: str, fold: int) -> MemberStatus:
    """Read one member's DONE, failure.json and metrics.jsonl; `running` is left to the caller."""
    paths, epochs = run.member(round, name, fold), config.epochs_of(name, round)
    rows = [row for row in read_lines(paths.metrics) if isinstance(row.get("epoch"), int)]
    last = rows[-1] if rows else {}
    score = next((s for row in reversed(rows) if (s := _number(row, "score")) is not None), None)
    seconds = sum(_number(row, "seconds") or 0.0 for row in rows)
    state, message, eta = ("stopped" if rows else "waiting"), "", _number(last, "eta_s")
    if loss := loss_of(paths):
        state, message = "damaged", f"{loss}; `distseg run` makes it again"
    elif paths.done.is_file():
        done = read_json_or(paths.done, {})
        state, score, eta = "done", _number(done, "score"), 0.0
        seconds = _number(done, "seconds") or seconds
    elif paths.failure.is_file():
        failure = read_json_or(paths.failure, {})
        state, message = "failed", f"{failure.get('kind')}: {failure.get('message')}"
    return MemberStatus(
        name,
        fold,
        state,
        last.get("epoch", -1) + 1,
        epochs,
        score,
        _number(last, "loss"),
        _number(last, "images_per_s"),
        seconds,
        eta,
        message,
    )


def _number(record: Mapping[str, Any], key: str) -> float | None:
    """A number of a record that may be damaged; None where there is none."""
    value = record.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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


def started_members(run: Run) -> dict[str, set[str]]:
    """The members of the jobs that run, by the job's label, as the ledger has them: of each job
    that has started and not ended. A member is written ROUND:LABEL."""
    running: dict[str, set[str]] = {}
    for line in read_lines(run.ledger):
        event, job = line.get("event"), str(line.get("job"))
        if event in ("job_started", "job_adopted"):
            members = {f"{line.get('round', 0)}:{label}" for label in line.get("members") or []}
            running[job] = members
        elif event in ("job_done", "job_failed"):
            running.pop(job, None)
        elif event == "run_started":
            running.clear()
    return running


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


def remaining_s(statuses: Sequence[MemberStatus], slots: int) -> float | None:
    """Seconds until all members are trained; None before the first epoch.

    By the mean seconds of an epoch so far: of the same model where one of its folds has trained an
    epoch, else of all models. The work is divided among `slots`, and takes no less than the
    longest member.
    """
    pace: dict[str, float] = {}
    for name in {s.name for s in statuses}:
        seen = [s for s in statuses if s.name == name and s.epoch]
        if seen:
            pace[name] = sum(s.seconds for s in seen) / sum(s.epoch for s in seen)
    if not pace:
        return None
    mean = sum(pace.values()) / len(pace)
    open_ones = [s for s in statuses if s.state not in ("done", "failed")]
    work = [(s.epochs - s.epoch) * pace.get(s.name, mean) for s in open_ones]
    return max(sum(work) / max(slots, 1), max(work, default=0.0))


def status_text(folder: Path) -> str:
    """The table that `distseg status RUN` prints. UserError when it is no run folder."""
    run = find_run(folder)
    config, alive = load_config(run.config), is_alive(run)
    jobs, given_up = started_members(run) if alive else {}, left_out(run)
    started: set[str] = set().union(*jobs.values())
    lines = [f"{folder}: {'running' if alive else 'not running'}"]
    for round in [key for key in round_keys(config, run) if run.round(key).is_dir()] or [0]:
        members = known_members(config, run, round)
        statuses = [member_status(config, run, round, *member) for member in members]
        lines += [f"round {round}: {sum(s.state == 'done' for s in statuses)} of {len(statuses)}"]
        lines += [
            _line(s, f"{round}:{s.label}" in started, given_up.get(f"{round}:{s.label}"))
            for s in statuses
        ]
        left = remaining_s(statuses, max(1, len(jobs)))
        if left and alive:
            lines.append(f"all members are trained in about {duration(left)}")
        if run.ensemble(round).is_file():
            lines.append(f"ensemble: {run.ensemble(round)}{_damage(run.ensemble(round))}")
    for path in (run.submission, run.test_masks, run.report_html):
        lines += [f"written: {path}"] if path.exists() else []
    if broken := num_broken_lines(run.ledger):
        lines.append(f"{run.ledger}: {counted(broken, 'broken line')} left out")
    return printable("\n".join(lines))


def _damage(path: Path) -> str:
    return "" if is_whole(path) else " (damaged: `distseg run` makes it again)"


def _line(status: MemberStatus, running: bool, given_up: str | None) -> str:
    state = status.state
    if state != "done":
        state = "running" if running else "failed" if given_up else state
    score = "" if status.score is None else f"  score {status.score:.4f}"
    eta = f"  ETA {duration(status.eta_s)}" if running and status.eta_s else ""
    why = given_up or status.message
    reason = f"  {why.splitlines()[0][:160]}" if why and state != "done" else ""
    text = f"  {status.label:<32} {state:<8} epoch {status.epoch}/{status.epochs}"
    return f"{text}{score}{eta}{reason}"
