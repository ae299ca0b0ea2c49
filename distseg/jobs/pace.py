"""How fast members train, and the order of jobs that follows: the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from distseg.records.files import read_lines
from distseg.records.paths import RoundKey, Run

Item = TypeVar("Item")


def longest_first(items: Sequence[Item], costs: Sequence[float]) -> list[Item]:
    """In the order of falling costs, equal ones as they come. Each given to the first free slot,
    the last one ends within a third of the best possible time (Graham 1969, "Bounds on
    multiprocessing timing anomalies"), and far nearer with many items."""
    order = sorted(range(len(items)), key=lambda index: -costs[index])
    return [items[index] for index in order]


def measured_pace(
    run: Run, members: Sequence[tuple[str, int]], round: RoundKey = 0
) -> dict[str, float]:
    """Images per second by model, as the run's own epochs show it; nothing before the first."""
    seen: dict[str, list[float]] = {}
    for name, fold in members:
        rows = read_lines(run.member(round, name, fold).metrics)
        seen.setdefault(name, []).extend(r["images_per_s"] for r in rows if r.get("images_per_s"))
    return {name: sum(values) / len(values) for name, values in seen.items() if values}
