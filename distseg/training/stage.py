"""What one stage of a member trains with, and one step of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distseg.config.training import OptimizerConfig, StageConfig
from distseg.data.sampling import Sampling
from distseg.functional.losses import weighted_sum
from distseg.models.pyramid import trunk
from distseg.training.batches import Batch, StageBatches, train_set
from distseg.training.engine import DdpEngine, Engine
from distseg.training.loss import LossTerms, compute_loss
from distseg.training.member import Member, seed_of
from distseg.training.optim import set_lr
from distseg.training.schedule import Schedule


@dataclass(frozen=True)
class Stage:
    """Optimizer, schedule, loss and data of one stage, on one rank."""

    config: StageConfig
    sampling: Sampling
    batches: StageBatches
    terms: LossTerms
    engine: Engine
    schedule: Schedule

    def lr_factor(self, epoch: int, step: int) -> float:
        """The learning rate at a step of an epoch of the stage, as a share of its highest."""
        return self.schedule.lr_factor(epoch * self.sampling.steps + step)


def set_up_stage(member: Member, number: int) -> Stage:
    """A stage at its start, on all ranks, with the weights that the member's model has now."""
    config, model_config = member.stages[number], member.model_config
    sampling = member.sampling(number)
    return Stage(
        config,
        sampling,
        StageBatches(member, sampling, train_set(member, number)),
        LossTerms(
            main=weighted_sum(config.loss.spec, member.config.task),
            task=member.config.task,
            temperature=member.recipe.temperature,
            image_head=model_config.image_head or 0.0,
            deep_supervision=model_config.deep_supervision or 0.0,
        ),
        make_engine(member, config.optimizer),
        Schedule(config.schedule, sampling.steps),
    )


def make_engine(member: Member, optimizer: OptimizerConfig) -> Engine:
    """DDP, or ZeRO where `compute.zero` says so."""
    zero = member.config.compute.zero
    if not zero:
        return DdpEngine(member.accelerator, member.model, member.ddp, optimizer)
    from distseg.training.zero import ZeroEngine  # only here: plain DDP needs no DeepSpeed

    return ZeroEngine(member.accelerator, member.model, optimizer, zero)


def begin_epoch(stage: Stage, epoch: int) -> nn.Module | None:
    """Put the model into training mode. Returns the encoder (without a pyramid, which no
    weights fill) if it is frozen in this epoch of the stage: it then stays in evaluation mode, so
    that its running statistics stay, too."""
    stage.engine.module.train()
    if epoch >= stage.config.freeze_encoder:
        return None
    return trunk(stage.engine.module.get_submodule("net.encoder")).eval()


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; to read it makes the host wait for the step's end.

    loss: float64 (), the sum of this rank's weighted sample losses.
    skipped: int64 (), 1 if a gradient was not finite and no weight has moved, else 0.
    rows: this rank's rows of the Manifest, on the host.
    """

    loss: Tensor
    skipped: Tensor
    rows: list[int]


def train_step(
    member: Member,
    stage: Stage,
    batches: Iterator[Batch],
    *,
    epoch: int,
    step: int,
    lr_factor: float,
    frozen: nn.Module | None = None,
) -> StepResult:
    """One update from the next `train.accumulation` micro-batches, on all ranks.

    Each sample's loss is weighted and summed, and divided by the number of samples in the step
    over all ranks and micro-batches: the gradient is the same however the step is split. Non-finite
    gradients skip the update without the host waiting for the device.

    Args:
        epoch, step: of the member over all stages, and of the epoch; with the rank they seed what
            is random in the forward pass (dropout), so that a resumed run draws the same.
        lr_factor: of each parameter group's own learning rate.
        frozen: a part of the model that this step leaves as it is.
    """
    accelerator, settings = member.accelerator, member.config.train
    set_lr(stage.engine.optimizer, lr_factor)
    in_step = stage.sampling.in_step(step)
    step_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    rows: list[int] = []
    for number in range(settings.accumulation):
        batch = next(batches)
        if number == 0:
            # After the first batch: a loader's iterator draws from the same generator when it is
            # made, which a resumed epoch does at another step.
            torch.manual_seed(seed_of(member.seed, epoch, step, accelerator.process_index))
        with stage.engine.micro_batch(last=number == settings.accumulation - 1):
            loss_B = compute_loss(stage.engine, batch, stage.terms, accelerator.autocast)
            loss = (loss_B * batch.weight_B).sum() / in_step
            # DDP and ZeRO average gradients over the ranks; this sums them.
            stage.engine.backward(loss * accelerator.num_processes)
        step_loss += loss.detach().double() * in_step
        rows += batch.rows
    if frozen is not None:
        # Without a gradient there is no step, no weight decay and no part in the norm. They were
        # computed all the same: DDP waits for every parameter's.
        for parameter in frozen.parameters():
            parameter.grad = None
    return StepResult(step_loss, stage.engine.step(settings.clip_norm), rows)
