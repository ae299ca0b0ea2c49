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
    """objects: rows that the rule rejects. empties: whether it judges rows with an empty mask even
    where empty masks are kept. flag: its value is true or false. doc: one line for the docs.
    labeled: it compares with a target; unlabeled: it needs what only predicted images have."""

    objects: Callable[[Table, float], Objects]
    doc: str
    empties: bool = False
    flag: bool = False
    labeled: bool = True
    unlabeled: bool = False
    high: float = 1.0


RULES: dict[str, Rule] = {
    "min_iou": Rule(_at_most("iou"), "IoU of prediction and mask is at most this"),
    "min_dice": Rule(_at_most("dice"), "Dice of prediction and mask is at most this"),
    "min_boundary": Rule(_at_most("boundary"), "boundary IoU is at most this"),
    "min_confidence": Rule(_below("confidence"), "mean confidence is lower", labeled=False),
    "min_decided": Rule(
        _below("decided"), "share of pixels with p < .2 or p > .8 is lower", labeled=False
    ),
    "max_entropy": Rule(
        _above("entropy"), "mean entropy (bits) is higher", labeled=False, high=8.0
    ),
    "min_agreement": Rule(
        _below("agreement"), "mean IoU of the members' masks with the ensemble's is lower",
        labeled=False,
    ),
    "min_head_certainty": Rule(
        _below("head_certainty"),
        "the image-level head gives the mask's class (an object, or none) a lower probability",
        labeled=False,
        unlabeled=True,
    ),
    "worst": Rule(_worst, "among this share of the rows with the lowest IoU"),
    "worst_per_stratum": Rule(
        _worst_per_stratum, "the same among rows of like area (empty, 5 %, 20 %, 50 %, larger)"
    ),
    "max_false_area": Rule(
        _false_area, "the mask is empty, and more than this share is predicted", empties=True
    ),
    "rectangle": Rule(
        _is("rectangle"), "the mask is one filled rectangle", flag=True, labeled=False
    ),
    "thin": Rule(_is("thin"), "the mask is nowhere wider than 2 pixels", flag=True, labeled=False),
    "full": Rule(_is("full"), "the mask covers the whole image", flag=True, labeled=False),
    "constant": Rule(
        _is("constant"), "the image has a single value", empties=True, flag=True, labeled=False
    ),
}  # fmt: skip


def check_rules(rules: Mapping[str, Any], *, labeled: bool) -> None:
    """ValueError for an unknown rule or a value that is none of its own; `labeled`: whether the
    rows have targets to compare with."""
    valid = [
        name for name, rule in RULES.items() if not (rule.unlabeled if labeled else rule.labeled)
    ]
    for name, value in rules.items():
        if name not in valid:
            raise unknown_name("rule", name, valid)
        rule = RULES[name]
        if rule.flag and not isinstance(value, bool):
            raise ValueError(f"rule {name!r} is true or false, not {value!r}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not rule.flag and not (number and 0 <= value <= rule.high):
            raise ValueError(f"rule {name!r} needs a number in [0, {rule.high:g}], not {value!r}")


def objections(table: Table, rules: Mapping[str, Any], empty: str) -> list[str]:
    """Why each row is suspicious: names of the rules that object, joined by "+"; "" for none.

    Args:
        table: columns of N values.
        rules: {name: value}, as `check_rules` takes them.
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
