"""How masks are named after their images: by the stems of both alone.

A naming is a tree of keys of `data.folder`: {} where masks have the names of their images, else
`mask`, and `image` where images have more than the id, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import takewhile

from distseg.data.formats.names import ID, Name, without_number
from distseg.data.formats.words import has_mask_word

DIGITS = "0123456789"
LOOKED_AT = 20  # masks whose names are searched for those of images; all are compared with a find
_SEPARATOR = re.compile(r"[_\-. ]")
Naming = dict[str, str]


def namings(images: set[str], masks: set[str]) -> list[Naming]:
    """How the masks of a folder are named after the images of another; several where there are
    several kinds of masks, or of names, and [] where nothing is found."""
    same = Name(ID)
    if any(same.id_of_several(f"{stem}.png", images) in images for stem in masks):
        return [{}]
    if found := _around(images, masks):
        return [{"mask": pattern} for pattern in found]
    if apart := _cores(images, masks):
        return [{"image": apart[0], "mask": apart[1]}]
    return _kinds(images, masks)


def namings_beside(stems: set[str]) -> list[Naming]:
    """The same where images and masks lie in one folder: masks are those that have a word of masks
    around the name of an image, and most that have it are."""
    ordered = sorted(stems)
    some = ordered[:: max(1, len(ordered) // (10 * LOOKED_AT))]
    patterns = {one for stem in some for one in _patterns(stem, stems)}
    found = []
    for pattern in sorted({_without_digits(one) for one in patterns} - {ID}):
        if has_mask_word(pattern.replace(ID, " ")):
            named = ids_of(stems, {"image": pattern})
            if named and 2 * len(named & stems) >= len(named):
                found.append({"mask": pattern})
    return found


def _without_digits(pattern: str) -> str:
    """A pattern in which digits next to the id belong to this: of `1` and `11_mask`, too."""
    before, _, after = pattern.partition(ID)
    return f"{before.rstrip(DIGITS)}{ID}{after.lstrip(DIGITS)}"


def pattern_of_half(stems: set[str]) -> str | None:
    """The pattern of the masks among images and masks of one folder, where each image has one."""
    ordered = sorted(stems)
    for pattern in sorted({one for stem in ordered for one in _patterns(stem, stems)} - {ID}):
        if 2 * len(owners(stems, stems, {"mask": pattern})) == len(stems):
            return pattern
    return None


def owners(images: set[str], masks: set[str], naming: Mapping[str, str]) -> set[str]:
    """The ids of the images that have a mask."""
    ids = ids_of(images, naming)
    name = Name(naming.get("mask", ID)).of_stems
    exact = ids_of(masks, {"image": name.text}) & ids
    # a number behind says that it is a further mask, perhaps the only one that is left
    return exact if exact == ids else exact | {
        own for stem in masks if (own := name.id_of_several(f"{stem}.png", ids)) in ids
    }  # fmt: skip


def ids_of(images: set[str], naming: Mapping[str, str]) -> set[str]:
    """The ids of the images that are named so."""
    name = Name(naming.get("image", ID)).of_stems
    return {own for stem in images if (own := name.id_in_folder(stem)) is not None}


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


def _cores(images: set[str], masks: set[str]) -> tuple[str, str] | None:
    """Patterns of images and of masks, by what all of each begin and end with, where what is left
    is the same for both."""
    if min(len(images), len(masks)) < 2:
        return None
    (before, after), (mask_before, mask_after) = _common(images), _common(masks)
    # what both have next to the rest is a part of the id
    num = _shared(before[::-1], mask_before[::-1])
    before, mask_before = before[: len(before) - num], mask_before[: len(mask_before) - num]
    num = _shared(after, mask_after)
    patterns = f"{before}{ID}{after[num:]}", f"{mask_before}{ID}{mask_after[num:]}"
    ids = [
        {Name(pattern).id_in(f"{stem}.png") for stem in stems}
        for pattern, stems in zip(patterns, (images, masks), strict=True)
    ]
    both = ids[0] & ids[1]
    is_sure = None not in ids[0] | ids[1] and len(both) * 2 > max(len(images), len(masks))
    return patterns if is_sure else None


def _kinds(images: set[str], masks: set[str]) -> list[Naming]:
    """Several patterns of masks, of each of which most images have one."""
    after = _common(images)[1]
    words = [one.start() for one in _SEPARATOR.finditer(after)]
    for start in (len(after), *reversed(words)):
        naming = {"image": f"{ID}{after[start:]}"} if after[start:] else {}
        ids = ids_of(images, naming)
        some = sorted(masks)[: 10 * LOOKED_AT]
        found = {one for mask in some for one in _patterns(mask, ids)}
        kinds = [
            one for one in found
            if 2 * len(owners(images, masks, {**naming, "mask": one})) > len(ids)
        ]  # fmt: skip
        if len(kinds) > 1:
            return [{**naming, "mask": pattern} for pattern in sorted(kinds)]
    return []


def _shared(one: str, other: str) -> int:
    """How many characters both begin with, up to the end of a word in both."""
    num = len(_beginning([one, other]))
    ends = (n for n in range(num, 0, -1) if all(_is_end(text, n) for text in (one, other)))
    return next(ends, 0)


def _is_end(text: str, place: int) -> bool:
    return place == len(text) or _SEPARATOR.match(text[place]) is not None


def _common(stems: Collection[str]) -> tuple[str, str]:
    """What all stems begin and end with, without digits next to what differs: these are its."""
    before = _beginning(stems).rstrip(DIGITS)
    rest = [stem[len(before) :] for stem in stems]
    after = _beginning([stem[::-1] for stem in rest])[::-1].lstrip(DIGITS)
    return before, after


def _beginning(names: Collection[str]) -> str:
    first, last = min(names), max(names)  # what these two share, all that lie between share too
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last)))  # noqa: B905
