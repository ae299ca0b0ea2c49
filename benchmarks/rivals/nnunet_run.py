"""nnU-Net on a folder of images and masks, within some minutes.

    python nnunet_run.py FOLDER OUT --minutes 5 --classes N

FOLDER holds images/, masks/ (class indices; 255 counts nowhere) and test_images/. All is nnU-Net's
own: planning, network, patch, batch, augmentation, loss, deep supervision, SGD with a polynomial
rate, one fold on all images, sliding windows with mirroring. Only the number of steps is not its
250,000: it is what the first of them, and a few predictions, say that the minutes hold. A mask of
class indices for each test image goes to OUT. Nothing of distseg is imported: this runs in nnU-
Net's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch

NAME, IGNORED = "Dataset001_Folder", 255
FIRST, TRIED = 8, 3  # steps, and test images, that are timed


def make_data(folder: Path, raw: Path, classes: int) -> None:
    """nnU-Net's layout of the folder; what counts nowhere is its label `ignore`, the last one."""
    made = raw / NAME
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (made / part).mkdir(parents=True)
    ignored = False
    for path in sorted((folder / "images").iterdir()):
        mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        ignored = ignored or bool((mask == IGNORED).any())
        mask[mask == IGNORED] = classes
        cv2.imwrite(str(made / "labelsTr" / f"{path.stem}.png"), mask)
        cv2.imwrite(str(made / "imagesTr" / f"{path.stem}_0000.png"), cv2.imread(str(path)))
    for path in sorted((folder / "test_images").iterdir()):
        cv2.imwrite(str(made / "imagesTs" / f"{path.stem}_0000.png"), cv2.imread(str(path)))
    labels = {"background": 0, **{f"class_{n}": n for n in range(1, classes)}}
    described = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": labels | ({"ignore": classes} if ignored else {}),
        "numTraining": len(list((made / "imagesTr").iterdir())),
        "file_ending": ".png",
    }
    (made / "dataset.json").write_text(json.dumps(described))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--classes", type=int, required=True, help="with the background")
    args = parser.parse_args()
    began, work = time.monotonic(), args.out.parent / "nnunet"
    os.environ |= {f"nnUNet_{n}": str(work / n) for n in ("raw", "preprocessed", "results")}
    os.environ |= {"nnUNet_compile": "f"}
    make_data(args.folder, work / "raw", args.classes)
    tool = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
    subprocess.run([tool, "-d", "1", "-c", "2d", "-np", str(os.cpu_count())], check=True)
    prepared = time.monotonic() - began

    # imported here: they read the folders from the environment
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = work / "preprocessed" / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # its own entry point adds that
    described = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "2d", "all", described, device=torch.device("cpu"))
    trainer.on_train_start()
    tests = sorted((work / "raw" / NAME / "imagesTs").iterdir())
    args.out.mkdir(parents=True, exist_ok=True)
    trainer.network.train()
    each = _seconds(lambda: trainer.train_step(next(trainer.dataloader_train)), FIRST)
    each_test = _seconds(lambda: predict(trainer, tests[:1], args.out), TRIED)
    left = 60 * args.minutes - (time.monotonic() - began) - each_test * len(tests)
    steps = max(10, int(0.97 * left / each))
    scheduler = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, steps)
    trainer.network.train()
    for step in range(steps):
        scheduler.step(step)
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss:.4f}", flush=True)
    predict(trainer, tests, args.out)
    size = plans["configurations"]["2d"]
    print(f"prepared in {prepared:.0f} s; {steps} steps of {size['batch_size']} patches of "
          f"{size['patch_size']}; {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        loader._finish()


def _seconds(work: Any, times: int) -> float:
    """Mean seconds of a piece of work that was done once before."""
    work()
    began = time.monotonic()
    for _ in range(times):
        work()
    return (time.monotonic() - began) / times


def predict(trainer: Any, paths: list[Path], out: Path) -> None:
    """The masks of test images, by nnU-Net's predictor as its own validation sets it up."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager,
        [trainer.network.state_dict()], trainer.dataset_json, "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    names = [str(out / path.stem.removesuffix("_0000")) for path in paths]
    with torch.inference_mode():
        predictor.predict_from_files_sequential([[str(path)] for path in paths], names)
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()


if __name__ == "__main__":
    main()
