"""Who judges: the finished members that may make or check the labels of a student."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from distseg.config.schema import Config
from distseg.records.finished_member import FinishedMember, UnusableMember
from distseg.records.manifest import Manifest, pair_folds
from distseg.records.paths import RoundKey, Run, is_teachers, member_id

logger = logging.getLogger(__name__)


def student_folds(config: Config, run: Run, round: int) -> list[int]:
    """The folds that a round trains."""
    planned = config.planned_members(Manifest.read(run.truth).folds, round)
    return sorted({fold for _, fold in planned})


def has_unlabeled(run: Run) -> bool:
    """Whether the data has test images: the only ones without a label."""
    return len(Manifest.read(run.data / "test.csv")) > 0


def open_teachers(
    config: Config, run: Run, truth: Manifest, members: Iterable[tuple[RoundKey, str, int]],
    *, out_of_fold: bool,
) -> list[FinishedMember]:  # fmt: skip
    """Those of `members` that can judge. What cannot is left out, with a warning that says why.

    Args:
        truth: the Manifest of `run.truth`.
        members: (round, name, fold); of a round's pair teachers the fold is their pair's number.
        out_of_fold: they judge by their out-of-fold logits, which must be there; otherwise they
            predict, and their snapshots are enough.
    """
    found = []
    for round, name, fold in members:
        # a pair teacher validates the rows of both folds that it leaves out
        folds = pair_folds(truth.folds)[fold] if is_teachers(round) else (fold,)
        numbers = sorted(row for one in folds for row in truth.val_rows(one))
        rows = [truth[number] for number in numbers]
        try:
            member = FinishedMember.read(
                run, round, name, fold, rows=rows, num_outputs=config.num_outputs
            )
            found.append(member.opened() if out_of_fold else member)
        except UnusableMember as reason:
            logger.warning("round %s: %s is no teacher: %s", round, member_id(name, fold), reason)
    return found


def judges_of_fold(
    config: Config, run: Run, round: int, truth: Manifest, *, student: int, fold: int
) -> list[FinishedMember]:
    """Who judges the rows of `fold` for the student of another fold, by the round's `teacher`.

    pair: those that trained without both folds. oof: those of the round before that validated
    `fold`. fold, all: none, as they judge by no out-of-fold logits. Where none is usable the rows
    stay as they are, and a warning says so.
    """
    members: list[tuple[RoundKey, str, int]] = []
    if config.rounds[round].judge == "pair":
        numbers = {pair: number for number, pair in pair_folds(truth.folds).items()}
        number = numbers[min(student, fold), max(student, fold)]
        members = [(run.teachers(round), name, number) for name in config.members]
    elif config.rounds[round].judge == "oof":
        planned = config.planned_members(truth.folds, round - 1)
        members = [(round - 1, name, own) for name, own in planned if own == fold]
    teachers = open_teachers(config, run, truth, members, out_of_fold=True)
    if not teachers:
        logger.warning(
            "round %d: no teacher has finished that may judge fold %d for the student of fold %d: "
            "its rows stay as they are", round, fold, student,
        )  # fmt: skip
    return teachers


def folds_seen(teachers: Iterable[FinishedMember]) -> list[int]:
    """The folds whose labels have reached one of the teachers, ascending."""
    return sorted(set().union(*(teacher.trained_on for teacher in teachers)))


def teachers_record(teachers: Sequence[FinishedMember]) -> dict[str, Any]:
    """teachers.json: who judged, for a person to read."""
    return {
        "teachers": [
            {"round": t.round, "name": t.name, "fold": t.fold, "trained_on": sorted(t.trained_on)}
            for t in teachers
        ]
    }
