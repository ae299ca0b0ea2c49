"""How long a watched value has not gained: what a plateau's learning rate and early stopping wait
for."""

from __future__ import annotations

import math
from typing import Any


class Patience:
    """Counts the values in a row that were no gain over the best before them (NaN is none)."""

    def __init__(self, *, rises: bool, min_gain: float = 0.0) -> None:
        """rises: more is better, else less. min_gain: what is at most that much better is none."""
        self.sign, self.min_gain = 1 if rises else -1, min_gain
        self.best: float | None = None
        self.bad = 0

    def observe(self, value: float) -> int:
        """Hand over the next value. Returns how many in a row were no gain, this one counted."""
        gain = math.inf if self.best is None else self.sign * (value - self.best)
        if math.isfinite(value) and gain > self.min_gain:
            self.best, self.bad = float(value), 0
        else:
            self.bad += 1
        return self.bad

    def state(self) -> dict[str, Any]:
        """What `load` needs, as JSON values."""
        return {"best": self.best, "bad": self.bad}

    def load(self, state: dict[str, Any]) -> None:
        self.best, self.bad = state.get("best"), state.get("bad", 0)
