"""Steps of nnU-Net's trainer: `python nnunet_steps.py TGS_ROOT STEPS WORK`.

Its own data set, planning, preprocessing, loader, augmentation, loss and optimizer (2-D); of its
plans only the batch and patch are those of the others, and of its trainer only the network, smp's
U-Net without deep supervision. Its autocast is for CUDA alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import segmentation_models_pytorch as smp
import torch

from benchmarks.rivals.turns import repeat

BATCH, LIMIT, PATCH = 16, 1000, [128, 128]
NAME = "Dataset001_Salt"


def make_data(root: Path, raw: Path) -> None:
    """nnU-Net's layout of the first images of TGS."""
    from benchmarks.gpu.peers import Salt

    salt, folder = Salt(root, LIMIT), raw / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for path, mask in zip(salt.images, salt.masks, strict=True):
        shutil.copy(path, folder / "imagesTr" / f"{path.stem}_0000.png")
        gray = cv2.imread(str(path), 0)
        cv2.imwrite(str(folder / "imagesTr" / f"{path.stem}_0000.png"), gray)
        cv2.imwrite(str(folder / "labelsTr" / path.name), (mask > 0).astype("uint8"))
    described = {
        "channel_names": {"0": "gray"}, "labels": {"background": 0, "salt": 1},
        "numTraining": len(salt.images), "file_ending": ".png",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))


def main() -> None:
    root, steps, work = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.environ |= {f"nnUNet_{n}": str(work / n) for n in ("raw", "preprocessed", "results")}
    os.environ |= {"nnUNet_compile": "f"}
    if not (work / "raw" / NAME).is_dir():
        make_data(root, work / "raw")
        tool = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
        command = [str(tool), "-d", "1", "-c", "2d", "-np", str(os.cpu_count())]
        subprocess.run(command, check=True, stdout=sys.stderr)

    # imported here: they read the folders from the environment
    from nnunetv2.training.nnUNetTrainer.variants.network_architecture import (
        nnUNetTrainerNoDeepSupervision as module,
    )

    class Trainer(module.nnUNetTrainerNoDeepSupervision):  # type: ignore[misc]
        @staticmethod
        def build_network_architecture(*_: Any, **__: Any) -> torch.nn.Module:
            made: torch.nn.Module = smp.Unet(
                "resnet34", encoder_weights=None, in_channels=1, classes=2,
                decoder_attention_type="scse",
            )  # fmt: skip
            return made

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            """smp's network has none."""

        def plot_network_architecture(self) -> None:
            """It would draw its own network."""

    folder = work / "preprocessed" / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"] |= {"batch_size": BATCH, "patch_size": PATCH}
    plans["continue_training"] = False  # its own entry point adds that
    described = json.loads((folder / "dataset.json").read_text())
    out, sys.stdout = sys.stdout, sys.stderr  # it prints its plans
    trainer = Trainer(plans, "2d", "all", described, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.network.train()
    sys.stdout = out
    repeat(lambda: trainer.train_step(next(trainer.dataloader_train)), steps)


if __name__ == "__main__":
    main()
