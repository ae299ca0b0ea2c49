"""Runs whose reports are looked at: street scenes of eleven classes, and four images in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.ensemble.fit import fit_ensemble
from distseg.records.files import append_line, read_json, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from distseg.run.summary import write_report
from tests.made_run import made_config, made_run, write_data

STREET = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
VOID = 11
SIZE = (120, 160)  # a third of CamVid's


def draw_street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A street as CamVid has them, uint8 (H, W, 3) and (H, W): bands of sky, houses, pavement and
    road, and things that stand on them, the rare ones in few images; a rim that counts nowhere."""
    width = SIZE[1]
    mask = np.zeros(SIZE, np.uint8)
    horizon, ground = rng.integers(25, 45), rng.integers(70, 85)
    mask[horizon:], mask[ground - 8 :], mask[ground:] = 1, 4, 3
    things = {2: (4, 60, 0.8), 5: (30, 40, 0.9), 6: (8, 8, 0.5), 7: (40, 12, 0.4), 8: (34, 18, 0.9),
              9: (5, 16, 0.5), 10: (12, 16, 0.2)}  # fmt: skip
    for label, (across, high, share) in things.items():
        for _ in range(rng.integers(1, 4)):
            if rng.random() < share:
                left, foot = rng.integers(0, width - across), ground + rng.integers(-6, 14)
                mask[max(0, foot - high) : foot, left : left + across] = label
    mask[-3:] = VOID
    colors = np.random.default_rng(7).integers(40, 220, (VOID + 1, 3))
    image = colors[mask] + rng.normal(0, 14, (*SIZE, 3)) + np.linspace(25, -25, width)[:, None]
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_streets(root: Path, num: int = 18) -> None:
    """In CamVid's own layout."""
    rng = np.random.default_rng(3)
    for part, count in (("train", num), ("val", 3), ("test", 4)):
        for folder in (part, f"{part}annot"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            image, mask = draw_street(rng)
            name = f"{part.title()}05VD_f{30 * number:05d}.png"
            Image.fromarray(image).save(root / part / name)
            Image.fromarray(mask).save(root / f"{part}annot" / name)


def street_config(root: Path) -> Config:
    data = {"format": "camvid", "root": str(root), "folds": {"num": 3}}
    return made_config(
        root, data=data, task="multiclass", classes=list(STREET), void=VOID, metric="miou",
        input={"height": 96, "width": 128, "channels": 3, "fit": "resize"},
        stages=[{"loss": {"cross_entropy": 1.0}}], predict={"tta": ["hflip"]},
    )  # fmt: skip


def streets(folder: Path) -> tuple[Config, Run]:
    """A run of eleven classes, with its report: two models, one much noisier, and test masks."""
    write_streets(folder / "data")
    config = street_config(folder / "data")
    noisy = {"a": {"noise": 0.8, "blur": 4}, "b": {"noise": 0.9, "blur": 2}}
    run = made_run(folder, config, **{name: {**own, "scale": 3.0} for name, own in noisy.items()})
    _history(config, run)
    _finish(config, run)
    run.test_masks.mkdir()
    for path in sorted((folder / "data" / "testannot").iterdir()):
        truth = np.asarray(Image.open(path)).clip(0, VOID - 1)
        Image.fromarray(truth).save(run.test_masks / path.name)
    write_report(config, run)
    run.config.write_text(dump_config(config))  # `compare` reads it
    return config, run


def four_images(folder: Path) -> tuple[Config, Run]:
    """A run of four images with its report."""
    write_data(folder / "data", num=4)
    data = {"format": "folder", "root": str(folder / "data"), "folds": {"num": 2}}
    config = made_config(folder / "data", members=("a",), data=data)
    run = made_run(folder, config, noise=0.8, scale=3.0)
    _history(config, run)
    _finish(config, run)
    write_report(config, run)
    return config, run


def _history(config: Config, run: Run) -> None:
    """What training leaves for the curves and the chart of jobs: two stages, a skipped step, a
    snapshot in each."""
    folds = Manifest.read(run.truth).folds
    for number, (name, fold) in enumerate(config.planned_members(folds)):
        paths = run.member(0, name, fold)
        for epoch in range(12):
            fall = np.exp(-epoch / 4) + 0.03 * number
            row: dict[str, Any] = {
                "stage": epoch // 6, "epoch": epoch, "loss": round(0.2 + fall, 4),
                "val_loss": round(0.3 + fall + 0.01 * epoch, 4), "lr": 1e-3 / (1 + epoch % 6),
                "score": round(0.8 - 0.5 * fall, 4), "skipped_steps": int(epoch > 7),
            }  # fmt: skip
            append_line(paths.metrics, row)
        done = read_json(paths.done)
        write_json(paths.done, {**done, "epochs": 12, "seconds": 90.0 + 7 * number})
        job = {"job": f"{name}_fold{fold}", "slot": number % 2, "devices": []}
        start = 100.0 * (number // 2)
        append_line(run.ledger, {"time": start, "event": "job_started", **job})
        append_line(run.ledger, {"time": start + 90 + number, "event": "job_done", **job})


def _finish(config: Config, run: Run) -> None:
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
