"""Small data sets on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.augment import AugmentConfig
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.detect import detect
from distseg.data.inspect import inspect
from distseg.data.layouts import layout
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest, Sample


def config(root: Path, **changes: Any) -> Config:
    """A config of data.format: folder on 16x16 gray images; changes go by dotted key, with __."""
    tree: dict[str, Any] = {
        "name": "test",
        "data": {"root": str(root), "folds": {"num": 2}},
        "input": {"height": 32, "width": 32, "channels": 1},
        "members": {"a": {}},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return parse_config(tree, "test")


def steps(*trees: dict[str, Any]) -> list[AugmentConfig]:
    """A config's list of augmentations."""
    return [AugmentConfig.model_validate(tree) for tree in trees]


def gray(seed: int = 0, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (height, width), dtype=np.uint8)


def blob(seed: int = 0, height: int = 16, width: int = 16) -> np.ndarray:
    """A 0/255 mask; every third is empty."""
    mask = np.zeros((height, width), dtype=np.uint8)
    if seed % 3:
        mask[: 2 + seed % 7, 3 : 5 + seed % 5] = 255
    return mask


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def folder(root: Path, num: int = 6) -> Path:
    """images/a0.png..., masks/a0.png..., test_images/t0.png t1.png."""
    for i in range(num):
        save(root / "images" / f"a{i}.png", gray(i))
        save(root / "masks" / f"a{i}.png", blob(i))
    for i in range(2):
        save(root / "test_images" / f"t{i}.png", gray(100 + i))
    return root


def tgs(root: Path, num: int = 6, *, masks: bool = True) -> Path:
    """TGS Salt's layout, with 8-bit empty masks and 16-bit others, and train.csv."""
    lines = ["id,rle_mask"]
    for i in range(num):
        save(root / "train" / "images" / f"a{i}.png", gray(i))
        mask = (blob(i) > 0).astype(np.uint16) * 65535 if i % 3 else blob(i)
        if masks:
            save(root / "train" / "masks" / f"a{i}.png", mask)
        lines.append(f"a{i}," + ("1 3" if i % 3 else ""))
    for i in range(2):
        save(root / "test" / "images" / f"t{i}.png", gray(100 + i))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    (root / "sample_submission.csv").write_text("id,rle_mask\nt1,1 1\nt0,1 1\n")
    return root


def manifest(c: Config) -> Manifest:
    rows = inspect(c, layout(c.data.format).train(c)).good
    return Manifest(
        [Sample(r.id, r.image, r.target, 0, height=r.height, width=r.width) for r in rows]
    )


def made(tmp_path: Path) -> tuple[Config, Manifest]:
    """A data set with one image of another size, and its manifest."""
    root = folder(tmp_path / "data")
    save(root / "images" / "odd.png", gray(9, 20, 11))
    save(root / "masks" / "odd.png", blob(2, 20, 11))
    c = config(root)
    return c, manifest(c)


def assert_doubt(root: Path, says: str) -> None:
    """The folder is refused in one line, a pattern, that ends with the way out."""
    with pytest.raises(UserError, match=f"{says}.*write data.format=folder beside it") as refused:
        detect(root)
    assert len(str(refused.value).splitlines()) == 1
