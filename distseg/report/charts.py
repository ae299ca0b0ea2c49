"""The report's charts in the coordinates of an SVG: curves, calibration, jobs over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distseg.records.log import counted, duration
from distseg.report.page import prob_text, tick_text, ticks

VALIDATION = "val_loss"
LINES = {"loss": "training loss", VALIDATION: "validation loss"}
CHART = (520, 210, 58, 24)  # width, height, left and bottom margin
RIGHT = 30  # the right margin: half of the last label stands in it
GANTT_WIDTH, ROW = 1100, 26
KINDS = {"predict-test": "predict", "teach-round": "teach"}  # what a job is, by its name's start
DURATIONS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)


def hue(number: int) -> int:
    """Hues that stand apart, however many there are."""
    return round(number * 137.5) % 360


class Axes:
    """Where values stand in a chart of the size CHART. xs, ys: all of them; the chart's ranges,
    `x_range` and `y_range`, hold them, with some room above and below."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        low, high = min(ys), max(ys)
        pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        self.x_range, self.y_range = (min(xs), max(xs)), (low - pad, high + pad)

    def place(self, x: float, y: float) -> tuple[float, float]:
        width, height, left, bottom = CHART
        (first, last), (low, high) = self.x_range, self.y_range
        across = (x - first) / (last - first) if last > first else 0.5  # one epoch is a point
        up = (y - low) / (high - low)
        inner = (width - left - RIGHT, height - bottom - 8)
        return round(left + across * inner[0], 1), round(8 + (1 - up) * inner[1], 1)

    def frame(self) -> dict[str, Any]:
        """Size, left border and the ticks of the scores."""
        values = ticks(*self.y_range)
        y_ticks = [(self.place(self.x_range[0], value)[1], tick_text(value)) for value in values]
        return {
            "size": CHART[:2],
            "left": CHART[2],
            "right": CHART[0] - RIGHT + 4,
            "y_ticks": y_ticks,
        }


def rule_charts(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Score over threshold and over minimum area, a line a class, from `RuleCurves.record`; with
    the chosen point, and of one class the range that is as good."""
    charts = []
    for key, title in (("threshold", "threshold (probability)"), ("min_area", "minimum area")):
        curves = [(one["class"], one[key]) for one in rules if len(one[key]["values"]) > 1]
        if not curves:
            continue
        scale = _tenfold if key == "min_area" else float
        ends = [0.0, 1.0] if key == "threshold" else []
        axes = Axes(
            ends + [scale(x) for _, one in curves for x in one["values"]],
            [y for _, one in curves for y in one["scores"]],
        )
        low = axes.y_range[0]
        lines = []
        for number, (name, one) in enumerate(curves):
            points = list(zip(one["values"], one["scores"], strict=True))
            dots = []
            for place, (x, y) in enumerate(points):
                is_chosen = place == one["chosen"]
                text = f"{name}, {title} {_amount(x, key)}: {y:.4f}" + "; chosen" * is_chosen
                at = axes.place(scale(x), y)
                kind = "snapshot" if is_chosen else "plain"
                dots.append({"x": at[0], "y": at[1], "kind": kind, "text": text})
            line = " ".join("{},{}".format(*axes.place(scale(x), y)) for x, y in points)
            lines.append({"name": name, "hue": hue(number), "points": line, "dots": dots})
        values = ends + [x for _, one in curves for x in one["values"]]
        marks = [0.0, *(10.0**n for n in range(6))] if key == "min_area" else ticks(0, 1, 6)
        marks = [x for x in marks if min(values) <= x <= max(values)]
        flat = [axes.place(scale(x), low)[0] for x in curves[0][1]["flat"]]
        charts.append({
            "title": title,
            **axes.frame(),
            "lines": lines,
            "stages": [],
            "x_ticks": [(axes.place(scale(x), low)[0], f"{x:,.10g}") for x in marks],
            "flat": (flat[0], round(flat[1] - flat[0], 1)) if len(curves) == 1 else None,
            "bottom": CHART[1] - CHART[3],
            "texts": [_flatness(name, one, key, len(curves) > 1) for name, one in curves],
        })  # fmt: skip
    return charts


def _tenfold(value: float) -> float:
    """Of an area, 0 as well."""
    return math.log10(1 + value)


def _amount(value: float, key: str) -> str:
    return f"{value:,.0f} pixels" if key == "min_area" else prob_text(value)


def _flatness(name: str, curve: Mapping[str, Any], key: str, is_named: bool) -> str:
    values, (first, last) = curve["values"], curve["flat"]
    chosen, first, last = (_amount(x, key) for x in (values[curve["chosen"]], first, last))
    text = f"{name}: " * is_named + f"chosen: {chosen}; "
    if first == last:
        return text + "every other point of the curve is worse by more than one standard error"
    return text + f"from {first} to {last} nothing is worse by more than a standard error"


def curve_chart(members: Mapping[str, Any], key: str, title: str) -> dict[str, Any]:
    """Lines of one key of the members' epochs, with the stages' borders, snapshots, skipped steps
    and rollbacks marked on them; of the loss that of validation, too, on the same axes, where it
    was measured. Without a number: no lines."""
    _, height, _, bottom = CHART
    lines = {
        (name, shown): [
            (row["epoch"], row[shown], row) for row in member["curve"] if _is_number(row.get(shown))
        ]
        for name, member in members.items()
        for shown in ((key, VALIDATION) if key == "loss" else (key,))
    }
    both = key == "loss" and any(line for (_, shown), line in lines.items() if shown == VALIDATION)
    hues = {name: hue(number) for number, name in enumerate(members)}
    points = [point for line in lines.values() for point in line]
    if not points:
        return {"title": title, "lines": []}
    axes = Axes([x for x, *_ in points], [y for _, y, _ in points])
    place, (first, last), low = axes.place, axes.x_range, axes.y_range[0]
    borders = {
        row["epoch"]
        for member in members.values()
        for before, row in itertools.pairwise(member["curve"])
        if row.get("stage") != before.get("stage")
    }
    return {
        "title": title,
        **axes.frame(),
        "lines": [
            {
                "name": name,
                "hue": hues[name],
                "dashed": both and shown == key,
                "points": " ".join("{},{}".format(*place(x, y)) for x, y, _ in line),
                "dots": [
                    _dot(place(x, y), name, x, y, row, LINES.get(shown, title) if both else title)
                    for x, y, row in line
                ],
            }
            for (name, shown), line in lines.items()
            if line
        ],
        "both": both,
        "stages": [(place(x - 0.5, low)[0], 8, height - bottom) for x in sorted(borders)],
        "x_ticks": [
            (place(x, low)[0], str(round(x) + 1))
            for x in ticks(first, last, 8)
            if abs(x - round(x)) < 1e-6  # 3 tenths times 10 is a little more than 3
        ],
    }


def _dot(
    at: tuple[float, float], name: str, x: float, y: float, row: Mapping[str, Any], title: str
) -> dict[str, Any]:
    text = f"{name}, epoch {int(x) + 1}: {title} {y:.4g}"
    kind = "plain"
    if row.get("snapshot"):
        kind, text = "snapshot", f"{text}; a snapshot is kept"
    if row.get("skipped"):
        kind, text = "wrong", f"{text}; {counted(row['skipped'], 'step')} skipped"
    if row.get("rolled_back"):
        kind, text = "wrong", f"{text}; {counted(row['rolled_back'], 'rollback')}"
    return {"x": at[0], "y": at[1], "kind": kind, "text": text}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def gantt(ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each job as a bar on the row of the slot that ran it, from the ledger. Jobs that never ended
    last until the last line. busy: share of the slots' time with a job in it."""
    begun: dict[str, Mapping[str, Any]] = {}
    bars: list[dict[str, Any]] = []
    end = max((float(line["time"]) for line in ledger), default=0.0)
    for line in ledger:
        event, job = line.get("event"), str(line.get("job"))
        if event in ("job_started", "job_adopted"):
            begun[job] = line
        elif event in ("job_done", "job_failed", "job_stopped") and job in begun:
            bars.append(_bar(begun.pop(job), float(line["time"]), event == "job_failed"))
    bars += [_bar(line, end, False) for line in begun.values()]
    if not bars:
        return {"bars": []}
    bars.sort(key=lambda bar: (bar["begin"], bar["slot"]))
    start, stop = bars[0]["begin"], max(bar["end"] for bar in bars)
    span = max(stop - start, 1e-3)
    slots = sorted({bar["slot"] for bar in bars}, key=lambda slot: (len(slot), slot))
    rows = {slot: number for number, slot in enumerate(slots)}
    left = 90

    def place(time: float) -> float:
        return round(left + (time - start) / span * (GANTT_WIDTH - left - RIGHT), 1)

    for bar in bars:
        bar |= {"x": place(bar["begin"]), "y": rows[bar["slot"]] * ROW + 4}
        bar["width"] = round(max(2.0, place(bar["end"]) - bar["x"]), 1)
    used = sum(bar["end"] - bar["begin"] for bar in bars)
    return {
        "bars": bars,
        "rows": [(name, number * ROW + 20) for name, number in rows.items()],
        "size": (GANTT_WIDTH, len(rows) * ROW + 26),
        "ticks": [(place(start + t), duration(t)) for t in range(0, int(span) + 1, _apart(span))],
        "busy": min(1.0, used / (span * len(rows))),
        "left": left,
    }


def _apart(span: float) -> int:
    """Seconds between two ticks of an axis of `span` seconds: a number that a clock has."""
    return next((step for step in DURATIONS if span / step <= 8), int(span / 8) + 1)


def _bar(line: Mapping[str, Any], end: float, failed: bool) -> dict[str, Any]:
    job, begin = str(line["job"]), float(line["time"])
    devices = (
        ", ".join(f"GPU {d}" for d in line.get("devices", [])) or f"CPU slot {line.get('slot')}"
    )
    kind = next((kind for name, kind in KINDS.items() if job.startswith(name)), "train")
    ended = " (failed)" if failed else ""
    text = f"{job}{ended}: {duration(end - begin)} on {devices}"
    return {
        "job": job,
        "slot": f"{line.get('node') or ''} {devices}".strip(),
        "begin": begin,
        "end": end,
        "failed": failed,
        "kind": kind,
        "text": text,
    }


def calibration_chart(calibration: Mapping[str, Any], side: int = 250) -> dict[str, Any]:
    """Share of the truth over the predicted probability, a dot a bin that holds pixels."""
    left, top, inner = 34, 12, side - 34 - 12

    def place(x: float, y: float) -> tuple[float, float]:
        return round(left + x * inner, 1), round(top + (1 - y) * inner, 1)

    dots = [
        (*place(p, t), f"probability {p:.3f}: {t:.3f} of {n:,} pixels are of the class")
        for p, t, n in zip(
            *(calibration[k] for k in ("probability", "truth", "pixels")), strict=True
        )
        if n
    ]
    return {
        "side": (side, top + inner + 20),
        "dots": dots,
        "line": " ".join(f"{x},{y}" for x, y, _ in dots),
        "diagonal": (*place(0, 0), *place(1, 1)),
        "ticks": [(*place(value, value), tick_text(value)) for value in ticks(0, 1, 6)],
        "corner": place(0, 0),
    }
