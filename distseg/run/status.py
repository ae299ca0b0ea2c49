"""Where a run stands, from its files only: nothing here talks to a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.records.files import read_json, read_lines
from distseg.records.log import duration
from distseg.records.paths import RoundKey, Run, find_run, member_id
from distseg.run.members import known_members, round_keys


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member. state: done | failed | running | stopped | waiting; eta_s: seconds, of what the
    member's own epochs still need; message: why it failed."""

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
    rows = read_lines(paths.metrics)
    last = rows[-1] if rows else {}
    score = next((r["score"] for r in reversed(rows) if r.get("score") is not None), None)
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    state, message, eta = ("stopped" if rows else "waiting"), "", last.get("eta_s")
    if paths.done.is_file():
        done = read_json(paths.done)
        state, score, eta = "done", done.get("score", score), 0.0
        seconds = done.get("seconds", seconds)
    elif paths.failure.is_file():
        failure = read_json(paths.failure)
        state, message = "failed", f"{failure.get('kind')}: {failure.get('message')}"
    return MemberStatus(
        name,
        fold,
        state,
        int(last.get("epoch", -1)) + 1,
        epochs,
        score,
        last.get("loss"),
        last.get("images_per_s"),
        seconds,
        eta,
        message,
    )


def is_alive(run: Run) -> bool:
    """Whether a driver holds this run's lock."""
    if not run.lock.is_file():
        return False
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def started_members(run: Run) -> dict[str, set[str]]:
    """The members of the jobs that run, by the job's label, as the ledger has them: of each job
    that has started and not ended. A member is written ROUND:LABEL."""
    running: dict[str, set[str]] = {}
    for line in read_lines(run.ledger):
        if line["event"] in ("job_started", "job_adopted"):
            members = {f"{line.get('round', 0)}:{label}" for label in line.get("members", [])}
            running[line["job"]] = members
        elif line["event"] in ("job_done", "job_failed"):
            running.pop(line["job"], None)
        elif line["event"] == "run_started":
            running.clear()
    return running


def left_out(run: Run) -> dict[str, str]:
    """Why members were left out by the last start of the run, by ROUND:LABEL."""
    found: dict[str, str] = {}
    for line in read_lines(run.ledger):
        if line["event"] == "run_started":
            found.clear()
        elif line["event"] == "member_left_out":
            label = f"{line.get('round', 0)}:{line['member']}"
            found[label] = f"{line['kind']}: {line['message']}"
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
            lines.append(f"ensemble: {run.ensemble(round)}")
    for path in (run.submission, run.test_masks, run.report_html):
        lines += [f"written: {path}"] if path.exists() else []
    return "\n".join(lines)


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
