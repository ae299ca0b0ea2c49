"""CamVid as SegNet published it: train, trainannot, val, valannot, test (and testannot).

Masks are PNGs of class indices, 11 of them and void (config: `void: 11`). Frames of one video are
nearly alike, so the data set's own validation part is worth keeping: `data.folds.kind: split`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.formats.detected import Detected
from distseg.data.formats.folder import paired
from distseg.data.formats.names import Found, folders_in
from distseg.data.formats.row import Row, SubmissionSpec, image_files, locate
from distseg.data.image_file import BadFile
from distseg.data.mask_file import count_values, read_labels
from distseg.records.errors import UserError

# keys of `data` that only some layouts read
READS = ("mask_values", "mask_channel", "colors", "folder.mask_suffix", "folder.several")

LOOKED_AT = 8  # masks whose values are looked at
CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)


def detect(root: Path) -> Detected | None:
    """The folders of the data set and no other, and masks that hold its classes: other sets have
    such folders, too."""
    needed = {"train", "trainannot", "val", "valannot"}
    if not needed <= {path.name for path in folders_in(root)} <= {*needed, "test", "testannot"}:
        return None
    if not _holds_classes(root / "trainannot"):
        return None
    keys = {"task": "multiclass", "classes": list(CLASSES), "void": len(CLASSES)}
    data = {"format": "camvid", "folds": {"kind": "split"}}
    return Detected({"data": data, **keys, "metric": "miou"}, "the folders and classes of CamVid")


def _holds_classes(folder: Path) -> bool:
    """Whether a few masks hold most of the classes, and nothing else but void."""
    seen: set[int] = set()
    try:
        for path in image_files(folder, "trainannot of camvid")[:LOOKED_AT]:
            seen |= count_values(read_labels(path)).keys()
    except (UserError, BadFile, OSError):
        return False
    return seen <= {*range(len(CLASSES) + 1)} and 2 * len(seen) > len(CLASSES)


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
    images = [Found(path.stem, [str(path)], locate(path.parent, path.name)[1]) for path in paths]
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
