"""Teachers judge images that are not out of their fold already: the test images, or all rows.

All ranks of one launched job. Images stream through the teachers; what stays is a line of
statistics and a mask for each, and logits only where a round asks for soft targets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.dataset import EvalSet
from distseg.data.fit import Fit
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.distributed import Accelerator, default_workers, make_accelerator
from distseg.inference.evaluate import canvas_batches
from distseg.inference.load import TrainedMember, decode_batches
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.teacher_predictions import (
    Teacher,
    TeachingWriter,
    find_teacher,
    kept_logits,
    merge_parts,
    students,
    teachers_record,
)

logger = logging.getLogger("distseg.rounds.predict_teachers")


@dataclass(frozen=True)
class Lesson:
    """One folder to write. what: labeled | unlabeled; who: foldK | all; logits: see the writer."""

    what: str
    who: str
    teachers: tuple[Teacher, ...]
    folder: Path
    logits: str


def lessons(config: Config, run: Run, round: int, folds: Sequence[int]) -> list[Lesson]:
    """What models have to predict for a round, without what is there already."""
    entry = config.rounds[round]
    wanted = []
    if entry.uses_unlabeled:
        wanted += [("unlabeled", "all")] if entry.judge == "all" else [
            ("unlabeled", f"fold{fold}") for fold in folds
        ]  # fmt: skip
    if entry.judges_labeled and entry.judge == "all":
        wanted.append(("labeled", "all"))
    found = []
    for what, who in wanted:
        folder = run.taught(round, what, who)
        if folder.is_dir():
            continue
        from_folds = [int(who.removeprefix("fold"))] if who != "all" else None
        teachers = _teachers(config, run, round - 1, from_folds)
        if not teachers:  # select says which student goes without
            continue
        found.append(Lesson(what, who, tuple(teachers), folder, kept_logits(entry)))
    return found


def _teachers(config: Config, run: Run, round: int, folds: Sequence[int] | None) -> list[Teacher]:
    planned = config.planned_members(Manifest.read(run.truth).folds, round)
    found = [
        find_teacher(run, round, name, fold)
        for name, fold in planned
        if folds is None or fold in folds
    ]
    return [teacher for teacher in found if teacher is not None]


def teach(run_dir: Path, config: Config, round: int) -> None:
    """All ranks: every lesson of a round that is not there yet."""
    run = Run(Path(run_dir))
    todo = lessons(config, run, round, students(config, run, round))
    accelerator = make_accelerator(config)
    accelerator.wait_for_everyone()  # all ranks have looked before one writes
    for lesson in todo:
        labeled = lesson.what == "labeled"
        cache = open_cache(config, run) if labeled else open_unlabeled_cache(config, run)
        manifest = Manifest.read(run.truth if labeled else run.unlabeled)
        part = lesson.folder.with_name(f"{lesson.folder.name}.part{accelerator.process_index}")
        part.parent.mkdir(parents=True, exist_ok=True)
        _give(config, run, round, lesson, manifest, cache, part, accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            parts = [
                part.with_name(f"{lesson.folder.name}.part{rank}")
                for rank in range(accelerator.num_processes)
            ]
            merge_parts(parts, lesson.folder, [sample.id for sample in manifest])
            logger.info("%s: %d images judged", lesson.folder.name, len(manifest))
        accelerator.wait_for_everyone()


@torch.inference_mode()
def _give(
    config: Config, run: Run, round: int, lesson: Lesson, manifest: Manifest, cache: Cache,
    part: Path, accelerator: Accelerator,
) -> None:  # fmt: skip
    """This rank's share of a lesson's images."""
    device, workers = accelerator.device, default_workers(config, accelerator)
    members = [
        TrainedMember.load(teacher.snapshots, device, config.compute.channels_last)
        for teacher in lesson.teachers
    ]
    sizes = [(sample.height, sample.width) for sample in manifest]
    batches = canvas_batches(sizes, [member.fit for member in members], config.predict.batch_size)
    batches = batches[accelerator.process_index :: accelerator.num_processes]

    def rows(fit: Fit) -> EvalSet:
        return EvalSet(manifest, range(len(manifest)), cache, fit)

    heads = "min_head_certainty" in config.rounds[round].checks
    seen = sorted(set().union(*(teacher.trained_on for teacher in lesson.teachers)))
    writer = TeachingWriter(part, config, lesson.logits)
    for positions, canvases, _ in decode_batches(members, batches, rows, workers, device):
        native = [sizes[i] for i in positions]
        logits, certain = [], []
        for member in members:
            canvas = canvases[member.canvas]
            found = member.native_logits(canvas, native, config.predict.tta, accelerator.autocast)
            logits.append([one.cpu().numpy() for one in found])
            if heads:
                with accelerator.autocast():
                    images = member.normalizer(canvas)
                    own = [model(images)[1].float() for model in member.snapshots]
                certain.append(torch.stack(own).mean(0).cpu().numpy())
        for place, position in enumerate(positions):
            sample = manifest[position]
            target = cache.target(sample.id) if lesson.what == "labeled" else None
            head = np.mean([one[place] for one in certain], axis=0) if heads else None
            stacked = np.stack([one[place] for one in logits])
            writer.add(sample.id, stacked, target, cache.image(sample.id), seen, head)
    writer.close(teachers_record(lesson.teachers))
