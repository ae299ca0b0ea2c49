"""The micro-batches of a stage: from its loader, and as the loss takes them on the device."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from distseg.data.augment import Augment
from distseg.data.dataset import SOFT_SCALE, Draws, TrainSet
from distseg.data.features import Features, FeatureStore
from distseg.data.fit import Fit
from distseg.data.loader import close, loader
from distseg.data.sampling import Item, Sampling, micro_batches_of_epoch
from distseg.functional import augment as on_device
from distseg.functional.targets import training_target
from distseg.training.member import Member, seed_of

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """One micro-batch of one rank, as the loader gives it.

    tensors: on the host, of the same names, shapes and dtypes in every step of a stage: "image"
        uint8 (B, C, H, W), or "features" float16 (B, values) of a frozen encoder; "target" uint8
        (B, K, H, W), "weight" float32 (B,), where the train set has soft targets "soft" uint8
        (B, C, H, W), "share" and "temperature" float32 (B,), and for a mean teacher "view" uint8
        (B, C, H, W) and "label_weight" float32 (B,). Where the device augments also what
        `functional.augment` takes, and no "view".
    rows: the images' rows of the Manifest.
    """

    tensors: dict[str, Tensor]
    rows: list[int]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank, on the device.

    images_BCHW: float32, normalized; zeros where there are feature maps in their place.
    masks_BKHW: uint8, as they lie on disk: classes, or 0 and 1; VOID where a pixel counts nowhere.
    target, valid_BHW: what the losses compare with (see training_target).
    weight_B: float32; the row's weight, 0 where the image only fills the step.
    soft_BCHW, soft_share_B, temperature_B: probabilities 0..1 of the teachers, their share (0..1)
        of each image's loss, and their temperature; None where no row of the train set has them.
    view_BCHW, label_weight_B, consistency: for a mean teacher, else None. What it sees: the images
        moved as those in images_BCHW are, their gray values as they were. The factor of the losses
        against a label: 0 for an image without one, of the others such that their mean is over them
        alone. Float32 (): the weight of the consistency loss in this step.
    """

    images_BCHW: Tensor
    masks_BKHW: Tensor
    target: Tensor
    valid_BHW: Tensor
    weight_B: Tensor
    soft_BCHW: Tensor | None
    soft_share_B: Tensor | None
    view_BCHW: Tensor | None = None
    label_weight_B: Tensor | None = None
    consistency: Tensor | None = None
    maps: list[Tensor] | None = None  # of the frozen encoder
    temperature_B: Tensor | None = None


@dataclass
class Order:
    """What a stage's loader is asked for, from an epoch on to the stage's last: the batch sampler
    of the loader, which runs ahead of what is trained.

    asked: the micro-batches that it has asked for and nobody has taken yet.
    """

    sampling: Sampling
    rank: int
    world_size: int
    accumulation: int
    end: int  # epochs of the member, over all stages, up to the stage's last
    epoch: int = 0
    first_step: int = 0
    asked: deque[list[Item]] = field(default_factory=deque)

    def begin(self, epoch: int, first_step: int) -> None:
        self.epoch, self.first_step = epoch, first_step
        self.asked.clear()

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        """The indices carry the epoch, so that worker processes need no message about it: an
        attribute of the dataset would only change in this process."""
        first = self.first_step
        for epoch in range(self.epoch, max(self.end, self.epoch + 1)):
            items = micro_batches_of_epoch(
                self.sampling, epoch, rank=self.rank, world_size=self.world_size,
                accumulation=self.accumulation,
            )  # fmt: skip
            for batch in items[first * self.accumulation :]:
                self.asked.append(batch)
                yield [item[:3] for item in batch]
            first = 0


class StageBatches:
    """The micro-batches of a stage, epoch by epoch; its loader processes live as long as it, and
    decode the beginning of the next epoch while this one ends and is evaluated."""

    def __init__(
        self, member: Member, number: int, sampling: Sampling, features: Features | None = None
    ) -> None:
        """features: what the frozen encoder has made of all draws, in place of images."""
        accelerator = member.accelerator
        self.member, self.sampling, self.features = member, sampling, features
        dataset = train_set(member, number, None if features is None else features.store)
        self._order = Order(
            sampling, accelerator.process_index, accelerator.num_processes,
            member.config.train.accumulation,
            end=sum(stage.schedule.epochs for stage in member.stages[: number + 1]),
        )  # fmt: skip
        self._loader = loader(dataset, self._order, member.workers, accelerator.device, True)
        self._loaded: Iterator[dict[str, Tensor]] = iter(())
        self._next: tuple[int, int] | None = None  # epoch and step that `_loaded` has come to
        manifest = member.manifest
        self._weights = torch.tensor([s.weight for s in manifest], dtype=torch.float32)
        soft = [s.soft_weight if s.soft else 0.0 for s in manifest]
        self._soft_weights = torch.tensor(soft, dtype=torch.float32)
        warm = [member.temperatures.get(s.soft, 1.0) for s in manifest]
        self._temperatures = torch.tensor(warm, dtype=torch.float32)
        # Each step has as many labeled images as any other, so that this makes their mean.
        share = sampling.batch_size / sampling.own
        labels = [share if s.origin != "unlabeled" else 0.0 for s in manifest]
        self._label_weights = torch.tensor(labels, dtype=torch.float32)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Loaded]:
        """This rank's micro-batches from a step of an epoch on, `train.accumulation` a step.

        epoch: counted over all stages. Order and augmentation are pure functions of it.
        """
        if self._next != (epoch, first_step) or epoch >= self._order.end:
            self._order.begin(epoch, first_step)
            self._loaded = iter(self._loader)
        steps = self.sampling.steps
        for step in range(first_step, steps):
            self._next = (epoch, step + 1) if step + 1 < steps else (epoch + 1, 0)
            for _ in range(self._order.accumulation):
                raw = next(self._loaded)
                yield self._with_weights(raw, self._order.asked.popleft())

    def close(self) -> None:
        """The stage is over: end the loader's processes."""
        close(self._loader)

    def _with_weights(self, raw: dict[str, Tensor], items: list[Item]) -> Loaded:
        rows = raw["row"]
        counts_B = torch.tensor([item.counts for item in items], dtype=torch.float32)
        tensors = {name: tensor for name, tensor in raw.items() if name != "row"}
        tensors["weight"] = self._weights[rows] * counts_B
        if "soft" in raw:
            tensors["share"] = self._soft_weights[rows]
            tensors["temperature"] = self._temperatures[rows]
        if self.member.teacher is not None:
            tensors["label_weight"] = self._label_weights[rows]
        return Loaded(tensors, rows.tolist())

    def on_device(self, tensors: Mapping[str, Tensor]) -> Batch:
        """The batch of what `Loaded` holds, moved without waiting: its memory is pinned where
        there is a GPU, and the kernels that read the copies are queued behind them."""
        device = self.member.accelerator.device
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        if "place" in moved:
            self._augment(moved)
        target, valid = training_target(moved["target"], self.member.config.task)
        maps = None
        if self.features is None:
            images = self.member.normalizer(moved["image"])
        else:
            maps = self.features.layout.unpack(moved["features"])
            images = torch.zeros(1, device=device).expand(len(target), *self.features.canvas)
        return Batch(
            images_BCHW=images,
            masks_BKHW=moved["target"],
            target=target,
            valid_BHW=valid,
            weight_B=moved["weight"],
            soft_BCHW=moved["soft"].float() / SOFT_SCALE if "soft" in moved else None,
            soft_share_B=moved.get("share"),
            view_BCHW=self.member.normalizer(moved["view"]) if "view" in moved else None,
            label_weight_B=moved.get("label_weight"),
            consistency=moved.get("consistency"),
            maps=maps,
            temperature_B=moved.get("temperature"),
        )

    def _augment(self, moved: dict[str, Tensor]) -> None:
        """Put what has been drawn for the images into effect, on the device."""
        names = ["target", "soft"] if "soft" in moved else ["target"]
        planes = torch.cat([moved[name] for name in names], 1)
        size = self.member.input_config
        border = "reflect" if size.fit != "pad" else size.pad_mode
        assert border != "biharmonic", "config/device.py refuses it"
        depth = self.member.config.data.depths is not None
        made = on_device.augment(moved["image"], planes, moved, border=border, depth=depth)
        parts = made.planes_BKHW.split([moved[name].shape[1] for name in names], 1)
        moved.update(zip(names, parts, strict=True), image=made.images_BCHW)
        if self.member.teacher is not None:
            moved["view"] = made.moved_BCHW


def train_set(member: Member, number: int, store: FeatureStore | None = None) -> TrainSet:
    """The dataset of a stage: its augmentations, at its own input size where it names one, or its
    few draws of them under a frozen encoder, whose maps are those of `store`."""
    config, stage = member.config, member.stages[number]
    steps = config.augment if stage.augment is None else stage.augment
    augment = Augment(steps, config.data.depths is not None)
    size = member.input_config
    height, width = stage.input_size or (size.height, size.width)
    fit = Fit(size.model_copy(update={"height": height, "width": width}))
    draws, geometry, numbers = None, None, None
    if config.compute.augment_on == "device":
        numbers = augment.numbers
    if stage.freeze_encoder == "always" and stage.views is not None:
        same = not steps and size.fit == "resize"  # nothing is random
        draws = Draws(1 if same else stage.views, seed_of(config.seed, "draws"))
    if member.teacher is not None:
        geometry = augment.geometry
        if not any(augment.gray) and member.main:
            logger.warning(
                "stage %d: augment changes no gray values, as noise, gamma or cutout do: student "
                "and teacher see the same image", number,
            )  # fmt: skip
    return TrainSet(member.data, fit, augment, member.seed, geometry, draws, store, numbers)
