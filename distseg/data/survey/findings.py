"""What looks wrong with a data set, each by id, from what was measured of its images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distseg.config.schema import Config
from distseg.data.judge import Bad
from distseg.data.survey.fit_of_masks import MaskFit, mask_fits
from distseg.data.survey.measure import Measured, class_names
from distseg.data.survey.shift import Shift
from distseg.data.survey.similar import near_groups

SERIOUS, NOTE = "serious", "note"

FULL = 0.995  # share of the image from which a mask is full
DOT = 3  # pixels of all objects of an image up to which its mask is a dot
DARK = 4.0  # gray value that 95 % of a black image's pixels do not pass
BOX = 0.995  # share of its bounding box that a rectangular mask covers
FEW = 0.2  # of the images with an object: what more of them are is the set's own way
ODD = 0.05  # of all images: sizes and modes of fewer are odd
MOST_ALIKE = 0.8  # share of the commonest size or mode from which others are odd
RARE = 0.01  # of all images, or five of them
OUTLYING = 6.0  # median absolute deviations from which a mask fits far worse than the others
LEAST_GAP = 0.25  # of correlation, beside that
LEAST_SHIFT = 0.05  # of the image's side
MISFITS = {
    "inverted masks": (
        SERIOUS, "masks that look inverted: where the set's objects are, they have none",
    ),
    "mirrored masks": (NOTE, "masks that fit the mirror image better than their own"),
    "shifted masks": (NOTE, "masks that would fit better beside where they are"),
    "masks that do not fit": (
        NOTE, "masks that fit their image far worse than others do: look at them",
    ),
}  # fmt: skip
CLEAR_AUC = 0.7  # of train against test images
MOST_NAMED = 8  # images of one group that its text names
MOST_DRAWN = 4  # images of one group that are drawn


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing. kind: its name in a word or two. level: serious | note. what: a sentence.
    ids: whom it is about; of groups, a text for each that names its first MOST_NAMED images.
    places: (set, place) of the images to show. details: what is known of each id, as long as
    `ids`, or nothing. groups: all ids of each group, where the finding is about groups."""

    kind: str
    level: str
    what: str
    ids: tuple[str, ...] = ()
    places: tuple[tuple[str, int], ...] = ()
    details: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Surveyed:
    """The images that could be read. facts of the whole set that the findings rest on."""

    config: Config
    train: Sequence[Measured]
    test: Sequence[Measured]
    quarantine: Sequence[Bad]
    broken_tests: Sequence[Bad]
    shift: Shift | None
    fits: Mapping[int, MaskFit] = field(default_factory=dict)


def find(surveyed: Surveyed) -> list[Finding]:
    """All findings, serious ones first."""
    found = [finding for rule in RULES for finding in rule(surveyed)]
    return sorted(found, key=lambda finding: finding.level != SERIOUS)


def fits_of(config: Config, train: Sequence[Measured]) -> dict[int, MaskFit]:
    """How well masks fit, where one foreground stands against one background: of multiclass labels
    only where the first class is most of the pixels."""
    if config.task == "multiclass":
        covered = [one.area / (one.height * one.width) for one in train]
        if not covered or float(np.mean(covered)) > 0.5:
            return {}
    return mask_fits(train)


def _quarantined(surveyed: Surveyed) -> Iterator[Finding]:
    for where, rows in (("train", surveyed.quarantine), ("test", surveyed.broken_tests)):
        if rows:
            yield Finding(
                f"unreadable {where} files", NOTE,  # a run sets them aside, too
                f"{where} images that cannot be used, or whose masks cannot",
                tuple(name for name, _, _ in rows),
                details=tuple(f"{file}: {reason}" for _, file, reason in rows),
            )  # fmt: skip


def _blanks(surveyed: Surveyed) -> Iterator[Finding]:
    for where, images in (("train", surveyed.train), ("test", surveyed.test)):
        blank = [i for i, image in enumerate(images) if image.constant]
        if blank:
            yield _of(images, blank, where, "blank images", NOTE, f"{where} images of one value")
    black = [
        i for i, image in enumerate(surveyed.train)
        if image.area and (image.constant or float(image.features[4]) < DARK)
    ]  # fmt: skip
    if black:
        text = "images that show nothing, whose masks hold an object"
        yield _of(surveyed.train, black, "train", "object in a black image", SERIOUS, text)


def _copies(surveyed: Surveyed) -> Iterator[Finding]:
    """Images with the same pixels: within the train set, with other masks, in train and test."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(surveyed.train):
        if not image.constant:
            groups[image.image_sha].append(index)
    same = [own for own in groups.values() if len(own) > 1]
    masks = [own for own in same if len({surveyed.train[i].mask_sha for i in own}) > 1]
    if masks:
        text = "the same image with different masks: at most one of them is right"
        yield _groups(surveyed.train, masks, "copies with other masks", SERIOUS, text)
    equal = [own for own in same if own not in masks]
    if equal:
        text = "the same image several times; folds keep copies together"
        yield _groups(surveyed.train, equal, "copies", NOTE, text)
    tests: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(surveyed.test):
        if image.image_sha in groups:
            tests[image.image_sha].append(place)
    leaked = [(groups[sha], places) for sha, places in tests.items()]
    if leaked:
        text = "test images that are train images"
        yield _across(surveyed, leaked, "train images in test", SERIOUS, text)


def _nearly(surveyed: Surveyed) -> Iterator[Finding]:
    images, border = [*surveyed.train, *surveyed.test], len(surveyed.train)
    own: list[list[int]] = []
    mixed: list[tuple[list[int], list[int]]] = []
    for group in near_groups(images):
        train = [i for i in group if i < border]
        known = {images[i].image_sha for i in train}
        if len(known) > 1:
            own.append(train)
        # a test image with the pixels of a train image is found above
        test = [i - border for i in group if i >= border and images[i].image_sha not in known]
        if train and test:
            mixed.append((train, test))
    if own:
        text = "images that are nearly the same: group them with data.folds.kind: group"
        yield _groups(images, own, "near copies", NOTE, text)
    if mixed:
        text = "test images that are nearly train images"
        yield _across(surveyed, mixed, "near copies in test", NOTE, text)


def _odd_masks(surveyed: Surveyed) -> Iterator[Finding]:
    """Full, dots, lines, rectangles: each only where few masks are so."""
    train = surveyed.train
    holding = [i for i, image in enumerate(train) if image.area]
    kinds: list[tuple[str, str, Callable[[Measured], bool]]] = [
        ("full masks", "masks that cover the whole image", _is_full),
        ("dots", f"masks of {DOT} pixels or fewer", lambda one: one.area <= DOT),
        ("lines", "masks one pixel wide", lambda one: any(shape.thin for shape in one.shapes)),
        ("rectangles", "masks that are rectangles, as drawn by a box tool", _is_box),
    ]
    for kind, text, rule in kinds:
        own = [i for i in holding if rule(train[i])]
        if own and len(own) <= max(1, FEW * len(holding)):
            yield _of(train, own, "train", kind, NOTE, text)


def _is_full(image: Measured) -> bool:
    return image.area >= FULL * image.height * image.width * max(1, len(image.shapes)) or any(
        shape.area >= FULL * image.height * image.width for shape in image.shapes
    )


def _is_box(image: Measured) -> bool:
    return any(
        shape.objects == 1 and shape.box >= BOX and shape.area > 4 * DOT and not shape.thin
        for shape in image.shapes
    ) and not _is_full(image)


def _misfits(surveyed: Surveyed) -> Iterator[Finding]:
    """Masks that fit their images far worse than the masks of the set usually do: inverted,
    mirrored, shifted or simply others. Where masks fit badly as a rule, none stands out."""
    fits, train = surveyed.fits, surveyed.train
    if not fits:
        return
    borders = {i: max(shape.border for shape in train[i].shapes) for i in fits}
    usual = float(np.quantile(list(borders.values()), 0.9))
    low = _lowest([fit.own for fit in fits.values()])
    kinds: dict[str, list[int]] = {kind: [] for kind in MISFITS}
    for i, fit in fits.items():
        outside = borders[i] > 0.95 and usual < 0.6 and train[i].mask.mean() > 127
        if outside or fit.own < min(-0.2, low):
            kinds["inverted masks"].append(i)
        elif fit.own < low and fit.mirrored > max(0.4, low):
            kinds["mirrored masks"].append(i)
        elif fit.own < low and fit.shifted > max(0.4, low) and fit.distance > LEAST_SHIFT:
            kinds["shifted masks"].append(i)
        elif fit.own < low:
            kinds["masks that do not fit"].append(i)
    for kind, own in kinds.items():
        level, text = MISFITS[kind]
        if own:
            finding = _of(train, own, "train", kind, level, text)
            shifted = kind == "shifted masks"
            details = tuple(_way(train[i], fits[i]) for i in own) if shifted else ()
            yield replace(finding, details=details)


def _lowest(values: Sequence[float]) -> float:
    """Below this a value is far from the others: OUTLYING median absolute deviations under their
    median, and LEAST_GAP at least."""
    median = float(np.median(values))
    spread = float(np.median(np.abs(np.asarray(values) - median)))
    return median - max(LEAST_GAP, OUTLYING * spread)


def _way(image: Measured, fit: MaskFit) -> str:
    side = len(image.mask)
    rows, columns = fit.shift[0] * image.height // side, fit.shift[1] * image.width // side
    return f"about {rows:+d} rows, {columns:+d} columns away from where it fits"


def _odd_files(surveyed: Surveyed) -> Iterator[Finding]:
    """Sizes and modes that few images have while nearly all others share one."""
    for where, images in (("train", surveyed.train), ("test", surveyed.test)):
        of: dict[str, Callable[[Measured], str]] = {
            "sizes": lambda image: f"{image.height}x{image.width}",
            "file modes": lambda image: image.mode,
        }
        for kind, key in of.items():
            counts = Counter(map(key, images))
            if len(counts) < 2 or counts.most_common(1)[0][1] < MOST_ALIKE * len(images):
                continue
            odd = {value for value, n in counts.items() if n <= max(1, ODD * len(images))}
            own = [i for i, image in enumerate(images) if key(image) in odd]
            text = f"{where} images of other {kind} than {counts.most_common(1)[0][0]}"
            if own:
                finding = _of(images, own, where, f"odd {kind}", NOTE, text)
                details = tuple(key(images[i]) for i in own)
                yield replace(finding, details=details)


def _classes(surveyed: Surveyed) -> Iterator[Finding]:
    names = class_names(surveyed.config)
    for number, name in enumerate(names):
        own = [i for i, image in enumerate(surveyed.train) if image.shapes[number].area]
        if not own:
            yield Finding("absent class", SERIOUS, f"class {name} is in no image")
        elif len(own) < max(5, RARE * len(surveyed.train)) and len(own) < len(surveyed.train):
            text = f"class {name} is in {len(own)} of {len(surveyed.train)} images only"
            yield _of(surveyed.train, own, "train", "rare class", NOTE, text)


def _shift(surveyed: Surveyed) -> Iterator[Finding]:
    shift = surveyed.shift
    if shift is None or shift.auc - 2 * shift.standard_error < CLEAR_AUC:
        return
    told = "; ".join(f"{name} {a:.0f} against {b:.0f}" for name, a, b in shift.features)
    text = (
        f"test images look other than train images: simple statistics tell them apart with an AUC "
        f"of {shift.auc:.2f} ({told})"
    )
    yield _of(surveyed.test, list(shift.outliers), "test", "shift", SERIOUS, text)


RULES = (
    _quarantined,
    _blanks,
    _copies,
    _nearly,
    _odd_masks,
    _misfits,
    _odd_files,
    _classes,
    _shift,
)


def _of(
    images: Sequence[Measured], chosen: Sequence[int], where: str, kind: str, level: str, what: str
) -> Finding:
    ids = tuple(images[i].id for i in chosen)
    return Finding(kind, level, what, ids, tuple((where, i) for i in chosen))


def _groups(
    images: Sequence[Measured], groups: Sequence[Sequence[int]], kind: str, level: str, what: str
) -> Finding:
    names = tuple(tuple(images[i].id for i in own) for own in groups)
    places = tuple(("train", i) for own in groups for i in own[:MOST_DRAWN])
    return Finding(kind, level, what, tuple(map(_named, names)), places, groups=names)


def _across(
    surveyed: Surveyed, groups: Sequence[tuple[Sequence[int], Sequence[int]]], kind: str,
    level: str, what: str,
) -> Finding:  # fmt: skip
    """Groups of train images and of the test images that are like them."""
    names = [
        (tuple(surveyed.train[i].id for i in train), tuple(surveyed.test[i].id for i in test))
        for train, test in groups
    ]
    ids = tuple(f"{_named(train)} = {_named(test)}" for train, test in names)
    half = MOST_DRAWN // 2
    places = tuple(
        place
        for train, test in groups
        for place in (*(("train", i) for i in train[:half]), *(("test", i) for i in test[:half]))
    )
    whole = tuple(train + test for train, test in names)
    return Finding(kind, level, what, ids, places, groups=whole)


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
