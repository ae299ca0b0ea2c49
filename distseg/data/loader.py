"""How samples become batches: which images share one, and the processes that decode them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distseg.data.dataset import worker_init
from distseg.data.fit import Fit

PREFETCH = 4  # batches that each loader process decodes ahead


def canvas_batches(
    sizes: Sequence[tuple[int, int]], fits: Sequence[Fit], batch_size: int
) -> list[list[int]]:
    """Indices of images in batches, each of one canvas size for every fit.

    sizes: native (height, width) of each image. Where all canvases are equal, the order stays.
    """
    groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        groups[tuple(fit.canvas(*size) for fit in fits)].append(index)
    return [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


def loader(
    dataset: Dataset[Any], batches: Any, workers: int, device: torch.device, persistent: bool
) -> DataLoader[Any]:
    """The one way a DataLoader is made.

    Args:
        batches: indices of each batch, in order. A list that is filled anew before each pass
            serves all epochs.
        workers: processes that decode; 0: this one decodes when it is asked.
        device: where batches go; memory is pinned for a GPU.
        persistent: the processes live as long as the loader, not only for one pass over it.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=worker_init,
        persistent_workers=persistent and workers > 0,
        pin_memory=device.type == "cuda",
        prefetch_factor=PREFETCH if workers else None,
    )


def close(made: DataLoader[Any]) -> None:
    """End the processes of a persistent loader.

    Left to the garbage collector, each takes torch 5 seconds: the queue that would tell it to leave
    is finalized before the iterator that asks for it.
    """
    iterator, made._iterator = made._iterator, None
    if iterator is not None and made.num_workers:
        iterator._shutdown_workers()  # type: ignore[attr-defined]
