"""What the pages share: their templates' environment, numbers for people, ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from distseg.records.log import duration


def environment() -> jinja2.Environment:
    """Templates of this folder; what they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("distseg", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "score": score,
        "duration": duration,
        "prob": prob,
        "plain": plain,
        "signed": lambda value: f"{value:+.4f}",
    }
    return made


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def plain(value: Any) -> str:
    """A value as a person writes it: lists and mappings without their brackets and quotes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return "–" if value is None else str(value)


def prob(logit: float) -> str:
    return prob_text(1 / (1 + math.exp(-max(-60.0, min(60.0, logit)))))


def prob_text(value: float) -> str:
    """A probability with three decimals; one that is nearly 0 or 1 is not said to be it."""
    if 0.9995 <= value < 1:
        return "over 0.999"
    return "under 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten apart) within low..high."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        first, last = (
            math.ceil(low / (step * factor) - 1e-9),
            math.floor(high / (step * factor) + 1e-9),
        )
        if last - first < most:
            return [number * step * factor for number in range(first, last + 1)]
    return [low]


def tick_text(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e-9 or abs(value) >= 1e-4 else f"{value:.0e}"


def scatter(points: Sequence[Sequence[float]], side: int = 300) -> dict[str, Any]:
    """Points (x, y) of 0..1 in the coordinates of an SVG of `side` pixels, and its ticks."""
    left, top, inner = 34, 12, side - 34 - 12

    def place(x: float, y: float) -> tuple[float, float]:
        return round(left + x * inner, 1), round(top + (1 - y) * inner, 1)

    return {
        "size": (side, top + inner + 20),
        "points": [place(*point) for point in points],
        "line": (*place(0, 0), *place(1, 1)),
        "ticks": [(*place(value, value), tick_text(value)) for value in ticks(0, 1, 6)],
        "corner": place(0, 0),
    }
