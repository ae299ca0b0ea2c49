"""CamVid as SegNet published it: train, trainannot, val, valannot, test (and testannot).

Masks are PNGs of class indices, 11 of them and void (config: `void: 11`). Frames of one video are
nearly alike, so the data set's own validation part is worth keeping: `data.folds.kind: split`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.folder import paired
from distseg.data.formats.names import Found
from distseg.data.formats.row import Row, SubmissionSpec, image_files, locate

# keys of `data` that only some layouts read
READS = ("mask_values", "mask_channel", "colors", "folder.mask_suffix", "folder.several")


CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)


def detect(root: Path) -> Detected | None:
    if not all((root / name).is_dir() for name in ("train", "trainannot")):
        return None
    data: dict[str, Any] = {"format": "camvid"}
    if (root / "val").is_dir() and (root / "valannot").is_dir():
        data["folds"] = {"kind": "split"}
    keys = {"data": data, "task": "multiclass", "classes": list(CLASSES), "void": len(CLASSES)}
    return Detected({**keys, "metric": "miou"}, "train and trainannot are there")


def train(config: Config) -> list[Row]:
    """The rows of train, and of val where it is there; those validate with `kind: split`.

    `data.limit` cuts train and val each: one cut over both could leave nothing to validate on.
    """
    root = Path(config.data.root)
    rows = _split(config, "train")
    if (root / "val").is_dir():
        rows += [replace(row, validates=True) for row in _split(config, "val")]
    return rows


def _split(config: Config, name: str) -> list[Row]:
    root = Path(config.data.root)
    paths = image_files(root / name, f"{name} of camvid")
    images = [Found(path.stem, [path], locate(path.parent, path.name)[1]) for path in paths]
    return paired(config, config.data.folder, images, f"{name}annot")[: config.data.limit]


def test(config: Config) -> list[Row]:
    folder = Path(config.data.root) / "test"
    if not folder.is_dir():
        return []
    paths = image_files(folder, "test images of data.format: camvid")
    return [Row(path.stem, str(path)) for path in paths][: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    return SubmissionSpec("masks", ids=[row.id for row in test(config)])


def test_truth(config: Config) -> list[Row] | None:
    if not (Path(config.data.root) / "testannot").is_dir():
        return None
    return _split(config, "test")
