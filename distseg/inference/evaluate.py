"""Scoring a model at the images' native size, exactly, on any number of ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from distseg.config.data import InputConfig
from distseg.data.dataset import worker_init
from distseg.data.fit import STRIDE, Fit
from distseg.functional.combine import VOID
from distseg.functional.tiles import tiled
from distseg.functional.tta import views
from distseg.functional.tta_names import MAX_PASSES, dropout_passes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalizer:
    """uint8 (B, C, H, W) on any device -> float32, zero mean and unit variance per channel."""

    def __init__(self, size: InputConfig, device: torch.device, channels_last: bool) -> None:
        mean, std = channel_statistics(size)
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1) * 255
        self.median = size.normalize == "median"
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        images = images_BCHW.to(memory_format=self.format)
        if self.median:
            middle = images_BCHW.flatten(2).float().median(-1).values[:, :, None, None]
            return (images.float() - middle) / self.std
        return (images.float() - self.mean) / self.std


def channel_statistics(size: InputConfig) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, 0..1; ImageNet's (their mean for other counts)."""
    assert size.normalize != "train" or size.mean, "a member measures its train folds first"
    mean, std = size.mean, size.std
    rgb = size.channels == 3
    mean = mean or (list(IMAGENET_MEAN) if rgb else [sum(IMAGENET_MEAN) / 3] * size.channels)
    std = std or (list(IMAGENET_STD) if rgb else [sum(IMAGENET_STD) / 3] * size.channels)
    return list(mean), list(std)


def training_target(target_BKHW: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Loss target and valid pixels (bool, (B, H, W)) of uint8 masks; void is 255 in every K.

    Binary and multilabel: float (B, K, H, W); multiclass: int64 (B, H, W).
    """
    valid = target_BKHW[:, 0] != VOID
    if task == "multiclass":
        return target_BKHW[:, 0].long(), valid
    return (target_BKHW == 1).float(), valid


def hard_masks(logits_BCHW: Tensor, task: str) -> Tensor:
    """bool (B, C, H, W): logit over 0, or the highest class."""
    if task == "multiclass":
        classes = torch.arange(logits_BCHW.shape[1], device=logits_BCHW.device)
        return logits_BCHW.argmax(1, keepdim=True) == classes.view(1, -1, 1, 1)
    return logits_BCHW > 0


def pixel_counts(masks_BCHW: Tensor, target_BKHW: Tensor, task: str) -> Tensor:
    """Intersection, predicted and true pixels per image and class: int64 (B, C, 3)."""
    valid = target_BKHW != VOID
    if task == "multiclass":
        classes = torch.arange(masks_BCHW.shape[1], device=masks_BCHW.device)
        truth = target_BKHW == classes.view(1, -1, 1, 1)
    else:
        truth = target_BKHW == 1
    predicted = masks_BCHW & valid
    sums = (predicted & truth, predicted, truth & valid)
    return torch.stack([s.sum((-2, -1), dtype=torch.int64) for s in sums], dim=-1)


@torch.inference_mode()
def tta_logits(
    models: Sequence[nn.Module],
    images_BCHW: Tensor,
    tta: Sequence[str],
    autocast: Callable[[], AbstractContextManager[None]],
    fit: Fit,
) -> list[Tensor]:
    """Logits of each model, float32 (B, C, H, W), averaged over the views of `tta`; with
    "dropout:N" each view over N passes with dropout kept on. Scaled views have sides of multiples
    of 32, which every network takes. In tiles where `fit` says so."""
    passes = dropout_passes(tta)
    sums: list[Tensor] = []
    all_views = views(tta, divisor=STRIDE)
    for number, (_, forward, inverse) in enumerate(all_views):
        seen = forward(images_BCHW)
        for index, model in enumerate(models):
            one = partial(_logits, model, passes=passes, view=number)
            with autocast():
                logits = tiled_logits(one, seen, fit)
            logits = inverse(logits, size=images_BCHW.shape[-2:])
            if number == 0:
                sums.append(logits / len(all_views))
            else:
                sums[index] += logits / len(all_views)
    return sums


def tiled_logits(forward: Callable[[Tensor], Tensor], images_BCHW: Tensor, fit: Fit) -> Tensor:
    """float32 (B, C, H, W) of a forward pass, over the whole images or over `fit.tiles`."""
    if fit.tiles is None:
        return forward(images_BCHW).float()
    return tiled(forward, images_BCHW, *fit.tiles)


def _logits(model: nn.Module, images_BCHW: Tensor, passes: int, view: int) -> Tensor:
    """Logits (B, C, H, W); with `passes` their mean over Monte-Carlo dropout (Gal & Ghahramani
    2016). The seed is that of (view, pass): the same batch gives the same logits, always."""
    dropouts = dropout_layers(model) if passes else []
    if not dropouts:
        return model(images_BCHW)[0]
    device = images_BCHW.device
    total = torch.zeros((), device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for layer in dropouts:
            layer.train()
        for number in range(passes):
            torch.manual_seed(view * MAX_PASSES + number)
            total = total + model(images_BCHW)[0].float() / passes
        for layer in dropouts:
            layer.eval()
    return total


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that Monte-Carlo dropout keeps on (stochastic depth is none)."""
    kind = nn.modules.dropout._DropoutNd
    return [m for m in model.modules() if isinstance(m, kind) and m.p > 0]


def native_logits(logits_BCHW: Tensor, fit: Fit, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Each image's logits at its own (height, width): a list of float32 (C, h, w)."""
    if len(set(sizes)) == 1:
        return list(fit.inverse(logits_BCHW, *sizes[0]))
    return [fit.inverse(one[None], *size)[0] for one, size in zip(logits_BCHW, sizes, strict=True)]


def canvas_batches(
    sizes: Sequence[tuple[int, int]], fits: Sequence[Fit], batch_size: int
) -> list[list[int]]:
    """Indices in batches of one canvas size for each fit; in order where all canvases are equal."""
    groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        groups[tuple(fit.canvas(*size) for fit in fits)].append(index)
    return [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


def canvas_key(size: InputConfig) -> str:
    """Equal for inputs whose images lie on the same uint8 canvas, however it is normalized."""
    same: dict[str, Any] = {"mean": None, "std": None, "normalize": "fixed"}
    return size.model_copy(update=same).model_dump_json()


def loader(
    dataset: Dataset[Any], batches: Any, workers: int, device: torch.device, persistent: bool
) -> DataLoader[Any]:
    """The one way a DataLoader is made: batches by index, several batches decoded ahead."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=worker_init,
        persistent_workers=persistent and workers > 0,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )


class Evaluator:
    """Counts of a model on the rows that a fold validates; every rank takes its share.

    The loader's workers live as long as the evaluator: one set of them for all epochs.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        dataset: Dataset[Any],
        sizes: Sequence[tuple[int, int]],
        targets: Callable[[int], np.ndarray],
        fit: Fit,
        normalizer: Normalizer,
        task: str,
        batch_size: int,
        workers: int,
    ) -> None:
        """`sizes`: native (height, width) of every row; `targets(i)`: uint8 (K, h, w)."""
        self.accelerator, self.fit, self.task = accelerator, fit, task
        self.sizes, self.targets, self.normalizer = sizes, targets, normalizer
        rank, world = accelerator.process_index, accelerator.num_processes
        self.batches = canvas_batches(sizes, [fit], batch_size)[rank::world]
        self.loader = loader(dataset, self.batches, workers, accelerator.device, persistent=True)

    def stream(self) -> Iterator[tuple[list[int], Tensor, list[tuple[int, int]]]]:
        """This rank's batches: positions, normalized images (B, C, H, W), native sizes."""
        for positions, batch in zip(self.batches, self.loader, strict=True):
            images = batch["image"].to(self.accelerator.device, non_blocking=True)
            yield positions, self.normalizer(images), [self.sizes[i] for i in positions]

    def count(self, logits_CHW: Tensor, position: int) -> Tensor:
        """int64 (C, 3) of one image's native logits against its target."""
        target = torch.from_numpy(np.array(self.targets(position))).to(logits_CHW.device)
        masks = hard_masks(logits_CHW[None], self.task)
        return pixel_counts(masks, target[None], self.task)[0]

    def counts_of_batch(
        self, logits_BCHW: Tensor, positions: Sequence[int], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """int64 (B, C, 3) on the logits' device; one call where all sizes are equal."""
        natives = native_logits(logits_BCHW, self.fit, sizes)
        if len(set(sizes)) > 1:
            return torch.stack([self.count(n, p) for n, p in zip(natives, positions, strict=True)])
        target = torch.from_numpy(np.stack([self.targets(p) for p in positions]))
        masks = hard_masks(torch.stack(natives), self.task)
        return pixel_counts(masks, target.to(masks.device, non_blocking=True), self.task)

    def gather(self, counts_NC3: Tensor) -> np.ndarray:
        """All ranks: sum of tables in which each rank filled its own rows. int64."""
        return self.accelerator.reduce(counts_NC3, reduction="sum").cpu().numpy()

    def empty_counts(self, num_classes: int) -> Tensor:
        shape = (len(self.sizes), num_classes, 3)
        return torch.zeros(shape, dtype=torch.int64, device=self.accelerator.device)

    @torch.inference_mode()
    def run(self, model: nn.Module, num_classes: int) -> np.ndarray:
        """All ranks. Counts of every row at logit 0, without TTA: int64 (N, C, 3)."""
        was_training = model.training
        model.eval()
        table = self.empty_counts(num_classes)
        for positions, images, sizes in self.stream():
            with self.accelerator.autocast():
                logits = tiled_logits(lambda part: model(part)[0], images, self.fit)
            table[torch.tensor(positions, device=table.device)] = self.counts_of_batch(
                logits, positions, sizes
            )
        model.train(was_training)
        return self.gather(table)
