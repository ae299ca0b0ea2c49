"""Steps under Lightning's Trainer: `python lightning_steps.py TGS_ROOT STEPS PRECISION`.

smp's U-Net, albumentations in a Dataset, a DataLoader with a process a core but one, as Lightning
advises; precision 32-true is its default, bf16-mixed what it offers for speed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader

from benchmarks.gpu.peers import Salt, make_model
from benchmarks.rivals.turns import Clock

BATCH, LIMIT = 16, 1000


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss = make_model(), smp.losses.SoftBCEWithLogitsLoss()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.loss(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Turns(L.Callback):
    def __init__(self, steps: int) -> None:
        self.clock = Clock(steps)

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.before()

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.after()


def main() -> None:
    root, steps, precision = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    loader: Any = DataLoader(
        Salt(root, LIMIT), BATCH, shuffle=True, drop_last=True, persistent_workers=True,
        num_workers=max(1, (os.cpu_count() or 1) - 1),
    )  # fmt: skip
    trainer = L.Trainer(
        max_epochs=-1, precision=precision, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Turns(steps)],
    )  # fmt: skip
    trainer.fit(Module(), loader)


if __name__ == "__main__":
    main()
