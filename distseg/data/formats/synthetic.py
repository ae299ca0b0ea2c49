"""Images that are made, not found: a textured background, striped objects and smooth decoys.

An object and a decoy have the same range of brightness; only the stripes tell them apart, so that
a threshold on gray finds nothing and a small network has something to learn. The files are a pure
function of the settings; they lie in `<data.cache_dir, or ~/.cache/distseg>/synthetic_<hash>/`,
are written once, and are then read as any folder is. The truth of the test images is kept.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from distseg.config.data import FolderConfig, SyntheticConfig
from distseg.config.schema import Config
from distseg.data.formats import folder
from distseg.data.formats.row import Row, SubmissionSpec
from distseg.records.files import whole_folder
from distseg.records.tables import write_table

READS = ("synthetic",)  # keys of `data` that only some layouts read
VERSION = 1  # of the pictures: a change makes them anew
_KINDS = {"binary": 0, "multilabel": 0, "multiclass": 1}  # classes that are no object


def train(config: Config) -> list[Row]:
    return folder.train(_as_folder(config))


def test(config: Config) -> list[Row]:
    return folder.test(_as_folder(config))


def submission(config: Config) -> SubmissionSpec:
    return folder.submission(_as_folder(config))


def test_truth(config: Config) -> list[Row] | None:
    return folder.test_truth(_as_folder(config))


def _as_folder(config: Config) -> Config:
    """The same config, reading the synthetic files, which are made first where they are missing."""
    has_tests = config.data.synthetic.num_test > 0
    made = FolderConfig(
        images="train/images", masks="train/masks",
        test_images="test/images" if has_tests else None,
        test_masks="test/masks" if has_tests else None, submission="rle",
    )  # fmt: skip
    data = config.data.model_copy(update={"root": str(_files(config)), "folder": made})
    return config.model_copy(update={"data": data})


def _files(config: Config) -> Path:
    options, kinds = config.data.synthetic, len(config.classes) - _KINDS[config.task]
    text = f"{VERSION} {kinds} {config.task == 'binary'} {options.model_dump_json()}"
    name = "synthetic_" + hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]
    cache = config.data.cache_dir
    parent = Path(cache) if cache else Path.home() / ".cache" / "distseg"
    target = parent / name
    if not target.is_dir():
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{name}.lock"):
            if not target.is_dir():
                with whole_folder(target) as made:
                    _make(options, kinds, 255 if config.task == "binary" else 1, made)
    return target


def _make(options: SyntheticConfig, kinds: int, scale: int, folder: Path) -> None:
    """Write all files into `folder`. scale: the mask value of the first kind of object."""
    for number, (split, num) in enumerate(
        (("train", options.num_train), ("test", options.num_test))
    ):
        images, masks = folder / split / "images", folder / split / "masks"
        images.mkdir(parents=True)
        masks.mkdir()
        rng = np.random.default_rng([options.seed, number])
        empty = rng.permutation(num) < round(options.empty * num)
        noise = rng.permutation(num) < round(options.noise * num * (split == "train"))
        for i in range(num):
            one = np.random.default_rng([options.seed, number, i])
            image, mask = picture(one, options, kinds, empty=bool(empty[i]))
            if noise[i]:
                mask = _wrong(one, mask)
            Image.fromarray(image).save(images / f"{split}_{i:05d}.png")
            Image.fromarray(mask * np.uint8(scale)).save(masks / f"{split}_{i:05d}.png")
        if split == "train":
            wrong = [[f"train_{i:05d}"] for i in np.flatnonzero(noise)]
            write_table(folder / "noise.csv", ["id"], wrong)


def picture(
    rng: np.random.Generator, options: SyntheticConfig, kinds: int, *, empty: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image, uint8 (H, W) or (H, W, 3), and its mask, uint8 (H, W): 0, or 1 + the kind."""
    height, width = options.height, options.width
    gray = 0.5 + 0.1 * _cloud(rng, height, width, 4) + 0.04 * rng.standard_normal((height, width))
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(1, 3)):  # decoys
        gray += rng.uniform(-0.18, 0.18) * _blob(rng, height, width)
    for _ in range(0 if empty else rng.integers(1, 3)):
        kind = int(rng.integers(kinds))
        blob = _blob(rng, height, width)
        gray = gray + blob * (rng.uniform(-0.18, 0.18) + 0.16 * _stripes(rng, height, width, kind))
        mask[blob] = 1 + kind
    image = gray[..., None] * (
        rng.uniform(0.8, 1.2, options.channels) if options.channels > 1 else 1
    )
    pixels = np.clip(image * 255, 0, 255).astype(np.uint8)
    return (pixels[..., 0] if options.channels == 1 else pixels), mask


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> NDArray[np.float64]:
    """Smooth noise of about unit variance: random values on a grid, interpolated."""
    grid = rng.standard_normal((cells + 1, cells + 1))
    y, x = np.linspace(0, cells - 1e-6, height), np.linspace(0, cells - 1e-6, width)
    i, j = y.astype(int), x.astype(int)
    v, u = y - i, x - j
    v, u = (v * v * (3 - 2 * v))[:, None], (u * u * (3 - 2 * u))[None]
    top = grid[np.ix_(i, j)] * (1 - u) + grid[np.ix_(i, j + 1)] * u
    bottom = grid[np.ix_(i + 1, j)] * (1 - u) + grid[np.ix_(i + 1, j + 1)] * u
    return top * (1 - v) + bottom * v


def _blob(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """A round shape with a wavy rim, anywhere."""
    y, x = np.mgrid[:height, :width]
    dy, dx = y - rng.uniform(0.1, 0.9) * height, x - rng.uniform(0.1, 0.9) * width
    angle = np.arctan2(dy, dx)
    rim = 1 + sum(rng.uniform(0, 0.2) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    return np.hypot(dy, dx) < rng.uniform(0.14, 0.3) * min(height, width) * rim


def _stripes(rng: np.random.Generator, height: int, width: int, kind: int) -> NDArray[np.float64]:
    """A wave of -1..1 in a random direction; its period in pixels depends on the kind of object."""
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4.0, 5.0) * 1.6**kind
    wave = (x * np.cos(angle) + y * np.sin(angle)) / period
    return np.sin(2 * np.pi * (wave + rng.uniform(0, 1)))


def _wrong(rng: np.random.Generator, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A wrong mask: forgotten, displaced by a third, or drawn where nothing is."""
    height, width = mask.shape
    way = rng.integers(2) if mask.any() else 2
    if way == 0:
        return np.zeros_like(mask)
    if way == 1:
        return np.roll(mask, (height // 3, width // 3), axis=(0, 1))
    return _blob(rng, height, width).astype(np.uint8)
