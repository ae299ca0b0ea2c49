"""What the tests share: the checkout, a tiny experiment that really trains, a submission."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from distseg.data.formats.row import SubmissionSpec
from distseg.submission.write import ShareWriter, merge_shares

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0  # what has not happened by then hangs; it measures nothing
Found = TypeVar("Found")


def tiny_tree(**changes: Any) -> dict[str, Any]:
    """A config tree whose member trains an epoch in about a second; no batch statistics."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "format": "synthetic",
            "synthetic": {"num_train": 37, "num_test": 5, "height": 32, "width": 32},
            "folds": {"kind": "stratified", "num": 2},
        },
        "input": {"height": 32, "width": 32, "channels": 1},
        "metric": "dice",
        "augment": [{"hflip": {"p": 0.5}}, {"affine": {"scale": [0.9, 1.1], "p": 0.5}}],
        "members": {
            "a": {
                "arch": "Unet",
                "encoder": "tu-convnext_atto",
                "decoder": {
                    "encoder_depth": 3,
                    "decoder_channels": [16, 8, 8],
                    "decoder_use_norm": False,
                },
            }
        },
        "stages": [
            {
                "loss": {"bce": 1.0},
                "optimizer": {"name": "adamw", "lr": 1e-3},
                "schedule": {"kind": "cosine", "cycles": 2, "epochs_per_cycle": 1},
                "keep": "cycles",
            }
        ],
        "train": {"batch_size": 8},
        "compute": {"precision": "fp32", "cpu_threads": 1},
    }
    tree.update(changes)
    return tree


def wait_until(condition: Callable[[], Found], what: str, patience_s: float = PATIENCE_S) -> Found:
    """What the condition gives, once that is true; a guard against hanging, not a measurement."""
    gives_up = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < gives_up, f"in vain: {what}"
        time.sleep(0.05)
    return found


def write_submission(
    spec: SubmissionSpec, path: Path, masks: Mapping[str, np.ndarray], task: str = "binary"
) -> None:
    """By one process; masks uint8 (C, H, W) by id, added in reverse."""
    writer = ShareWriter(spec, path, task=task)
    for name, mask in reversed(list(masks.items())):
        writer.add(name, mask)
    writer.close()
    merge_shares(spec, path, 1, task=task)
