"""What a run found: report.json for programs, report.html for people (one file, no network)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distseg.config.schema import Config
from distseg.functional.verdict import beaten_by
from distseg.records.ensemble_record import is_whole, read_ensemble
from distseg.records.errors import UserError
from distseg.records.files import (
    atomic_write,
    read_json_or,
    read_lines,
    write_json,
)
from distseg.records.manifest import Manifest
from distseg.records.oof_table import is_table, read_counts
from distseg.records.paths import ALL_ROUNDS, MemberPaths, Run, final_ensemble, member_id
from distseg.records.tables import read_rows
from distseg.report.gains import gain_records
from distseg.report.images import Measured, ScoredOf, measure
from distseg.report.intervals import class_records
from distseg.report.render import render

PREDICT_JOB, TEACH_JOB = "predict-test", "teach-round"


def write_report(
    config: Config, run: Run, scored_of: ScoredOf, extra: Mapping[str, Any] | None = None,
    test_pictures: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write report.json and report.html from what the run holds on disk; returns the former.

    Args:
        scored_of: what the score of a row of oof.csv is of. UserError: it cannot be had.
        extra: more top-level keys, such as `test`, the score against the known truth, and
            `prediction`, what the submission holds, `partial`, what a run that ended early lacks,
            and `unused`, members that the config does not ask for any more.
        test_pictures: `id`, `png` and `share` of test images, for report.html alone.

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
        "beaten_by": beaten_by(ensemble["scores"].get("against", {})),
        "left_out": ensemble["left_out"],
        "gains": gain_records(config, run, ensemble, manifest.folds),
        "by_class": scored_classes(config, run, ensemble),
        "members": member_curves(config, run, manifest),
        "prediction": None,
        "partial": None,
        "unused": [],
        "seconds": stage_seconds(read_lines(run.ledger)),
        "hardware": read_json_or(run.env, {}),
        **(extra or {}),
    }
    try:
        measured, problem = measure(config, run, record, scored_of), ""
        record["images"] = measured.record(config.classes)
    except (
        UserError,
        OSError,
    ) as error:  # such as out-of-fold logits that were removed to save disk
        measured, problem = Measured([]), str(error)
        record["images"] = None
    write_json(run.report_json, record)
    epochs = epoch_rows(config, run, manifest)
    page = render(config, run, record, scored_of, measured, epochs, problem, test_pictures)
    atomic_write(run.report_html, page)
    return record


# -- what report.json holds -----------------------------------------------------------------------


def scored_classes(config: Config, run: Run, ensemble: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each class's score with its error; none where oof.csv is lost or holds no image."""
    table = run.oof_table(ensemble["round"])
    if not is_table(table):
        return []
    return class_records(config, np.stack(list(read_counts(table).values())))


def round_records(config: Config, run: Run) -> list[dict[str, Any]]:
    """Score, standard error and selection of each round; of all rounds together last."""
    records = []
    for key in [*range(len(config.rounds)), ALL_ROUNDS]:
        if not is_whole(run.ensemble(key)):
            continue
        one = read_ensemble(run.ensemble(key))
        final = one["scores"]["final"]
        record = {"round": key, "flag": one["flag"]}
        record |= {
            name: final.get(name) for name in ("score", "standard_error", "positives", "negatives")
        }
        if isinstance(key, int):
            round_config = config.rounds[key]
            judge = round_config.judge if round_config.has_teachers else None
            record |= {"kind": round_config.kind, "teacher": judge}
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
    statistics = read_json_or(path, {})
    for key in ("key", "digests"):
        statistics.pop(key, None)
    sizes = Counter(f"{s.height}x{s.width}" for s in manifest)
    try:
        quarantine = read_rows(run.data / "quarantine.csv")
    except UserError as error:  # the rest of the report does not need it
        quarantine = [{"id": "", "file": "quarantine.csv", "reason": str(error)}]
    return {
        "train": len(manifest),
        **statistics,
        "folds": {str(fold): len(manifest.val_rows(fold)) for fold in manifest.folds},
        "sizes": dict(sizes.most_common(5)),
        "quarantine": len(quarantine),
        "quarantine_first": quarantine[:5],
    }


def member_curves(config: Config, run: Run, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Each trained member's epochs: `curve` has [epoch, loss, score or null, validation loss or
    null] rows."""
    members = {}
    for label, paths in trained_members(config, run, manifest).items():
        rows = epochs_of(paths)
        scores = [row["score"] for row in rows if row.get("score") is not None]
        done = read_json_or(paths.done, {})
        members[label] = {
            "epochs": len(rows),
            "loss": rows[-1].get("loss"),
            "val_loss": rows[-1].get("val_loss"),
            "best_epoch_score": max(scores, default=None),
            "score": done.get("score"),
            "seconds": done.get("seconds"),
            "skipped_steps": done.get("skipped_steps"),
            "snapshots": len(done.get("snapshots", [])),
            "curve": [[row["epoch"], *map(row.get, ("loss", "score", "val_loss"))] for row in rows],
        }
    return members


def epochs_of(paths: MemberPaths) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that say which epoch they are of, and numbers only: it may be
    damaged."""
    rows = [row for row in read_lines(paths.metrics) if isinstance(row.get("epoch"), int)]
    return [
        {
            key: value
            for key, value in row.items()
            if value is None or isinstance(value, int | float | list)
        }
        for row in rows
    ]


def trained_members(config: Config, run: Run, manifest: Manifest) -> dict[str, MemberPaths]:
    """The members that have trained an epoch, by the name that the report calls them."""
    several = len(config.rounds) > 1
    planned = [
        (number, name, fold)
        for number in range(len(config.rounds))
        for name, fold in config.planned_members(manifest.folds, number)
    ]
    found = {}
    for number, name, fold in planned:
        paths = run.member(number, name, fold)
        if epochs_of(paths):
            label = member_id(name, fold)
            found[f"{label}@{number}" if several else label] = paths
    return found


def epoch_rows(
    config: Config, run: Run, manifest: Manifest
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The epochs of each member for the charts, as metrics.jsonl has them, with `snapshot`: whether
    the weights of that moment are kept; `skipped`, `rolled_back`: steps and rollbacks of the epoch.
    """
    members = {}
    for label, paths in trained_members(config, run, manifest).items():
        done = read_json_or(paths.done, {})
        kept, seen = set(done.get("snapshots", [])), Counter[int]()
        rows, before = epochs_of(paths), dict[str, Any]()
        for row in rows:
            stage = int(row.get("stage", 0))
            seen[stage] += 1
            row["snapshot"] = f"stage{stage}_epoch{seen[stage]:04d}.safetensors" in kept
            row["skipped"] = row.get("skipped_steps", 0) - before.get("skipped_steps", 0)
            row["rolled_back"] = row.get("rollbacks", 0) - before.get("rollbacks", 0)
            before = row
        members[label] = {"curve": rows}
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
        if event in ("job_done", "job_failed", "job_stopped"):
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
