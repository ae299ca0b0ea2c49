"""How a folder's files are arranged, found by their names where these leave no doubt.

What is found becomes keys of `data.folder`, as if somebody had written them; keys that somebody has
written are left as they are. Where names leave a doubt, UserError says which keys to write: `Doubt`
where files are there for sure, and which of them are meant is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import product, takewhile
from pathlib import Path

from distseg.config.data import FolderConfig, changed_keys
from distseg.data.formats.names import ID, Name, folders_in, has_images, is_image, without_number
from distseg.data.formats.row import plain
from distseg.records.errors import UserError

TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
IMAGES = ("images", "image", "imgs", "img")
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth"),
    *("groundtruth", "targets", "segmentations", "manual", "manual1", "1st_manual"),
)
# How the name of a part and that of a kind of file make a folder.
STYLES = ("{part}/{kind}", "{kind}/{part}", "{part}_{kind}", "{kind}_{part}")
DIGITS = "0123456789"
LOOKED_AT = 20  # masks whose names are searched for those of images; all are compared with a find
NAMES = ("image", "mask", "mask_suffix")


class Doubt(UserError):
    """Several folders could be meant, and nobody has said which."""


def arranged(root: Path, options: FolderConfig) -> FolderConfig:
    """The options with what is found. Nothing is opened, only listed."""
    if not root.is_dir():
        return options
    written = changed_keys(options)
    found: dict[str, str] = {}
    usual = has_images(root / options.images) and (root / options.masks).is_dir()
    if not written & {"images", "masks"} and not usual:
        tree = _Tree(root)
        found = _parts(tree, written)
        if not found and not (root / options.masks).is_dir():  # else its images' name is wrong
            found = _two(tree) or _folder_per_image(root, written)
        found = {key: folder for key, folder in found.items() if key not in written}
    options = options.model_copy(update=found)
    if not written & set(NAMES):
        options = options.model_copy(update=_names(root, options))
    return options


class _Tree:
    """A folder's folders, each listed once: many names are tried."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[Path, list[str]] = {}
        self.filled: dict[Path, bool] = {}

    def folders(self, path: Path) -> list[str]:
        if path not in self.known:
            self.known[path] = [one.name for one in folders_in(path)]
        return self.known[path]

    def folder(self, style: str, part: str, kind: str) -> str | None:
        """The folder of that name, as it is written there; None without one."""
        place: list[str] = []
        for wanted in style.format(part=part, kind=kind).split("/"):
            names = self.folders(self.root.joinpath(*place))
            exact = [name for name in names if name == wanted]
            close = exact or [name for name in names if name.lower() == wanted]
            if not close:
                return None
            place.append(close[0])
        return "/".join(place)

    def has_images(self, name: str) -> bool:
        path = self.root / name
        if path not in self.filled:
            self.filled[path] = has_images(path)
        return self.filled[path]

    def has_masks(self, name: str) -> bool:
        """Whether images lie in a folder, or in folders of it, as where there is one per class."""
        inside = self.folders(self.root / name)
        return self.has_images(name) or any(self.has_images(f"{name}/{one}") for one in inside)


# -- where -----------------------------------------------------------------------------------------


def _parts(tree: _Tree, written: Collection[str]) -> dict[str, str]:
    """The folders of a train, a validation and a test part; {} where there is no train part. A part
    is not looked for where its keys are `written`."""
    found = [
        (style, part, image, mask, images, masks)
        for style, part, image, mask in product(STYLES, TRAIN, IMAGES, MASKS)
        if (images := tree.folder(style, part, image)) and tree.has_images(images)
        if (masks := tree.folder(style, part, mask)) and tree.has_masks(masks)
    ]
    if len(found) > 1:
        places = [(images, masks) for *_, images, masks in found]
        raise several(tree.root, "train images and masks", places)
    if not found:
        return {}
    style, _, image, mask, images, masks = found[0]
    keys = {"images": images, "masks": masks}
    searched = [pair for pair in (("val", VAL), ("test", TEST)) if not _is_said(pair[0], written)]
    for key, parts in searched:
        own = [(p, one) for p in parts if (one := tree.folder(style, p, image))]
        own = [(part, one) for part, one in own if tree.has_images(one)]
        if len(own) > 1:
            raise which(tree.root, key, [one for _, one in own])
        for part, one in own:
            keys[f"{key}_images"] = one
            labels = tree.folder(style, part, mask)
            if labels and tree.has_masks(labels):
                keys[f"{key}_masks"] = labels
            elif key == "val":
                raise lonely(tree.root / one, images, masks)
    return keys


def _is_said(part: str, written: Collection[str]) -> bool:
    return f"{part}_images" in written or (part == "val" and "val_masks" in written)


def several(root: Path, what: str, places: Collection[tuple[str, str]]) -> Doubt:
    """places: pairs of folders that could each be the train images and masks."""
    shown = "; ".join(f"{images} and {masks}" for images, masks in places)
    return Doubt(
        f"{root}: several folders of {what}: {shown}; say which, with data.folder.images and "
        "data.folder.masks (and val_images and val_masks, where a part validates)"
    )


def which(root: Path, part: str, folders: Collection[str]) -> Doubt:
    """folders: that could each be the images of a part; "" for the train part."""
    key = f"{part}_images" if part else "images"
    beside = f", and {part}_masks beside it" if part == "val" else ""
    return Doubt(f"{root}: {', '.join(folders)}: say with data.folder.{key} which counts{beside}")


def lonely(folder: Path, images: str, masks: str) -> Doubt:
    """folder: of a validation part that has no masks where the train part has them."""
    return Doubt(
        f"{folder}: no folder of masks beside it, as {masks} beside {images}; say with "
        "data.folder.val_images and val_masks where they lie; data.folder.images and masks without "
        "these leave the part out"
    )


def _two(tree: _Tree) -> dict[str, str]:
    """A folder of images and one of masks by other names; {} where there are none."""
    found = [
        (images, masks)
        for image, mask in product(IMAGES, MASKS)
        if (images := tree.folder("{kind}", "", image)) and tree.has_images(images)
        if (masks := tree.folder("{kind}", "", mask)) and tree.has_masks(masks)
    ]
    if len(found) > 1:
        raise several(tree.root, "images and masks", found)
    return dict(zip(("images", "masks"), found[0], strict=True)) if found else {}


def _folder_per_image(root: Path, written: Collection[str]) -> dict[str, str]:
    """The folders of `PART/{id}/images` and `PART/{id}/masks`; {} where there are none."""
    labeled: list[str] = []
    plain_ones: list[str] = []
    for part in [root, *folders_in(root)]:
        try:
            inside = folders_in(part)[:LOOKED_AT]
            with_images = [one for one in inside if has_images(one / "images")]
            with_masks = [one for one in with_images if has_images(one / "masks")]
        except PermissionError:
            continue  # `passed_over` says so
        if with_images and len(with_images) * 2 > len(inside):
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


# -- how they are named ----------------------------------------------------------------------------


def _names(root: Path, options: FolderConfig) -> dict[str, str]:
    """`image` and `mask`, where masks are named by something that all have before or behind the
    name of their image; {} where they are named as their images."""
    if ID in options.images + options.masks:
        return {}
    images, masks = _stems(root / options.images), _mask_stems(root / options.masks)
    if not images or not masks:
        return {}  # whoever lists them says so
    if (root / options.images).resolve() == (root / options.masks).resolve():
        return {"mask": _beside(root / options.masks, images)}
    same = Name(ID)
    if any(same.id_of_several(f"{stem}.png", images) in images for stem in masks):
        return {}
    found = _around(images, masks)
    if len(found) == 1:
        return {"mask": found[0]}
    apart = _cores(images, masks) if not found else None
    if apart:
        return {"image": apart[0], "mask": apart[1]}
    raise UserError(
        f"{root / options.masks}: no mask has the name of an image: {_some(masks)}; images: "
        f"{_some(images)}; say with data.folder.mask, and data.folder.image, how they are named, "
        f"as {{id}}_mask.png"
    )


def _stems(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {plain(path.stem) for path in folder.iterdir() if is_image(path)}


def _mask_stems(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return _stems(folder).union(*(_stems(one) for one in folders_in(folder)))


def _some(stems: set[str]) -> str:
    shown = sorted(stems)[:3]
    return ", ".join(shown) + ", ..." * (len(stems) > len(shown))


def _around(images: set[str], masks: set[str]) -> list[str]:
    """Patterns of all masks in which the id is that of an image, for as many as there are: the best
    of them, or several that are as good. First without numbers behind, as of several masks."""
    some = sorted(masks)[:LOOKED_AT]
    exact = {pattern for mask in some for pattern in _patterns(mask, images)}
    if found := _best(exact, images, masks, lambda name, file: name.id_in(file)):
        return found
    bare = {pattern for mask in some for pattern in _patterns(without_number(mask), images)}
    return _best(bare, images, masks, lambda name, file: name.id_of_several(file, images))


def _best(
    patterns: set[str], images: set[str], masks: set[str], id_in: Callable[[Name, str], str | None]
) -> list[str]:
    scores = {}
    for pattern in patterns:
        ids = [id_in(Name(pattern), f"{mask}.png") for mask in masks]
        num = sum(one in images for one in ids)
        if None not in ids and num * 2 > len(masks):
            scores[pattern] = num
    best = max(scores.values(), default=0)
    return sorted(pattern for pattern, num in scores.items() if num == best)


def _patterns(mask: str, images: set[str]) -> Iterator[str]:
    for start in range(len(mask)):
        for end in range(start + 1, len(mask) + 1):
            if mask[start:end] in images:
                yield f"{mask[:start]}{ID}{mask[end:]}"


def _beside(folder: Path, stems: set[str]) -> str:
    """The pattern of the masks among images and masks of one folder."""
    ordered = sorted(stems)
    for pattern in sorted({one for stem in ordered for one in _patterns(stem, stems)} - {ID}):
        name = Name(pattern)
        owners = [name.id_in(f"{stem}.png") for stem in ordered]
        images = {owner for owner in owners if owner in stems}
        if len(images) * 2 == len(stems):
            return pattern
    raise UserError(
        f"{folder}: images and masks lie in one folder, and which is which is not known: "
        f"{_some(stems)}; say with data.folder.mask, as {{id}}_mask.png"
    )


def _cores(images: set[str], masks: set[str]) -> tuple[str, str] | None:
    """Patterns of images and of masks, by what all of each begin and end with, where what is left
    is the same for both."""
    if min(len(images), len(masks)) < 2:
        return None
    (before, after), (mask_before, mask_after) = _common(images), _common(masks)
    if before == mask_before:  # what both have is a part of the id
        before = mask_before = ""
    if after == mask_after:
        after = mask_after = ""
    patterns = [f"{before}{ID}{after}", f"{mask_before}{ID}{mask_after}"]
    ids = [
        {Name(pattern).id_in(f"{stem}.png") for stem in stems}
        for pattern, stems in zip(patterns, (images, masks), strict=True)
    ]
    both = ids[0] & ids[1]
    is_sure = None not in ids[0] | ids[1] and len(both) * 2 > max(len(images), len(masks))
    return (patterns[0], patterns[1]) if is_sure else None


def _common(stems: Collection[str]) -> tuple[str, str]:
    """What all stems begin and end with, without digits next to what differs: these are its."""
    before = _beginning(stems).rstrip(DIGITS)
    rest = [stem[len(before) :] for stem in stems]
    after = _beginning([stem[::-1] for stem in rest])[::-1].lstrip(DIGITS)
    return before, after


def _beginning(names: Collection[str]) -> str:
    first, last = min(names), max(names)  # what these two share, all that lie between share too
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last)))  # noqa: B905
