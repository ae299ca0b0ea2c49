"""A tiny data set with folds, and the steps of its rounds in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.formats.synthetic import picture
from distseg.data.prepare import open_unlabeled_cache, prepare
from distseg.ensemble.fit import fit_ensemble
from distseg.models import checkpoint
from distseg.records.files import read_json
from distseg.records.paths import Run
from distseg.rounds.predict_teachers import predict_teachers
from distseg.rounds.select import select, write_pair_sets
from distseg.run.members import known_members, round_keys
from distseg.training.train import train_member
from tests.tiny import tiny_tree

NUM, FOLDS = 30, 3
PSEUDO = {"kind": "pseudo_label", "rules": {}, "match_strata": False}
BLEND = {"kind": "self_distill", "rules": {"worst": 0.5}, "action": "blend", "targets": "soft"}


def write_images(root: Path, *, noisy_fold: int | None = None) -> None:
    """Textured images with their folds; the masks of one fold are noise, when asked."""
    tree = tiny_tree()
    options = parse_config(tree, "t").data.synthetic
    for name in ("images", "masks", "test_images"):
        (root / name).mkdir(parents=True)
    rows = []
    for i in range(NUM + 6):
        image, mask = picture(np.random.default_rng(i), options, 1, empty=i % 5 == 0)
        if i >= NUM:
            Image.fromarray(image).save(root / "test_images" / f"t{i}.png")
            continue
        fold = i % FOLDS
        if fold == noisy_fold:
            mask = np.random.default_rng(1000 + i).integers(0, 2, mask.shape, dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"a{i}.png")
        Image.fromarray(mask * np.uint8(255)).save(root / "masks" / f"a{i}.png")
        rows.append(f"a{i},{fold}")
    (root / "folds.csv").write_text("\n".join(["id,fold", *rows]) + "\n")


def config_of(root: Path, *rounds: dict[str, Any], **changes: Any) -> Config:
    data = {"format": "folder", "root": str(root),
            "folds": {"kind": "file", "path": str(root / "folds.csv")}}  # fmt: skip
    tree = tiny_tree(data=data, rounds=[{"kind": "supervised"}, *rounds], **changes)
    return parse_config(tree, "test")


def play(config: Config, run: Run, rounds: int, folds: list[int] | None = None) -> None:
    """What the pipeline does up to a round, in this process."""
    torch.set_num_threads(1)
    prepare(config, run)
    for key in round_keys(config, run):
        number = int(str(key).partition("/")[0])
        if number > rounds:
            return
        if "/" in str(key):
            write_pair_sets(run, number)
        elif number:
            open_unlabeled_cache(config, run)
            predict_teachers(run.folder, config, number)
            select(config, run, number)
        for name, fold in known_members(config, run, key):
            if "/" in str(key) or number < rounds or folds is None or fold in folds:
                train_member(config, run.folder, key, name, fold)
        if "/" not in str(key) and folds is None:
            fit_ensemble(config, run, key)


def weights(run: Run, round: int, fold: int) -> dict[str, torch.Tensor]:
    paths = run.member(round, "a", fold)
    name = read_json(paths.done)["snapshots"][-1]
    return checkpoint.load_snapshot(paths.snapshots / name)[0]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[key], right[key]) for key in left)
