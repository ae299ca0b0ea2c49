"""A round's train sets, one for each student: who is kept, who is made, and why.

Teachers judge (see teaching.py); rules decide (functional/rules.py); this stage writes
round_R/train_foldK.csv and, in round_R/select/, what a person needs to check it.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.config.training import RoundConfig
from distseg.data.cache import Cache
from distseg.data.dataset import PSEUDO
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.data.read_target import read_target
from distseg.functional.drawing import sheet
from distseg.functional.rules import balanced, objections, ranking, strata, top
from distseg.functional.statistics import planes_of_target
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, write_json
from distseg.records.manifest import Manifest, Sample, pair_folds
from distseg.records.paths import Run
from distseg.rounds.teacher_predictions import Teaching, judge_out_of_fold, students

logger = logging.getLogger("distseg.rounds.select")
SHEET = 24  # pictures of a sheet


def write_pair_sets(run: Run, round: int) -> None:
    """The train sets of a round's pair teachers: each validates the rows of two folds as one of
    its own, and trains on all others, with the labels that people made."""
    truth, key = Manifest.read(run.truth), run.teachers(round)
    if len(truth.folds) < 3:
        raise UserError(f"{run.truth}: {len(truth.folds)} folds; teacher: pair needs three or more")
    lines = ["fold,left_out"]
    for number, pair in pair_folds(truth.folds).items():
        lines.append(f"{number},{pair[0]} {pair[1]}")
        path = run.train_set(key, number)
        if not path.is_file():
            folds = [number if sample.fold in pair else sample.fold for sample in truth]
            truth.replace_folds(folds).write(path)
    atomic_write(run.round(key) / "pairs.csv", "\n".join(lines) + "\n")


def select(config: Config, run: Run, round: int) -> None:
    """Write the train sets of a round's students that are not there yet.

    UserError: nothing is left to train on, or a label would leak (see `Manifest.train_rows`).
    """
    entry, truth = config.rounds[round], Manifest.read(run.truth)
    used = {"judge": entry.judge, "checks": entry.checks, "score": config.flag(round)}
    write_json(run.select(round) / "rule.json", {**entry.model_dump(mode="json"), **used})
    for fold in students(config, run, round):
        path = run.train_set(round, fold)
        if path.is_file():
            continue
        samples, decisions = _train_set(config, run, round, fold, truth)
        manifest = Manifest(samples)
        rows = manifest.train_rows(fold, leaky=config.teacher_flag(round) != "honest")
        if not rows:
            raise UserError(f"round {round}, fold {fold}: the rules leave nothing to train on")
        _write_decisions(run.select(round) / f"fold{fold}.csv", decisions)
        balance = _balance(decisions)
        atomic_write(run.select(round) / f"balance_fold{fold}.csv", balance)
        _write_sheets(config, run, round, fold, decisions)
        kept = sum(d.kept for d in decisions)
        run.log_event("selected", round=round, fold=fold, kept=kept, judged=len(decisions))
        logger.info("round %d, fold %d: %d of %d judged rows kept, %d rows to train on",
                    round, fold, kept, len(decisions), len(rows))  # fmt: skip
        manifest.write(path)


@dataclass(frozen=True)
class Decision:
    """What became of a row that teachers judged."""

    sample: Sample
    what: str
    kept: bool
    reason: str
    mask: str
    statistics: dict[str, float]


def _train_set(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    entry = config.rounds[round]
    path = run.train_set(round - 1, fold)
    before = Manifest.read(path) if path.is_file() else truth  # a fold that it did not train
    made = [s for s in before if s.origin == "pseudo"]
    if entry.kind == "supervised":
        return list(truth), []
    if entry.judges_labeled:
        labeled, decisions = _judge_labeled(config, run, round, fold, truth)
    else:
        labeled, decisions = [s for s in before if s.origin != "pseudo"], []
    if entry.uses_unlabeled:
        made, more = _pseudo(config, run, round, fold, truth)
        decisions = decisions + more
    return [*labeled, *made], decisions


# -- train rows -----------------------------------------------------------------------------------


def _judge_labeled(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    entry = config.rounds[round]
    folder = judge_out_of_fold(config, run, round, fold, truth)
    teaching = Teaching(folder)
    found = {name: place for place, name in enumerate(teaching.ids)}
    mine = [s for s in truth if s.fold not in (fold, -1) and s.target and s.id in found]
    places = np.array([found[s.id] for s in mine], dtype=np.int64)
    table = {key: values[places] for key, values in teaching.table.items()}
    reasons = objections(table, entry.checks, entry.empty) if entry.kind == "self_distill" else [
        ""
    ] * len(mine)  # fmt: skip
    soft = teaching.logits.relative_to(run.folder).as_posix() if teaching.logits.is_dir() else ""
    changed: dict[str, Sample] = {}
    decisions = []
    for number, (sample, reason) in enumerate(zip(mine, reasons, strict=True)):
        place = int(places[number])
        new = _judged(sample, reason, entry, soft, teaching.masks[place])
        changed[sample.id] = replace(new, teacher_folds=teaching.teacher_folds[place])
        values = {key: float(column[number]) for key, column in table.items()}
        mask = teaching.masks[place]
        decisions.append(Decision(sample, "labeled", not reason, reason, mask, values))
    return [changed.get(s.id, s) for s in truth], decisions


def _judged(sample: Sample, reason: str, entry: RoundConfig, soft: str, mask: str) -> Sample:
    """The row as the student gets it."""
    if entry.kind == "distill":
        return replace(sample, soft=soft, soft_weight=entry.soft_weight)
    if not reason:
        return sample
    if entry.action == "drop" or "empty" in reason.split("+"):
        return replace(sample, weight=0.0)
    if entry.action == "weight":
        return replace(sample, weight=sample.weight * entry.weight)
    if entry.action == "blend":
        return replace(sample, soft=soft, soft_weight=entry.soft_weight)
    made = replace(sample, target=f"rle:{mask}", origin="distilled")
    return replace(made, soft=soft, soft_weight=1.0) if soft else made


# -- unlabeled images -----------------------------------------------------------------------------


def _pseudo(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    entry = config.rounds[round]
    folder = run.taught(round, "unlabeled", "all" if entry.judge == "all" else f"fold{fold}")
    if not folder.is_dir():
        logger.warning("round %d, fold %d: no teacher has finished: no pseudo-labels", round, fold)
        return [], []
    teaching = Teaching(folder)
    samples = {s.id: s for s in Manifest.read(run.unlabeled)}
    table = teaching.table
    reasons = objections(table, entry.checks, "judge")
    passed = np.array([not reason for reason in reasons], dtype=np.bool_)
    limit = entry.top
    if entry.top_share is not None:
        limit = min(limit or len(passed), int(entry.top_share * len(passed)))
    rank = ranking(table, entry.rank_by)
    if entry.match_strata:
        shares = _strata_shares(config, run, truth, fold)
        taken = balanced(passed, rank, strata(table["target_area"]), shares, limit)
        if passed.any() and not taken.any():
            logger.warning(
                "round %d, fold %d: %d images passed the rules, but a stratum of the train set has "
                "none of them: no pseudo-labels (match_strata: false takes them all)",
                round, fold, int(passed.sum()),
            )  # fmt: skip
    else:
        taken = top(passed, rank, limit)
    soft = teaching.logits.relative_to(run.folder).as_posix() if teaching.logits.is_dir() else ""
    share = entry.soft_weight if entry.kind == "distill" else 1.0
    made, decisions = [], []
    for place, name in enumerate(teaching.ids):
        over = "over its stratum's share" if entry.match_strata else "over the limit"
        reason = reasons[place] or ("" if taken[place] else over)
        values = {key: float(column[place]) for key, column in table.items()}
        mask, kept = teaching.masks[place], bool(taken[place])
        decisions.append(Decision(samples[name], "unlabeled", kept, reason, mask, values))
        if kept:
            made.append(
                replace(
                    samples[name],
                    id=f"{PSEUDO}{name}",
                    target=f"rle:{mask}",
                    weight=entry.pseudo_weight,
                    origin="pseudo",
                    teacher_folds=teaching.teacher_folds[place],
                    soft=soft,
                    soft_weight=share if soft else 0.0,
                )
            )
    return made, decisions


def _strata_shares(config: Config, run: Run, truth: Manifest, fold: int) -> dict[int, float]:
    """Shares of the strata among the labels that the student of `fold` may know."""
    cache = open_cache(config, run)
    classes = config.num_outputs
    areas = [
        planes_of_target(cache.target(s.id), classes, config.task).any(axis=0).mean()
        for s in truth
        if s.fold != fold and s.target
    ]
    numbers, counts = np.unique(strata(np.array(areas)), return_counts=True)
    return {int(n): float(c) / len(areas) for n, c in zip(numbers, counts, strict=True)}


# -- what a person checks -------------------------------------------------------------------------


def _write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(decisions[0].statistics) if decisions else []
    writer.writerow(["id", "what", "fold", "kept", "reason", *names])
    for d in decisions:
        values = [f"{d.statistics[name]:.6g}" for name in names]
        writer.writerow([d.sample.id, d.what, d.sample.fold, int(d.kept), d.reason, *values])
    atomic_write(path, text.getvalue())


def _balance(decisions: Sequence[Decision]) -> str:
    """Rows of each stratum of area before and after, as CSV."""
    lines = ["what,stratum,before,after,share_before,share_after"]
    for what in sorted({d.what for d in decisions}):
        mine = [d for d in decisions if d.what == what]
        groups = strata(np.array([d.statistics["target_area"] for d in mine]))
        kept = np.array([d.kept for d in mine], dtype=np.bool_)
        for group in np.unique(groups):
            inside = groups == group
            before, after = int(inside.sum()), int((inside & kept).sum())
            shares = before / len(mine), after / max(1, int(kept.sum()))
            lines.append(f"{what},{group},{before},{after},{shares[0]:.4f},{shares[1]:.4f}")
    return "\n".join(lines) + "\n"


def _write_sheets(
    config: Config, run: Run, round: int, fold: int, decisions: Sequence[Decision]
) -> None:
    """The most suspicious kept and dropped rows of each kind, as pictures."""
    for what in sorted({d.what for d in decisions}):
        cache = open_cache(config, run) if what == "labeled" else open_unlabeled_cache(config, run)
        for kept in (True, False):
            mine = [d for d in decisions if d.what == what and d.kept == kept]
            mine.sort(key=_suspicion)
            tiles = [_tile(config, d, cache) for d in mine[:SHEET]]
            if tiles:
                name = f"{what}_{'kept' if kept else 'dropped'}_fold{fold}.png"
                atomic_write(run.select(round) / name, sheet(tiles))


def _suspicion(decision: Decision) -> tuple[float, str]:
    """Lower is more suspicious: the IoU with the human mask, or how much is decided."""
    key = "iou" if decision.what == "labeled" else "decided"
    return decision.statistics[key], decision.sample.id


def _tile(config: Config, decision: Decision, cache: Cache) -> dict[str, Any]:
    sample = decision.sample
    own = cache.target(sample.id)
    masks: NDArray[np.uint8] = read_target(
        f"rle:{decision.mask}", config, sample.height, sample.width
    )
    key = "iou" if decision.what == "labeled" else "decided"
    label = f"{sample.id} {key} {decision.statistics[key]:.2f}"
    return {"image": cache.image(sample.id), "target": own, "masks": masks, "task": config.task,
            "lines": [label, decision.reason or "kept"]}  # fmt: skip
