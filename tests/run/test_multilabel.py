"""Several classes at once, from the files of a competition to its submission."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from distseg.functional.rle import decode
from distseg.records.files import read_json
from distseg.records.paths import Run
from tests.data.formats.layout_helpers import CLASSES, save_image, severstal


def test_from_severstals_files_to_rows_that_do_not_overlap(tmp_path: Path) -> None:
    severstal(tmp_path / "data")
    text = (tmp_path / "data/train.csv").read_text()
    for number, name in enumerate("defgh"):  # as a.jpg, which has classes 1 and 3
        save_image(tmp_path / "data/train_images" / f"{name}.jpg", seed=20 + number)
        own = [line for line in text.splitlines() if line.startswith("a.jpg")]
        text += "".join(line.replace("a.jpg", f"{name}.jpg") + "\n" for line in own)
    text = text.replace("d.jpg_2,", "d.jpg_2,50 9")  # no class may be in no image
    (tmp_path / "data/train.csv").write_text(text)
    small = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 1}}
    tree = {
        "name": "t",
        "task": "multilabel",
        "classes": CLASSES["severstal"],
        "data": {"format": "severstal", "root": "data", "folds": {"num": 2}},
        "input": {"height": 32, "width": 32, "fit": "resize"},
        "metric": "mean_dice",
        "members": {"a": small, "b": {**small, "seed": 1}},
        "stages": [{"loss": {"bce": 1.0, "dice": 1.0}, "schedule": {"epochs_per_cycle": 4},
                    "optimizer": {"name": "adam", "lr": 1e-2}}],
        "train": {"batch_size": 4},
        "ensemble": {"weights": "search"},
        "postprocess": {"threshold": "search", "min_area": "search", "min_component": "search",
                        "exclusive": True},
        "compute": {"cpu_threads": 1, "members_per_job": 4},
    }  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "distseg", "run", "t.yaml", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    scores = read_json(run.final)["scores"]
    searched = {step["step"] for step in scores["nested"]["steps"]}
    assert {"weights", "threshold of d1", "threshold of d4", "min_component of d2"} <= searched
    assert len(scores["final"]["per_class"]) == 4 and scores["final"]["num_images"] == 8
    with (run.folder / "submission.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = [f"{name}_{kind}" for name in ("z.jpg", "y.jpg") for kind in range(1, 5)]
    assert [row["ImageId_ClassId"] for row in rows] == order
    masks = np.stack([decode(row["EncodedPixels"], 16, 24) for row in rows]).reshape(2, 4, 16, 24)
    assert masks.any() and masks.sum(axis=1).max() == 1
