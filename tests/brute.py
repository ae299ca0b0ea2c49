"""What the tests of the grid search compare with: every rule of its grid, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from distseg.functional.sweeps import RuleGrid

Place = tuple[int, int, int]  # of gate, area, threshold


def every_rule(grid: RuleGrid) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The grid's rules, as `apply_postprocess` takes them, with their places."""
    for place in product(*map(range, grid.shape)):
        gate = grid.gate(place[0])
        yield (
            place,
            {
                "threshold": [grid.thresholds[place[2]]],
                "min_area": [grid.areas[place[1]]],
                "double": [gate and {"top": gate[0], "area": gate[1]}],
            },
        )
