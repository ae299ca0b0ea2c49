"""How a folder's files are arranged, found by their names where these leave no doubt.

What is found becomes keys of `data.folder`, as if somebody had written them; keys that somebody has
written are left as they are. Where names leave a doubt, UserError says which keys to write: `Doubt`
where files are there for sure, and which of them are meant is not.

Folders are images or masks, of a train, validation or test part, by the words in their names
(`words`); masks belong to images whose names they have (`patterns`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.config.data import FolderConfig, changed_keys
from distseg.data.formats.doubts import kinds, lonely, none_trains, several, which
from distseg.data.formats.holders import (
    Files,
    are_classes,
    files_below,
    near,
    num_images,
    num_owners,
)
from distseg.data.formats.names import (
    DEEP,
    ID,
    Name,
    files_in,
    folders_in,
    has_images,
    unchanged,
)
from distseg.data.formats.patterns import (
    Naming,
    ids_of,
    namings,
    namings_beside,
    pattern_of_half,
)
from distseg.data.formats.row import is_image, plain, split_name
from distseg.data.formats.words import VAL, said_by
from distseg.records.errors import UserError

LOOKED_AT = 20  # folders of images that tell whether each is that of one image
NAMES = ("image", "mask", "mask_suffix")


def arranged(root: Path, options: FolderConfig) -> FolderConfig:
    """The options with what is found. Nothing is opened, only listed."""
    if not root.is_dir():
        return options
    written = changed_keys(options)
    found: dict[str, str] = {}
    usual = has_images(root / options.images) and (root / options.masks).is_dir()
    if not written & {"images", "masks"} and not usual:
        found = _folder_per_image(root, written) or _searched(root, options, written)
        found = {key: folder for key, folder in found.items() if key not in written}
    options = options.model_copy(update=found)
    if not {*written, *found} & set(NAMES):
        paths = root.absolute(), options.images, options.masks
        changed = unchanged(*(paths[0] / one for one in paths[1:]))
        options = options.model_copy(update=_naming(*paths, changed))
    return options


def usual_tests(root: Path) -> dict[str, str]:
    """The folder of the test images, where nothing but `images` and `masks` is known; {} without
    one."""
    return _tests(root, files_below(root), None)


def class_folders(root: Path, options: FolderConfig) -> dict[str, bool]:
    """The folders in that of the masks, and whether they hold images, where there is one for each
    class: no masks lie beside them."""
    masks = root / options.masks
    if ID in options.masks or DEEP in options.masks or not masks.is_dir() or has_images(masks):
        return {}
    found = {one.name: has_images(one) for one in folders_in(masks)}
    return found if any(found.values()) else {}


# -- images and masks ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """Images and their masks; the same files where each mask lies beside its image. classes: the
    masks lie in a folder for each class."""

    images: Files
    masks: Files
    naming: Naming
    classes: bool = False

    @property
    def paths(self) -> tuple[str, str]:
        masks = self.masks.parent if self.classes else self.masks.path
        return self.images.path, masks or self.masks.path


def _searched(root: Path, options: FolderConfig, written: Collection[str]) -> dict[str, str]:
    """The folders of a train, a validation and a test part; {} where there is no train part. A part
    is not looked for where its keys are `written`. Doubt: several folders could be meant."""
    files = files_below(root)
    naming = _written_naming(options, written)
    pair = _train_pair(root, files, naming)
    if pair is None:
        return {}
    keys = dict(zip(("images", "masks"), pair.paths, strict=True))
    keys |= pair.naming if naming is None else {}
    if not _is_said("val", written):
        keys |= _val(root, files, pair)
    return keys if _is_said("test", written) else keys | _tests(root, files, pair)


def _train_pair(root: Path, files: Sequence[Files], naming: Naming | None) -> _Pair | None:
    """naming: what is written of it."""
    known = [one for one in files if one.said.is_plain]
    train = [one for one in files if one.said.part in ("", "train")]
    searches = (
        _two(root, [one for one in train if one in known], naming),
        _beside(root, [one for one in train if one in known], naming),
        _two(root, train, naming),
        _beside(root, train, naming),
        _two(root, train, naming, any_part=True),
    )
    for found in map(list, searches):
        if len(found) > 1:
            raise several(root, "images and masks", [pair.paths for pair in found])
        if found:
            return found[0]
    named = [one for one in known if one.said.part in ("", "train") and one.said.kind]
    if len(named) == 2 and {one.said.kind for one in named} == {"image", "mask"}:
        images, masks = sorted(named, key=lambda one: one.said.kind)
        return _Pair(images, masks, {}, are_classes(images, masks))  # `_naming` says what is wrong
    if others := list(_two(root, files, naming, any_part=True)):
        raise none_trains(root, [pair.paths for pair in others])
    return None


def _two(
    root: Path, files: Sequence[Files], written: Naming | None, *, any_part: bool = False
) -> Iterator[_Pair]:
    """Folders of images, each with one of masks of the same part. Doubt: masks of several kinds."""
    for images in (one for one in files if one.said.kind != "mask"):
        for masks in (one for one in files if one.said.kind == "mask"):
            if any_part or images.said.part == masks.said.part:
                naming = _fitting(root, images, masks, written)
                if naming is not None:
                    yield _Pair(images, masks, naming, are_classes(images, masks))


def _fitting(root: Path, images: Files, masks: Files, written: Naming | None) -> Naming | None:
    """How masks are named, where at least half of the images have one; None where they have not."""
    together = list(near(images, masks))
    stems = (set[str]().union(*own) for own in zip(*together, strict=True))
    found = [written] if written is not None else namings(*stems) if together else []
    usable = [one for one in found if 2 * num_owners(images, masks, one) >= len(images)]
    if len(usable) > 1:
        raise kinds(root / masks.path, usable)
    return usable[0] if usable else None


def _beside(root: Path, files: Sequence[Files], written: Naming | None) -> Iterator[_Pair]:
    """Folders in which each mask lies beside its image."""
    for one in files:
        found = [written] if written is not None else namings_beside(one.stems)
        usable = [naming for naming in found if _fits_beside(one, naming)]
        if len(usable) > 1:
            raise kinds(root / one.path, usable)
        if usable:
            yield _Pair(one, one, usable[0])


def _fits_beside(files: Files, naming: Naming) -> bool:
    num = num_owners(files, files, naming)
    return num > 0 and 2 * num >= num_images(files, naming)


# -- the other parts -------------------------------------------------------------------------------


def _like(files: Iterable[Files], part: str, model: Files) -> list[Files]:
    """What is called as the model, but for the word of its part."""
    return [one for one in files if one.said.part == part and one.said.like == model.said.like]


def _val(root: Path, files: Sequence[Files], pair: _Pair) -> dict[str, str]:
    found = _like(files, "val", pair.images)
    if len(found) > 1:
        raise which(root, "val", [one.path for one in found])
    if not found:
        return {}
    val = _pair_like(files, pair, found[0])
    if val is None:
        raise lonely(root / found[0].path, *pair.paths)
    return dict(zip(("val_images", "val_masks"), val.paths, strict=True))


def _pair_like(files: Sequence[Files], pair: _Pair, images: Files) -> _Pair | None:
    """The images of another part with their masks, named as the pair's."""
    beside = pair.images is pair.masks
    found = [images] if beside else _like(files, images.said.part, pair.masks)
    if len(found) == 1 and num_owners(images, found[0], pair.naming):
        return _Pair(images, found[0], pair.naming, pair.classes)
    return None


def _tests(root: Path, files: Sequence[Files], pair: _Pair | None) -> dict[str, str]:
    """The test images, by folders that are called as the pair's, or else by known words alone; and
    their masks, where each has one."""
    like = _like(files, "test", pair.images) if pair is not None else []
    known = [one for one in files if one.said.is_plain and one.said.part == "test"]
    found = like or [one for one in known if one.said.kind != "mask"]
    if len(found) > 1:
        raise which(root, "test", [one.path for one in found])
    if not found:
        return {}
    keys = {"test_images": found[0].path}
    if pair is None:
        return keys
    ids = ids_of(found[0].stems, pair.naming)
    if "image" in pair.naming and len(ids) == len(found[0].stems):
        keys["test_image"] = Name(pair.naming["image"]).of_stems.text
    labeled = _pair_like(files, pair, found[0])
    if labeled is not None and _all_have_masks(labeled):
        keys["test_masks"] = labeled.paths[1]
    return keys


def _all_have_masks(pair: _Pair) -> bool:
    beside = pair.images is pair.masks
    num = num_images(pair.images, pair.naming) if beside else len(pair.images)
    return num_owners(pair.images, pair.masks, pair.naming) == num


def _is_said(part: str, written: Collection[str]) -> bool:
    return f"{part}_images" in written or (part == "val" and "val_masks" in written)


def _folder_per_image(root: Path, written: Collection[str]) -> dict[str, str]:
    """The folders of `PART/{id}/images` and `PART/{id}/masks`; {} where there are none."""
    labeled: list[str] = []
    plain_ones: list[str] = []
    for part in [root, *folders_in(root)]:
        try:
            inside = [one for one in folders_in(part)[:LOOKED_AT] if not said_by((one.name,)).part]
            with_images = [one for one in inside if has_images(one / "images")]
            of_one = [one for one in with_images if _holds_one(one / "images")]
            with_masks = [one for one in with_images if has_images(one / "masks")]
        except PermissionError:
            continue  # `passed_over` says so
        if len(of_one) * 2 > len(inside):
            prefix = "" if part == root else f"{part.name}/"
            (labeled if with_masks else plain_ones).append(f"{prefix}{ID}")
    val = [one for one in labeled if one.split("/")[0].lower() in VAL]
    train = [one for one in labeled if one not in val]
    if not train:
        return {}
    val = [] if _is_said("val", written) else val
    tests = [] if _is_said("test", written) else plain_ones
    for part_name, ones in (("", train), ("val", val), ("test", tests)):
        if len(ones) > 1:
            raise which(root, part_name, [f"{one}/images" for one in ones])
    keys = {"images": f"{train[0]}/images", "masks": f"{train[0]}/masks"}
    keys |= {f"val_{what}": f"{one}/{what}" for one in val for what in ("images", "masks")}
    return {**keys, "test_images": f"{tests[0]}/images"} if tests else keys


def _holds_one(folder: Path) -> bool:
    return sum(is_image(path.name) for path in folder.iterdir()) == 1


# -- how they are named ----------------------------------------------------------------------------


def _written_naming(options: FolderConfig, written: Collection[str]) -> Naming | None:
    """What somebody has written of names; None without it."""
    if not set(NAMES) & set(written):
        return None
    naming = {"mask": options.mask or f"{ID}{options.mask_suffix}"}
    return naming if options.image is None else {**naming, "image": options.image}


@functools.lru_cache(maxsize=8)  # a command asks several times, of many files
def _naming(root: Path, image_folder: str, mask_folder: str, _changed: object) -> Naming:
    """`image` and `mask`, where masks are named by something that all have before or behind the
    name of their image; {} where they are named as their images.

    _changed: another where the folders' files are others (`unchanged`).
    """
    if ID in image_folder + mask_folder:
        return {}
    images, masks = _stems(root, image_folder), _mask_stems(root, mask_folder)
    if not images or not masks:
        return {}  # whoever lists them says so
    where = root / mask_folder
    if (root / image_folder).resolve() == where.resolve():
        if (pattern := pattern_of_half(images)) is None:
            raise UserError(
                f"{where}: images and masks lie in one folder, and which is which is not known: "
                f"{_some(images)}; say with data.folder.mask, as {{id}}_mask.png"
            )
        return {"mask": pattern}
    found = namings(images, masks)
    if len(found) == 1:
        return found[0]
    several = f" of {', '.join(one['mask'] for one in found)} alone" if found else ""
    raise UserError(
        f"{where}: no mask has the name of an image{several}: {_some(masks)}; images: "
        f"{_some(images)}; say with data.folder.mask, and data.folder.image, how they are named, "
        f"as {{id}}_mask.png"
    )


def _stems(root: Path, folder: str) -> set[str]:
    try:
        return {plain(split_name(one.name)[0]) for one in files_in(root, folder, None, "images")}
    except UserError:
        return set()


def _mask_stems(root: Path, folder: str) -> set[str]:
    inside = folders_in(root / folder) if (root / folder).is_dir() else []
    return _stems(root, folder).union(*(_stems(one, ".") for one in inside))


def _some(stems: set[str]) -> str:
    shown = sorted(stems)[:3]
    return ", ".join(shown) + ", ..." * (len(stems) > len(shown))
