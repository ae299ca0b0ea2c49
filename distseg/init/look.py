"""What a data set is like: sizes, channels, labels, objects, groups in names; from a sample.

Headers of all files are read; pixels of at most so many that it takes a share of the budget. What
is sampled is spread over the set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.data import FIT_KEYS
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.detect import detect
from distseg.data.formats.row import Row
from distseg.data.inspect import Checked, NeedsLevels, inspect, with_levels
from distseg.data.judge import judge_listed
from distseg.data.layouts import layout, with_own_split
from distseg.data.threads import in_threads
from distseg.functional.metrics import VOID
from distseg.init.channels import MAX_IMAGES, find_channels, try_decode
from distseg.init.folds import counts, groups_of_rows, lacks_table, refuse_unknown, with_kind
from distseg.init.headers import apart, middle_pixels, middle_size, sizes_of, spread
from distseg.init.labels import Labels, Values, decide, mask_values
from distseg.init.objects import one_part_each
from distseg.records.errors import UserError, printable_path

MAX_MASKS = 1500  # whose values are counted
MAX_ROWS = 500  # that are opened as the run will open them
MIN_ROWS = 24
MIN_FILLED = 8  # of them that hold an object, where there are so many
MAX_OBJECTS = 120  # rows whose objects are measured
MAX_VALUES = 64_000_000  # pixels that they may have together


@dataclass(frozen=True, slots=True)
class Facts:
    """What the data is like.

    keys: keys of a config that say how to read it, as a tree; why: by dotted key, why.
    height, width: the median size of the train images, pixels; largest: height and width.
    one_size: whether all images, test images too, have one size.
    test: height and width of the middle test image; None: there are none. apart: share of the test
        images that are of another size than the train images, see `apart`; 0 where they are few.
    channels: 1, 3, or more; deep: (lowest, highest value) of images of more than 8 bits.
    empty: share of images without an object, 0..1.
    objects: widths in pixels (root of the area) of connected objects, see `typical_widths`.
        None: no object in the sample.
    coverage: share of the pixels that each class has.
    groups: by id, where the names show several images of one thing (patient, sheet, video).
    num_groups, listed: of the user's own tables: groups, and images of each fold.
    copies: images of the sample that are byte-identical to another and share its fold.
    bad: rows that cannot be used; sampled: rows whose pixels were looked at.
    decode_s: seconds to decode an image and its mask, with all threads.
    """

    root: str
    keys: Mapping[str, Any]
    why: Mapping[str, str]
    num_train: int
    num_validated: int
    num_test: int
    height: int
    width: int
    largest: tuple[int, int]
    one_size: bool
    channels: int
    deep: tuple[float, float] | None
    empty: float
    objects: tuple[float, float] | None
    coverage: tuple[float, ...]
    groups: Mapping[str, str] | None
    copies: int
    bad: int
    sampled: int
    decode_s: float
    test: tuple[int, int] | None = None
    apart: float = 0.0
    num_groups: int = 0
    listed: tuple[int, ...] = ()

    @property
    def task(self) -> str:
        return str(self.keys["task"])


def look(root: Path, given: Mapping[str, Any], seconds: float = 20.0) -> Facts:
    """Look at a folder; `given` are keys of a config that the user has said, as a tree.

    seconds: that reading pixels may take, about.

    UserError: no layout recognizes it, its masks need a decision (each line names the key), or no
    row of it can be used.
    """
    found, why = first_keys(root, given)
    config = stub(readable(found))
    form = layout(config.data.format)
    train, test = form.train(config), form.test(config)
    rows = [row for row in train if not row.problem]
    if not rows:
        first = train[0].problem if train else "it lists no images"
        raise UserError(f"{root}: no row can be used: {first}")
    judge_listed(config, len(train), [(r.id, r.image, r.problem) for r in train if r.problem])
    if len(rows) == 1:
        raise UserError(f"{root}: one image can be used; a score needs another that is held out")
    groups = groups_of_rows(rows)
    folds = found["data"].get("folds", {})
    implied = "kind" not in given.get("data", {}).get("folds", {})
    refuse_unknown(folds, str(root), groups, rows, implied=implied)
    num_groups, listed = counts(config, rows)
    channels, why_channels = find_channels(spread(rows, MAX_IMAGES), config)
    found = merged(found, {"input": {"channels": channels}})
    # which sides of an array are its size depends on the channels
    config = stub(readable(found))
    sizes, sizes_test = sizes_of(rows, config), sizes_of(test, config)
    if (middle := middle_size(sizes)) is None:
        raise UserError(f"{root}: no train image can be read; see `distseg inspect`")
    height, width = middle
    labels, filled = _labels(spread(rows, _most_masks(sizes)), found, str(root), config)
    found = {"task": "binary", "classes": ["object"], **merged(labels.keys, found)}
    began = time.perf_counter()
    sample = _sample(rows, sizes, seconds, config)
    rare = _rare(sample, filled)
    opened = [*rare, *sample]  # whose objects are measured first
    config = stub(readable(found))
    deep, checked, objects = _opened(config, opened, whole=len(opened) == len(rows))
    spent = time.perf_counter() - began
    coverage = _coverage(checked, rare)
    first_class = int(config.task == "multiclass")
    copies = len(checked.together) - len(set(checked.together))
    return Facts(
        root=str(root), keys=found, why={**why, **labels.why, **why_channels},
        num_train=len(rows), num_validated=sum(row.validates for row in rows), num_test=len(test),
        height=height, width=width, largest=(max(h for h, _ in sizes), max(w for _, w in sizes)),
        one_size=len({*sizes, *sizes_test}) == 1, channels=channels, deep=deep,
        empty=float((coverage[:, first_class:].sum(axis=1) == 0).mean()), objects=objects,
        coverage=tuple(coverage.mean(axis=0).tolist()),
        groups=groups, copies=copies,
        bad=len(train) - len(rows) + len(checked.quarantine), sampled=len(opened),
        decode_s=spent / len(opened), test=middle_size(sizes_test), apart=apart(sizes, sizes_test),
        num_groups=num_groups, listed=listed,
    )  # fmt: skip


def first_keys(root: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(what the names in a folder and the user say, as a tree; why). UserError: no layout
    recognizes the folder."""
    detected = detect(root) if "format" not in given.get("data", {}) else None
    found = merged(dict(detected.keys) if detected else {}, given)
    found = merged(found, {"data": {"root": str(root)}})
    if "folds" in found["data"]:
        found["data"]["folds"] = with_kind(found["data"]["folds"])
    if detected is None and with_own_split(stub(readable(found))).data.folds.kind == "split":
        found = merged(found, {"data": {"folds": {"kind": "split"}}})
    return found, {"data.format": detected.why} if detected else {}


def readable(found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys without folds of groups whose table is still to be written: reading needs none."""
    if not lacks_table(found["data"].get("folds", {})):
        return dict(found)
    folds = {key: value for key, value in found["data"]["folds"].items() if key != "kind"}
    return {**found, "data": {**found["data"], "folds": folds}}


def reading_config(root: Path, given: Mapping[str, Any]) -> Config:
    """A config that reads a folder of data as `init` would, and trains nothing. `given` and errors
    as in `look`."""
    facts = look(root, given, seconds=2.0)
    levels = {"data": {"levels": None}} if facts.deep is not None else {}
    return stub(merged(levels, facts.keys))


def merged(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of another, which win; neither is changed."""
    result = dict(tree)
    for key, value in other.items():
        below = result.get(key)
        whole = key in ("mask_values", "colors")  # one decision
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not whole:
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def stub(keys: Mapping[str, Any]) -> Config:
    """A config that reads the data, and trains nothing."""
    tree: dict[str, Any] = {
        "name": "look", "members": {"none": {"arch": "PlainUnet", "encoder": "none"}},
        "stages": [{"loss": {"dice": 1.0}}],  # for any task
        "classes": ["object"], **keys,
    }  # fmt: skip
    own = (*FIT_KEYS, "height", "width", "fit")  # of what a network sees
    shown = {key: value for key, value in tree.get("input", {}).items() if key not in own}
    tree["input"] = {**shown, "fit": "resize"}
    if tree.get("task") == "multiclass" and len(tree["classes"]) < 2:
        tree["classes"] = ["background", "object"]
    return parse_config(tree, printable_path(keys["data"]["root"]))


# -- pixels ---------------------------------------------------------------------------------------


def _labels(
    rows: Sequence[Row], given: Mapping[str, Any], root: str, config: Config
) -> tuple[Labels, list[Row]]:
    """(What the masks mean, the rows that seem to hold an object.) Of RLEs, and layouts with a
    meaning of their own, the layout says what they mean."""
    if config.data.format in ("oxford_pet", "synthetic"):
        return Labels({}), []
    coded = [row for row in rows if not row.target.startswith("file:")]
    rows = [row for row in rows if row.target.startswith("file:") and "|" not in row.target]
    channel, most = config.data.mask_channel, config.data.max_pixels

    def read(path: str) -> Values:
        try:
            return mask_values(path, channel, most)
        except (UserError, OSError, MemoryError):
            return Values()  # the check of the row says so

    found = list(in_threads(lambda row: Values.joined(map(read, mask_files(row.target))), rows))
    values = Values.joined(found)

    def has_parts() -> bool:
        several = [row for row, own in zip(rows, found, strict=True) if own.most > 2]
        paths = [path for row in spread(several, MIN_ROWS) for path in mask_files(row.target)]
        return one_part_each(paths, channel, most, given.get("void"))

    usual = values.usual
    filled = [row for row, own in zip(rows, found, strict=True) if own.holds_others(usual)]
    filled += [row for row in coded if row.target.rpartition(":")[2].strip("|;")]
    return decide(values, given, root, has_parts), filled


def _most_masks(sizes: Sequence[tuple[int, int]]) -> int:
    """Masks whose values are counted: fewer where they are large."""
    return max(MIN_ROWS, min(MAX_MASKS, 8 * MAX_VALUES // max(1, middle_pixels(sizes))))


def _sample(
    rows: Sequence[Row], sizes: Sequence[tuple[int, int]], seconds: float, config: Config
) -> list[Row]:
    """As many rows as can be opened in the time, by the pace of a few of them."""
    most = max(MIN_ROWS, min(MAX_ROWS, MAX_VALUES // max(1, middle_pixels(sizes))))
    began = time.perf_counter()
    probe = spread(rows, 8)
    for _ in in_threads(lambda row: try_decode(row.image, config.data.max_pixels), probe):
        pass
    each = (time.perf_counter() - began) / len(probe)
    return spread(rows, max(MIN_ROWS, min(most, int(seconds / max(1e-4, 2 * each)))))


def _rare(sample: Sequence[Row], filled: Sequence[Row]) -> list[Row]:
    """Rows with an object, where the sample has few of them: what objects are like would not be
    known else."""
    ids, known = {row.id for row in sample}, {row.id for row in filled}
    others = [row for row in filled if row.id not in ids]
    return spread(others, max(0, MIN_FILLED - len(ids & known)))


def _coverage(checked: Checked, rare: Sequence[Row]) -> NDArray[np.float64]:
    """(N, classes) of the rows that were drawn, not chosen for their objects."""
    chosen = {row.id for row in rare}
    drawn = np.array([row.id not in chosen for row in checked.good])
    return checked.coverage[drawn] if drawn.any() else checked.coverage


def _opened(
    config: Config, rows: Sequence[Row], *, whole: bool
) -> tuple[tuple[float, float] | None, Checked, tuple[float, float] | None]:
    """(Lowest and highest value of images of more than 8 bits, the rows as the run will check them,
    the widths of their objects.) UserError as the run would raise it. whole: see `judge`."""
    try:
        return (None, *_measured(config, rows, whole))
    except NeedsLevels:
        config = with_levels(config, rows)
        return (config.data.levels, *_measured(config, rows, whole))


def _measured(
    config: Config, rows: Sequence[Row], whole: bool
) -> tuple[Checked, tuple[float, float] | None]:
    widths: list[float] = []
    looked: list[str] = []

    def measure(name: str, _image: NDArray[np.uint8], target_KHW: NDArray[np.uint8]) -> None:
        if len(looked) < MAX_OBJECTS:
            looked.append(name)
            widths.extend(object_widths(target_KHW, config.task))

    checked = inspect(config, rows, measure, whole=whole)
    if not widths:
        return checked, None
    return checked, typical_widths(widths)


def typical_widths(widths: Sequence[float]) -> tuple[float, float]:
    """The width that a tenth of all objects lies below, and the middle one, each object weighted
    with its width: crumbs at the edges of large objects would hide these, else."""
    ordered = np.sort(np.asarray(widths, np.float64))
    shares = np.cumsum(ordered) / ordered.sum()
    small, middle = (float(ordered[np.searchsorted(shares, q)]) for q in (0.1, 0.5))
    return small, middle


def object_widths(target_KHW: NDArray[np.uint8], task: str, most: int = 200) -> list[float]:
    """Roots of the areas, in pixels, of the connected parts of each class but the background; of
    `most` parts at most. Parts of 1 to 3 pixels are noise, unless there is nothing else."""
    areas: list[int] = []
    for plane in target_KHW:
        values = [int(v) for v in np.unique(plane) if v not in (0, VOID)]
        for value in values if task == "multiclass" else values[:1]:
            mask = (plane == value).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            areas += stats[1:, cv2.CC_STAT_AREA].tolist()
    large = [area for area in areas if area > 3] or areas
    return [float(area) ** 0.5 for area in large[:most]]
