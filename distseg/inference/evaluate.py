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
from distseg.functional.metrics import count_planes
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
        if len({logits.shape for logits in natives}) == 1:  # all at once: fewer, larger kernels
            return self._count(natives, positions)
        pairs = zip(natives, positions, strict=True)
        return torch.cat([self._count([logits], [position]) for logits, position in pairs])

    def _count(self, natives: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
        """The same for images of one size."""
        logits_BCHW = torch.stack(list(natives))
        target_BKHW = torch.from_numpy(np.stack([self.targets(place) for place in positions]))
        target_BKHW = target_BKHW.to(logits_BCHW.device, non_blocking=True)
        return count_planes(hard_masks(logits_BCHW, self.task), target_BKHW, self.task)

    def empty_counts(self, num_classes: int) -> Tensor:
        """int64 (N, C, 3) of zeros for all rows: each rank fills its own, `gather` adds them."""
        shape = (len(self.sizes), num_classes, 3)
        return torch.zeros(shape, dtype=torch.int64, device=self.accelerator.device)

    def gather(self, counts_NC3: Tensor) -> np.ndarray:
        """All ranks: the sum of the tables in which each rank has filled its own rows, of their
        dtype."""
        return self.accelerator.reduce(counts_NC3, reduction="sum").cpu().numpy()

    @torch.inference_mode()
    def run(self, model: nn.Module, num_classes: int) -> np.ndarray:
        """All ranks. Counts of every row at logit 0, without TTA: int64 (N, C, 3)."""
        was_training = model.training
        model.eval()
        predictor, table = self.predictor([model]), self.empty_counts(num_classes)
        for positions, canvas, sizes in self.stream("evaluate"):
            natives = predictor.native_logits(canvas, sizes, tta=[])
            table[torch.tensor(positions, device=table.device)] = self.count(natives, positions)
        model.train(was_training)
        return self.gather(table)
