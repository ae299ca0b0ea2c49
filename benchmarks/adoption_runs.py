"""Small runs of real sets for `adoption.py`: two models, two folds, two snapshots each.

    python benchmarks/adoption_runs.py FOLDER --data DATA

DATA holds tgs, oxford_pet, tianchi, severstal and camvid, each in the layout of its seed config.
Writes a run of each into FOLDER, and of the quickstart with a round of pseudo-labels; what is there
is not made again. An hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DECODER = {"encoder_depth": 4, "decoder_channels": [64, 32, 24, 16]}
MEMBERS: dict[str, Any] = {
    "unet": {"arch": "Unet", "encoder": "resnet18", "encoder_weights": None, "decoder": DECODER},
    "linknet": {"arch": "Linknet", "encoder": "tu-resnet10t", "encoder_weights": None, "seed": 1,
                "decoder": {"encoder_depth": 4}},
}  # fmt: skip
SEARCH = {"threshold": "search", "min_area": "search"}


def stages(epochs: int, loss: str = "bce") -> list[dict[str, Any]]:
    schedule = {"kind": "cosine", "cycles": 2, "epochs_per_cycle": epochs, "warmup_epochs": 1}
    return [{"loss": {loss: 1.0}, "optimizer": {"name": "adamw", "lr": 1.5e-3},
             "schedule": schedule, "keep": "cycles"}]  # fmt: skip


def size(height: int, width: int) -> dict[str, Any]:
    return {"height": height, "width": width, "fit": "resize", "channels": 3}


# name: (the folder of its data, config, changes)
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tgs": ("tgs", "seeds/tgs_first_place_cpu", {"data.limit": 400}),
    "oxford": ("oxford_pet", "seeds/oxford_pet_unet_vs_resnet34_cpu", {
        "members": MEMBERS, "stages": stages(15), "train.batch_size": 2, "postprocess": SEARCH}),
    "tianchi": ("tianchi", "seeds/tianchi_buildings_cpu", {
        "members": MEMBERS, "stages": stages(4), "train.evaluate_every": 4, "postprocess": SEARCH,
        "input": size(128, 128)}),
    "severstal": ("severstal", "seeds/severstal_unet_resnet18_cpu", {
        "members": MEMBERS, "stages": stages(6), "train.batch_size": 2, "train.evaluate_every": 6,
        "input": size(64, 256)}),
    "camvid": ("camvid", "seeds/camvid_cpu", {
        "data.folds": {"kind": "stratified", "num": 2, "seed": 0}, "input": size(96, 128),
        "members": MEMBERS, "stages": stages(5, "cross_entropy"), "train.evaluate_every": 5}),
    "quickstart": ("", "quickstart", {}),
    "rounds": ("", "quickstart", {
        "rounds": [{"kind": "supervised"}, {"kind": "pseudo_label"}], "ensemble.rounds": "search"}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    for name, (data, config, changes) in RUNS.items():
        if data:
            own = {"data.root": str((args.data / data).resolve()), "compute.slots": 1}
            changes = {**changes, **own, "ensemble.weights": "search"}
        command = [sys.executable, "-m", "distseg", "run", str(ROOT / f"configs/{config}.yaml"),
                   *(f"{key}={json.dumps(value)}" for key, value in changes.items()),
                   "--out", str(args.folder / name)]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        print(name, subprocess.run(command, env=env).returncode, flush=True)


if __name__ == "__main__":
    main()
