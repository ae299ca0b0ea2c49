"""A folder of images and a folder of masks of the same stem. Masks are binary, or hold one class
index per pixel; multilabel may have a folder of binary masks per class: masks/CLASS/STEM.png."""

from __future__ import annotations

from pathlib import Path

from distseg.config.data import FolderConfig
from distseg.config.schema import Config
from distseg.data.formats.row import Row, SubmissionSpec, image_files, locate
from distseg.records.errors import UserError

READS = (
    "mask_values",
    "mask_channel",
    "colors",
    "folder",
)  # keys of `data` that only some layouts read


def train(config: Config) -> list[Row]:
    root, options = Path(config.data.root), config.data.folder
    images = image_files(root / options.images, "data.folder.images")
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
    per_class = [folder / name for name in config.classes]
    if config.task == "multilabel" and any(path.is_dir() for path in per_class):
        masks = [_by_stem(path, config.data.folder) if path.is_dir() else {} for path in per_class]
    else:
        masks = [_by_stem(folder, config.data.folder)]
    rows = [_row(path, masks, folder) for path in images]
    stems = {path.stem for path in images}
    orphans = {
        stem: paths[0] for table in masks for stem, paths in table.items() if stem not in stems
    }
    return rows + [
        Row(stem, str(path), problem="a mask without an image") for stem, path in orphans.items()
    ]


def _by_stem(folder: Path, options: FolderConfig) -> dict[str, list[Path]]:
    """The mask files of a folder, by the stem of their image."""
    table: dict[str, list[Path]] = {}
    for path in image_files(folder, "data.folder.masks"):
        if path.stem.endswith(options.mask_suffix):
            stem = path.stem.removesuffix(options.mask_suffix)
            table.setdefault(stem, []).append(path)
    return table


def _row(path: Path, masks: list[dict[str, list[Path]]], folder: Path) -> Row:
    found = [table.get(path.stem, []) for table in masks]
    problem = locate(path.parent, path.name)[1]
    if not any(found):
        problem = problem or f"no mask of this stem in {folder}"
    for paths in found:
        if len(paths) > 1:
            problem = problem or f"two masks: {paths[0].name} and {paths[1].name}"
        for mask in paths:
            problem = problem or locate(mask.parent, mask.name)[1]
            if "|" in str(mask):
                problem = problem or "the mask's path has a '|', which separates paths here"
    target = "file:" + "|".join(str(paths[0]) if paths else "" for paths in found)
    return Row(path.stem, str(path), target if any(found) else "", problem=problem)
