"""A folder of images and a folder of masks of the same stem. Masks are binary, or hold one class
index per pixel; multilabel may have a folder of binary masks per class: masks/CLASS/STEM.png."""

from __future__ import annotations

import re
from pathlib import Path

from distseg.config.data import FolderConfig
from distseg.config.schema import Config
from distseg.data.formats.row import Row, SubmissionSpec, image_files, locate, plain
from distseg.records.errors import UserError, unknown

# keys of `data` that only some layouts read
READS = ("mask_values", "mask_channel", "colors", "folder")
_NUMBER = re.compile(r"[_\-. ]?\d+$")


def train(config: Config) -> list[Row]:
    root, options = Path(config.data.root), config.data.folder
    images = image_files(root / options.images, "data.folder.images")
    shared = (root / options.images).resolve() == (root / options.masks).resolve()
    if options.mask_suffix and shared:
        images = [path for path in images if not path.stem.endswith(options.mask_suffix)]
    return paired(config, images, root / options.masks)[: config.data.limit]


def test(config: Config) -> list[Row]:
    options = config.data.folder
    if options.test_images is None or not (Path(config.data.root) / options.test_images).is_dir():
        return []  # a data set may have nothing to predict yet
    paths = _test_images(config)
    return [Row(path.stem, str(path), problem=locate(path.parent, path.name)[1]) for path in paths]


def submission(config: Config) -> SubmissionSpec:
    classes = tuple(config.classes) if len(config.classes) > 1 else None
    ids = [row.id for row in test(config)]
    names = ("ImageId_ClassId", "EncodedPixels") if classes else ("id", "rle_mask")
    options = config.data.folder
    return SubmissionSpec(
        options.submission, names, ids=ids, class_ids=classes,
        order=options.rle_order, base=options.rle_base, empty=options.rle_empty,
    )  # fmt: skip


def test_truth(config: Config) -> list[Row] | None:
    options = config.data.folder
    if options.test_masks is None or options.test_images is None:
        return None
    return paired(config, _test_images(config), Path(config.data.root) / options.test_masks)


def _test_images(config: Config) -> list[Path]:
    """The test images, by name. UserError for two of one stem, which is the id in a submission."""
    assert config.data.folder.test_images is not None
    folder = Path(config.data.root) / config.data.folder.test_images
    first: dict[str, Path] = {}
    for path in image_files(folder, "data.folder.test_images"):
        other = first.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f"{path}: has the stem of {other.name}, which is the id; give each its own"
            )
    return list(first.values())[: config.data.limit]


def paired(config: Config, images: list[Path], folder: Path) -> list[Row]:
    """A row for each image, and a row with a problem for each mask that has no image."""
    options = config.data.folder
    stems = {plain(path.stem) for path in images}
    per_class = _class_folders(config, folder)
    tables = {
        path: _by_stem(path, options, stems)
        for path in per_class or [folder]
        if path.is_dir() or not per_class
    }
    masks = [tables.get(path, {}) for path in per_class or [folder]]
    first: dict[str, Path] = {}
    rows: dict[str, Row] = {}
    for path in images:
        stem = plain(path.stem)
        other = first.setdefault(stem, path)
        rows[stem] = _row(path, masks, folder, options)
        if other is not path:  # which of them the mask belongs to is not known
            problem = f"id {path.stem!r} is already that of {other.name}: neither is used"
            rows[stem] = Row(path.stem, str(path), problem=problem)
    orphans = {
        stem: paths[0] for table in masks for stem, paths in table.items() if stem not in stems
    }
    return list(rows.values()) + [
        Row(stem, str(path), problem="a mask without an image") for stem, path in orphans.items()
    ]


def _class_folders(config: Config, folder: Path) -> list[Path]:
    """A folder of masks for each class; [] where there are none. UserError: the masks' folder has
    one that is no class, as where its name is in another case."""
    if config.task != "multilabel" or not folder.is_dir():
        return []
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    for name in inside:
        if name not in config.classes:
            raise unknown("class", name, config.classes, f"{folder / name}: ")
    return [folder / name for name in config.classes] if inside else []


def _by_stem(folder: Path, options: FolderConfig, stems: set[str]) -> dict[str, list[Path]]:
    """The mask files of a folder, by the stem of their image. One with a number behind its name
    (a_mask_1, a_1_mask) is a further mask of its image, unless an image has that name."""
    table: dict[str, list[Path]] = {}
    for path in image_files(folder, "data.folder.masks"):
        name = plain(path.stem)
        first = name.removesuffix(options.mask_suffix)
        unnumbered = _NUMBER.sub("", first)
        base = unnumbered.removesuffix(options.mask_suffix)
        if first not in stems and unnumbered != first and base in stems:
            table.setdefault(base, []).append(path)
        elif name.endswith(options.mask_suffix):
            table.setdefault(first, []).append(path)
    return table


def _row(
    path: Path, masks: list[dict[str, list[Path]]], folder: Path, options: FolderConfig
) -> Row:
    found = [table.get(plain(path.stem), []) for table in masks]
    problem = locate(path.parent, path.name)[1]
    if not any(found):
        problem = problem or f"no mask of this stem in {folder}"
    for paths in found:
        stems = {plain(mask.stem) for mask in paths}
        if len(paths) > 1 and (options.several == "refuse" or len(stems) < len(paths)):
            count = "two" if len(paths) == 2 else len(paths)
            hint = "; data.folder.several: union joins them" if len(stems) == len(paths) else ""
            names = " and ".join(mask.name for mask in paths[:3])
            problem = problem or f"{count} masks: {names}{hint}"
        for mask in paths:
            problem = problem or locate(mask.parent, mask.name)[1]
            if "|" in str(mask) or ";" in str(mask):
                problem = problem or "the mask's path has a '|' or ';', which separate paths here"
    target = "file:" + "|".join(";".join(map(str, paths)) for paths in found)
    return Row(path.stem, str(path), target if any(found) else "", problem=problem)
