"""A run on disk with real data files and made-up members, for tests of the later stages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.prepare import open_cache, prepare
from distseg.ensemble.fit import fit_ensemble
from distseg.functional.metrics import count_masks
from distseg.functional.postprocess import to_masks
from distseg.records.files import mark_done, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.records.predictions import PredictionsWriter
from distseg.rounds.choose import choose_final

HEIGHT, WIDTH = 12, 10


def made_config(
    root: Path, members: tuple[str, ...] = ("a", "b"), own: Any = None, **changes: Any
) -> Config:
    """own: keys of each member, by its name."""
    tree: dict[str, Any] = {
        "name": "made",
        "data": {"format": "folder", "root": str(root), "folds": {"num": 3}},
        "input": {"height": 32, "width": 32, "channels": 1},
        "members": {name: (own or {}).get(name, {}) for name in members},
        "metric": "iou",
        **changes,
    }
    return parse_config(tree, "made")


def write_data(root: Path, num: int = 24, num_labels: int = 2, seed: int = 0) -> None:
    """Images and masks: boxes of the labels 1.., a third of them without one. Binary: 0/255."""
    rng = np.random.default_rng(seed)
    for part, masks, count in (("images", "masks", num), ("test_images", "test_masks", 4)):
        (root / part).mkdir(parents=True)
        (root / masks).mkdir()
        for i in range(count):
            mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
            for label in range(1, num_labels if i % 3 else 1):
                top, left = rng.integers(0, 6, size=2)
                mask[top : top + rng.integers(3, 7), left : left + rng.integers(3, 5)] = label
            image = rng.integers(0, 200, size=mask.shape, dtype=np.uint8)
            Image.fromarray(image).save(root / part / f"{part}{i:03d}.png")
            scaled = mask * np.uint8(255) if num_labels == 2 else mask
            Image.fromarray(scaled).save(root / masks / f"{part}{i:03d}.png")


def write_two_classes(root: Path) -> None:
    """Classes x and y, with the same masks."""
    write_data(root)
    for name in ("x", "y"):
        shutil.copytree(root / "masks", root / "copies" / name)
    shutil.rmtree(root / "masks")
    (root / "copies").rename(root / "masks")


def write_member(
    config: Config, run: Run, name: str, fold: int, *, offset: float = 0.0, noise: float = 1.0,
    scale: float = 1.0, snapshots: int = 2, snapshot_noise: Sequence[float] = (),
    head_noise: float | None = None, blur: float = 0,
) -> None:  # fmt: skip
    """A finished member as training leaves it; logits: scale * (2 * truth - 1 + offset + noise).
    With `snapshot_noise` those of each snapshot too, of which the member's are the mean; with
    `head_noise` those of image heads: 4 where the class is there, else -4, and noise. blur: how far
    the noise of a pixel reaches, as models err in patches."""
    manifest, cache = Manifest.read(run.truth), open_cache(config, run)
    paths = run.member(0, name, fold)
    paths.snapshots.mkdir(parents=True)
    stems = [f"snapshot_{i}" for i in range(len(snapshot_noise) or snapshots)]
    for stem in stems:
        (paths.snapshots / f"{stem}.safetensors").write_bytes(b"")
    rng = np.random.default_rng([fold, *name.encode()])
    kept = stems if snapshot_noise else []
    writers = {"mean": PredictionsWriter(paths.oof)}
    writers |= {stem: PredictionsWriter(paths.oof_snapshots / stem) for stem in kept}
    samples = [manifest[row] for row in manifest.val_rows(fold)]
    tables: dict[str, list[Any]] = {
        f"{s}_{k}": [] for s in ["mean", *stems] for k in ("tta", "plain")
    }
    heads: dict[str, list[Any]] = {stem: [] for stem in stems if head_noise is not None}
    rule = {"threshold": [0.0] * config.num_outputs}
    for sample in samples:
        target = cache.target(sample.id)
        planes = target == np.arange(config.num_outputs)[:, None, None]
        truth = planes if config.task == "multiclass" else target == 1
        drawn = {key: noise * _patches(rng.standard_normal(truth.shape), blur) for key in tables}
        for stem, own in zip(kept, snapshot_noise, strict=True):
            drawn[f"{stem}_tta"] = own * rng.standard_normal(truth.shape)
        if kept:
            drawn["mean_tta"] = np.mean([drawn[f"{stem}_tta"] for stem in kept], axis=0)
        for table in heads.values():
            there = 8.0 * truth.any(axis=(1, 2)) - 4
            table.append((there + (head_noise or 0) * rng.standard_normal(len(truth))).tolist())
        for key, table in tables.items():
            logits = 2.0 * truth - 1 + offset + drawn[key]
            logits = (scale * logits).astype(np.float16).astype(np.float32)
            masks = to_masks(logits, rule, config.task)
            table.append(count_masks(masks, target, config.num_outputs, config.task).tolist())
            if key.removesuffix("_tta") in writers:
                writers[key.removesuffix("_tta")].add(sample.id, logits)
    for writer in writers.values():
        writer.close()
    ids = [sample.id for sample in samples]
    said = {"heads": heads} if heads else {}
    write_json(paths.folder / "oof_scores.json", {"ids": ids, "variants": tables, **said})
    files = [f"{stem}.safetensors" for stem in stems]
    seen = sorted(manifest.seen(fold))
    record = {"snapshots": files, "seconds": 1.5, "epochs": 2, "score": 0.5, "trained_on": seen}
    mark_done(paths.done, record)


def _patches(noise_CHW: np.ndarray, blur: float) -> np.ndarray:
    if not blur:
        return noise_CHW
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in noise_CHW])
    return smooth / smooth.std()


def made_run(tmp_path: Path, config: Config, **options: Any) -> Run:
    """`options`: keywords of write_member for all, or by member name."""
    run = Run(tmp_path / "run")
    prepare(config, run)
    for name in config.members:
        own = options.get(name, {k: v for k, v in options.items() if k not in config.members})
        for fold in Manifest.read(run.truth).folds:
            write_member(config, run, name, fold, **own)
    return run


def ensembled_run(tmp_path: Path) -> tuple[Config, Run]:
    """A run with an ensemble whose models are shifted, one much noisier than the other: there is
    much to find for a search."""
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", postprocess={"threshold": 0.5})
    run = made_run(tmp_path, config, a={"offset": 0.9, "noise": 1.0}, b={"offset": 0.9, "noise": 4})
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    return config, run
