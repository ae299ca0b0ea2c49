"""What a run found: report.json for programs, report.html for people (one file, no network)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.files import (
    atomic_write,
    read_json,
    read_lines,
    write_json,
)
from distseg.records.manifest import Manifest
from distseg.records.paths import ALL_ROUNDS, Run, final_ensemble, member_id
from distseg.records.tables import read_rows
from distseg.report.page import environment
from distseg.report.pictures import MasksOf, pictures

CHART = (560, 200, 44, 24)  # width, height, left and bottom margin
PREDICT_JOB, TEACH_JOB = "predict-test", "teach-round"


def write_report(
    config: Config, run: Run, masks_of: MasksOf, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write report.json and report.html from what the run holds on disk; returns the former.

    Args:
        masks_of: the scored masks of a row of oof.csv. UserError: they cannot be had.
        extra: more top-level keys, such as `test`, the score against the known truth, and
            `prediction`, what the submission holds.

    Raises:
        UserError: there is no ensemble yet.
    """
    ensemble, manifest = final_ensemble(run), Manifest.read(run.truth)
    final, nested = ensemble["scores"]["final"], ensemble["scores"]["nested"]
    record = {
        "name": config.name,
        "round": ensemble["round"],
        "task": config.task,
        "metric": config.metric,
        "classes": config.classes,
        "score": final["score"],
        "standard_error": final["standard_error"],
        "default_score": nested["default"],
        "flag": ensemble["flag"],
        "rounds": round_records(config, run),
        "data": data_record(run, manifest),
        "scores": ensemble["scores"],
        "chosen": {key: ensemble[key] for key in ("space", "tta", "weights", "rule")},
        "left_out": ensemble["left_out"],
        "members": member_curves(config, run, manifest),
        "prediction": None,
        "seconds": stage_seconds(read_lines(run.ledger)),
        "hardware": read_json(run.env) if run.env.is_file() else {},
        **(extra or {}),
    }
    write_json(run.report_json, record)
    atomic_write(run.report_html, render(config, run, record, masks_of))
    return record


# -- what report.json holds -----------------------------------------------------------------------


def round_records(config: Config, run: Run) -> list[dict[str, Any]]:
    """Score, standard error and selection of each round; of all rounds together last."""
    records = []
    for key in [*range(len(config.rounds)), ALL_ROUNDS]:
        if not run.ensemble(key).is_file():
            continue
        one = read_json(run.ensemble(key))
        final = one["scores"]["final"]
        record = {"round": key, "flag": one["flag"]}
        record |= {
            name: final.get(name) for name in ("score", "standard_error", "positives", "negatives")
        }
        if isinstance(key, int):
            round_config = config.rounds[key]
            record |= {"kind": round_config.kind, "teacher": round_config.judge if key else None}
            record |= {"selection": selection_record(config, run, key) if key else {}}
        records.append(record)
    return records


def selection_record(config: Config, run: Run, number: int) -> dict[str, dict[str, int]]:
    """Rows that teachers judged and that were kept, by fold and by what they are."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(run.select(number).glob("fold*.csv")):
        rows = read_rows(path)
        counts = Counter(f"{r['what']}_{'kept' if r['kept'] == '1' else 'dropped'}" for r in rows)
        kinds = sorted({row["what"] for row in rows})
        names = [f"{kind}_{end}" for kind in kinds for end in ("kept", "dropped")]
        found[path.stem.removeprefix("fold")] = {name: counts[name] for name in names}
    return found


def data_record(run: Run, manifest: Manifest) -> dict[str, Any]:
    """Counts of rows: statistics.json, per fold, and what is wrong in quarantine.csv."""
    path = run.data / "statistics.json"
    statistics = read_json(path) if path.is_file() else {}
    statistics.pop("key", None)
    sizes = Counter(f"{s.height}x{s.width}" for s in manifest)
    quarantine = read_rows(run.data / "quarantine.csv")
    return {
        "train": len(manifest),
        **statistics,
        "folds": {str(fold): len(manifest.val_rows(fold)) for fold in manifest.folds},
        "sizes": dict(sizes.most_common(5)),
        "quarantine": len(quarantine),
        "quarantine_first": quarantine[:5],
    }


def member_curves(config: Config, run: Run, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Each trained member's epochs: `curve` has [epoch, loss, score or null] rows."""
    members = {}
    several = len(config.rounds) > 1
    planned = [
        (number, name, fold)
        for number in range(len(config.rounds))
        for name, fold in config.planned_members(manifest.folds, number)
    ]
    for number, name, fold in planned:
        paths = run.member(number, name, fold)
        rows = read_lines(paths.metrics)
        if not rows:
            continue
        scores = [row["score"] for row in rows if row.get("score") is not None]
        done = read_json(paths.done) if paths.done.is_file() else {}
        label = f"{member_id(name, fold)}@{number}" if several else member_id(name, fold)
        members[label] = {
            "epochs": len(rows),
            "loss": rows[-1].get("loss"),
            "best_epoch_score": max(scores, default=None),
            "score": done.get("score"),
            "seconds": done.get("seconds"),
            "skipped_steps": done.get("skipped_steps"),
            "snapshots": len(done.get("snapshots", [])),
            "curve": [[row["epoch"], row.get("loss"), row.get("score")] for row in rows],
        }
    return members


def stage_seconds(ledger: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by stage. train is the sum over jobs that may have run at once, failed ones too;
    wall is the time that drivers were at work, so without the pauses between two starts."""
    seconds: dict[str, float] = {}
    began = last = None
    wall = 0.0
    for line in ledger:
        event, now = line.get("event"), float(line.get("time", 0.0))
        if event == "run_started":
            wall += last - began if began is not None and last is not None else 0.0
            began = now
        stage = {"prepared": "data", "ensemble": "ensemble"}.get(str(event))
        if event in ("job_done", "job_failed"):
            job = str(line.get("job"))
            stage = "predict" if job.startswith(PREDICT_JOB) else "train"
            stage = "teach" if job.startswith(TEACH_JOB) else stage
        if stage:
            spent = line.get("seconds", now - began if began and stage == "data" else 0.0)
            seconds[stage] = round(seconds.get(stage, 0.0) + float(spent), 3)
        last = now
    if began is not None and last is not None:
        seconds["wall"] = round(wall + last - began, 3)
    return seconds


# -- what report.html shows -----------------------------------------------------------------------


def render(config: Config, run: Run, record: Mapping[str, Any], masks_of: MasksOf) -> str:
    """The page: values are escaped by the template, pictures and curves are inline."""
    try:
        shown, problem = pictures(config, run, record, masks_of), ""
    except UserError as error:  # such as out-of-fold logits that were removed to save disk
        shown, problem = [], str(error)
    return (
        environment()
        .get_template("report.html")
        .render(
            r=record,
            charts=[
                chart(record["members"], 1, "loss"),
                chart(record["members"], 2, config.metric),
            ],
            pictures=shown,
            problem=problem,
        )
    )


def chart(members: Mapping[str, Any], column: int, title: str) -> dict[str, Any]:
    """Lines of one column of the members' curves, in the coordinates of an SVG of size CHART."""
    width, height, left, bottom = CHART
    lines = {
        name: [(row[0], row[column]) for row in member["curve"] if _is_number(row[column])]
        for name, member in members.items()
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return {"title": title, "lines": []}
    low, high = min(y for _, y in points), max(y for _, y in points)
    high, last = max(high, low + 1e-6), max(1, *(x for x, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / last, (y - low) / (high - low)
        inner = (width - left - 8, height - bottom - 8)
        return round(left + across * inner[0], 1), round(8 + (1 - up) * inner[1], 1)

    ticks = [low + (high - low) * i / 4 for i in range(5)]
    return {
        "title": title,
        "size": (width, height),
        "lines": [
            {
                "name": name,
                "points": " ".join(f"{x},{y}" for x, y in (place(*point) for point in line)),
                "hue": round(i * 137.5) % 360,
            }
            for i, (name, line) in enumerate(lines.items())
        ],
        "y_ticks": [(place(0, value)[1], f"{value:.3g}") for value in ticks],
        "x_ticks": [(place(x, low)[0], str(x)) for x in sorted({0, last // 2, last})],
        "left": left,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
