"""Fixtures: a tiny experiment that really trains, and where real data lies when it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.data.formats.row import SubmissionSpec
from distseg.submit import PartWriter, merge_parts

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where they are absent."""
    path = Path(os.environ.get("DISTSEG_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("the real data sets are not beside the project, nor in DISTSEG_DATA")
    return path


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


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen[str]]:
    """Start the documented `accelerate launch ... launch/train.py` with N gloo ranks."""

    def start(
        ranks: int,
        *arguments: str,
        env: dict[str, str] | None = None,
        script: str = "launch/train.py",
    ) -> Any:
        flags = ["--multi_gpu", "--num_processes", str(ranks)] if ranks > 1 else ["--cpu"]
        if ranks == 1:
            flags += ["--num_processes", "1"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *flags]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", "0", str(ROOT / script), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def write_submission(
    spec: SubmissionSpec, path: Path, masks: Mapping[str, np.ndarray], task: str = "binary"
) -> None:
    """By one process; masks uint8 (C, H, W) by id, added in reverse."""
    writer = PartWriter(spec, path, task=task)
    for name, mask in reversed(masks.items()):
        writer.add(name, mask)
    writer.close()
    merge_parts(spec, path, 1, task=task)
