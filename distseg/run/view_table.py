"""The table of members that a terminal shows, as wide as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import JustifyMethod
from rich.table import Table

from distseg.config.schema import Config
from distseg.jobs.job import Job
from distseg.records.log import duration
from distseg.records.paths import RoundKey, Run, is_teachers, round_number
from distseg.records.progress import Position
from distseg.run.member_status import MemberStatus
from distseg.run.plan import amount

BAR, WIDE_BAR = 12, 24  # characters
WIDE = 140  # characters of a terminal that has room for all columns
MARGIN = 8  # lines of a terminal that are not the table's
ORDER = {"running": 0, "failed": 1, "damaged": 1, "done": 2, "stopped": 3, "waiting": 4}


def title(config: Config, run: Run, key: RoundKey) -> str:
    """What trains: the run, and its round where there are several."""
    if len(config.rounds) < 2:
        return config.name
    number = round_number(key)
    what = f"teachers of round {number}" if is_teachers(key) else f"round {number}"
    return f"{config.name}: {what} of 0 to {len(config.rounds) - 1}, {config.rounds[number].kind}"


Cell = Callable[[MemberStatus, bool], str]


def _columns(width: int, *, gpus: bool) -> list[tuple[str, Cell]]:
    """Heading and content of the columns for a terminal of `width` characters. content: of a
    member and whether it trains now. gpus: whether any member says how busy its GPU is."""
    long = WIDE_BAR if width >= WIDE else BAR
    columns: list[tuple[str, Cell]] = [
        ("model", lambda s, _: s.name),
        ("fold", lambda s, _: str(s.fold)),
        ("epoch", lambda s, _: f"{s.epoch}/{s.epochs}"),
        ("", lambda s, _: bar(s.epochs_done / max(1, s.epochs), long)),
        ("now", _now),
        ("score", lambda s, _: _decimals(s.score)),
    ]
    if width >= 110:
        columns += [
            ("best", lambda s, _: "" if s.state == "done" else _decimals(s.best)),
            ("loss", lambda s, _: _decimals(s.loss)),
        ]
    if width >= WIDE:
        columns += [
            ("lr", lambda s, _: "" if s.lr is None else f"{s.lr:.1e}"),
            ("images/s", lambda s, _: "" if s.images_per_s is None else f"{s.images_per_s:.1f}"),
            ("memory", lambda s, on: amount(s.position.memory) if on and s.position else ""),
        ]
        columns += [("GPU", _gpu)] if gpus else []
    return [*columns, ("left", lambda s, on: _left(s) if on else "")]


def members_table(
    statuses: Sequence[MemberStatus], working: set[str], width: int, height: int
) -> Table:
    """Members that train, then the others; a line for those that have no room.

    working: labels of the members that train now. width, height: of the terminal."""
    table = Table(box=None, pad_edge=False)
    columns = _columns(width, gpus=any(s.position and s.position.gpu is not None for s in statuses))
    for heading, _ in columns:
        left = heading in ("model", "", "now")
        justify: JustifyMethod = "left" if left else "right"
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
    room = max(3, height - MARGIN)
    ordered = sorted(statuses, key=lambda s: ORDER[_state(s, s.label in working)])
    kept = {s.label for s in (ordered if len(ordered) <= room else ordered[: room - 1])}
    for status in statuses:
        if status.label in kept:
            on = status.label in working
            table.add_row(*(cell(status, on) for _, cell in columns))
    if len(kept) < len(statuses):
        table.add_row(f"... {len(statuses) - len(kept)} more")
    return table


def job_table(jobs: Sequence[tuple[Job, Position | None]]) -> Table:
    """A row for each job that trains no member: how far its predictions are."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for job, position in jobs:
        if position is None:
            table.add_row(job.label, "", "starting")
            continue
        whole = position.whole_s
        left = None if whole is None else whole * (1 - position.share)
        eta = "" if left is None else duration(left)
        counts = f"{position.done}/{position.total} images"
        table.add_row(job.label, bar(position.share), counts, eta)
    return table


def bar(share: float, length: int = BAR) -> str:
    """A share, 0..1, as a bar of so many characters."""
    filled = round(length * min(1.0, max(0.0, share)))
    return "━" * filled + "·" * (length - filled)


def _state(status: MemberStatus, working: bool) -> str:
    return "running" if working and status.state != "done" else status.state


def _now(status: MemberStatus, working: bool) -> str:
    """What the member does: the phase and how far it is, or that it waits, has failed, is done."""
    at = status.position
    if not working or status.state in ("done", "failed"):
        return status.state
    if at is None:  # between two epochs nothing has been told yet
        if status.epoch >= status.epochs:
            return "finishing"
        return "train" if status.epoch else "starting"
    return f"{at.phase} {at.share:.0%}"


def _left(status: MemberStatus) -> str:
    return "" if not status.eta_s else duration(status.eta_s)


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _gpu(status: MemberStatus, working: bool) -> str:
    at = status.position
    return f"{at.gpu:.0%}" if working and at and at.gpu is not None else ""
