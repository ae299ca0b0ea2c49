"""The page of `distseg inspect`: what a data set holds, and what looks wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distseg.config.schema import Config
from distseg.data.formats.row import Row
from distseg.data.read_input import read_input, reading_of
from distseg.data.read_target import read_target
from distseg.data.survey.findings import Finding, Surveyed
from distseg.data.survey.measure import class_names
from distseg.functional.drawing import class_rgb, draw
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, write_json
from distseg.report.page import environment
from distseg.report.pictures import png

MOST_SHOWN = 12  # pictures of a finding
MOST_IDS = 200  # ids of a finding on the page; the JSON has all
SAMPLES = 24
CHART = (360, 120, 20)  # width, height, room for the labels below


def write_survey(
    folder: Path, surveyed: Surveyed, findings: Sequence[Finding], record: Mapping[str, Any],
    train: Sequence[Row], test: Sequence[Row],
) -> Path:  # fmt: skip
    """inspect.html and inspect.json in `folder`; returns the page's path."""
    write_json(folder / "inspect.json", record)
    path = folder / "inspect.html"
    atomic_write(path, render(surveyed, findings, record, train, test))
    return path


def render(
    surveyed: Surveyed, findings: Sequence[Finding], record: Mapping[str, Any],
    train: Sequence[Row], test: Sequence[Row],
) -> str:  # fmt: skip
    """The page, self-contained. train, test: the rows that were looked at, to draw some."""
    config = surveyed.config
    # of rows with one id the first is the one that was measured
    rows = {
        "train": {row.id: row for row in reversed(train)},
        "test": {row.id: row for row in reversed(test)},
    }
    images = {"train": surveyed.train, "test": surveyed.test}

    def drawn(where: str, place: int) -> dict[str, str]:
        one = images[where][place]
        name = one.id if where == "train" else f"{one.id} (test)"
        return {"id": name, "png": _picture(config, rows[where][one.id], where == "train")}

    shown = [
        {
            "kind": finding.kind, "level": finding.level, "what": finding.what,
            "count": len(finding.ids), "ids": list(finding.ids[:MOST_IDS]),
            "details": list(finding.details[:MOST_IDS]),
            "pictures": [drawn(*place) for place in finding.places[:MOST_SHOWN]],
        }
        for finding in findings
    ]  # fmt: skip
    chosen = np.linspace(0, len(surveyed.train) - 1, min(SAMPLES, len(surveyed.train)))
    names = class_names(config)
    return environment().get_template("survey.html").render(
        r=record, findings=shown, names=names,
        samples=[drawn("train", int(place)) for place in chosen],
        areas={name: bars(record["areas"][name]) for name in names},
        objects={name: bars(record["objects"][name]) for name in names},
        folds=by_class(record["folds"], config.classes),
        colors={name: class_rgb(n) for n, name in enumerate(names)} if len(names) > 1 else {},
        background=config.classes[0] if config.task == "multiclass" else None,
    )  # fmt: skip


def _picture(config: Config, row: Row, labeled: bool) -> str:
    """Base64 of the image with the outline of its mask; of a grey square where it cannot be read
    any more."""
    try:
        image = read_input(row.image, reading_of(config))
        target = np.zeros((1, *image.shape[:2]), np.uint8)
        if labeled:
            target = read_target(row.target, config, *image.shape[:2])
    except (UserError, OSError, MemoryError):
        image = np.full((32, 32, 1), 128, np.uint8)
        target = np.zeros((1, 32, 32), np.uint8)
    many = len(class_names(config)) > 1
    return png(draw(image, target, np.zeros_like(target), config.task, truth_by_class=many))


def by_class(balance: Sequence[Sequence[Any]], classes: Sequence[str]) -> dict[str, Any]:
    """The balance of the folds (see `data.folds.balance`) with a column a fold: many classes make
    many rows, and few folds few columns. Empty where there are no folds."""
    if not balance:
        return {}
    names = {"-1": "only trained on"}
    lines = balance[1:]
    rows = [("images", [line[1] for line in lines]),
            ("without an object", [f"{line[2]:.1%}" for line in lines])]  # fmt: skip
    for number, name in enumerate(classes):
        held, coverage = 3 + 2 * number, 4 + 2 * number
        rows.append((f"images with {name}", [f"{line[held]:.1%}" for line in lines]))
        rows.append((f"pixels of {name}", [f"{line[coverage]:.2%}" for line in lines]))
    return {"names": [names.get(str(line[0]), f"fold {line[0]}") for line in lines], "rows": rows}


def _short(number: int) -> str:
    """864, 1.7k, 55k, 1.1M: what fits above or below a bar."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if number >= unit:
            digits = 1 if number < 9.95 * unit else 0
            return f"{number / unit:.{digits}f}{name}"
    return str(number)


def bars(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """A histogram in the coordinates of an SVG: a bar a bin, of equal widths."""
    width, height, below = CHART
    counts, edges = histogram["counts"], histogram["edges"]
    if not counts:
        return {"bars": []}
    step, top = width / len(counts), max(counts)
    made = []
    for number, count in enumerate(counts):
        high = round((height - below - 14) * count / top, 1)
        last = edges[number + 1] - 1
        label = f"{edges[number]:,}" if last == edges[number] else f"{edges[number]:,}–{last:,}"
        made.append({
            "x": round(number * step + 1, 1), "y": round(height - below - high, 1),
            "width": round(step - 2, 1), "height": high, "count": count, "label": label,
            "shown": _short(count) if count else "", "from": _short(edges[number]),
        })  # fmt: skip
    return {"bars": made, "size": (width, height), "base": height - below}
