"""Which rows a round keeps: one function and one line a rule, on the statistics of each row.

A rule sees whole columns (one value a row) and says, row by row, whether it objects. The columns
are those of `statistics.image_statistics`; NaN where a row has no target, which no rule objects to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.functional.naming import unknown_name

Table = Mapping[str, NDArray[np.float64]]
Objects = NDArray[np.bool_]

# Shares of the image that divide it into strata by the object's area; an empty mask is stratum 0.
AREA_EDGES = (0.0, 0.05, 0.2, 0.5)
RANKED_BY = ("decided", "confidence", "agreement", "entropy")


def strata(area: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for an empty mask, then 1.. by the share of the image that the object covers."""
    return np.searchsorted(np.array(AREA_EDGES), area, side="left").astype(np.int64)


def _at_most(column: str) -> Callable[[Table, float], Objects]:
    return lambda table, value: table[column] <= value


def _below(column: str) -> Callable[[Table, float], Objects]:
    return lambda table, value: table[column] < value


def _above(column: str) -> Callable[[Table, float], Objects]:
    return lambda table, value: table[column] > value


def _is(column: str) -> Callable[[Table, float], Objects]:
    return lambda table, value: (table[column] > 0) & bool(value)


def _worst(table: Table, share: float) -> Objects:
    """The share of the rows with the lowest IoU."""
    return _lowest(table["iou"], share)


def _worst_per_stratum(table: Table, share: float) -> Objects:
    """The same in each stratum of the target's area."""
    objects, groups = np.zeros(len(table["iou"]), dtype=np.bool_), strata(table["target_area"])
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        objects[inside[_lowest(table["iou"][inside], share)]] = True
    return objects


def _lowest(values: NDArray[np.float64], share: float) -> Objects:
    order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")
    chosen = np.zeros(len(values), dtype=np.bool_)
    chosen[order[: int(share * len(values))]] = True
    return chosen & ~np.isnan(values)


def _false_area(table: Table, value: float) -> Objects:
    return (table["target_area"] == 0) & (table["area"] > value)


@dataclass(frozen=True)
class Rule:
    """What one rule objects to. Its value and its line for the docs: `config/training.py`.

    objects: the rows that the rule rejects.
    empties: whether it judges rows with an empty mask even where empty masks are kept.
    labeled: it compares with a human label, which unlabeled images do not have.
    unlabeled: it needs what only predicted images without a label have.
    """

    objects: Callable[[Table, float], Objects]
    empties: bool = False
    labeled: bool = True
    unlabeled: bool = False


RULES: dict[str, Rule] = {
    "min_iou": Rule(_at_most("iou")),
    "min_dice": Rule(_at_most("dice")),
    "min_boundary": Rule(_at_most("boundary")),
    "min_confidence": Rule(_below("confidence"), labeled=False),
    "min_decided": Rule(_below("decided"), labeled=False),
    "max_entropy": Rule(_above("entropy"), labeled=False),
    "min_agreement": Rule(_below("agreement"), labeled=False),
    "min_head_certainty": Rule(_below("head_certainty"), labeled=False, unlabeled=True),
    "worst": Rule(_worst),
    "worst_per_stratum": Rule(_worst_per_stratum),
    "max_false_area": Rule(_false_area, empties=True),
    "rectangle": Rule(_is("rectangle"), labeled=False),
    "thin": Rule(_is("thin"), labeled=False),
    "full": Rule(_is("full"), labeled=False),
    "constant": Rule(_is("constant"), empties=True, labeled=False),
}


def rules_for(*, labeled: bool) -> list[str]:
    """Names of the rules that can judge rows with a label, or images without one."""
    return [
        name for name, rule in RULES.items() if not (rule.unlabeled if labeled else rule.labeled)
    ]


def objections(table: Table, rules: Mapping[str, Any], empty: str) -> list[str]:
    """Why each row is suspicious: names of the rules that object, joined by "+"; "" for none.

    Args:
        table: columns of N values.
        rules: {name: value}; the names are those of RULES.
        empty: rows whose target is empty: `keep` (only rules that are about them object), `drop`
            (all of them, reason "empty"), or `judge` (as any other row).
    """
    num = len(next(iter(table.values()))) if table else 0
    blank = table["target_area"] == 0
    reasons: list[list[str]] = [[] for _ in range(num)]
    for name, value in rules.items():
        rule = RULES[name]
        judged = np.flatnonzero(~blank | rule.empties | (empty == "judge"))
        part = {key: column[judged] for key, column in table.items()}  # quantiles are of these
        for row in judged[rule.objects(part, value)]:
            reasons[row].append(name)
    if empty == "drop":
        for row in np.flatnonzero(blank):
            reasons[row].append("empty")
    return ["+".join(names) for names in reasons]


def balanced(
    passed: Objects,
    rank: NDArray[np.float64],
    groups: NDArray[np.int64],
    shares: Mapping[int, float],
    limit: int | None,
) -> Objects:
    """The best rows in the strata's given shares, as many as all strata together allow.

    Args:
        passed: (N,) rows that may be taken.
        rank: (N,) higher is taken first; ties go to the earlier row.
        groups: (N,) stratum of each row.
        shares: share of each stratum in the train set, summing to 1. Strata under 5 % do not
            limit the number: a rare one gives what it has.
        limit: rows to take at most.

    Returns:
        (N,) rows taken.
    """
    there = {group: int((passed & (groups == group)).sum()) for group in shares}
    limits = [there[group] / share for group, share in shares.items() if share >= 0.05]
    total = min([*limits, *([float(limit)] if limit is not None else [])], default=0.0)
    taken = np.zeros(len(passed), dtype=np.bool_)
    for group, share in shares.items():
        rows = np.flatnonzero(passed & (groups == group))
        best = rows[np.argsort(-rank[rows], kind="stable")]
        taken[best[: round(share * total)]] = True
    return taken


def top(passed: Objects, rank: NDArray[np.float64], limit: int | None) -> Objects:
    """The `limit` best of the rows that passed; all of them without a limit."""
    rows = np.flatnonzero(passed)
    best = rows[np.argsort(-rank[rows], kind="stable")][: limit if limit is not None else len(rows)]
    taken = np.zeros(len(passed), dtype=np.bool_)
    taken[best] = True
    return taken


def ranking(table: Table, by: str) -> NDArray[np.float64]:
    """Higher is surer."""
    if by not in RANKED_BY:
        raise unknown_name("ranking", by, RANKED_BY)
    return -table["entropy"] if by == "entropy" else np.nan_to_num(table[by])
