"""Scoring a model at the images' native size, exactly, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from distseg.data.fit import Fit
from distseg.data.loader import canvas_batches, close, loader
from distseg.functional.combine import hard_masks
from distseg.functional.losses import SpecLoss
from distseg.functional.metrics import count_planes
from distseg.functional.targets import training_target
from distseg.inference.forward import Normalizer, Predictor
from distseg.records.progress import ProgressFile


class Evaluator:
    """Pixel counts of models on the rows that a fold validates; every rank takes its share.

    The loader's processes live as long as the evaluator: one set of them for all epochs.
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
        progress: ProgressFile | None = None,
    ) -> None:
        """dataset: gives "image", uint8 (C, H, W) on the canvas of `fit`, by position.
        sizes: native (height, width) of every row. targets(position): uint8 (K, h, w).
        progress: where it tells how many of this rank's images it has seen."""
        self.accelerator, self.fit, self.task = accelerator, fit, task
        self.sizes, self.targets, self.normalizer = sizes, targets, normalizer
        rank, world = accelerator.process_index, accelerator.num_processes
        self.batches = canvas_batches(sizes, [fit], batch_size)[rank::world]
        self.progress = progress or ProgressFile(None)
        self.loader = loader(dataset, self.batches, workers, accelerator.device, persistent=True)

    def close(self) -> None:
        """End the loader's processes."""
        close(self.loader)

    def predictor(self, models: Sequence[nn.Module]) -> Predictor:
        """These models with the input that the evaluator's images have."""
        return Predictor(models, self.fit, self.normalizer, self.accelerator.autocast)

    def stream(self, phase: str) -> Iterator[tuple[list[int], Tensor, list[tuple[int, int]]]]:
        """This rank's batches: positions, canvas uint8 (B, C, H, W) on the device, native sizes.
        phase: what its progress is called."""
        done, total = 0, sum(map(len, self.batches))
        for positions, batch in zip(self.batches, self.loader, strict=True):
            canvas = batch["image"].to(self.accelerator.device, non_blocking=True)
            self.progress.at(phase, done, total)
            yield positions, canvas, [self.sizes[i] for i in positions]
            done += len(positions)

    def count(self, natives: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
        """int64 (B, C, 3) at logit 0 (multiclass: the highest class) of each image's native logits
        (C, h, w), on their device."""
        found = [
            count_planes(hard_masks(logits_BCHW, self.task), target_BKHW, self.task)
            for logits_BCHW, target_BKHW in self._with_targets(natives, positions)
        ]
        return torch.cat(found)

    def _with_targets(
        self, natives: Sequence[Tensor], positions: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (B, C, h, w) and targets uint8 (B, K, h, w) on their device, in order: all at once
        where the images are of one size, for fewer and larger kernels; else one by one."""
        step = len(natives) if len({logits.shape for logits in natives}) == 1 else 1
        for first in range(0, len(natives), step):
            places = positions[first : first + step]
            logits_BCHW = torch.stack(list(natives[first : first + step]))
            target_BKHW = torch.from_numpy(np.stack([self.targets(place) for place in places]))
            yield logits_BCHW, target_BKHW.to(logits_BCHW.device, non_blocking=True)

    def empty_counts(self, num_classes: int) -> Tensor:
        """int64 (N, C, 3) of zeros for all rows: each rank fills its own, `gather` adds them."""
        shape = (len(self.sizes), num_classes, 3)
        return torch.zeros(shape, dtype=torch.int64, device=self.accelerator.device)

    def gather(self, table: Tensor) -> np.ndarray:
        """All ranks: the sum of the tables in which each rank has filled its own rows, of their
        dtype; a number and zeros, so that it is the same however many ranks there are."""
        return self.accelerator.reduce(table, reduction="sum").cpu().numpy()

    @torch.inference_mode()
    def run(
        self, model: nn.Module, num_classes: int, loss: SpecLoss | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """All ranks, one forward pass an image, without TTA.

        Args:
            loss: of an image's logits and target at its native size.

        Returns:
            Counts of every row at logit 0, int64 (N, C, 3); and its loss, float64 (N,), zeros
            without `loss`.
        """
        was_training = model.training
        model.eval()
        predictor, table = self.predictor([model]), self.empty_counts(num_classes)
        losses = torch.zeros(len(self.sizes), dtype=torch.float64, device=table.device)
        for positions, canvas, sizes in self.stream("evaluate"):
            natives = predictor.native_logits(canvas, sizes, tta=[])
            index = torch.tensor(positions, device=table.device)
            table[index] = self.count(natives, positions)
            if loss is not None:
                losses[index] = self._losses(natives, positions, loss)
        model.train(was_training)
        return self.gather(table), self.gather(losses)

    def _losses(
        self, natives: Sequence[Tensor], positions: Sequence[int], loss: SpecLoss
    ) -> Tensor:
        """float64 (B,)."""
        pairs = self._with_targets(natives, positions)
        found = [loss(logits, *training_target(target, self.task)) for logits, target in pairs]
        return torch.cat(found).double()
