"""The script of one file that a good engineer writes in an afternoon, as a rival of distseg.

    python benchmarks/plain.py FOLDER OUT --minutes 5 [--encoder resnet18] [--weights FILE]

smp's U-Net on the images/ and masks/ of FOLDER (class indices; 255 counts nowhere), no folds:
(binary) cross entropy, then Lovász in the last 40 % of the time, AdamW with a one-cycle schedule,
flips and a little affine and brightness from albumentations, DataLoader workers, float32; then
test_images/ with a flipped view, a mask of class indices each into OUT. The number of steps is what
the first of them say that the minutes hold. Nothing of distseg is used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

IGNORED = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pairs(Dataset):
    """Images and masks, augmented and at one size; again and again."""

    def __init__(self, folder: Path, size: tuple[int, int], repeats: int = 1000) -> None:
        self.images = sorted((folder / "images").iterdir()) * repeats
        self.masks = folder / "masks"
        self.change = A.Compose([
            A.Resize(*size),
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.85, 1.2), translate_percent=(-0.1, 0.1), p=0.5),
            A.RandomBrightnessContrast(0.15, 0.2, p=0.5),
            A.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.images[index]
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(self.masks / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        made = self.change(image=image, mask=mask)
        image_CHW = torch.from_numpy(made["image"].transpose(2, 0, 1).copy())
        return image_CHW, torch.from_numpy(made["mask"]).long()


def load_encoder(model: nn.Module, file: Path) -> None:
    """timm's weights of a file into the encoder."""
    from safetensors.torch import load_file

    own = model.encoder.model.state_dict()
    given = {k: v for k, v in load_file(file).items() if k in own and own[k].shape == v.shape}
    model.encoder.model.load_state_dict({**own, **given})


def losses(classes: int) -> tuple[Any, Any]:
    """(the first, the second) loss of logits (B, K, H, W) and indices (B, H, W)."""
    if classes > 2:
        lovasz = smp.losses.LovaszLoss("multiclass", ignore_index=IGNORED)
        first = nn.CrossEntropyLoss(ignore_index=IGNORED)
        return first, lambda logits, target: first(logits, target) + 0.5 * lovasz(logits, target)
    lovasz = smp.losses.LovaszLoss("binary", ignore_index=IGNORED)

    def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = target != IGNORED
        return F.binary_cross_entropy_with_logits(logits[:, 0][known], target[known].float())

    return bce, lambda logits, target: bce(logits, target) + 0.5 * lovasz(logits[:, 0], target)


def predict(model: nn.Module, path: Path, size: tuple[int, int], classes: int) -> np.ndarray:
    """Class indices uint8 (H, W) of an image at its own size."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    small = A.Compose([A.Resize(*size), A.Normalize(MEAN, STD)])(image=image)["image"]
    one = torch.from_numpy(small.transpose(2, 0, 1).copy())[None]
    logits = (model(one) + model(one.flip(3)).flip(3)) / 2
    large = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0]
    return (large.argmax(0) if classes > 2 else large[0] > 0).to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--classes", type=int, default=2, help="with the background")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--weights", type=Path, help=".safetensors of a timm encoder")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(0)
    outputs = args.classes if args.classes > 2 else 1
    model = smp.Unet(args.encoder, encoder_weights=None, classes=outputs)
    if args.weights:
        load_encoder(model, args.weights)
    first, second = losses(args.classes)
    batch = min(args.batch, len(list((args.folder / "images").iterdir())))
    loader = DataLoader(Pairs(args.folder, tuple(args.size)), batch, shuffle=True, num_workers=1,
                        drop_last=True)  # fmt: skip
    tests = sorted((args.folder / "test_images").iterdir())

    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    schedule, steps, ready = None, 10, 0.0
    for step, (images, masks) in enumerate(loader):
        if step == 2:  # the first two are slow
            ready = time.monotonic()
        if step == 10:
            each = (time.monotonic() - ready) / 8
            model.eval()
            mark = time.monotonic()
            with torch.inference_mode():
                for path in tests[:4]:
                    predict(model, path, tuple(args.size), args.classes)
            predicting = (time.monotonic() - mark) / len(tests[:4]) * len(tests)
            model.train()
            left = 60 * args.minutes - (time.monotonic() - began) - predicting
            steps = 10 + max(20, int(0.97 * left / each))
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, args.lr, total_steps=steps - 9
            )
        if step >= steps:
            break
        loss = (first if step < 0.6 * steps else second)(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    model.eval()
    with torch.inference_mode():
        for path in tests:
            mask = predict(model, path, tuple(args.size), args.classes)
            cv2.imwrite(str(args.out / f"{path.stem}.png"), mask)
    print(f"{steps} steps of {batch} images, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
