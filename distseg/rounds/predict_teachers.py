"""Teachers judge images that have no out-of-fold prediction yet: the test images, or all rows.

All ranks of one launched job. Images stream through the teachers; what stays is a line of
statistics and a mask for each, and logits only where a round asks for soft targets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.dataset import EvalSet
from distseg.data.fit import Fit
from distseg.data.loader import canvas_batches
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.distributed import Accelerator, default_workers, make_accelerator
from distseg.inference.load import decode_batches, load_predictor
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.progress import ProgressFile
from distseg.rounds.teacher_predictions import (
    TeacherPredictionsWriter,
    join_rank_folders,
    write_teacher_predictions,
)
from distseg.rounds.teacher_tasks import TeacherTask, teacher_tasks
from distseg.rounds.teachers import folds_seen, student_folds, teachers_record

logger = logging.getLogger(__name__)


def predict_teachers(run_dir: Path, config: Config, round: int) -> None:
    """All ranks: every task of a round that is not done yet."""
    run = Run(Path(run_dir))
    tasks = teacher_tasks(config, run, round, student_folds(config, run, round))
    accelerator = make_accelerator(config)
    accelerator.wait_for_everyone()  # all ranks have looked before one writes
    progress = ProgressFile(run.teach_progress if accelerator.is_main_process else None)
    opened = {task.labeled: _open(config, run, labeled=task.labeled) for task in tasks}
    manifests = [_images(opened[task.labeled][1], task) for task in tasks]
    total, done = sum(map(len, manifests)), 0  # images of all tasks
    for task, manifest in zip(tasks, manifests, strict=True):
        cache = opened[task.labeled][0]
        rank_folders = [
            task.folder.with_name(f"{task.folder.name}.part{rank}")
            for rank in range(accelerator.num_processes)
        ]
        own = rank_folders[accelerator.process_index]
        record = teachers_record(task.teachers)
        with write_teacher_predictions(own, record, config.task, task.logits) as writer:
            for seen in _predict_share(
                config, run, round, task, manifest, cache, writer, accelerator
            ):
                progress.at("predict", done + seen, total)
        accelerator.wait_for_everyone()  # all ranks have written before one joins
        if accelerator.is_main_process:
            join_rank_folders(rank_folders, task.folder, [sample.id for sample in manifest])
            logger.info("%s: %d images judged", task.folder.name, len(manifest))
        accelerator.wait_for_everyone()
        done += len(manifest)
    progress.close()


def _open(config: Config, run: Run, *, labeled: bool) -> tuple[Cache, Manifest]:
    """All train images, or all test images that can be read."""
    if labeled:
        return open_cache(config, run), Manifest.read(run.truth)
    cache = open_unlabeled_cache(config, run)  # it writes the Manifest where there is none
    return cache, Manifest.read(run.unlabeled)


def _images(manifest: Manifest, task: TeacherTask) -> Manifest:
    """Those that a task judges; the student of one fold does not train on that fold's."""
    if not task.labeled:
        return manifest
    return Manifest([sample for sample in manifest if f"fold{sample.fold}" != task.who])


@torch.inference_mode()
def _predict_share(
    config: Config, run: Run, round: int, task: TeacherTask, manifest: Manifest, cache: Cache,
    writer: TeacherPredictionsWriter, accelerator: Accelerator,
) -> Iterator[int]:  # fmt: skip
    """This rank's share of a task's images; yields how many of the task's are done, before and
    after each batch, since all ranks are at about the same."""
    device, channels_last = accelerator.device, config.compute.channels_last
    predictors = [
        load_predictor(
            [run.folder / path for path in teacher.snapshots],
            device, channels_last, accelerator.autocast,
        )
        for teacher in task.teachers
    ]  # fmt: skip
    sizes = [(sample.height, sample.width) for sample in manifest]
    fits = [predictor.fit for predictor in predictors]
    batches = canvas_batches(sizes, fits, config.predict.batch_size)
    batches = batches[accelerator.process_index :: accelerator.num_processes]

    def images(fit: Fit) -> EvalSet:
        return EvalSet(manifest, range(len(manifest)), cache, fit)

    yield 0
    seen, workers = folds_seen(task.teachers), default_workers(config, accelerator)
    uses_heads = "min_head_certainty" in config.rounds[round].checks
    decoded = decode_batches(predictors, batches, images, workers, device)
    for done, (positions, canvases, _) in enumerate(decoded, 1):
        native = [sizes[i] for i in positions]
        logits, heads = [], []  # of each teacher: arrays (C, h, w) of the images, and (B, C)
        for predictor in predictors:
            canvas = canvases[predictor.canvas]
            found = predictor.native_logits(canvas, native, config.predict.tta)
            logits.append([one.cpu().numpy() for one in found])
            if uses_heads:
                heads.append(predictor.image_logits(canvas).mean(0).cpu().numpy())
        for place, position in enumerate(positions):
            sample = manifest[position]
            target = cache.target(sample.id) if task.labeled else None
            head = np.mean([one[place] for one in heads], axis=0) if uses_heads else None
            logits_MCHW = np.stack([one[place] for one in logits])
            writer.add(sample.id, logits_MCHW, target, cache.image(sample.id), seen, head)
        yield len(manifest) * done // len(batches)
