"""Steps of the loop that people write: `python plain_steps.py TGS_ROOT STEPS`.

smp's U-Net and loss in float32, albumentations in a Dataset, a DataLoader with a process a core but
one, and `.item()` in every step. Nothing of distseg's own settings is in force here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader

from benchmarks.gpu.peers import Salt, make_model
from benchmarks.rivals.turns import repeat

BATCH, LIMIT = 16, 1000


def steps(root: Path) -> Iterator[float]:
    """A step each time that the next one is asked for: its loss."""
    model, loss_fn = make_model(), smp.losses.SoftBCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader: Any = DataLoader(
        Salt(root, LIMIT), BATCH, shuffle=True, drop_last=True, persistent_workers=True,
        num_workers=max(1, (os.cpu_count() or 1) - 1),
    )  # fmt: skip
    while True:
        for images, masks in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(images), masks)
            loss.backward()
            optimizer.step()
            yield loss.item()


if __name__ == "__main__":
    taken = steps(Path(sys.argv[1]))
    repeat(lambda: next(taken), int(sys.argv[2]))
