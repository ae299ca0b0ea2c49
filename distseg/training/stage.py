"""What one stage of a member trains with, and one step of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from distseg.config.training import OptimizerConfig, StageConfig
from distseg.data.sampling import Sampling
from distseg.functional.consistency import ramp_up
from distseg.functional.losses import weighted_sum
from distseg.models.frozen import given
from distseg.models.pyramid import ENCODER, trunk
from distseg.training.batches import Batch, Loaded, StageBatches
from distseg.training.engine import DdpEngine, Engine
from distseg.training.features import stage_features
from distseg.training.graphs import GraphedPass
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
    graphs: GraphedPass | None  # None: each kernel is launched by the host

    def lr_factor(self, epoch: int, step: int) -> float:
        """The learning rate at a step of an epoch of the stage, as a share of its highest."""
        return self.schedule.lr_factor(epoch * self.sampling.steps + step)

    def close(self) -> None:
        """The stage is over: give its memory and its loader's processes back."""
        self.engine.close()
        self.batches.close()


def set_up_stage(member: Member, number: int, first_epoch: int | None = None) -> Stage:
    """A stage at its start, on all ranks, with the weights that the member's model has now.

    first_epoch: its first, of the member over all stages; None: where no stage before ends early.
    """
    config, model_config = member.stages[number], member.model_config
    sampling = member.sampling(number, first_epoch)
    terms = LossTerms(
        main=weighted_sum(config.loss.spec, member.config.task),
        task=member.config.task,
        image_head=model_config.image_head or 0.0,
        deep_supervision=model_config.deep_supervision or 0.0,
        confidence=member.recipe.confidence,
    )
    member.freeze_encoder(config.freeze_encoder == "always")
    features = stage_features(member, number, sampling)
    batches = StageBatches(member, number, sampling, features)
    engine = make_engine(member, config.optimizer)
    graphs = None
    if member.config.compute.cuda_graphs and _can_be_graphed(member):
        run = partial(add_gradients, member, engine, batches, terms)
        share = min(1.0, member.config.compute.gpus_per_job)
        graphs = GraphedPass(run, engine.module, member.accelerator.device, share)
    return Stage(
        config, sampling, batches, terms, engine, Schedule(config.schedule, sampling.steps), graphs
    )


def _can_be_graphed(member: Member) -> bool:
    """A job on one GPU: ranks would have to meet inside the graph."""
    accelerator = member.accelerator
    alone = accelerator.num_processes == 1 and not member.config.compute.zero
    return alone and accelerator.device.type == "cuda"


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
    if not stage.config.is_frozen(epoch):
        return None
    return trunk(stage.engine.module.get_submodule(ENCODER)).eval()


def images_of_epoch(member: Member, stage: Stage, number: int, epoch: int) -> Iterator[Tensor]:
    """This rank's images of an epoch (of all stages) as stage `number` shows them, normalized, also
    where it reads feature maps in their place."""
    reads = stage.batches.features is not None
    batches = StageBatches(member, number, stage.sampling) if reads else stage.batches
    for batch in batches.epoch(epoch):
        yield batches.on_device(batch.tensors).images_BCHW
    if reads:
        batches.close()


def _encoded(member: Member, batch: Batch) -> AbstractContextManager[None]:
    """Within the block the model takes the batch's feature maps, where it has some."""
    encoder = member.frozen_encoder
    return nullcontext() if encoder is None or batch.maps is None else given(encoder, batch.maps)


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; to read it makes the host wait for the step's end.

    loss: float64 (), the sum of this rank's weighted sample losses.
    skipped, bad: as of `Update`.
    rows: this rank's rows of the Manifest, on the host.
    """

    loss: Tensor
    skipped: Tensor
    bad: Tensor
    rows: list[int]


def add_gradients(
    member: Member,
    engine: Engine,
    batches: StageBatches,
    terms: LossTerms,
    tensors: Mapping[str, Tensor],
) -> Tensor:
    """Forward and backward pass of one micro-batch: adds to the gradients.

    Args:
        tensors: as in `Loaded`, on the host or the device; "in_step" float32 (), the samples of
            the step over all ranks and micro-batches; and for a mean teacher "consistency".

    Returns:
        float64 (), on the device: the sum of this rank's weighted sample losses.
    """
    accelerator, batch = member.accelerator, batches.on_device(tensors)
    in_step = tensors["in_step"].to(accelerator.device, non_blocking=True)
    with _encoded(member, batch):
        loss_B = compute_loss(engine, batch, terms, accelerator.autocast, member.teacher)
    loss = (loss_B * batch.weight_B).sum() / in_step
    # DDP and ZeRO average gradients over the ranks; this sums them.
    engine.backward(loss * accelerator.num_processes)
    return loss.detach().double() * in_step


def train_step(
    member: Member,
    stage: Stage,
    batches: Iterator[Loaded],
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
    of_step = {"in_step": torch.tensor(stage.sampling.in_step(step), dtype=torch.float32)}
    if member.teacher is not None:
        share = ramp_up(epoch + step / stage.sampling.steps, member.recipe.rampup_epochs)
        of_step["consistency"] = torch.tensor(member.recipe.consistency * share)
    step_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    rows: list[int] = []
    for number in range(settings.accumulation):
        loaded = next(batches)
        tensors = {**loaded.tensors, **of_step}
        first, last = number == 0, number == settings.accumulation - 1
        if first:
            # After the first batch: a loader's iterator draws from the same generator when it is
            # made, which a resumed epoch does at another step.
            torch.manual_seed(seed_of(member.seed, epoch, step, accelerator.process_index))
        if stage.graphs:
            step_loss += stage.graphs(tensors, first=first, mode=frozen is not None)
        else:
            with stage.engine.micro_batch(last=last):
                step_loss += add_gradients(
                    member, stage.engine, stage.batches, stage.terms, tensors
                )
        rows += loaded.rows
    if frozen is not None:
        # Without a gradient there is no step, no weight decay and no part in the norm. They were
        # computed all the same: DDP waits for every parameter's.
        for parameter in frozen.parameters():
            parameter.grad = None
    return StepResult(step_loss, *stage.engine.step(settings.clip_norm), rows)
