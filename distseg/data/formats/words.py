"""What the words in the names of folders say: which part of the data lies there, images or masks.

`train_masks`, `GroundTruth`, `img_dir/val`, `ISIC2018_Task1_Training_GroundTruth`: words end where
letters do and where capitals begin, and two known ones may be written as one (`trainannot`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
PARTS = {word: words[0] for words in (TRAIN, VAL, TEST) for word in words}
# In the singular; an s may follow.
IMAGE = frozenset((
    *("image", "img", "input", "jpeg", "photo", "picture", "frame", "original"),
    "scan",
))  # fmt: skip
MASK = frozenset((
    *("mask", "label", "lbl", "gt", "annotation", "annot", "anno", "ann", "target", "manual"),
    *("seg", "segm", "segmentation", "truth", "groundtruth"),
))  # fmt: skip
# That say neither.
NEUTRAL = frozenset((
    *("class", "ground", "dir", "folder", "file", "data", "dataset"),
    *("png", "jpg", "tif", "tiff", "bmp", "gif"),
))  # fmt: skip
PART = "*"  # the word of a part, in `Said.like`
FREE = "**"  # names that say nothing, there
_ORDINAL = re.compile(r"\d+(st|nd|rd|th)(?![A-Za-z])")  # 1st_manual
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class Said:
    """What the names on the way to a folder say; of several, that next to the files.

    part: train, val, test, or "". kind: image, mask, or "".
    shape: the names, with FREE in the place of those that say nothing; folders of one shape hold
        one thing. like: the words of the shape, with PART in the place of a part's: the same for
        each part. free: the names that say nothing.
    is_plain: whether every word is a known one.
    """

    part: str
    kind: str
    shape: tuple[str, ...]
    like: tuple[str, ...]
    free: tuple[str, ...]
    is_plain: bool


def said_by(names: tuple[str, ...]) -> Said:
    """names: of the folders on the way, the outermost first; () is the root itself."""
    part, kind, is_plain = "", "", True
    shape: list[str] = []
    like: list[str] = []
    free: list[str] = []
    for name in names:
        words = list(words_of(name))
        kinds = {_kind(word) for word in words}
        parts = [PARTS[word] for word in words if word in PARTS]
        part = parts[-1] if parts else part
        own = next((one for one in ("mask", "image") if one in kinds), "")
        kind = own or kind
        is_plain = is_plain and bool(own or parts) and None not in kinds
        if own or parts:
            shape.append(name)
            like.append(" ".join(PART if word in PARTS else word for word in words))
            continue
        free.append(name)
        if shape[-1:] != [FREE]:
            shape.append(FREE)
            like.append(FREE)
    return Said(part, kind, tuple(shape), tuple(like), tuple(free), is_plain)


def words_of(name: str) -> Iterator[str]:
    """The words of a name, in small letters."""
    for word in _WORD.findall(_ORDINAL.sub(" ", name)):
        yield from _split(word.lower())


def has_mask_word(name: str) -> bool:
    """Whether a word of a name says that it is that of a mask."""
    return any(_kind(word) == "mask" for word in words_of(name))


def _split(word: str) -> tuple[str, ...]:
    if _kind(word) is None:
        for place in range(2, len(word) - 1):
            both = word[:place], word[place:]
            if None not in map(_kind, both):
                return both
    return (word,)


def _kind(word: str) -> str | None:
    """image, mask, "" for a known word that says neither, None for another one."""
    one = word if word in NEUTRAL else word.removesuffix("s")
    if word in PARTS or one in NEUTRAL:
        return ""
    return "image" if one in IMAGE else "mask" if one in MASK else None
