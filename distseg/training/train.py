"""One member: a Manifest and a fold in; snapshots and out-of-fold predictions out.

`train_member` runs on every rank of one process group. The global batch of a step, its order and
its augmentation are pure functions of (seed, epoch, step), whatever the number of ranks, so a
run that was killed goes on bit for bit.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.config.training import StageConfig
from distseg.functional.metrics import summarize
from distseg.inference.out_of_fold import predict_out_of_fold
from distseg.records import log
from distseg.records.errors import UserError
from distseg.records.files import (
    append_line,
    atomic_write,
    mark_done,
    read_lines,
)
from distseg.records.paths import MemberPaths, RoundKey, Run
from distseg.training.member import Member, Progress, load, restore, round_to, save
from distseg.training.snapshots import average_snapshots, keep_snapshots, sync_buffers
from distseg.training.stage import Interrupted, StageTrainer, StopSignal
from distseg.training.zero import training_accelerator

logger = logging.getLogger("distseg.training.train")
LEAVING_S = 60.0


class NonFiniteLoss(RuntimeError):
    """The loss stays NaN or infinite; the message names epoch, step and sample ids."""


def train_member(config: Config, run_dir: Path, round: RoundKey, name: str, fold: int) -> None:
    """Train member `name` on fold `fold`, on all ranks; skips one that is done.

    Leaves snapshots/, oof/, oof_scores.json and, last, DONE in the member's folder. Raises
    UserError, NonFiniteLoss, torch.OutOfMemoryError, or Interrupted after a signal.
    """
    run = Run(Path(run_dir))
    paths = run.member(round, name, fold)
    if paths.done.is_file():
        return
    accelerator = training_accelerator(config)
    paths.folder.mkdir(parents=True, exist_ok=True)
    log.setup(paths.log(accelerator.process_index), console=accelerator.is_main_process)
    lock = FileLock(paths.lock)
    try:
        if accelerator.is_main_process:
            _take(lock)
        member = Member(config, run, round, name, fold, accelerator)
        if member.main:
            paths.failure.unlink(missing_ok=True)
            atomic_write(paths.config, dump_config(config))
        progress = fit_stages(member)
        score = predict_out_of_fold(
            config, paths, member.evaluator, member.manifest, member.val_rows, progress.snapshots
        )
        accelerator.wait_for_everyone()
        if member.main:
            final: dict[str, Any] = {"score": score, "epochs": progress.total_epochs}
            final |= {"steps": progress.total_steps, "skipped_steps": progress.skipped_steps}
            final |= {"seconds": round_to(progress.seconds), "member": name, "fold": fold}
            final |= {"snapshots": [s["file"] for s in progress.snapshots]}
            final |= {"trained_on": sorted(member.trained_on)}
            final |= {"precision": accelerator.mixed_precision, "ranks": accelerator.num_processes}
            shutil.rmtree(paths.state, ignore_errors=True)
            mark_done(paths.done, final)
            text = "without a score" if score is None else f"score {score:.4f}"
            logger.info("%s fold %d done: %s", name, fold, text)
        accelerator.wait_for_everyone()
    except Exception as error:
        write_failure(paths, error)
        raise
    finally:
        lock.release()
        accelerator.free_memory()


def _take(lock: FileLock) -> None:
    """A job of a driver that is gone may still be leaving; two must not write one state."""
    try:
        lock.acquire(timeout=LEAVING_S)
    except Timeout:
        folder = Path(lock.lock_file).parent
        raise RuntimeError(f"{folder}: another process trains this member") from None


def write_failure(paths: MemberPaths, error: Exception) -> None:
    """Say on disk why this job stopped, for the scheduler's retry rule.

    The first rank that says so is the cause: what the others then see is its absence.
    """
    if paths.failure.is_file():
        return
    kind = "error"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        kind = "out_of_memory"
    elif isinstance(error, NonFiniteLoss):
        kind = "non_finite"
    elif isinstance(error, UserError):
        kind = "user"
    text = {"kind": kind, "message": f"{type(error).__name__}: {error}", "time": time.time()}
    atomic_write(paths.failure, json.dumps(text))
    logger.error("%s", text["message"], exc_info=kind == "error")


def fit_stages(member: Member) -> Progress:
    """All stages, epoch by epoch: train, evaluate, keep snapshots, save the state."""
    paths, accelerator, stages = member.paths, member.accelerator, member.stages
    total = sum(stage.schedule.epochs for stage in stages)
    progress, saved = restore(member)
    if member.main:
        truncate_metrics(paths.metrics, progress.total_epochs)
    with StopSignal() as stop:
        while progress.stage < len(stages):
            stage = stages[progress.stage]
            trainer = StageTrainer(member, stage, progress)
            trainer.load(saved)
            if progress.schedule:
                trainer.schedule.load(progress.schedule)
            saved = None
            while progress.epoch < stage.schedule.epochs:
                started, start_step = time.perf_counter(), progress.step
                if progress.step == 0 and progress.epoch == 0:
                    # what a rollback of the stage's first epoch goes back to
                    save(member, trainer.engine.state(), progress)
                finite = trainer.epoch(progress, stop)
                if not finite:
                    roll_back(member, trainer, progress)
                    continue
                trainer.engine.gather()
                sync_buffers(member.model, accelerator)
                seconds = time.perf_counter() - started
                plan = trainer.plan
                images = min((plan.steps - start_step) * plan.batch_size, plan.images)
                row: dict[str, Any] = {"stage": progress.stage, "epoch": progress.total_epochs}
                row |= {"loss": trainer.mean_loss(progress), "lr": trainer.last_lr}
                row |= finish_epoch(member, trainer, stage, progress)
                progress.seconds += time.perf_counter() - started
                row |= {"images_per_s": round_to(images / seconds), "seconds": round_to(seconds)}
                left = (total - progress.total_epochs) * (time.perf_counter() - started)
                row |= {"epochs": total, "eta_s": round_to(left, 1)}
                row |= {"skipped_steps": progress.skipped_steps}
                if member.main:
                    append_line(paths.metrics, row)
                    report_epoch(member, row)
                if progress.epoch < stage.schedule.epochs and not int(trainer.bad_in_row):
                    # never a state that a NaN has touched
                    save(member, trainer.engine.state(), progress)
            if stage.swa and progress.stage == len(stages) - 1:
                epoch_again = replace(progress, step=0)
                images_only = (batch for _, batch, _ in trainer.micro_batches(epoch_again))
                with trainer.engine.placed():
                    average_snapshots(member, progress, images_only)
            trainer.engine.close()
            progress = replace(progress, stage=progress.stage + 1, epoch=0, step=0, schedule={})
            save(member, None, progress)
        if stop.number is not None:
            raise Interrupted(128 + stop.number)
    return progress


def finish_epoch(
    member: Member, trainer: StageTrainer, stage: StageConfig, progress: Progress
) -> dict[str, Any]:
    """All ranks, after an epoch: count it, evaluate, keep snapshots. Returns metrics."""
    progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    progress.total_epochs += 1
    per_cycle = stage.schedule.epochs_per_cycle
    cycle, at_end = (progress.epoch - 1) // per_cycle, progress.epoch % per_cycle == 0
    due = at_end or progress.epoch % member.config.train.evaluate_every == 0
    metrics: dict[str, Any] = {"cycle": cycle}
    average = member.ema.swap(member.model) if member.ema else nullcontext()
    with trainer.engine.placed(), average:
        if due and member.val_rows:
            counts = member.evaluator.run(member.model, member.config.num_outputs)
            summary = summarize(counts, member.config.metric)
            metrics |= {k: summary[k] for k in ("score", "positives", "negatives", "iou")}
            if stage.schedule.kind == "plateau":
                watched = {**metrics, "loss": trainer.mean_loss(progress)}
                if stage.schedule.metric not in watched:
                    raise UserError(
                        f"stages.{progress.stage}.schedule.metric: {stage.schedule.metric!r}; "
                        f"valid: {', '.join(watched)}"
                    )
                trainer.schedule.observe(watched[stage.schedule.metric])
        keep_snapshots(member, stage, progress, cycle, at_end, metrics.get("score"))
    progress.schedule = trainer.schedule.state()
    return metrics


def roll_back(member: Member, trainer: StageTrainer, progress: Progress) -> None:
    """All ranks: back to the last state on disk at half the learning rate, or stop."""
    if progress.rollbacks >= member.config.train.max_rollbacks:
        raise NonFiniteLoss(
            f"the loss is not finite at {trainer.bad_at} after {progress.rollbacks} rollbacks; "
            "lower the learning rate, or set compute.precision: fp32"
        )
    found = load(member)
    assert found is not None, "a state is saved before the first step"
    tree, saved = found
    trainer.load(tree)
    rollbacks, lr_scale = progress.rollbacks + 1, progress.lr_scale / 2
    for key, value in vars(saved).items():
        setattr(progress, key, value)
    progress.rollbacks, progress.lr_scale = rollbacks, lr_scale
    if progress.schedule:
        trainer.schedule.load(progress.schedule)
    trainer.bad_in_row.zero_()
    if member.main:
        truncate_metrics(member.paths.metrics, progress.total_epochs)
    logger.warning("rolled back to epoch %d, learning rate halved", progress.total_epochs)
    member.accelerator.wait_for_everyone()


def truncate_metrics(path: Path, epochs: int) -> None:
    """Drop lines of epochs that will be trained again."""
    rows = [row for row in read_lines(path) if row["epoch"] < epochs]
    if path.is_file():
        atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))


def report_epoch(member: Member, row: dict[str, Any]) -> None:
    score = f" score {row['score']:.4f}" if row.get("score") is not None else ""
    logger.info(
        "%s fold %d epoch %d/%d loss %.4f%s lr %.2e %.1f images/s ETA %s",
        member.name, member.fold, row["epoch"] + 1, row["epochs"], row["loss"], score,
        row["lr"], row["images_per_s"], log.duration(row["eta_s"]),
    )  # fmt: skip
