"""A round's train sets, one for each student: who is kept, who is made, and why.

Teachers judge (teacher_predictions.py); rules decide (functional/rules.py); this stage writes
round_R/train_foldK.csv and, in round_R/select/, what a person needs to check it (decisions.py).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distseg.config.rounds import RoundConfig
from distseg.config.schema import Config
from distseg.data.inspect import too_large
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.functional.rules import balanced, objections, ranking, strata, top
from distseg.functional.statistics import planes_of_target
from distseg.records.errors import UserError
from distseg.records.files import write_json
from distseg.records.log import counted
from distseg.records.manifest import (
    FROM_TEST,
    PSEUDO,
    UNLABELED,
    Manifest,
    Sample,
    pair_folds,
)
from distseg.records.paths import Run
from distseg.records.tables import write_table
from distseg.rounds.decisions import Decision, write_decisions
from distseg.rounds.judge import judge_out_of_fold
from distseg.rounds.teacher_predictions import TeacherPredictions
from distseg.rounds.teachers import has_unlabeled, student_folds

logger = logging.getLogger(__name__)
LARGE = "larger than the input"  # why a test image is not trained on


def write_pair_sets(run: Run, round: int) -> None:
    """The train sets of a round's pair teachers, and pairs.csv that says which two folds each
    leaves out.

    Each validates the rows of its two folds as one fold of its own number, and trains on all
    others, with the labels that people made. UserError: there are fewer than three folds.
    """
    truth, key = Manifest.read(run.truth), run.teachers(round)
    if len(truth.folds) < 3:
        raise UserError(f"{run.truth}: {len(truth.folds)} folds; teacher: pair needs three or more")
    pairs = pair_folds(truth.folds)
    for number, pair in pairs.items():
        path = run.train_set(key, number)
        if not path.is_file():
            folds = [number if sample.fold in pair else sample.fold for sample in truth]
            truth.replace_folds(folds).write(path)
    rows = [(number, f"{first} {second}") for number, (first, second) in pairs.items()]
    write_table(run.round(key) / "pairs.csv", ("fold", "left_out"), rows)


def select(config: Config, run: Run, round: int) -> None:
    """Write the train sets of a round's students that are not there yet.

    UserError: nothing is left to train on, or a label would leak (see `Manifest.train_rows`).
    """
    round_config, truth = config.rounds[round], Manifest.read(run.truth)
    in_force = {
        "judge": round_config.judge, "checks": round_config.checks, "score": config.flag(round),
    }  # fmt: skip
    rule = {**round_config.model_dump(mode="json"), **in_force}
    write_json(run.select(round) / "rule.json", rule)
    if (round_config.makes_pseudo and has_unlabeled(run)) or round_config.has_mean_teacher:
        _tell_of_large(config, run, round)
    for fold in student_folds(config, run, round):
        path = run.train_set(round, fold)
        if path.is_file():
            continue
        samples, decisions = _train_set(config, run, round, fold, truth)
        manifest = Manifest(samples)
        rows = manifest.train_rows(fold, leaky=config.teacher_flag(round) != "honest")
        if not rows:
            raise UserError(f"round {round}, fold {fold}: the rules leave nothing to train on")
        write_decisions(config, run, round, fold, decisions)
        kept = sum(decision.kept for decision in decisions)
        run.log_event("selected", round=round, fold=fold, kept=kept, judged=len(decisions))
        logger.info("round %d, fold %d: %d of %d judged rows kept, %d rows to train on",
                    round, fold, kept, len(decisions), len(rows))  # fmt: skip
        manifest.write(path)  # last: it says that the rest is there


def _train_set(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    """The rows that the student of `fold` gets, and what became of those that were judged.

    The kinds of rounds build on each other: what this one does not make anew (judged labels or
    pseudo-labels) stays as the round before left it.
    """
    round_config = config.rounds[round]
    if round_config.kind == "supervised":
        return list(truth), []
    path = run.train_set(round - 1, fold)
    before = Manifest.read(path) if path.is_file() else truth  # a fold that it did not train
    labeled = [s for s in before if s.origin not in FROM_TEST]
    pseudo = [s for s in before if s.origin == "pseudo"]
    decisions: list[Decision] = []
    if round_config.judges_labeled:
        labeled, decisions = _judge_labeled(config, run, round, fold, truth)
    if round_config.makes_pseudo and has_unlabeled(run):
        pseudo, more = _pseudo_label(config, run, round, fold, truth)
        decisions += more
    unlabeled = _unlabeled(config, run, round) if round_config.has_mean_teacher else []
    return [*labeled, *pseudo, *unlabeled], decisions


# -- train rows -----------------------------------------------------------------------------------


def _judge_labeled(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    """All rows of `truth` as the student of `fold` gets them, and the decisions on those that it
    trains on and a teacher has judged."""
    round_config = config.rounds[round]
    said = TeacherPredictions(judge_out_of_fold(config, run, round, fold, truth))
    place_of = {name: place for place, name in enumerate(said.ids)}
    judged = [s for s in truth if s.fold not in (fold, -1) and s.target and s.id in place_of]
    reasons = [""] * len(judged)
    if round_config.kind == "self_distill":
        # rules such as `worst` compare the rows of this student with each other, and no others
        places = np.array([place_of[s.id] for s in judged], dtype=np.int64)
        table = {key: values[places] for key, values in said.table.items()}
        reasons = objections(table, round_config.checks, round_config.empty)
    soft = said.soft_path(run.folder)
    changed: dict[str, Sample] = {}
    decisions = []
    for sample, reason in zip(judged, reasons, strict=True):
        place = place_of[sample.id]
        mask = said.masks[place]
        new = _apply_action(sample, reason, round_config, soft, mask)
        # a row that is left as it is carries its judges, too: that it was kept says something
        changed[sample.id] = replace(new, teacher_folds=said.teacher_folds[place])
        statistics = said.statistics(place)
        decisions.append(Decision(sample, "labeled", not reason, reason, mask, statistics))
    return [changed.get(s.id, s) for s in truth], decisions


def _apply_action(
    sample: Sample, reason: str, round_config: RoundConfig, soft: str, mask: str
) -> Sample:
    """A judged train row as the student gets it. reason: the rules that object to it, or "".
    soft: the folder of soft targets, or "". mask: the teachers'."""
    if round_config.kind == "distill":
        return replace(sample, soft=soft, soft_weight=round_config.soft_weight)
    if not reason:
        return sample
    if round_config.action == "drop" or "empty" in reason.split("+"):
        return replace(sample, weight=0.0)
    if round_config.action == "weight":
        return replace(sample, weight=sample.weight * round_config.weight)
    if round_config.action == "blend":
        return replace(sample, soft=soft, soft_weight=round_config.soft_weight)
    made = replace(sample, target=f"rle:{mask}", origin="distilled")
    return replace(made, soft=soft, soft_weight=1.0) if soft else made


# -- unlabeled images -----------------------------------------------------------------------------


def _tell_of_large(config: Config, run: Run, round: int) -> None:
    """A warning, where test images are larger than a member's canvas."""
    open_unlabeled_cache(config, run)
    found = [(s, too_large(config, s.height, s.width)) for s in Manifest.read(run.unlabeled)]
    if large := [(sample, reason) for sample, reason in found if reason]:
        sample, reason = large[0]
        logger.warning(
            "round %d: no student learns from %s of %d; the first: %s: %s",
            round, counted(len(large), "test image"), len(found), sample.image, reason,
        )  # fmt: skip


def _unlabeled(config: Config, run: Run, round: int) -> list[Sample]:
    """All test images that can be read and trained on, as rows without a label. Those that have a
    pseudo-label in another row are among them."""
    readable = Manifest.read(run.unlabeled)
    tests = [s for s in readable if not too_large(config, s.height, s.width)]
    if not tests:
        why = "they are larger than the input" if len(readable) else "no test image can be read"
        raise UserError(f"rounds.{round}.kind: mean_teacher: no test image to train on: {why}")
    return [replace(s, id=f"{UNLABELED}{s.id}", origin="unlabeled") for s in tests]


def _pseudo_label(
    config: Config, run: Run, round: int, fold: int, truth: Manifest
) -> tuple[list[Sample], list[Decision]]:
    """The pseudo-labeled rows of the student of `fold`, and the decisions on all test images."""
    round_config = config.rounds[round]
    who = "all" if round_config.judge == "all" else f"fold{fold}"
    folder = run.taught(round, "unlabeled", who)
    if not folder.is_dir():
        logger.warning("round %d, fold %d: no teacher has finished: no pseudo-labels", round, fold)
        return [], []
    said = TeacherPredictions(folder)
    samples = {s.id: s for s in Manifest.read(run.unlabeled)}
    reasons = objections(said.table, round_config.checks, "judge")
    sizes = [(samples[name].height, samples[name].width) for name in said.ids]
    large = [LARGE if too_large(config, *size) else "" for size in sizes]
    reasons = ["+".join(filter(None, pair)) for pair in zip(reasons, large, strict=True)]
    passed = np.array([not reason for reason in reasons], dtype=np.bool_)
    taken = _take(config, run, round, fold, truth, said, passed)
    over = "over its stratum's share" if round_config.match_strata else "over the limit"
    soft = said.soft_path(run.folder)
    rows, decisions = [], []
    for place, name in enumerate(said.ids):
        sample, mask, kept = samples[name], said.masks[place], bool(taken[place])
        reason = reasons[place] or ("" if kept else over)
        statistics = said.statistics(place)
        decisions.append(Decision(sample, "unlabeled", kept, reason, mask, statistics))
        if kept:
            row = _pseudo_row(sample, round_config, soft, mask)
            rows.append(replace(row, teacher_folds=said.teacher_folds[place]))
    return rows, decisions


def _take(
    config: Config, run: Run, round: int, fold: int, truth: Manifest, said: TeacherPredictions,
    passed: NDArray[np.bool_],
) -> NDArray[np.bool_]:  # fmt: skip
    """Which of the images that `passed` the rules become pseudo-labels: the surest, within the
    round's limits; bool (N,)."""
    round_config, table = config.rounds[round], said.table
    limit = round_config.top
    if round_config.top_share is not None:
        limit = min(limit or len(passed), int(round_config.top_share * len(passed)))
    rank = ranking(table, round_config.rank_by)
    if not round_config.match_strata:
        return top(passed, rank, limit)
    shares = _strata_shares(config, run, truth, fold)
    taken = balanced(passed, rank, strata(table["target_area"]), shares, limit)
    if passed.any() and not taken.any():
        logger.warning(
            "round %d, fold %d: %d images passed the rules, but a stratum of the train set has "
            "none of them: no pseudo-labels (match_strata: false takes them all)",
            round, fold, int(passed.sum()),
        )  # fmt: skip
    return taken


def _pseudo_row(sample: Sample, round_config: RoundConfig, soft: str, mask: str) -> Sample:
    """A test image as a train row: its id begins with PSEUDO, as train and test may share ids."""
    share = round_config.soft_weight if round_config.kind == "distill" else 1.0
    return replace(
        sample,
        id=f"{PSEUDO}{sample.id}",
        target=f"rle:{mask}",
        weight=round_config.pseudo_weight,
        origin="pseudo",
        soft=soft,
        soft_weight=share if soft else 0.0,
    )


def _strata_shares(config: Config, run: Run, truth: Manifest, fold: int) -> dict[int, float]:
    """Share of each stratum of area among the labels that the student of `fold` may know."""
    cache = open_cache(config, run)
    classes = config.num_outputs
    areas = [
        planes_of_target(cache.target(s.id), classes, config.task).any(axis=0).mean()
        for s in truth
        if s.fold != fold and s.target
    ]
    numbers, counts = np.unique(strata(np.array(areas)), return_counts=True)
    return {int(n): float(c) / len(areas) for n, c in zip(numbers, counts, strict=True)}
