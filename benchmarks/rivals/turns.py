"""How a rival is measured: a process of its own that takes steps when it is its turn.

It writes `ready` when it has warmed up. For each line that it reads it takes AHEAD steps, whose
images its loader had ready, and then those that count; it writes their seconds. At the end of its
input it leaves. Nothing of distseg is imported here: this runs in the rivals' own environments.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

AHEAD, WARM_UP = 10, 12


class Clock:
    """Counts the steps of a loop that is not ours, and waits when a turn is over."""

    def __init__(self, steps: int) -> None:
        """steps: that count, in each turn."""
        self.steps, self.taken, self.warming, self.began = steps, 0, WARM_UP, 0.0

    def before(self) -> None:
        """A step is about to begin."""
        if self.warming:
            return
        if self.taken == 0 and not sys.stdin.readline():
            raise SystemExit

    def after(self) -> None:
        """A step is done, and the host knows it."""
        if self.warming:
            self.warming -= 1
            if not self.warming:
                print("ready", flush=True)
            return
        self.taken += 1
        if self.taken == AHEAD:  # here, before the next images are fetched, in whichever loop
            self.began = time.perf_counter()
        if self.taken == AHEAD + self.steps:
            print(f"seconds {time.perf_counter() - self.began:.4f}", flush=True)
            self.taken = 0


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """The median of a ratio over the rounds, and its lowest and highest."""
    every = [a / b for a, b in zip(above, below, strict=True)]
    named = {"median": statistics.median(every), "low": min(every), "high": max(every)}
    return {name: round(value, 3) for name, value in named.items()}


def repeat(step: Callable[[], object], steps: int) -> None:
    """Take steps for ever, in turns."""
    clock = Clock(steps)
    while True:
        clock.before()
        step()
        clock.after()
