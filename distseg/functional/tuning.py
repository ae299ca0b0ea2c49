"""Rules tuned on splits of a set: each split's rule is found on the other splits alone.

All kinds of rules are tuned in one frame, `tune_class`: sweep each split once, add the sweeps of
the others, choose, and change the rule. What differs between them is a `RuleSearch`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distseg.functional.postprocess import Options, Rule, logit
from distseg.functional.sweeps import CleaningSweep, GridSweep, RuleGrid, Sweep

# logits, truth and valid pixels of some images of one size, (N, H, W), and their presence, (N,)
Images = tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]
AnySweep = TypeVar("AnySweep", bound=Sweep)

# Candidates of a minimum area, as shares of the median image: 3,500 of Severstal's 409,600 pixels
# and 20 of TGS's 10,201 lie within.
AREA_SHARES = (0.0005, 0.001, 0.002, 0.004, 0.0085, 0.017, 0.034)
# In steps of a hundredth, and a few beyond, for a class that is hardly ever or nearly always there.
FINE_PROBS = (
    0.0001, 0.001, 0.002, 0.005, *(i / 100 for i in range(1, 100)), 0.995, 0.998, 0.999, 0.9999,
)  # fmt: skip
TOP_PROBS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BOTTOM_PROBS = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
PRESENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FULL_SHARES = (0.9, 0.95, 0.98, 0.99)
CLEANING_KEYS = ("min_component", "fill_holes", "full_mask")  # in the order of their steps


@dataclass(frozen=True)
class RuleSearch:
    """How one kind of rule is searched for.

    Attributes:
        sweep: makes an empty sweep, given the rule so far.
        changes: the values to change in the rule so far, by key, given the sum of the sweeps.
        draws: the sweep draws masks by the rule so far, so that each rule needs sweeps of its own;
            otherwise one sweep serves all rules.

    Rules are of one class here: what a key lists is reduced to the class's own value.
    """

    sweep: Callable[[Rule], Any]
    changes: Callable[[Any, Rule], Mapping[str, Any]]
    draws: bool = False


def area_candidates(pixels: int) -> tuple[int, ...]:
    """Minimum areas to try for images of so many pixels: 0, and from 2 pixels up."""
    return (0, *sorted({a for share in AREA_SHARES if (a := round(share * pixels)) > 1}))


def threshold_search(options: Options, metric: str, pixels: int) -> RuleSearch:
    """Threshold and minimum area together, as far as `options` says search.

    Args:
        metric: a name of `metrics.METRICS`.
        pixels: of the median image.
    """
    areas = area_candidates(pixels) if options.min_area == "search" else (options.min_area,)
    searched = tuple(map(logit, FINE_PROBS)) if options.threshold == "search" else ()

    def sweep(rule: Rule) -> GridSweep:
        # a threshold that is not searched is the config's, and so the same in all rules
        return GridSweep(metric, RuleGrid(searched or (rule["threshold"],), areas))

    def changes(total: GridSweep, rule: Rule) -> Mapping[str, Any]:
        found = total.best()
        return {"threshold": found.threshold, "min_area": found.min_area}

    return RuleSearch(sweep, changes)


def double_search(options: Options, metric: str, pixels: int) -> RuleSearch:
    """A double threshold: a high one says whether there is an object, a low one draws it.

    It replaces a searched minimum area; where no gate is best the rule stays as it is. Arguments as
    for `threshold_search`.
    """
    areas = area_candidates(pixels)[1:]
    tops = tuple(map(logit, TOP_PROBS))

    def sweep(rule: Rule) -> GridSweep:
        # a threshold that is not searched is the config's, and so the same in all rules
        searched = options.threshold == "search"
        bottoms = tuple(map(logit, BOTTOM_PROBS)) if searched else (rule["threshold"],)
        return GridSweep(metric, RuleGrid(bottoms, tops=tops, gate_areas=areas))

    def changes(total: GridSweep, rule: Rule) -> Mapping[str, Any]:
        found = total.best()
        if found.gate is None:
            return {}
        gate = {"top": found.gate[0], "area": found.gate[1]}
        area = 0 if options.min_area == "search" else rule["min_area"]
        return {"threshold": found.threshold, "double": gate, "min_area": area}

    return RuleSearch(sweep, changes)


def gate_search(options: Options, metric: str, pixels: int) -> RuleSearch:
    """A gate of the image heads, together with the threshold and the minimum area behind it, as far
    as `options` says search those; where no gate is best the rule stays as it is. A double
    threshold that was found before stays, too, in the minimum area's place. Arguments as for
    `threshold_search`."""
    areas = area_candidates(pixels) if options.min_area == "search" else ()
    thresholds = tuple(map(logit, BOTTOM_PROBS)) if options.threshold == "search" else ()

    def sweep(rule: Rule) -> GridSweep:  # the rule so far is a candidate, without a gate too
        own = tuple(dict.fromkeys((rule["threshold"], *thresholds)))
        found = rule.get("double")
        double = (found["top"], found["area"]) if found else None
        sizes = tuple(dict.fromkeys((rule["min_area"], *(() if double else areas))))
        return GridSweep(metric, RuleGrid(own, sizes, presences=PRESENCES, double=double))

    def changes(total: GridSweep, rule: Rule) -> Mapping[str, Any]:
        found = total.best()
        if found.presence is None:
            return {}
        chosen = {"threshold": found.threshold, "min_area": found.min_area}
        return {**chosen, "gate": found.presence}

    return RuleSearch(sweep, changes, draws=True)


def cleaning_search(key: str, metric: str, pixels: int) -> RuleSearch:
    """One of CLEANING_KEYS, with the rest of each rule as it is; ties go to the value nearest to no
    rule. Arguments as for `threshold_search`."""
    values = (0, *FULL_SHARES) if key == "full_mask" else area_candidates(pixels)

    def sweep(rule: Rule) -> CleaningSweep:
        return CleaningSweep(metric, rule, key, values)

    def changes(total: CleaningSweep, rule: Rule) -> Mapping[str, Any]:
        best = total.best()
        return {key: best} if best or key in rule else {}

    return RuleSearch(sweep, changes, draws=True)


def tune_class(
    splits: Mapping[str, Iterable[Images]],
    rules: Mapping[str, Rule],
    number: int,
    search: RuleSearch,
) -> dict[str, Rule]:
    """Better rules for class `number`.

    Args:
        splits: images of each split, in blocks; each is read once.
        rules: the rule so far by label. A label that names a split is tuned on the other splits,
            any other label on all of them.
    """
    own = {label: _of_class(rule, number) for label, rule in rules.items()}
    kinds = {label: repr(rule) if search.draws else "" for label, rule in own.items()}
    sweeps: dict[str, dict[str, Sweep]] = {kind: {} for kind in kinds.values()}
    for split, blocks in splits.items():
        for label, kind in kinds.items():
            if split not in sweeps[kind]:  # a kind's first label speaks for all of its labels
                sweeps[kind][split] = search.sweep(own[label])
        for block in blocks:
            for table in sweeps.values():
                table[split].add(*block)
    return {
        label: _changed(
            rule, number, search.changes(sum_of_others(sweeps[kinds[label]], label), own[label])
        )
        for label, rule in rules.items()
    }


def sum_of_others(sweeps: Mapping[str, AnySweep], label: str) -> AnySweep:
    """What `label` is tuned on: the sum of the sweeps of every split but the one of this name."""
    return reduce(add, [sweep for split, sweep in sweeps.items() if split != label])


def _of_class(rule: Rule, number: int) -> Rule:
    return {key: None if values is None else values[number] for key, values in rule.items()}


def _changed(rule: Rule, number: int, changes: Mapping[str, Any]) -> Rule:
    """A copy of the rule with class `number`'s values replaced."""
    num_classes = len(rule["threshold"])
    result = dict(rule)
    for key, value in changes.items():
        # no double threshold and no gate are None, no value of the other rules 0
        nothing: Sequence[Any] = [None if key in ("double", "gate") else 0] * num_classes
        values = list(result.get(key) or nothing)
        values[number] = value
        result[key] = values
    return result
