"""What the teachers of a round have to predict; without torch, as the driver asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.config.schema import Config
from distseg.records.finished_member import FinishedMember
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.teacher_predictions import kept_logits
from distseg.rounds.teachers import has_unlabeled, open_teachers


@dataclass(frozen=True)
class TeacherTask:
    """One folder of predictions that teachers have to make.

    what: labeled or unlabeled images. who: the student that they judge for, foldK, or all.
    logits: as of `kept_logits`.
    """

    what: str
    who: str
    teachers: tuple[FinishedMember, ...]
    folder: Path
    logits: str

    @property
    def labeled(self) -> bool:
        return self.what == "labeled"


def teacher_tasks(config: Config, run: Run, round: int, folds: Sequence[int]) -> list[TeacherTask]:
    """What models have to predict for the students of `folds` in a round, without what is there
    already."""
    round_config, truth = config.rounds[round], Manifest.read(run.truth)
    students = ["all"] if round_config.judge == "all" else [f"fold{fold}" for fold in folds]
    wanted = []
    if round_config.makes_pseudo and has_unlabeled(run):
        wanted += [("unlabeled", who) for who in students]
    if round_config.judges_labeled and round_config.judge in ("all", "fold"):
        wanted += [("labeled", who) for who in students]
    tasks = []
    for what, who in wanted:
        folder = run.taught(round, what, who)
        if folder.is_dir():
            continue
        planned = config.planned_members(truth.folds, round - 1)
        members = [
            (round - 1, name, fold) for name, fold in planned if who in ("all", f"fold{fold}")
        ]
        teachers = open_teachers(config, run, truth, members, out_of_fold=False)
        if teachers:  # without any, `select` says which student goes without
            logits = kept_logits(round_config)
            tasks.append(TeacherTask(what, who, tuple(teachers), folder, logits))
    return tasks
