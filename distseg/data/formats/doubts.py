"""What is said where the names of folders and files leave a doubt: the keys that end it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from distseg.data.formats.patterns import Naming
from distseg.records.errors import UserError


class Doubt(UserError):
    """Several folders could be meant, and nobody has said which."""


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


def kinds(folder: Path, found: Sequence[Naming]) -> Doubt:
    """found: the ways in which masks of a folder are named, each of which could count."""
    shown = " and ".join(naming["mask"] for naming in found)
    image = f", and data.folder.image={found[0]['image']} beside it" if "image" in found[0] else ""
    return Doubt(
        f"{folder}: several kinds of masks, {shown}: say with data.folder.mask which count{image}"
    )


def none_trains(root: Path, places: Collection[tuple[str, str]]) -> Doubt:
    """places: images that have masks, of other parts than the train part."""
    shown = "; ".join(f"{images} and {masks}" for images, masks in places)
    return Doubt(
        f"{root}: no images of a train part have masks, but others have: {shown}; where these "
        "shall train, say so with data.folder.images and data.folder.masks"
    )
