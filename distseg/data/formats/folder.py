"""A folder of images and a folder of masks of the same name. Masks are binary, or hold one class
index per pixel; multilabel may have a folder of binary masks per class: masks/CLASS/STEM.png.

Other arrangements are found by their names (`arrangement`), or said by keys of `data.folder`: names
with something before or behind, train, validation and test parts, a folder for each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from distseg.config.data import FolderConfig
from distseg.config.schema import Config
from distseg.data.formats.arrangement import arranged
from distseg.data.formats.names import (
    DEEP,
    ID,
    Found,
    Name,
    above,
    files_in,
    has_images,
    unique_ids,
)
from distseg.data.formats.row import (
    Row,
    SubmissionSpec,
    file_name,
    files_per_class,
    is_image,
    parts_together,
    plain,
    split_name,
    usual_submission,
)
from distseg.records.errors import UserError, unknown

# keys of `data` that only some layouts read
READS = ("mask_values", "mask_channel", "colors", "folder")
Table = dict[str, list[str]]  # paths of masks by the plain id of their image


def found(config: Config) -> FolderConfig:
    """Where the files lie and how they are named, with what is found by their names."""
    return arranged(Path(config.data.root), config.data.folder)


def train(config: Config) -> list[Row]:
    options = found(config)
    rows = _part(config, options, options.images, options.masks, "images")
    if options.val_images is None:
        return rows
    if options.val_masks is None:
        raise UserError("data.folder.val_images: needs val_masks, the folder of their masks")
    val = _part(config, options, options.val_images, options.val_masks, "val_images")
    return parts_together(rows, val)


def _part(config: Config, options: FolderConfig, images: str, masks: str, key: str) -> list[Row]:
    root, name = Path(config.data.root), _image_name(options)
    listed = files_in(root, images, name, key)
    shared = (root / images).resolve() == (root / masks).resolve()
    own = _mask_name(options)
    if shared and own.text != ID:
        listed = [one for one in listed if own.id_in(one.name) is None]
        listed = _without_masks([own], listed)  # a further one of its image has a number
    return paired(config, options, listed, masks)[: config.data.limit]


def test(config: Config) -> list[Row]:
    options = found(config)
    if options.test_images is None or not _is_there(config, options.test_images):
        return []  # a data set may have nothing to predict yet
    images = _test_images(config, options)
    return [
        Row(own, one.files[0], problem=one.problem)
        for own, one in zip(unique_ids(images), images, strict=True)
    ][: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    options, ids = config.data.folder, [row.id for row in test(config)]
    return usual_submission(
        options.submission, config.classes, ids,
        order=options.rle_order, base=options.rle_base, empty=options.rle_empty,
    )  # fmt: skip


def test_truth(config: Config) -> list[Row] | None:
    options = found(config)
    if options.test_masks is None or options.test_images is None:
        return None
    rows = paired(config, options, _test_images(config, options), options.test_masks)
    return rows[: config.data.limit]


def said(config: Config) -> list[str]:
    """What of the arrangement goes beyond a folder of images and one of masks of the same names,
    with counts and an example: so that whoever did not write it sees what was found."""
    options, rows = found(config), [row for row in train(config) if not row.problem]
    lines = []
    if (options.images, options.masks) != (FolderConfig().images, FolderConfig().masks):
        lines.append(f"train images in {options.images}, masks in {options.masks}")
    first = next((row for row in rows if row.target), None)
    if first is not None and (options.image or options.mask or options.mask_suffix):
        mask = Path(first.target.removeprefix("file:").replace("|", ";").strip(";").split(";")[0])
        image = f"images as {options.image}, " if options.image else ""
        lines.append(
            f"{image}masks as {_mask_name(options).text}: of {Path(first.image).name} (id "
            f"{first.id}) it is {mask.name}"
        )
    if ID in options.masks:
        objects = sum(row.target.count(";") + 1 for row in rows)
        lines.append(
            f"{objects} masks of {len(rows)} images in {options.masks}, one per object: joined; "
            "the Manifest names each"
        )
    if options.val_images is not None:
        held = sum(row.validates for row in rows)
        kind = config.data.folds.kind
        use = "they validate" if kind == "split" else f"divided with the others, kind: {kind}"
        lines.append(
            f"{len(rows) - held} images in {options.images}, {held} in {options.val_images} "
            f"(data.folds.kind: split): {use}"
        )
    if options.test_images not in (None, "test_images"):
        lines.append(f"test images in {options.test_images}: {len(test(config))}")
    return lines


def has_split(config: Config) -> bool:
    """Whether the files are divided already: there is a validation part."""
    try:
        return found(config).val_images is not None
    except (UserError, OSError):
        return False  # whoever lists the rows says what is wrong


def image_id(config: Config, name: str) -> str:
    """The id of an image of the data set by the name of its file without its suffix, by the pattern
    of test images or of train images; the name itself where it is not named so."""
    options = config.data.folder
    before, slash, stem = name.rpartition("/")
    patterns = [Name(text) for text in (options.test_image, options.image) if text is not None]
    ids = (pattern.of_stems.id_in(f"{stem}.png") for pattern in patterns)
    return next((f"{before}{slash}{one}" for one in ids if one is not None), name)


def _is_there(config: Config, folder: str) -> bool:
    return (Path(config.data.root) / above(folder)).is_dir()


def _image_name(options: FolderConfig) -> Name | None:
    return None if options.image is None else Name(options.image)


def _mask_name(options: FolderConfig) -> Name:
    return Name(options.mask or f"{ID}{options.mask_suffix}")


def _test_images(config: Config, options: FolderConfig) -> list[Found]:
    """The test images, by name. UserError for two of one id."""
    assert options.test_images is not None
    name = None if options.test_image is None else Name(options.test_image)
    listed = files_in(Path(config.data.root), options.test_images, name, "test_images")
    if ID not in options.test_images:
        listed = _without_masks([_mask_name(options), Name(f"{ID}_mask")], listed)
    first: dict[str, Found] = {}
    for own, one in zip(unique_ids(listed), listed, strict=True):
        other = first.setdefault(own, one)
        if other is not one:
            raise UserError(
                f"{one.files[0]}: has the stem of {other.name}, which is the id; give each its own"
            )
    return [_alone(one) for one in listed]


def _without_masks(patterns: Sequence[Name], listed: Sequence[Found]) -> list[Found]:
    """The files of a folder without those that are named as the mask of another of them."""
    names = [name for name in patterns if name.text != ID]
    ids: dict[str, set[str]] = {}
    for one in listed:
        ids.setdefault(one.place, set()).add(plain(one.id))

    def is_mask(one: Found) -> bool:
        file, near = plain(one.name), ids[one.place]
        owners = {name.id_of_several(file, near) for name in names}
        return bool(owners & (near - {plain(one.id)}))

    return [one for one in listed if not is_mask(one)]


def _alone(image: Found) -> Found:
    """An image, with a problem where a folder for it holds several."""
    if len(image.files) == 1 or image.problem:
        return image
    names = ", ".join(map(file_name, image.files[:3]))
    return replace(image, problem=f"{len(image.files)} images of one id: {names}")


def paired(config: Config, options: FolderConfig, images: Sequence[Found], masks: str) -> list[Row]:
    """A row for each image, and a row with a problem for each mask that has no image. masks: their
    folder, below data.root."""
    ids = unique_ids(images)
    held = _masks(config, options, masks, dict(zip(ids, images, strict=True)))
    first: dict[str, Found] = {}
    rows: dict[str, Row] = {}
    for name, one in zip(ids, map(_alone, images), strict=True):
        own = plain(name)
        other = first.setdefault(own, one)
        problem = one.problem or held.problems.get(own, "")
        rows[own] = _row(replace(one, id=name, problem=problem), held, options)
        if other is not one:  # which of them the mask belongs to is not known
            problem = f"id {name!r} is already that of {other.name}: neither is used"
            rows[own] = Row(name, one.files[0], problem=problem)
    orphans = {
        own: files[0] for table in held.tables for own, files in table.items() if own not in rows
    }
    return list(rows.values()) + [
        Row(own, file, problem="a mask without an image") for own, file in orphans.items()
    ]


@dataclass(frozen=True, slots=True)
class _Masks:
    """where: their folder. tables: those of each class, with `per_class`, or one table for all.
    problems: by id, why its masks may not be used."""

    where: Path
    tables: list[Table]
    per_class: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)


def _masks(
    config: Config, options: FolderConfig, masks: str, images: Mapping[str, Found]
) -> _Masks:
    """images: by id."""
    root = Path(config.data.root)
    if ID in masks:
        listed = files_in(root, masks, None, "masks")
        problems = {plain(one.id): one.problem for one in listed if one.problem}
        tables = [{plain(one.id): one.files for one in listed}]
        return _Masks(root / masks, tables, problems=problems)
    folders = [] if DEEP in masks else _class_folders(config, root / masks)
    name, found = _mask_name(options), dict[str, str]()
    if not folders:
        return _Masks(root / masks, [_by_id(root, masks, name, images, found)], problems=found)
    there = [f"{masks}/{one.name}" if _holds_images(one) else "" for one in folders]
    tables = [_by_id(root, folder, name, images, found) if folder else {} for folder in there]
    return _Masks(root / masks, tables, per_class=True, problems=found)


def _by_id(
    root: Path, folder: str, name: Name, images: Mapping[str, Found], problems: dict[str, str]
) -> Table:
    """The mask files of a folder, by the id of their image: of the one in the same place; where
    masks and images do not lie in the same places, of any. problems: takes up, by id, why masks may
    not be used."""
    listed = files_in(root, folder, None, "masks")
    places, own_places = {one.place for one in images.values()}, {one.place for one in listed}
    mirrored = bool(places & own_places) and (places == {""}) == (own_places == {""})
    near: dict[str, dict[str, str]] = {}  # by place, ids by what images have of them there
    for key, image in images.items():
        place, local = (image.place, image.id) if mirrored else ("", key)
        near.setdefault(place, {})[plain(local)] = plain(key)
    table: Table = {}
    for one in listed:
        place = one.place if mirrored else ""
        ids = near.get(place, {})
        own = name.id_of_several(plain(one.name), ids)
        if own is not None:
            lonely = f"{place}/{own}".lstrip("/").replace("/", "_")
            key = ids.get(own, lonely)
            table.setdefault(key, []).extend(one.files)
            if one.problem:
                problems.setdefault(key, one.problem)
    return table


def _class_folders(config: Config, folder: Path) -> list[Path]:
    """A folder of masks for each class; [] where there are none. An empty one is as one that is
    not there. UserError: the masks' folder has one that is no class, as where its name is in
    another case; or they are for another task."""
    if not folder.is_dir() or (config.task != "multilabel" and has_images(folder)):
        return []
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if config.task != "multilabel":
        if any(has_images(folder / one) for one in inside):
            raise UserError(
                f"{folder}: no masks here, but folders of masks, {', '.join(inside[:8])}: where "
                f"they are classes, task: multilabel and classes: [{', '.join(inside)}]; else say "
                "with data.folder.masks which of them counts"
            )
        return []
    inside = [name for name in inside if _holds_images(folder / name)]
    for name in inside:
        if name not in config.classes:
            raise unknown("class", name, config.classes, f"{folder / name}: ")
    return [folder / name for name in config.classes] if inside else []


def _holds_images(folder: Path) -> bool:
    """Whether files of images lie somewhere in a folder: whoever reads it looks at once where."""
    return folder.is_dir() and any(is_image(path.name) for path in folder.rglob("*"))


def _row(image: Found, found: _Masks, options: FolderConfig) -> Row:
    masks = [table.get(plain(image.id), []) for table in found.tables]
    problem = image.problem
    if not any(masks):
        problem = problem or f"no mask of this stem in {found.where}"
    is_union = options.several == "union" or ID in options.masks
    for files in masks:
        problem = problem or _problem(files, is_union)
    joined = [";".join(files) for files in masks]
    target = files_per_class(joined) if found.per_class else f"file:{joined[0]}"
    return Row(image.id, image.files[0], target if any(masks) else "", problem=problem)


def _problem(files: Sequence[str], is_union: bool) -> str:
    """Why the masks of one image, and one class, may not be used."""
    if len(files) > 1:
        names = [file_name(file) for file in files]
        alike = len({plain(split_name(name)[0]) for name in names}) < len(files)
        if alike or not is_union:
            count = "two" if len(files) == 2 else len(files)
            hint = "" if alike else "; data.folder.several: union joins them"
            return f"{count} masks: {' and '.join(names[:3])}{hint}"
    for file in files:
        if "|" in file or ";" in file:
            return "the mask's path has a '|' or ';', which separate paths here"
    return ""
