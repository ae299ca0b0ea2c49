"""Configs and images that the tests of several layouts share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.functional.rle import encode

CLASSES = {"severstal": ["d1", "d2", "d3", "d4"], "camvid": ["sky", "road", "car"]}


TASKS = {"severstal": "multilabel", "camvid": "multiclass"}


def config_of(form: str, root: Path, **data: Any) -> Config:
    tree: dict[str, Any] = {
        "name": "t",
        "task": TASKS.get(form, "binary"),
        "classes": CLASSES.get(form, ["thing"]),
        "void": 11 if form == "camvid" else None,
        "data": {"format": form, "root": str(root), **data},
        "input": {"height": 32, "width": 32, "fit": "resize"},
        "members": {"a": {}},
        "stages": [{"loss": {"cross_entropy" if form == "camvid" else "bce": 1.0}}],
    }
    return parse_config(tree, "t")


def brute_decode(text: str, height: int, width: int) -> np.ndarray:
    """Pixel by pixel, as the competitions' pages describe it."""
    mask = np.zeros((height, width), dtype=np.uint8)
    numbers = [int(part) for part in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for position in range(start - 1, start - 1 + length):
            mask[position % height, position // height] = 1
    return mask


def save_image(path: Path, height: int = 16, width: int = 24, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def severstal(root: Path) -> dict[str, dict[int, np.ndarray]]:
    """Three images, the second without a defect; both forms of the table."""
    masks: dict[str, dict[int, np.ndarray]] = {"a.jpg": {}, "b.jpg": {}, "c.jpg": {}}
    for number, (name, kinds) in enumerate([("a.jpg", (1, 3)), ("c.jpg", (4,))]):
        for kind in kinds:
            mask = np.zeros((16, 24), dtype=np.uint8)
            mask[2 + number : 9, kind : kind + 7] = 1
            masks[name][kind] = mask
    four, three = ["ImageId_ClassId,EncodedPixels"], ["ImageId,ClassId,EncodedPixels"]
    for number, name in enumerate(masks):
        save_image(root / "train_images" / name, seed=number)
        for kind in range(1, 5):
            text = encode(masks[name][kind]) if kind in masks[name] else ""
            four.append(f"{name}_{kind},{text}")
            three += [f"{name},{kind},{text}"] if text else []
    (root / "train.csv").write_text("\n".join(four) + "\n")
    (root / "three.csv").write_text("\n".join(three) + "\n")
    lines = ["ImageId_ClassId,EncodedPixels"]
    for number, name in enumerate(["z.jpg", "y.jpg"]):
        save_image(root / "test_images" / name, seed=10 + number)
        lines += [f"{name}_{kind},1 1" for kind in range(1, 5)]
    (root / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    return masks


def tianchi(root: Path) -> list[np.ndarray]:
    masks, lines = [], []
    for number in range(3):
        mask = np.zeros((16, 24), dtype=np.uint8)
        mask[number * 3 : 12, 4:9] = number < 2
        masks.append(mask)
        save_image(root / "train" / f"B{number}.jpg", seed=number)
        lines.append(f"B{number}.jpg\t{encode(mask)}")
    (root / "train_mask.csv").write_text("\n".join(lines) + "\n")
    for name in ("T1.jpg", "T0.jpg"):
        save_image(root / "test_a" / name, seed=ord(name[1]))
    (root / "test_a_samplesubmit.csv").write_text("T1.jpg\t\nT0.jpg\t\n")
    return masks
