"""One member: a Manifest and a fold in; snapshots and out-of-fold predictions out.

`train_member` runs on every rank of one process group. The global batch of a step, its order and
its augmentation are pure functions of (seed, epoch, step), whatever the number of ranks, so a
run that was killed goes on bit for bit.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distseg import checkpoint, log
from distseg.config import Config, StageConfig, dump_config
from distseg.data.augment import build_augment
from distseg.data.dataset import TrainSet
from distseg.data.fit import Fit
from distseg.data.sampling import epoch_steps
from distseg.errors import UserError
from distseg.evaluate import loader, training_target
from distseg.functional.losses import weighted_sum
from distseg.functional.metrics import summarize
from distseg.member import Member, Progress, make_accelerator, restore, round_to, save, seed_of
from distseg.oof import predict_out_of_fold
from distseg.optim import Schedule, build_optimizer, set_lr
from distseg.runs import MemberPaths, Run, append_line, atomic_write, mark_done, read_lines
from distseg.snapshots import average_snapshots, keep_snapshots, sync_buffers

logger = logging.getLogger("distseg.train")


class NonFiniteLoss(RuntimeError):
    """The loss stays NaN or infinite; the message names epoch, step and sample ids."""


class Interrupted(SystemExit):
    """SIGTERM or SIGINT: the state is on disk."""


def train_member(config: Config, run_dir: Path, round: int, name: str, fold: int) -> None:
    """Train member `name` on fold `fold`, on all ranks; skips one that is done.

    Leaves snapshots/, oof/, oof_scores.json and, last, DONE in the member's folder. Raises
    UserError, NonFiniteLoss, torch.OutOfMemoryError, or Interrupted after a signal.
    """
    run = Run(Path(run_dir))
    paths = run.member(round, name, fold)
    if paths.done.is_file():
        return
    accelerator = make_accelerator(config)
    paths.folder.mkdir(parents=True, exist_ok=True)
    log.setup(paths.log(accelerator.process_index), console=accelerator.is_main_process)
    try:
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
            final |= {"precision": accelerator.mixed_precision, "ranks": accelerator.num_processes}
            shutil.rmtree(paths.state, ignore_errors=True)
            mark_done(paths.done, final)
            logger.info("%s fold %d done: score %.4f", name, fold, score)
        accelerator.wait_for_everyone()
    except Exception as error:
        write_failure(paths, error)
        raise
    finally:
        accelerator.free_memory()


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


class StopSignal:
    """SIGTERM and SIGINT set `.number`; the loop looks at it between two steps."""

    number: int | None = None

    def __enter__(self) -> StopSignal:
        self.previous = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _set(self, number: int, _frame: object) -> None:
        self.number = number


def fit_stages(member: Member) -> Progress:
    """All stages, epoch by epoch: train, evaluate, keep snapshots, save the state."""
    config, paths, accelerator = member.config, member.paths, member.accelerator
    stages = config.stages_of(member.name)
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
                if progress.step == 0 and progress.total_epochs == 0:
                    save(
                        member, trainer.optimizer.state_dict(), progress
                    )  # what a rollback of epoch 0 goes back to
                finite = trainer.epoch(progress, stop)
                if not finite:
                    roll_back(member, trainer, progress)
                    continue
                sync_buffers(member.model, accelerator)
                seconds = time.perf_counter() - started
                images = min(
                    (member.steps_per_epoch - start_step) * member.batch_size, len(member.rows)
                )
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
                    save(
                        member, trainer.optimizer.state_dict(), progress
                    )  # never a state that a NaN has touched
            if stage.swa and progress.stage == len(stages) - 1:
                epoch_again = replace(progress, step=0)
                images_only = (batch for _, batch, _ in trainer.micro_batches(epoch_again))
                average_snapshots(member, progress, images_only)
            progress = replace(progress, stage=progress.stage + 1, epoch=0, step=0, schedule={})
            save(member, None, progress)
        if stop.number is not None:
            raise Interrupted(128 + stop.number)
    return progress


class StageTrainer:
    """Optimizer, schedule, loss and data of one stage."""

    def __init__(self, member: Member, stage: StageConfig, progress: Progress) -> None:
        self.member, self.stage, self.number = member, stage, progress.stage
        config, accelerator = member.config, member.accelerator
        self.loss = weighted_sum(stage.loss, config.task)
        self.schedule = Schedule(stage.schedule, member.steps_per_epoch)
        optimizer = build_optimizer(stage.optimizer, member.model)
        self.fused = bool(optimizer.defaults.get("fused"))
        accelerator._optimizers.clear()  # the stage before this one is over
        self.optimizer = accelerator.prepare(optimizer)
        specs = config.augment if stage.augment is None else stage.augment
        height, width = stage.input_size or (member.size.height, member.size.width)
        fit = Fit(member.size.model_copy(update={"height": height, "width": width}))
        dataset = TrainSet(member.manifest, member.cache, fit, build_augment(specs), member.seed)
        self.batches: list[list[tuple[int, int]]] = []  # the sampler: filled for each epoch
        self.loader = loader(dataset, self.batches, member.workers, accelerator.device, True)
        self.weights = torch.tensor([s.weight for s in member.manifest], dtype=torch.float32)
        self.last_lr, self.bad_at = 0.0, ""
        self.loss_total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self.bad_in_row = torch.zeros((), dtype=torch.int64, device=accelerator.device)

    def load(self, tree: dict[str, Any] | None) -> None:
        """Take back a state of this stage; without an optimizer, one from a stage's border."""
        if tree is None:
            return
        self.member.model.load_state_dict(tree["model"])
        if self.member.ema:
            self.member.ema.load(tree["ema"])
        if tree.get("optimizer"):
            self.optimizer.load_state_dict(tree["optimizer"])

    def mean_loss(self, progress: Progress) -> float:
        """All ranks: mean loss per sample of the epoch."""
        local = (self.loss_total + progress.loss_sum).float().to(self.member.accelerator.device)
        total = self.member.accelerator.reduce(local, reduction="sum").item()
        return round_to(total / len(self.member.rows), 7)

    def micro_batches(self, progress: Progress) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
        """(number of the micro-batch, batch, counts as a sample of the epoch) from `step` on."""
        member, accelerator = self.member, self.member.accelerator
        parts = member.config.train.accumulation
        plan = epoch_steps(
            member.rows,
            progress.total_epochs,
            member.seed,
            member.batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulation=parts,
            bootstrap=member.config.data.folds.kind == "bootstrap",
        )[progress.step * parts :]
        self.batches[:] = [[(row, epoch) for row, epoch, _ in batch] for batch in plan]
        for number, batch in enumerate(self.loader, start=progress.step * parts):
            counts = [real for _, _, real in plan[number - progress.step * parts]]
            yield number, batch, torch.tensor(counts, dtype=torch.float32)

    def epoch(self, progress: Progress, stop: StopSignal) -> bool:
        """Train from `progress.step` to the end of the epoch; False: the loss stays non-finite.

        Each sample's loss is weighted and summed, and divided by the number of samples in the
        step over all ranks and micro-batches: the gradient is the same however it is split.
        Non-finite gradients skip their step without the host waiting for the device.
        """
        member, accelerator, train = self.member, self.member.accelerator, self.member.config.train
        device, world = accelerator.device, accelerator.num_processes
        task, parts, size = member.config.task, train.accumulation, member.batch_size
        self.loss_total, skipped = (
            torch.zeros_like(self.loss_total),
            torch.zeros_like(self.bad_in_row),
        )
        base = progress.epoch * member.steps_per_epoch
        step_loss = torch.zeros_like(self.loss_total)
        step_rows: list[int] = []
        start = progress.step
        member.model.train()
        for number, batch, counts in self.micro_batches(progress):
            step, part = divmod(number, parts)
            if part == 0:
                torch.manual_seed(seed_of(member.seed, progress.total_epochs, step,
                                          accelerator.process_index))  # fmt: skip
                self.last_lr = self.apply_lr(base + step, progress)
                step_rows = []
            in_step = min(size, len(member.rows) - step * size)
            images = member.normalizer(batch["image"].to(device, non_blocking=True))
            target, valid = training_target(batch["target"].to(device, non_blocking=True), task)
            weight = (self.weights[batch["row"]] * counts).to(device, non_blocking=True)
            last_part = part == parts - 1
            with nullcontext() if last_part else accelerator.no_sync(member.ddp):
                with accelerator.autocast():
                    logits, image_logits = member.ddp(images)
                loss_B = self.loss(logits, target, valid)
                if image_logits is not None:
                    loss_B = loss_B + (member.entry.image_head or 0.0) * image_loss(
                        image_logits, batch["target"].to(device), task
                    )
                loss = (loss_B * weight).sum() / in_step
                accelerator.backward(loss * world)  # DDP averages over ranks; this sums
            step_loss += loss.detach().double() * in_step
            step_rows += batch["row"].tolist()
            if not last_part:
                continue
            bad = self.step(train.clip_norm)
            self.bad_in_row, skipped = (self.bad_in_row + 1) * bad, skipped + bad
            self.loss_total += torch.where(bad.bool(), 0.0, step_loss)
            step_loss = torch.zeros_like(step_loss)
            if member.ema:
                member.ema.update(member.model)
            progress.total_steps += 1
            progress.step = step + 1
            look = (step + 1 - start) % train.max_bad_steps == 0
            if look and self.gives_up(progress, step_rows):
                return False
            if stop.number is not None:
                interrupted(member, self, progress, stop.number)
        progress.skipped_steps += int(skipped)
        if self.gives_up(progress, step_rows):
            return False
        return int(skipped) == 0 or self.buffers_are_finite(progress, step_rows)

    def buffers_are_finite(self, progress: Progress, rows: list[int]) -> bool:
        """Whether running statistics are still numbers: a forward pass with a NaN in it has
        written them before its step was skipped."""
        buffers = [b for b in self.member.model.buffers() if b.is_floating_point()]
        if all(bool(torch.isfinite(b).all()) for b in buffers):
            return True
        self.bad_at = self.place(progress, rows)
        return False

    def place(self, progress: Progress, rows: list[int]) -> str:
        ids = ", ".join(self.member.manifest[row].id for row in rows[:8])
        return f"epoch {progress.total_epochs}, step {progress.step}, samples {ids}"

    def gives_up(self, progress: Progress, rows: list[int]) -> bool:
        """Whether too many losses in a row were not finite; the one place that asks the device."""
        bad = int(self.bad_in_row)
        if bad:
            self.bad_at = self.place(progress, rows)
            logger.warning("%d non-finite losses in a row up to %s", bad, self.bad_at)
        return bad >= self.member.config.train.max_bad_steps

    def apply_lr(self, step: int, progress: Progress) -> float:
        factor = self.schedule.lr_factor(step) * progress.lr_scale
        set_lr(self.optimizer, factor)
        return round_to(self.stage.optimizer.lr * factor, 10)

    def step(self, clip_norm: float | None) -> Tensor:
        """One optimizer update, all ranks. Returns 1 (int64, on the device) if it was skipped."""
        accelerator, parameters = self.member.accelerator, list(self.member.model.parameters())
        accelerator.unscale_gradients()
        limit = clip_norm if clip_norm is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        finite = torch.isfinite(norm)
        inner = self.optimizer.optimizer
        if accelerator.scaler is not None:  # fp16: the scaler skips by itself
            self.optimizer.step()
        elif self.fused:  # the fused kernels read this flag on the device
            inner.grad_scale, inner.found_inf = None, (~finite).float()
            inner.step()
        elif finite.item():
            inner.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (~finite).long()


def image_loss(image_logits_BC: Tensor, target_BKHW: Tensor, task: str) -> Tensor:
    """BCE of 'class c is present in the image', float32 (B,)."""
    if task == "multiclass":
        classes = torch.arange(image_logits_BC.shape[1], device=target_BKHW.device)
        present = (target_BKHW == classes.view(1, -1, 1, 1)).flatten(2).any(2)
    else:
        present = (target_BKHW == 1).flatten(2).any(2)
    loss = nn.functional.binary_cross_entropy_with_logits(
        image_logits_BC.float(), present.float(), reduction="none"
    )
    return loss.mean(1)


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
    with member.ema.swap(member.model) if member.ema else nullcontext():
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
    found = checkpoint.load_state(member.paths.state)
    assert found is not None, "a state is saved before the first step"
    trainer.load(found[0])
    rollbacks, lr_scale = progress.rollbacks + 1, progress.lr_scale / 2
    for key, value in found[1].items():
        setattr(progress, key, value)
    progress.rollbacks, progress.lr_scale = rollbacks, lr_scale
    if progress.schedule:
        trainer.schedule.load(progress.schedule)
    trainer.bad_in_row.zero_()
    if member.main:
        truncate_metrics(member.paths.metrics, progress.total_epochs)
    logger.warning("rolled back to epoch %d, learning rate halved", progress.total_epochs)
    member.accelerator.wait_for_everyone()


def interrupted(member: Member, trainer: StageTrainer, progress: Progress, number: int) -> None:
    """Save at this step and leave. Several ranks are not at the same step when a signal comes:
    they leave with the state of the last epoch's end, which is on disk."""
    if member.accelerator.num_processes == 1:
        progress.loss_sum = progress.loss_sum + float(trainer.loss_total)
        save(member, trainer.optimizer.state_dict(), progress)
    logger.warning("signal %d: saved, leaving", number)
    raise Interrupted(128 + number)


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
