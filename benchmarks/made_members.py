"""Runs whose members are drawn instead of trained, for benchmarks of what comes after training.

    python benchmarks/made_members.py FOLDER

Writes the runs `binary`, `multilabel` and `multiclass` of the synthetic data set, each also as
`..._alike`, where the models are nearly as good as one another. A member's logits
are its truth, blurred, with faults of the kinds that networks make: smooth noise that all members
share and smooth noise of its own, objects that it does not see, objects where nothing is, and an
offset. Models differ in how much of each they have, by class too; a later snapshot has less noise.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.load import dump_config, parse_config
from distseg.config.schema import Config
from distseg.data.prepare import open_cache, prepare
from distseg.ensemble.fit import fit_ensemble
from distseg.functional.metrics import count_masks, target_planes
from distseg.functional.postprocess import to_masks
from distseg.records.files import atomic_write, mark_done, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import PredictionsWriter

MODELS = ("strong", "fair", "weak")
SNAPSHOTS = ("first", "last")
SIZE, NUM, FOLDS = 48, 240, 4
SPREADS = {"": 1.0, "_alike": 0.1}
TASKS: dict[str, tuple[list[str], str]] = {
    "binary": (["blob"], "dice"),
    "multilabel": (["x", "y", "z"], "mean_dice"),
    "multiclass": (["background", "x", "y", "z"], "miou"),
}


def config_of(task: str, folder: Path) -> Config:
    classes, metric = TASKS[task]
    synthetic = {"num_train": NUM, "num_test": 1, "height": SIZE, "width": SIZE, "empty": 0.3}
    loss = "cross_entropy" if task == "multiclass" else "bce"
    tree: dict[str, Any] = {
        "name": task, "task": task, "classes": classes, "metric": metric,
        "data": {"format": "synthetic", "synthetic": synthetic, "folds": {"num": FOLDS},
                 "cache_dir": str(folder)},
        "input": {"height": 64, "width": 64, "fit": "pad", "channels": 1},
        "members": {name: {} for name in MODELS},
        "stages": [{"loss": {loss: 1.0}}],
    }  # fmt: skip
    return parse_config(tree, task)


def smooth(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """Smooth noise of about unit variance, (num, SIZE, SIZE)."""
    noise = [cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)), (0, 0), 3.0) for _ in range(num)]
    return np.stack([one / one.std() for one in noise])


def drawn_logits(
    truth_CHW: NDArray[np.bool_], shared_CHW: NDArray[np.float64], faults: dict[str, Any],
    noise: float, rng: np.random.Generator,
) -> NDArray[np.float32]:  # fmt: skip
    """Logits of one snapshot on one image. faults: of its model."""
    logits = []
    for plane, shared, skill in zip(truth_CHW, shared_CHW, faults["skill"], strict=True):
        seen = plane.astype(np.float64)
        if plane.any() and rng.random() < faults["missed"]:
            seen *= rng.uniform(0, 0.6)
        if not plane.any() and rng.random() < faults["false"]:
            seen = np.maximum(seen, rng.uniform(0.4, 0.8) * (smooth(rng, 1)[0] > 1.5))
        sharp = cv2.GaussianBlur(seen, (0, 0), 1.5)
        own = skill * noise * smooth(rng, 1)[0]
        logits.append(6 * sharp - 3 + faults["offset"] + shared + own)
    return np.stack(logits).astype(np.float16).astype(np.float32)


def write_member(config: Config, run: Run, number: int, fold: int, spread: float) -> None:
    """A finished member, as training leaves it. spread: how much the models differ."""
    name, manifest, cache = MODELS[number], Manifest.read(run.truth), open_cache(config, run)
    paths, task = run.member(0, name, fold), config.task
    rng = np.random.default_rng([number, fold])
    of_model = np.random.default_rng([number, 77])
    faults = {
        "skill": (0.7 + 0.6 * spread * number)
        * of_model.uniform(1 - 0.4 * spread, 1 + 0.6 * spread, config.num_outputs),
        "missed": 0.05 + 0.05 * spread * number, "false": 0.1 + 0.05 * spread * number,
        "offset": of_model.normal(0, 0.5) + rng.normal(0, 0.2),
    }  # fmt: skip
    folders = {"mean": paths.oof} | {stem: paths.oof_snapshots / stem for stem in SNAPSHOTS}
    writers = {key: PredictionsWriter(folder) for key, folder in folders.items()}
    tables: dict[str, list[Any]] = {f"{k}_{tta}": [] for k in folders for tta in ("tta", "plain")}
    rule = {"threshold": [0.0] * config.num_outputs}
    samples = [manifest[row] for row in manifest.val_rows(fold)]
    for sample in samples:
        target = cache.target(sample.id)
        truth = target_planes(target, range(config.num_outputs), task)[0]
        shared = 0.8 * smooth(np.random.default_rng([*sample.id.encode()]), config.num_outputs)
        found = {
            stem: drawn_logits(truth, shared, faults, noise, rng)
            for stem, noise in zip(SNAPSHOTS, (1.6, 1.0), strict=True)
        }
        found["mean"] = np.mean([found[stem] for stem in SNAPSHOTS], axis=0)
        for key, logits in found.items():
            writers[key].add(sample.id, logits)
            counts = count_masks(to_masks(logits, rule, task), target, config.num_outputs, task)
            for tta in ("tta", "plain"):
                tables[f"{key}_{tta}"].append(counts.tolist())
    for writer in writers.values():
        writer.close()
    write_json(paths.oof_scores, {"ids": [sample.id for sample in samples], "variants": tables})
    files = [f"{stem}.safetensors" for stem in SNAPSHOTS]
    for file in files:
        atomic_write(paths.snapshots / file, b"")
    mark_done(paths.done, {"snapshots": files, "trained_on": sorted(manifest.seen(fold))})


def main(folder: Path) -> None:
    for task, (suffix, spread) in product(TASKS, SPREADS.items()):
        config, run = config_of(task, folder / "data"), Run(folder / f"{task}{suffix}")
        prepare(config, run)
        atomic_write(run.config, dump_config(config))
        for number, fold in product(range(len(MODELS)), range(FOLDS)):
            write_member(config, run, number, fold, spread)
        record = fit_ensemble(config, run, 0)
        alone = {name: f"{one['score']:.3f}" for name, one in record["scores"]["against"].items()}
        print(f"{run.folder.name}: {record['scores']['final']['score']:.3f}, alone {alone}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
