"""How long members take, and the order that follows: the longest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from distseg.config.schema import Config
from distseg.records.paths import RoundKey, Run, read_lines
from distseg.run.members import MemberKey, known_members, round_keys

Item = TypeVar("Item")


def longest_first(items: Sequence[Item], costs: Sequence[float]) -> list[Item]:
    """In the order of falling costs, equal ones as they come. Each given to the first free slot,
    the last one ends within a third of the best possible time (Graham 1969, "Bounds on
    multiprocessing timing anomalies"), and far nearer with many items."""
    order = sorted(range(len(items)), key=lambda index: -costs[index])
    return [items[index] for index in order]


def member_costs(config: Config, run: Run, round: RoundKey = 0) -> dict[str, float]:
    """How long a member of each model takes, in units of its own: epochs by the pace that an
    earlier round has shown, and where none has, epochs x pixels of the canvas."""
    pace = shown_paces(config, run, round_keys(config, run)) if round != 0 else {}
    known = all(name in pace for name in config.members)
    costs = {}
    for name in config.members:
        size, stages = config.input_of(name), config.stages_of(name, round)
        pixels = [s.input_size or (size.height, size.width) for s in stages]
        costs[name] = sum(
            stage.schedule.epochs * (1.0 / pace[name] if known else height * width)
            for stage, (height, width) in zip(stages, pixels, strict=True)
        )
    return costs


def shown_paces(config: Config, run: Run, keys: Iterable[RoundKey]) -> dict[str, float]:
    """Images per second by model, by the first round that has trained it."""
    found: dict[str, float] = {}
    for key in keys:
        found = {**measured_pace(run, known_members(config, run, key), key), **found}
    return found


def measured_pace(run: Run, members: Sequence[MemberKey], round: RoundKey = 0) -> dict[str, float]:
    """Images per second by model, as the run's own epochs show it; nothing before the first."""
    seen: dict[str, list[float]] = {}
    for name, fold in members:
        rows = read_lines(run.member(round, name, fold).metrics)
        seen.setdefault(name, []).extend(r["images_per_s"] for r in rows if r.get("images_per_s"))
    return {name: sum(values) / len(values) for name, values in seen.items() if values}
