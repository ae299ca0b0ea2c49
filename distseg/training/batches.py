"""The micro-batches of an epoch, as the loss takes them: tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distseg.data.augment import Augment
from distseg.data.dataset import SOFT_SCALE, TrainSet
from distseg.data.fit import Fit
from distseg.data.loader import loader
from distseg.data.sampling import Sampling, micro_batches_of_epoch
from distseg.functional.targets import training_target
from distseg.training.member import Member


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank, on the device.

    images_BCHW: float32, normalized.
    masks_BKHW: uint8, as they lie on disk: classes, or 0 and 1; VOID where a pixel counts nowhere.
    target, valid_BHW: what the losses compare with (see training_target).
    weight_B: float32; the row's weight, 0 where the image only fills the step.
    soft_BCHW, soft_share_B: probabilities 0..1 of the teachers and their share (0..1) of each
        image's loss; None where no row of the train set has them.
    rows: the images' rows of the Manifest.
    """

    images_BCHW: Tensor
    masks_BKHW: Tensor
    target: Tensor
    valid_BHW: Tensor
    weight_B: Tensor
    soft_BCHW: Tensor | None
    soft_share_B: Tensor | None
    rows: list[int]


class StageBatches:
    """The micro-batches of a stage, epoch by epoch; its loader processes live as long as it."""

    def __init__(self, member: Member, sampling: Sampling, dataset: TrainSet) -> None:
        self.member, self.sampling = member, sampling
        # The loader's batch sampler: a list that is filled anew for each epoch. The indices carry
        # the epoch, so that worker processes need no message about it: an attribute of the dataset
        # would only change in this process.
        self._indices: list[list[tuple[int, int, int]]] = []
        self._loader = loader(
            dataset, self._indices, member.workers, member.accelerator.device, True
        )
        manifest = member.manifest
        self._weights = torch.tensor([s.weight for s in manifest], dtype=torch.float32)
        soft = [s.soft_weight if s.soft else 0.0 for s in manifest]
        self._soft_weights = torch.tensor(soft, dtype=torch.float32)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's micro-batches from a step of an epoch on, `train.accumulation` a step.

        epoch: counted over all stages. Order and augmentation are pure functions of it.
        """
        accelerator, accumulation = self.member.accelerator, self.member.config.train.accumulation
        items = micro_batches_of_epoch(
            self.sampling,
            epoch,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulation=accumulation,
        )[first_step * accumulation :]
        self._indices[:] = [[item[:3] for item in batch] for batch in items]
        for raw, batch in zip(self._loader, items, strict=True):
            counts_B = torch.tensor([item.counts for item in batch], dtype=torch.float32)
            yield self._on_device(raw, counts_B)

    def _on_device(self, raw: dict[str, Tensor], counts_B: Tensor) -> Batch:
        """What the loader gives, moved without waiting: its memory is pinned where there is a GPU,
        and the kernels that read the copies are queued behind them."""
        device, rows = self.member.accelerator.device, raw["row"]
        masks = raw["target"].to(device, non_blocking=True)
        target, valid = training_target(masks, self.member.config.task)
        soft = share = None
        if "soft" in raw:
            soft = raw["soft"].to(device, non_blocking=True).float() / SOFT_SCALE
            share = self._soft_weights[rows].to(device, non_blocking=True)
        return Batch(
            images_BCHW=self.member.normalizer(raw["image"].to(device, non_blocking=True)),
            masks_BKHW=masks,
            target=target,
            valid_BHW=valid,
            weight_B=(self._weights[rows] * counts_B).to(device, non_blocking=True),
            soft_BCHW=soft,
            soft_share_B=share,
            rows=rows.tolist(),
        )


def train_set(member: Member, number: int) -> TrainSet:
    """The dataset of a stage: its augmentations, at its own input size where it names one."""
    config, stage = member.config, member.stages[number]
    augment = Augment(
        config.augment if stage.augment is None else stage.augment, config.data.depths is not None
    )
    size = member.input_config
    height, width = stage.input_size or (size.height, size.width)
    fit = Fit(size.model_copy(update={"height": height, "width": width}))
    return TrainSet(member.data, fit, augment, member.seed)
