"""One stage of a member: its optimizer, schedule, loss and data, and the training loop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distseg.config.training import OptimizerConfig, StageConfig
from distseg.data.augment import Augment
from distseg.data.dataset import SOFT_SCALE, TrainSet
from distseg.data.fit import Fit
from distseg.data.loader import loader
from distseg.data.sampling import epoch_steps
from distseg.functional.deep_supervision import deep_loss
from distseg.functional.losses import distill, weighted_sum
from distseg.functional.metrics import VOID
from distseg.functional.targets import training_target
from distseg.training.engine import DdpEngine, Engine
from distseg.training.member import Member, Progress, round_to, save, seed_of
from distseg.training.optim import Schedule, set_lr
from distseg.training.snapshots import sync_buffers
from distseg.training.zero import ZeroEngine

logger = logging.getLogger("distseg.training.train")


class Interrupted(SystemExit):
    """SIGTERM or SIGINT: the state is on disk."""


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


class StageTrainer:
    """Optimizer, schedule, loss and data of one stage."""

    def __init__(self, member: Member, stage: StageConfig, progress: Progress) -> None:
        self.member, self.stage, self.number = member, stage, progress.stage
        config, accelerator = member.config, member.accelerator
        self.loss = weighted_sum(stage.loss.spec, config.task)
        self.plan = member.plan(self.number)
        self.schedule = Schedule(stage.schedule, self.plan.steps)
        self.engine = make_engine(member, stage.optimizer)
        specs = config.augment if stage.augment is None else stage.augment
        height, width = stage.input_size or (member.size.height, member.size.width)
        fit = Fit(member.size.model_copy(update={"height": height, "width": width}))
        dataset = TrainSet(
            member.data, fit, Augment(specs, config.data.depths is not None), member.seed
        )
        self.batches: list[list[tuple[int, int, int]]] = []  # the sampler: filled for each epoch
        self.loader = loader(dataset, self.batches, member.workers, accelerator.device, True)
        self.weights = torch.tensor([s.weight for s in member.manifest], dtype=torch.float32)
        soft = [s.soft_weight if s.soft else 0.0 for s in member.manifest]
        self.soft_weights = torch.tensor(soft, dtype=torch.float32)
        self.last_lr, self.bad_at = 0.0, ""
        self.frozen: nn.Module | None = None  # the encoder in the stage's first epochs
        self.loss_total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self.bad_in_row = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        self.skipped = torch.zeros_like(self.bad_in_row)  # steps of the epoch

    def load(self, tree: dict[str, Any] | None) -> None:
        """Take back a state of this stage; without an optimizer, one from a stage's border."""
        if tree is None:
            return
        self.member.model.load_state_dict(tree["model"])
        if self.member.ema:
            self.member.ema.load(tree["ema"])
        self.engine.load(tree)

    def mean_loss(self, progress: Progress) -> float:
        """All ranks: mean loss per sample of the epoch."""
        local = (self.loss_total + progress.loss_sum).float().to(self.member.accelerator.device)
        total = self.member.accelerator.reduce(local, reduction="sum").item()
        return round_to(total / self.plan.images, 7)

    def micro_batches(self, progress: Progress) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
        """(number of the micro-batch, batch, counts as a sample of the epoch) from `step` on."""
        member, accelerator = self.member, self.member.accelerator
        parts = member.config.train.accumulation
        start = progress.step * parts  # now: the loop moves progress.step on while it reads
        plan = epoch_steps(
            self.plan,
            progress.total_epochs,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulation=parts,
        )[start:]
        self.batches[:] = [[item[:3] for item in batch] for batch in plan]
        for number, (batch, items) in enumerate(zip(self.loader, plan, strict=True), start=start):
            counts = [real for *_, real in items]
            yield number, batch, torch.tensor(counts, dtype=torch.float32)

    def epoch(self, progress: Progress, stop: StopSignal) -> bool:
        """Train from `progress.step` to the end of the epoch; False: the loss stays non-finite.

        Each sample's loss is weighted and summed, and divided by the number of samples in the
        step over all ranks and micro-batches: the gradient is the same however it is split.
        Non-finite gradients skip their step without the host waiting for the device.
        """
        member, accelerator, train = self.member, self.member.accelerator, self.member.config.train
        device, world = accelerator.device, accelerator.num_processes
        task, parts = member.config.task, train.accumulation
        self.loss_total = torch.zeros_like(self.loss_total)
        self.skipped = torch.zeros_like(self.skipped)
        base = progress.epoch * self.plan.steps
        step_loss = torch.zeros_like(self.loss_total)
        step_rows: list[int] = []
        start = progress.step
        self.engine.module.train()
        frozen = progress.epoch < self.stage.freeze_encoder
        self.frozen = self.engine.module.get_submodule("net.encoder") if frozen else None
        if self.frozen is not None:
            self.frozen.eval()  # running statistics stay too
        for number, batch, counts in self.micro_batches(progress):
            step, part = divmod(number, parts)
            if part == 0:
                torch.manual_seed(seed_of(member.seed, progress.total_epochs, step,
                                          accelerator.process_index))  # fmt: skip
                self.last_lr = self.apply_lr(base + step, progress)
                step_rows = []
            in_step = self.plan.in_step(step)
            images = member.normalizer(batch["image"].to(device, non_blocking=True))
            target, valid = training_target(batch["target"].to(device, non_blocking=True), task)
            weight = (self.weights[batch["row"]] * counts).to(device, non_blocking=True)
            last_part = part == parts - 1
            with self.engine.part(last=last_part):
                with accelerator.autocast():
                    logits, image_logits, *deep = self.engine(images)
                loss_B = self.loss(logits, target, valid)
                if "soft" in batch:
                    soft = batch["soft"].to(device, non_blocking=True).float() / SOFT_SCALE
                    share = self.soft_weights[batch["row"]].to(device, non_blocking=True)
                    made = distill(logits, soft, valid, temperature=member.recipe.temperature)
                    loss_B = torch.lerp(loss_B, made, share)
                if image_logits is not None:
                    loss_B = loss_B + (member.entry.image_head or 0.0) * image_loss(
                        image_logits, batch["target"].to(device), task
                    )
                if deep:
                    loss_B = loss_B + (member.entry.deep_supervision or 0.0) * deep_loss(
                        self.loss, deep, target, valid
                    )
                loss = (loss_B * weight).sum() / in_step
                self.engine.backward(loss * world)  # it averages over ranks; this sums
            step_loss += loss.detach().double() * in_step
            step_rows += batch["row"].tolist()
            if not last_part:
                continue
            bad = self.step(train.clip_norm)
            self.bad_in_row, self.skipped = (self.bad_in_row + 1) * bad, self.skipped + bad
            self.loss_total += torch.where(bad.bool(), 0.0, step_loss)
            step_loss = torch.zeros_like(step_loss)
            if member.ema:
                member.ema.update(self.engine.module)
            progress.total_steps += 1
            progress.step = step + 1
            look = (step + 1 - start) % train.max_bad_steps == 0
            if look and self.gives_up(progress, step_rows):
                return False
            if stop.number is not None:
                interrupted(member, self, progress, stop.number)
        progress.skipped_steps += int(self.skipped)
        if self.gives_up(progress, step_rows):
            return False
        return int(self.skipped) == 0 or self.buffers_are_finite(progress, step_rows)

    def buffers_are_finite(self, progress: Progress, rows: list[int]) -> bool:
        """Whether running statistics are still numbers: a forward pass with a NaN in it has
        written them before its step was skipped. Rank 0's count: they are what is kept."""
        sync_buffers(self.engine.module, self.member.accelerator)
        buffers = [b for b in self.engine.module.buffers() if b.is_floating_point()]
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
        set_lr(self.engine.optimizer, factor)
        return round_to(self.stage.optimizer.lr * factor, 10)

    def step(self, clip_norm: float | None) -> Tensor:
        """One optimizer update, all ranks. Returns 1 (int64, on the device) if it was skipped."""
        if self.frozen is not None:
            for parameter in self.frozen.parameters():
                parameter.grad = None  # no step, no decay, no part in the norm
        return self.engine.step(clip_norm)


def make_engine(member: Member, optimizer: OptimizerConfig) -> Engine:
    """DDP, or ZeRO where `compute.zero` says so."""
    if member.config.compute.zero:
        return ZeroEngine(member, optimizer)
    return DdpEngine(member, optimizer)


def image_loss(image_logits_BC: Tensor, target_BKHW: Tensor, task: str) -> Tensor:
    """BCE of 'class c is present in the image', float32 (B,); 0 where all of it is void."""
    if task == "multiclass":
        classes = torch.arange(image_logits_BC.shape[1], device=target_BKHW.device)
        present = (target_BKHW == classes.view(1, -1, 1, 1)).flatten(2).any(2)
    else:
        present = (target_BKHW == 1).flatten(2).any(2)
    loss = nn.functional.binary_cross_entropy_with_logits(
        image_logits_BC.float(), present.float(), reduction="none"
    )
    return loss.mean(1) * (target_BKHW[:, 0] != VOID).flatten(1).any(1)


def interrupted(member: Member, trainer: StageTrainer, progress: Progress, number: int) -> None:
    """Save at this step and leave. With the state of the last epoch's end, which is on disk, leave
    several ranks, which are not at the same step when a signal comes, and an epoch that has skipped
    a step: only at its end is it known whether it is to be rolled back."""
    if member.accelerator.num_processes == 1 and not int(trainer.skipped):
        progress.loss_sum = progress.loss_sum + float(trainer.loss_total)
        trainer.engine.gather()
        save(member, trainer.engine.state(), progress)
    logger.warning("signal %d: saved, leaving", number)
    raise Interrupted(128 + number)
