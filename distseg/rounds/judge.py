"""Teachers judge the train rows from out-of-fold logits: no image is predicted again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distseg.config.schema import Config
from distseg.data.prepare import open_cache
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.teacher_predictions import kept_logits, write_teacher_predictions
from distseg.rounds.teachers import folds_seen, judges_of_fold, teachers_record


def judge_out_of_fold(config: Config, run: Run, round: int, fold: int, truth: Manifest) -> Path:
    """The folder with the judgement of the train rows for the student of `fold`.

    With `teacher: fold` and `all` a job has made it, and with `oof` the first student of the round:
    it serves all of them. What is there is not made again.
    """
    round_config = config.rounds[round]
    who = {"all": "all", "oof": "oof"}.get(round_config.judge, f"fold{fold}")
    folder = run.taught(round, "labeled", who)
    if folder.is_dir():
        return folder
    # the student's own fold is not among its train rows; `oof` judges for every student at once
    samples = [s for s in truth if s.fold != -1 and s.target and (who == "oof" or s.fold != fold)]
    judges = {
        own: judges_of_fold(config, run, round, truth, student=fold, fold=own)
        for own in dict.fromkeys(sample.fold for sample in samples)
    }
    record = teachers_record([teacher for teachers in judges.values() for teacher in teachers])
    cache, logits = open_cache(config, run), kept_logits(round_config)
    with write_teacher_predictions(folder, record, config.task, logits) as writer:
        for sample in samples:
            teachers = judges[sample.fold]
            if not teachers:
                continue
            logits_MCHW = np.stack([one.predictions.of(sample.id) for one in teachers])
            target, image = cache.target(sample.id), cache.image(sample.id)
            writer.add(sample.id, logits_MCHW, target, image, folds_seen(teachers))
    return folder
