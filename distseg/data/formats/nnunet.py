"""nnU-Net's raw data sets, which are read as `folder`: a dataset.json of channels and labels says
which keys a config of them has. Images are imagesTr/CASE_0000.png, masks labelsTr/CASE.png.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from distseg.data.formats.detected import Detected
from distseg.data.formats.row import IMAGE_SUFFIXES
from distseg.data.json_file import read_tree
from distseg.functional.metrics import VOID
from distseg.functional.naming import as_name
from distseg.records.errors import UserError, printable_path, shown

NAME = "dataset.json"
SETS = ("Dataset[0-9]*_*", "nnUNet_raw/Dataset[0-9]*_*")  # a folder of data sets
MAX_BYTES, MAX_VALUES = 16 << 20, 1_000_000  # some list every file
LOOKED_AT = 20_000  # names of a folder
_OTHER_CHANNEL = re.compile(r"(.+)_(?!0000)\d{4}")


def detect(root: Path) -> Detected | None:
    """A dataset.json with channels and labels. UserError: what it describes cannot be read, or the
    folder holds several data sets."""
    if not (root / NAME).is_file():
        _refuse_several(root)
        return None
    try:
        tree = read_tree(root / NAME, MAX_BYTES, MAX_VALUES)
    except UserError:
        return None  # whoever reads it as another layout says so
    if not isinstance(tree, dict) or "labels" not in tree:
        return None
    if not tree.keys() & {"channel_names", "modality"}:  # the latter: of the first nnU-Net
        return None
    path = root / NAME
    ending = _ending(path, tree)
    meanings, keys = _labels(path, tree["labels"])
    parts = {"images": "imagesTr", "masks": "labelsTr"}
    tests = {"test_images": "imagesTs", "test_masks": "labelsTs"}
    parts |= {key: name for key, name in tests.items() if _has(root / name, ending)}
    for name in parts.values():
        _refuse_channels(root / name, ending)
    pattern = f"{{id}}_0000{ending}"
    names = {"image": pattern, **({"test_image": pattern} if "test_images" in parts else {})}
    data = {"format": "folder", "folder": {**parts, **names}, "mask_values": meanings}
    return Detected({"data": data, **keys}, f"{NAME} has the channels and labels of nnU-Net")


def _refuse_several(root: Path) -> None:
    found = sorted(path.parent for one in SETS for path in root.glob(f"{one}/imagesTr"))
    if found:
        names = ", ".join(path.name for path in found[:12])
        raise UserError(
            f"{printable_path(root)}: holds data sets of nnU-Net ({names}): name one, as "
            f"{printable_path(found[0])}"
        )


def _ending(path: Path, tree: Mapping[str, Any]) -> str:
    ending = tree.get("file_ending", ".nii.gz")  # the first nnU-Net knew no other
    if ending not in IMAGE_SUFFIXES:
        raise UserError(
            f"{path}: file_ending: files of {shown(ending)} are not read: images are 2-D here, as "
            f"{', '.join(IMAGE_SUFFIXES)}; write each slice as a file of its own"
        )
    return str(ending)


def _labels(path: Path, labels: Any) -> tuple[dict[int, int], dict[str, Any]]:
    """What each value of a mask means, and the task and the classes. Labels of several values are
    one class; `ignore` counts nowhere."""
    if not isinstance(labels, dict):
        raise UserError(f"{path}: labels: {shown(labels)}; valid: `name: value`")
    owners: dict[int, str] = {}
    for name, value in labels.items():
        for one in value if isinstance(value, list) else [value]:
            if type(one) is not int or not 0 <= one < VOID:
                raise UserError(f"{path}: labels.{name}: {shown(one)}; valid: 0..{VOID - 1}")
            if one in owners:
                raise UserError(
                    f"{path}: labels.{name}: the value {one} is of {owners[one]}, too: a mask file "
                    "of regions that overlap is not read; write a folder of masks for each, "
                    "masks/NAME/CASE.png, and read them with data.format=folder task=multilabel"
                )
            owners[one] = name
    names = [name for name in dict.fromkeys(owners[v] for v in sorted(owners)) if name != "ignore"]
    if owners.get(0) != names[0] or len(names) < 2:
        raise UserError(f"{path}: labels: {shown(labels)}; valid: the background 0, and others")
    meanings = {v: VOID if owners[v] == "ignore" else names.index(owners[v]) for v in owners}
    classes = [as_name(name) or f"class_{number}" for number, name in enumerate(names)]
    if len(names) == 2:
        return meanings, {"task": "binary", "classes": classes[1:]}
    return meanings, {"task": "multiclass", "classes": classes}


def _has(folder: Path, ending: str) -> bool:
    return any(True for _ in _stems(folder, ending))


def _refuse_channels(folder: Path, ending: str) -> None:
    """UserError where a case has several files."""
    for match in filter(None, map(_OTHER_CHANNEL.fullmatch, _stems(folder, ending))):
        if folder.joinpath(f"{match[1]}_0000{ending}").is_file():
            raise UserError(
                f"{folder}: {match[1]} has a file for each channel ({match[1]}_0000{ending}, "
                f"{match[0]}{ending}), and an image is read from one: write the channels of a case "
                "into one file, CASE_0000.png of three channels, or CASE_0000.tif with a page for "
                "each"
            )


def _stems(folder: Path, ending: str) -> Iterator[str]:
    """The names in a folder, without their ending; none where there is no folder."""
    if folder.is_dir():
        names = (path.name for path in islice(folder.iterdir(), LOOKED_AT))
        yield from (name.removesuffix(ending) for name in names if name.endswith(ending))
