"""What became of the rows that teachers judged, as a person can check it: tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.data.read_target import read_target
from distseg.functional.drawing import sheet
from distseg.functional.rules import strata
from distseg.records.files import atomic_write
from distseg.records.manifest import Sample
from distseg.records.paths import Run
from distseg.records.tables import write_table

SHEET = 24  # pictures of a sheet


@dataclass(frozen=True)
class Decision:
    """What became of one row.

    sample: the row before the decision. what: labeled or unlabeled. reason: the rules that object,
    joined by "+", or why there was no room; "" where it is kept. mask: the teachers', RLE of each
    class joined by "|". statistics: by the names of `functional.statistics`.
    """

    sample: Sample
    what: str
    kept: bool
    reason: str
    mask: str
    statistics: dict[str, float]


def write_decisions(
    config: Config, run: Run, round: int, fold: int, decisions: Sequence[Decision]
) -> None:
    """Write foldK.csv, balance_foldK.csv and the sheets of pictures for the student of `fold`."""
    folder = run.select(round)
    names = list(decisions[0].statistics) if decisions else []
    header = ["id", "what", "fold", "kept", "reason", *names]
    rows = (
        [d.sample.id, d.what, d.sample.fold, int(d.kept), d.reason]
        + [f"{d.statistics[name]:.6g}" for name in names]
        for d in decisions
    )
    write_table(folder / f"fold{fold}.csv", header, rows)
    header = ["what", "stratum", "before", "after", "share_before", "share_after"]
    write_table(folder / f"balance_fold{fold}.csv", header, _balance(decisions))
    _write_sheets(config, run, folder, fold, decisions)


def _balance(decisions: Sequence[Decision]) -> Iterator[list[object]]:
    """Rows and shares of each stratum of area, before and after."""
    for what in _kinds(decisions):
        mine = [d for d in decisions if d.what == what]
        groups = strata(np.array([d.statistics["target_area"] for d in mine]))
        kept = np.array([d.kept for d in mine], dtype=np.bool_)
        for group in np.unique(groups):
            inside = groups == group
            before, after = int(inside.sum()), int((inside & kept).sum())
            shares = before / len(mine), after / max(1, int(kept.sum()))
            yield [what, group, before, after, *(f"{share:.4f}" for share in shares)]


def _write_sheets(
    config: Config, run: Run, folder: Path, fold: int, decisions: Sequence[Decision]
) -> None:
    """The most suspicious kept and dropped rows of each kind, as pictures."""
    for what in _kinds(decisions):
        cache = open_cache(config, run) if what == "labeled" else open_unlabeled_cache(config, run)
        for kept in (True, False):
            mine = [d for d in decisions if d.what == what and d.kept == kept]
            mine.sort(key=_suspicion)
            tiles = [_tile(config, d, cache) for d in mine[:SHEET]]
            if tiles:
                name = f"{what}_{'kept' if kept else 'dropped'}_fold{fold}.png"
                atomic_write(folder / name, sheet(tiles))


def _kinds(decisions: Sequence[Decision]) -> list[str]:
    return sorted({decision.what for decision in decisions})


def _doubt(decision: Decision) -> str:
    """The statistic that says how suspicious a row is, lower is more: its IoU with the human mask,
    or, where there is none, the share of its pixels that are decided."""
    return "iou" if decision.what == "labeled" else "decided"


def _suspicion(decision: Decision) -> tuple[float, str]:
    return decision.statistics[_doubt(decision)], decision.sample.id


def _tile(config: Config, decision: Decision, cache: Cache) -> dict[str, Any]:
    """One picture of `functional.drawing.sheet`."""
    sample, key = decision.sample, _doubt(decision)
    masks: NDArray[np.uint8] = read_target(
        f"rle:{decision.mask}", config, sample.height, sample.width
    )
    return {
        "image": cache.image(sample.id),
        "target": cache.target(sample.id),
        "masks": masks,
        "task": config.task,
        "lines": [f"{sample.id} {key} {decision.statistics[key]:.2f}", decision.reason or "kept"],
    }
