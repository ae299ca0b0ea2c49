"""Training and prediction as people write them by hand, on the same data, model and batch.

    python benchmarks/gpu/peers.py plain|lightning|predict TGS_ROOT OUT.json [--epochs 3]

plain: a DataLoader, albumentations, float32, a loss of smp and `.item()` in every step.
lightning: the same module under Lightning's Trainer in bf16-mixed, a log line every 50 steps.
predict: smp and a flip, image by image in float32, RLE written by a loop over pixels' runs.
Images a second are those of all epochs but the first, or of the images predicted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

BATCH = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Salt(Dataset[Any]):
    """TGS as a script reads it: two files and one call of albumentations per image."""

    def __init__(self, root: Path, limit: int | None) -> None:
        self.images = sorted((root / "train" / "images").glob("*.png"))[:limit]
        masks = root / "train" / "masks"
        if masks.is_dir():
            self.masks = [cv2.imread(str(masks / p.name), 0) for p in self.images]
        else:
            runs = {
                row["id"]: row["rle_mask"] for row in csv.DictReader((root / "train.csv").open())
            }
            self.masks = [decode(runs[path.stem]) for path in self.images]
        self.transform = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.Affine(scale=(0.8, 1.4), translate_percent=(-0.16, 0.16), p=0.7),
                A.RandomBrightnessContrast(0.2, 0.2, p=0.4),
                A.PadIfNeeded(128, 128, border_mode=cv2.BORDER_REFLECT_101),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.imread(str(self.images[index]), 0)
        out = self.transform(image=image[..., None], mask=self.masks[index])
        picture = torch.from_numpy(out["image"]).permute(2, 0, 1).float() / 255
        return picture, torch.from_numpy(out["mask"])[None].float()


def decode(text: str) -> np.ndarray:
    """A TGS mask, uint8 (101, 101), from its runs: column by column, counted from 1."""
    flat = np.zeros(101 * 101, np.uint8)
    numbers = [int(n) for n in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = 1
    return np.ascontiguousarray(flat.reshape(101, 101).T)


def make_model() -> torch.nn.Module:
    return smp.Unet("resnet34", encoder_weights=None, in_channels=1, decoder_attention_type="scse")


def batches(root: Path, limit: int | None) -> DataLoader[Any]:
    workers = min(8, (os.cpu_count() or 1) - 1)
    return DataLoader(
        Salt(root, limit), BATCH, shuffle=True, num_workers=workers, drop_last=True,
        pin_memory=DEVICE == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip


def plain(root: Path, epochs: int, limit: int | None) -> list[float]:
    """Images a second of each epoch."""
    model, loss_fn = make_model().to(DEVICE), smp.losses.SoftBCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader, rates = batches(root, limit), []
    for _ in range(epochs):
        started, count, total = time.perf_counter(), 0, 0.0
        for images, masks in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(images.to(DEVICE)), masks.to(DEVICE))
            loss.backward()
            optimizer.step()
            total += loss.item()
            count += len(images)
        rates.append(count / (time.perf_counter() - started))
    return rates


def lightning(root: Path, epochs: int, limit: int | None) -> list[float]:
    """Images a second of each epoch."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = make_model(), smp.losses.SoftBCEWithLogitsLoss()
            self.rates: list[float] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            self.count += len(batch[0])
            return loss

        def on_train_epoch_start(self) -> None:
            self.started, self.count = time.perf_counter(), 0

        def on_train_epoch_end(self) -> None:
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            self.rates.append(self.count / (time.perf_counter() - self.started))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    module = Module()
    trainer = L.Trainer(
        max_epochs=epochs, precision="bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, benchmark=True,
    )  # fmt: skip
    trainer.fit(module, batches(root, limit))
    return module.rates


def predict(root: Path, limit: int | None) -> list[float]:
    """Images a second of one model with a flip, from files to rows of a table."""
    model = make_model().to(DEVICE).eval()
    paths = sorted((root / "test" / "images").glob("*.png"))[:limit]
    started = time.perf_counter()
    for number, path in enumerate(paths):
        if number == 10:  # the first passes warm up
            started = time.perf_counter()
        image = cv2.copyMakeBorder(cv2.imread(str(path), 0), 13, 14, 13, 14, cv2.BORDER_REFLECT_101)
        x = torch.from_numpy(image)[None, None].float().to(DEVICE) / 255
        with torch.no_grad():
            probability = (model(x).sigmoid() + model(x.flip(-1)).sigmoid().flip(-1)) / 2
        mask = probability[0, 0, 13:114, 13:114].cpu().numpy() > 0.5
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.flatten(), [0]]))) + 1
        edges[1::2] -= edges[::2]
        " ".join(map(str, edges))
    return [0.0, (len(paths) - 10) / (time.perf_counter() - started)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["plain", "lightning", "predict"])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, help="images, for a trial")
    args = parser.parse_args()
    if args.kind == "predict":
        rates = predict(args.root, args.limit)
    else:
        rates = {"plain": plain, "lightning": lightning}[args.kind](
            args.root, args.epochs, args.limit
        )
    record = {"kind": args.kind, "images_per_s": [round(r, 1) for r in rates[1:]]}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
