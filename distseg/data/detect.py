"""Which layout a folder has: the first whose `detect` recognizes it.

A layout is detected where its module of data/formats/ has a function `detect(root)`, which returns
`Detected`, or None where the folder is none of its own. It reads names and heads of tables only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.formats import arrangement, nnunet
from distseg.data.formats.arrangement import TEST, TRAIN, VAL, Doubt, lonely, several, which
from distseg.data.formats.detected import Detected
from distseg.data.formats.names import folders_in
from distseg.data.formats.row import IMAGE_SUFFIXES, Row
from distseg.data.layouts import FORMATS
from distseg.records.errors import UserError, printable_path
from distseg.records.files import path_problem
from distseg.records.log import counted

IMAGES = (*arrangement.IMAGES, "train_images", "jpegimages", "pictures", "frames")
MASKS = (
    *(*arrangement.MASKS, "train_masks", "train_labels"),
    *("segmentationclass", "trainannot"),
)
TESTS = ("test_images", "images_test", "test", "testing", "test/images")
SUFFIXES = ("_mask", "-mask", "_label", "_labels", "_gt", "_seg", "_segmentation", "_manual1")
_LABELS = (("coco", (".json",)), ("yolo", (".txt",)), ("table", (".csv", ".tsv")))
LOOKED_AT = 2000  # names of a folder
_TRAIN = re.compile(r"(?<![a-z])train(ing)?", re.IGNORECASE)


def detect(root: Path) -> Detected:
    """The layout of a folder. UserError: it is no folder, no layout recognizes it, or several of
    its folders could be meant."""
    if problem := path_problem(root, "folder"):
        raise UserError(f"{printable_path(root)}: {problem}")
    for module in (nnunet, *FORMATS.values()):
        look = getattr(module, "detect", None)
        if look is not None and (found := look(root)) is not None:
            return found
    try:
        if (found := _by_names(root) or _pairs(root)) is not None:
            return found
    except Doubt as doubt:  # with the format nothing is detected, and the keys count
        raise UserError(f"{doubt}; write data.format=folder beside it") from None
    said = "".join(f"\n{line}" for line in _reasons(root))
    inside = ", ".join(sorted(p.name for p in islice(root.iterdir(), 12))) or "nothing"
    raise UserError(
        f"{printable_path(root)}: no layout is recognized (it holds {inside}{_lacking(root)}). "
        "Images and masks of the same names belong into two folders, `images` and `masks`; else "
        "say where they are: data.format=folder data.folder.images=DIR data.folder.masks=DIR"
        f"{said}"
    )


def _plain_rows(root: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    """Train and test rows of the layout `folder` with no key of its own. UserError: it has none."""
    config = _bare("folder", root)
    return FORMATS["folder"].train(config), FORMATS["folder"].test(config)


def _lacking(root: Path) -> str:
    """What is wrong with the masks of images that are where they belong; "" where none are."""
    if not _stems(root / "images"):
        return ""
    try:
        rows, _ = _plain_rows(root)
    except UserError as error:
        return f"; {error}"
    bad = [row for row in rows if row.problem]
    first = f"{printable_path(bad[0].image)}: {bad[0].problem}" if bad else ""
    return f"; {len(bad)} of {counted(len(rows), 'image')} cannot be used: {first}" if bad else ""


def _reasons(root: Path) -> Iterator[str]:
    """Why files that look like labels are none: what each layout that reads such files says."""
    for name, suffixes in _LABELS:
        if any(path.suffix.lower() in suffixes for path in islice(root.rglob("*"), LOOKED_AT)):
            try:
                FORMATS[name].train(_bare(name, root))
            except UserError as error:
                yield f"read with data.format={name}: {error}"


def _bare(name: str, root: Path) -> Config:
    """A config of a layout without a key of its own."""
    tree = {"data": {"format": name, "root": str(root)}, "members": {"any": {}}, "name": "any"}
    return parse_config(tree, str(root))


def _by_names(root: Path) -> Detected | None:
    """What the layout `folder` finds without a key of its own. Doubt: it may be several things."""
    try:
        rows, tests = _plain_rows(root)
    except Doubt:
        raise
    except UserError:
        return None
    good = [row for row in rows if row.target and not row.problem]
    if not good or 2 * len(good) < len(rows):
        return None
    keys: dict[str, Any] = {"format": "folder"}
    if any(row.validates for row in good):
        keys["folds"] = {"kind": "split"}
    if not tests and (test := _only(root, "test", _there(root, TESTS))):
        keys["folder"] = {"test_images": test}
    pair = (good[0].image, mask_files(good[0].target)[0])
    image, mask = (os.path.relpath(path, root) for path in pair)
    return Detected({"data": keys}, f"{image} and {mask} belong together, and so on")


# -- by other names --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """A folder of images and one of masks, relative to the root; the same one where each mask lies
    beside its image. suffix: what masks have behind the names of their images. classes: names of
    the folders of masks, where there is one for each class."""

    images: str
    masks: str
    why: str
    suffix: str = ""
    classes: tuple[str, ...] = ()


def _pairs(root: Path) -> Detected | None:
    """Two folders with images and masks of the same names, or else one that holds both, with the
    other parts of the data. Doubt: several could be meant."""
    parts = ["", *filter(None, (_existing(root, part) for part in TRAIN))]
    found = [pair for part in parts for pair in _two_folders(root, part)]
    found = found or [pair for part in parts for pair in _one_folder(root, part)]
    if len(found) > 1:
        raise several(root, "images and masks", [(pair.images, pair.masks) for pair in found])
    return _described(root, found[0]) if found else None


def _two_folders(root: Path, part: str) -> Iterator[_Pair]:
    inside = _folders(root / part)
    for images in (inside[name] for name in IMAGES if name in inside):
        if stems := _stems(root / part / images):
            for masks in (inside[name] for name in MASKS if name in inside):
                pair = _pair(root, _joined(part, images), _joined(part, masks), stems)
                if pair is not None:
                    yield pair


def _pair(root: Path, images: str, masks: str, stems: set[str]) -> _Pair | None:
    """The two folders, where masks have the names of images, or a usual word behind them."""
    names = _stems(root / masks)
    classes = sorted(_folders(root / masks).values()) if not names else []
    filled = [name for name in classes if _stems(root / masks / name)]
    if filled:
        why = f"{masks} has a folder of masks for each class"
        why += "".join(f"; {name} is empty" for name in classes if name not in filled)
        return _Pair(images, masks, why, classes=tuple(filled))
    suffix = "" if names & stems else _common_suffix(root / masks, stems, names)
    if suffix is None:
        return None
    further = f" and {suffix}" if suffix else ""
    return _Pair(images, masks, f"{images} and {masks} hold files of the same names{further}",
                 suffix)  # fmt: skip


def _one_folder(root: Path, part: str) -> Iterator[_Pair]:
    stems, place = _stems(root / part), part or "."
    if suffix := _common_suffix(root / part, stems, stems):
        yield _Pair(place, place, f"images and masks NAME{suffix} lie in one folder", suffix)


def _described(root: Path, pair: _Pair) -> Detected:
    """The keys of a pair, of the validation part and of the test images that are called like it."""
    folder: dict[str, object] = {"images": pair.images, "masks": pair.masks}
    if pair.suffix:
        folder["mask_suffix"] = pair.suffix
    data: dict[str, Any] = {"format": "folder", "folder": folder}
    parts = _parts_like(root, pair, VAL)
    if val := _only(root, "val", parts):
        if not _has_masks(root, pair, val, parts[val]):
            raise lonely(root / val, pair.images, pair.masks)
        folder |= {"val_images": val, "val_masks": parts[val]}
        data["folds"] = {"kind": "split"}
    taken, parts = set(folder.values()), _parts_like(root, pair, TEST)
    tests = [one for one in (*_there(root, TESTS), *parts) if one not in taken]
    folder["test_images"] = test = _only(root, "test", tests)
    truth = parts.get(test or "")
    if test is not None and _has_masks(root, pair, test, truth, of_all=True):
        folder["test_masks"] = truth
    keys: dict[str, Any] = {"data": data}
    if pair.classes:
        keys |= {"task": "multilabel", "classes": list(pair.classes)}
    return Detected(keys, pair.why)


def _parts_like(root: Path, pair: _Pair, words: Iterable[str]) -> dict[str, str | None]:
    """The folders of images that are called as the pair's, but for the word of their part, each
    with that of its masks."""
    found: dict[str, str | None] = {}
    for word in words if _TRAIN.search(pair.images) else ():
        images, masks = (_existing(root, _TRAIN.sub(word, p)) for p in (pair.images, pair.masks))
        if images is not None and _stems(root / images):
            found[images] = masks if masks != pair.masks else None
    return found


def _has_masks(
    root: Path, pair: _Pair, images: str, masks: str | None, *, of_all: bool = False
) -> bool:
    """Whether the images of a part have masks that are named as those of the pair."""
    if masks is None:
        return False
    folders = [root / masks / name for name in pair.classes] or [root / masks]
    suffix, stems = pair.suffix, _stems(root / images)
    names = set[str]().union(*map(_stems, folders))
    owners = {name.removesuffix(suffix) for name in names if name.endswith(suffix)} & stems
    if images == masks:
        stems -= {f"{owner}{suffix}" for owner in owners}
    return owners >= stems if of_all else bool(owners)


def _only(root: Path, part: str, folders: Iterable[str]) -> str | None:
    """The one folder of images of a part; None without one. Doubt: there are several."""
    found = list(dict.fromkeys(folders))
    if len(found) > 1:
        raise which(root, part, found)
    return found[0] if found else None


def _joined(part: str, name: str) -> str:
    return f"{part}/{name}" if part else name


# -- names of folders and files --------------------------------------------------------------------


def _there(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of the folders that hold images, as they are written there."""
    for name in names:
        if (found := _existing(root, name)) is not None and _stems(root / found):
            yield found


def _existing(root: Path, name: str) -> str | None:
    """A folder below the root by its path, in whichever case it is written; None without one."""
    place: list[str] = []
    for wanted in Path(name).parts:
        inside = _folders(root.joinpath(*place))
        if wanted.lower() not in inside:
            return None
        place.append(inside[wanted.lower()])
    return "/".join(place)


def _folders(place: Path) -> dict[str, str]:
    """The names of the folders in one, by how they are written in small letters."""
    try:
        return {path.name.lower(): path.name for path in folders_in(place)}
    except OSError:
        return {}


def _stems(folder: Path) -> set[str]:
    """Stems of the image files of a folder, of LOOKED_AT names at most; none where it is none."""
    try:
        with os.scandir(folder) as entries:
            paths = [Path(entry.name) for entry in islice(entries, LOOKED_AT)]
    except OSError:
        return set()
    return {p.stem for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."}


def _common_suffix(folder: Path, stems: Iterable[str], names: Iterable[str]) -> str | None:
    """What the names of masks have after those of their images, where most of them have it.
    Doubt: some have this, and some that."""
    known, masks, found = set(stems), list(names), []
    for suffix in SUFFIXES:
        paired = sum(n.endswith(suffix) and n.removesuffix(suffix) in known for n in masks)
        if paired and 2 * paired >= len([n for n in masks if n.endswith(suffix)]):
            found.append(suffix)
    if len(found) > 1:
        raise Doubt(
            f"{folder}: masks end with {' and with '.join(found)}: say with data.folder.mask which "
            "count, and with data.folder.images and data.folder.masks where they lie"
        )
    return found[0] if found else None
