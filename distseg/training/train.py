"""One member: a Manifest and a fold in; snapshots and out-of-fold predictions out.

`train_member` runs on every rank of one process group, and `train` is the loop. The global batch of
a step, its order and its augmentation are pure functions of (seed, epoch, step), whatever the
number of ranks, so a run that was killed goes on bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator
from filelock import FileLock, Timeout

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.distributed import check_launch, make_accelerator
from distseg.inference.out_of_fold import predict_out_of_fold
from distseg.jobs.job import is_driven
from distseg.records import log
from distseg.records.files import atomic_write, mark_done, parsing, read_json_or
from distseg.records.finished_member import file_sizes, is_done, lost_files, planned_epochs
from distseg.records.paths import MemberPaths, RoundKey, Run, is_teachers
from distseg.training import epochs
from distseg.training.member import Member
from distseg.training.snapshots import (
    average_snapshots,
    buffers_are_finite,
    keep_snapshots,
    sync_buffers,
)
from distseg.training.stage import (
    Stage,
    begin_epoch,
    images_of_epoch,
    set_up_stage,
    train_step,
)
from distseg.training.state import Progress, Saving, put_back, restore, roll_back, save
from distseg.training.stopping import Interrupted, StopSignal, write_failure

logger = logging.getLogger(__name__)
LEAVING_S = 60.0  # seconds that a job of a driver that is gone may take to leave
CUT_OFF_S = 600.0  # that one may take on a host that was cut off: 3 minutes until its Ray notices


def train_member(config: Config, run_dir: Path, round: RoundKey, name: str, fold: int) -> None:
    """Train member `name` on fold `fold`, on all ranks; skips one that is done.

    Leaves snapshots/, oof/, oof_scores.json and, last, DONE in the member's folder. Raises
    UserError, NonFiniteLoss, torch.OutOfMemoryError, or Interrupted after a signal.
    """
    run = Run(Path(run_dir))
    paths = run.member(round, name, fold)
    if is_done(paths):
        return
    accelerator = training_accelerator(config)
    paths.folder.mkdir(parents=True, exist_ok=True)
    log.setup(paths.log(accelerator.process_index), console=accelerator.is_main_process)
    lock = FileLock(paths.lock)
    try:
        if accelerator.is_main_process:
            _take(lock)
        _train_and_predict(Member(config, run, round, name, fold, accelerator))
    except Exception as error:
        write_failure(paths, error)
        raise
    finally:
        lock.release()
        accelerator.free_memory()


def _train_and_predict(member: Member) -> None:
    """Train a member where it is not trained, predict its fold, and mark it done; on all ranks."""
    config, paths, accelerator = member.config, member.paths, member.accelerator
    name, fold = member.name, member.fold
    with contextlib.closing(member):
        if member.main:
            paths.failure.unlink(missing_ok=True)
            atomic_write(paths.config, dump_config(config))
        progress = trained_before(paths, config.epochs_of(name, member.round))
        if progress is None:
            accelerator.wait_for_everyone()  # all have looked at DONE
            if member.main:  # else it would count again with the first of the new weights
                paths.done.unlink(missing_ok=True)
            with StopSignal() as stop, epochs.tracked(member):
                progress = train(member, stop)
        began = time.perf_counter()
        score = predict_out_of_fold(
            config, paths, member.evaluator, member.manifest, member.val_rows, progress.snapshots,
            each=config.ensemble.snapshots == "search" and not is_teachers(member.round),
            heads=config.takes_heads(member.name) and not is_teachers(member.round),
        )  # fmt: skip
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - began
    if member.main:
        if not member.keeps_state:  # it is as large as three snapshots
            shutil.rmtree(paths.state, ignore_errors=True)
        member.progress.close()
        mark_done(paths.done, done_record(member, progress, score, seconds))
        text = "without a score" if score is None else f"score {score:.4f}"
        logger.info("%s fold %d done: %s", name, fold, text)
    accelerator.wait_for_everyone()


def trained_before(paths: MemberPaths, epochs: int) -> Progress | None:
    """Where a member ended that is trained for so many planned epochs, and lacks only what its
    snapshots make again: its out-of-fold predictions. None for all others."""
    done = read_json_or(paths.done, {})
    if planned_epochs(done) != epochs:  # its schedule has become longer since
        return None
    lost = [name for name in lost_files(paths, done) if name.startswith("snapshots/")]
    if lost or not done.get("snapshots"):
        return None
    with parsing(paths.done):
        return Progress(
            total_epochs=done["epochs"], total_steps=done["steps"],
            skipped_steps=done["skipped_steps"], seconds=done["seconds"],
            snapshots=[{"file": str(name)} for name in done["snapshots"]],
        )  # fmt: skip


def training_accelerator(config: Config) -> Accelerator:
    """The Accelerator that trains, DDP's or ZeRO's. UserError: the launch file says another ZeRO
    stage than the config, or DeepSpeed is not installed."""
    check_launch(config.compute, os.environ)
    if not config.compute.zero:
        return make_accelerator(config)
    from distseg.training.zero import make_zero_accelerator  # only here: DDP needs no DeepSpeed

    return make_zero_accelerator(config)


def _take(lock: FileLock) -> None:
    """A job of a driver that is gone, or of a run whose host was cut off, may still be leaving; two
    must not write one state."""
    try:
        lock.acquire(timeout=CUT_OFF_S if is_driven() else LEAVING_S)
    except Timeout:
        folder = Path(lock.lock_file).parent
        raise RuntimeError(f"{folder}: another process trains this member") from None


def done_record(
    member: Member, progress: Progress, score: float | None, oof_s: float
) -> dict[str, Any]:
    """What DONE says of a member. oof_s: seconds that its out-of-fold prediction took."""
    accelerator = member.accelerator
    record: dict[str, Any] = {"score": score, "epochs": progress.total_epochs}
    record["planned_epochs"] = member.config.epochs_of(member.name, member.round)
    record |= {"steps": progress.total_steps, "skipped_steps": progress.skipped_steps}
    record |= {"seconds": epochs.round_to(progress.seconds), "oof_seconds": epochs.round_to(oof_s)}
    record |= {"member": member.name, "fold": member.fold}
    record |= {"snapshots": [s["file"] for s in progress.snapshots]}
    record |= {"trained_on": sorted(member.trained_on), "watched_by": len(member.watched_rows)}
    record |= {"files": file_sizes(member.paths, record["snapshots"])}
    record |= {"precision": accelerator.mixed_precision, "ranks": accelerator.num_processes}
    return record


def train(member: Member, stop: StopSignal) -> Progress:
    """Train all stages of a member, on all ranks, from where its state on disk says.

    Every rank goes through the same steps and reads the same sums, so that all of them take each
    branch together; only the main rank writes. Returns the position at the end, with the snapshots
    that were kept. Raises NonFiniteLoss, or Interrupted after a signal, with the state on disk.
    """
    settings, member.stop = member.config.train, stop
    progress, saved = restore(member)
    saving = Saving(member.accelerator)
    if saved is None:  # what a rollback of the first epochs goes back to
        saving.save(member, progress, None)
    epochs.truncate_metrics(member, progress)
    epochs.begin_tracking(member)

    while progress.stage < len(member.stages):
        first_epoch = progress.total_epochs - progress.epoch
        stage = set_up_stage(member, progress.stage, first_epoch)
        if saved is not None:
            put_back(stage, progress, saved)
            saved = None  # it is as large as the model and its optimizer's state
        totals = epochs.EpochTotals(member.accelerator.device)
        sound = progress.total_epochs  # epochs whose end is known to be no reason to roll back

        while not epochs.is_over(stage.config, progress):
            totals.begin(progress.step)
            frozen = begin_epoch(stage, progress.epoch)
            batches = stage.batches.epoch(progress.total_epochs, progress.step)
            gives_up = False

            for step in range(progress.step, stage.sampling.steps):
                result = train_step(
                    member, stage, batches, epoch=progress.total_epochs, step=step, frozen=frozen,
                    lr_factor=stage.lr_factor(progress.epoch, step) * progress.lr_scale,
                )  # fmt: skip
                totals.add(result)
                if member.ema:
                    member.ema.update(stage.engine.module)
                progress.step, progress.total_steps = step + 1, progress.total_steps + 1
                member.progress.at("train", progress.step, stage.sampling.steps)
                # The loop's only question to the device, which then runs out of queued work: asked
                # no more often than `max_bad_steps` needs it, and at the end.
                steps_done = progress.step - totals.first_step
                at_end = progress.step == stage.sampling.steps
                if steps_done % settings.max_bad_steps == 0 or at_end:
                    gives_up = epochs.gives_up(member, progress, totals)
                if gives_up:
                    break
                if stop.number is not None:
                    save_and_leave(member, stage, progress, totals, stop.number)

            skipped = int(totals.skipped)
            if gives_up or (skipped and not buffers_are_finite(member, stage.engine.module)):
                at = epochs.position(member, progress, totals)
                progress, saved = roll_back(member, progress, sound, at)
                epochs.truncate_metrics(member, progress)
                break
            progress.skipped_steps += skipped

            # From here on the member's model is what was trained, the same on every rank.
            stage.engine.gather()
            sync_buffers(member, member.model)
            speed = epochs.speed(stage, totals)
            row = epochs.begin_row(member, stage, progress, totals)
            epochs.count_epoch(progress)
            with stage.engine.placed(), member.averaged_weights():
                scores: dict[str, Any] = {}
                if epochs.is_evaluated(member, stage, progress):
                    scores = epochs.evaluate(member, stage.terms.main)
                    epochs.observe(member, stage, progress, {**scores, "loss": row["loss"]})
                keep_snapshots(member, stage.config, progress, scores.get("score"))
            progress.schedule = stage.schedule.state()
            progress.seconds += totals.seconds
            epochs.finish_row(member, row | scores | speed, progress, totals.seconds)
            # The last epoch of a stage is followed by the state of the border. An epoch that ends
            # in skipped steps leaves none: the next may show that its weights are spoiled.
            if not int(totals.bad_in_row):
                sound = progress.total_epochs
                if not epochs.is_over(stage.config, progress) and saving.is_due():
                    saving.save(member, progress, stage.engine.state())

        if saved is not None:  # rolled back: the stage begins anew, and goes on from that state
            stage.close()
            continue
        if stage.config.swa and progress.stage == len(member.stages) - 1:
            images = images_of_epoch(member, stage, progress.stage, progress.total_epochs)
            with stage.engine.placed():
                progress.snapshots = average_snapshots(member, progress, images)
        goes_on = progress.stage == len(member.stages) - 1 and member.keeps_state
        if goes_on:  # the end of the member, and where a longer schedule would take it up
            save(member, progress, stage.engine.state())
        stage.close()
        progress = progress.next_stage()
        if not goes_on:
            save(member, progress, None)

    if stop.number is not None:
        raise Interrupted(128 + stop.number)
    return progress


def save_and_leave(
    member: Member, stage: Stage, progress: Progress, totals: epochs.EpochTotals, number: int
) -> NoReturn:
    """Save at this step, where that can be, and leave with Interrupted.

    Two kinds of jobs leave with the state that is on disk, of an epoch's end: several ranks,
    because they are not at the same step when a signal comes; and an epoch that has skipped a step,
    because only its end shows whether it is to be rolled back.
    """
    left = "leaving with the last state that was saved"
    if member.accelerator.num_processes == 1 and not int(totals.skipped):
        progress.loss_sum += float(totals.loss)
        stage.engine.gather()
        save(member, progress, stage.engine.state())
        left = f"saved at step {progress.step} of epoch {progress.total_epochs}, leaving"
    logger.warning("signal %d: %s", number, left)
    raise Interrupted(128 + number)
