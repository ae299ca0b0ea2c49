"""What a data set is like: sizes, channels, labels, objects, groups in names; from a sample.

Headers of all files are read; pixels of at most so many that it takes a share of the budget. What
is sampled is spread over the set.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.cache import mask_files
from distseg.data.detect import detect
from distseg.data.formats.row import Row
from distseg.data.image_file import image_size
from distseg.data.inspect import Checked, inspect, with_levels
from distseg.data.judge import judge_listed
from distseg.data.layouts import layout
from distseg.data.threads import in_threads
from distseg.functional.metrics import VOID
from distseg.init.channels import MAX_IMAGES, find_channels, try_decode
from distseg.init.labels import Labels, Values, decide, mask_values
from distseg.records.errors import UserError
from distseg.records.log import counted

MAX_HEADERS = 4000
MAX_MASKS = 1500  # whose values are counted
MAX_ROWS = 500  # that are opened as the run will open them
MIN_ROWS = 24
MAX_OBJECTS = 120  # rows whose objects are measured
MAX_VALUES = 64_000_000  # pixels that they may have together
_NUMBERED = re.compile(r"^(.*\D)[_\-. ][A-Za-z]{0,8}\d+$|^(.+?)[_\-. ][A-Za-z]{0,8}\d+$")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the data is like.

    keys: keys of a config that say how to read it, as a tree; why: by dotted key, why.
    height, width: the median size of the train images, pixels; largest: height and width.
    one_size: whether all images, test images too, have one size.
    channels: 1, 3, or more; deep: (lowest, highest value) of images of more than 8 bits.
    empty: share of images without an object, 0..1.
    objects: widths in pixels (root of the area) of connected objects, see `typical_widths`.
        None: no object in the sample.
    coverage: share of the pixels that each class has.
    groups: by id, where the names show several images of one thing (patient, sheet, video).
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

    @property
    def task(self) -> str:
        return str(self.keys["task"])


def look(root: Path, given: Mapping[str, Any], seconds: float = 20.0) -> Facts:
    """Look at a folder; `given` are keys of a config that the user has said, as a tree.

    seconds: that reading pixels may take, about.

    UserError: no layout recognizes it, its masks need a decision (each line names the key), or no
    row of it can be used.
    """
    detected = detect(root) if "format" not in given.get("data", {}) else None
    found = merged(dict(detected.keys) if detected else {}, given)
    found = merged(found, {"data": {"root": str(root)}})
    why = {"data.format": detected.why} if detected else {}
    config = stub(found)
    form = layout(config.data.format)
    train, test = form.train(config), form.test(config)
    rows = [row for row in train if not row.problem]
    if not rows:
        first = train[0].problem if train else "it lists no images"
        raise UserError(f"{root}: no row can be used: {first}")
    judge_listed(config, len(train), [(r.id, r.image, r.problem) for r in train if r.problem])
    if len(rows) == 1:
        raise UserError(f"{root}: one image can be used; a score needs another that is held out")
    sizes = [size for row in spread(rows, MAX_HEADERS) if (size := _size(row))]
    sizes_test = [size for row in spread(test, MAX_HEADERS) if (size := _size(row))]
    if not sizes:
        raise UserError(f"{root}: no train image can be read; see `distseg inspect`")
    channels, deep, why_channels = find_channels(spread(rows, MAX_IMAGES), config)
    labels = _labels(spread(rows, _most_masks(sizes)), found, str(root), config)
    found = merged(merged(labels.keys, found), {"input": {"channels": channels}})
    found = {"task": "binary", "classes": ["object"], **found}
    began = time.perf_counter()
    sample = _sample(rows, sizes, seconds)
    config = stub(found, limited=len(sample) < len(rows))
    if deep is not None:
        config = with_levels(config, sample)
    checked, objects = _opened(config, sample)
    spent = time.perf_counter() - began
    heights, widths = sorted(h for h, _ in sizes), sorted(w for _, w in sizes)
    middle, coverage = len(sizes) // 2, checked.coverage
    first_class = int(config.task == "multiclass")
    copies = len(checked.together) - len(set(checked.together))
    return Facts(
        root=str(root), keys=found, why={**why, **labels.why, **why_channels},
        num_train=len(rows), num_validated=sum(row.validates for row in rows), num_test=len(test),
        height=heights[middle], width=widths[middle], largest=(heights[-1], widths[-1]),
        one_size=len({*sizes, *sizes_test}) == 1, channels=channels, deep=deep,
        empty=float((coverage[:, first_class:].sum(axis=1) == 0).mean()), objects=objects,
        coverage=tuple(coverage.mean(axis=0).tolist()),
        groups=groups_of([row.id for row in rows]), copies=copies,
        bad=len(train) - len(rows) + len(checked.quarantine), sampled=len(sample),
        decode_s=spent / len(sample),
    )  # fmt: skip


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


def stub(keys: Mapping[str, Any], *, limited: bool = False) -> Config:
    """A config that reads the data, and trains nothing. limited: by a sample of its rows, in which
    a rare class may be missing."""
    tree: dict[str, Any] = {
        "name": "look", "members": {"none": {"arch": "PlainUnet", "encoder": "none"}},
        "stages": [{"loss": {"dice": 1.0}}],  # for any task
        "classes": ["object"], **keys,
    }  # fmt: skip
    tree["input"] = {**tree.get("input", {}), "fit": "resize"}
    if tree.get("task") == "multiclass" and len(tree["classes"]) < 2:
        tree["classes"] = ["background", "object"]
    config = parse_config(tree, "data")
    if not limited:
        return config
    data = config.data.model_copy(update={"limit": 10**9})
    return config.model_copy(update={"data": data})


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, evenly over all of them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def _size(row: Row) -> tuple[int, int] | None:
    try:
        return image_size(row.image)
    except (UserError, OSError):
        return None


# -- pixels ---------------------------------------------------------------------------------------


def _labels(rows: Sequence[Row], given: Mapping[str, Any], root: str, config: Config) -> Labels:
    """What the masks mean; of RLEs, and layouts with a meaning of their own, the layout says."""
    if config.data.format in ("oxford_pet", "synthetic"):
        return Labels({})
    paths = [
        path
        for row in rows
        if row.target.startswith("file:") and "|" not in row.target
        for path in mask_files(row.target)
    ]

    def read(path: str) -> Values:
        try:
            return mask_values(path, config.data.mask_channel)
        except (UserError, OSError, MemoryError):
            return Values()  # the check of the row says so

    return decide(Values.joined(in_threads(read, paths)), given, root)


def _most_masks(sizes: Sequence[tuple[int, int]]) -> int:
    """Masks whose values are counted: fewer where they are large."""
    return max(MIN_ROWS, min(MAX_MASKS, 8 * MAX_VALUES // max(1, _middle(sizes))))


def _middle(sizes: Sequence[tuple[int, int]]) -> int:
    """Pixels of the middle one of the images."""
    return sorted(height * width for height, width in sizes)[len(sizes) // 2]


def _sample(rows: Sequence[Row], sizes: Sequence[tuple[int, int]], seconds: float) -> list[Row]:
    """As many rows as can be opened in the time, by the pace of a few of them."""
    most = max(MIN_ROWS, min(MAX_ROWS, MAX_VALUES // max(1, _middle(sizes))))
    began = time.perf_counter()
    probe = spread(rows, 8)
    for _ in in_threads(lambda row: try_decode(row.image), probe):
        pass
    each = (time.perf_counter() - began) / len(probe)
    return spread(rows, max(MIN_ROWS, min(most, int(seconds / max(1e-4, 2 * each)))))


def _opened(config: Config, sample: Sequence[Row]) -> tuple[Checked, tuple[float, float] | None]:
    """The rows as the run will check them, and the widths of their objects. UserError as the run
    would raise it."""
    widths: list[float] = []
    looked: list[str] = []

    def measure(name: str, _image: NDArray[np.uint8], target_KHW: NDArray[np.uint8]) -> None:
        if len(looked) < MAX_OBJECTS:
            looked.append(name)
            widths.extend(object_widths(target_KHW, config.task))

    checked = inspect(config, sample, measure)
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


def groups_of(ids: Sequence[str]) -> dict[str, str] | None:
    """By id, the part of its name that several images share: `patient07` of `patient07_slice12`.

    None where the names show no such groups: too few or too many of them, one that holds most
    images, or words before numbers that only count (`beagle_12`, `image_12`): who is one of
    several has a number of its own.
    """
    found: dict[str, str] = {}
    for name in ids:
        stem = Path(name).stem if Path(name).suffix else name
        match = _NUMBERED.match(stem)
        found[name] = (match[1] or match[2]) if match else stem
    sizes = Counter(found.values())
    shared = sum(n for n in sizes.values() if n > 1)
    if not 5 <= len(sizes) <= len(ids) // 2 or shared < 0.8 * len(ids):
        return None
    numbered = sum(any(c.isdigit() for c in group) for group in found.values())
    if numbered < 0.8 * len(ids) or max(sizes.values()) > 0.5 * len(ids):
        return None
    return found


def groups_text(groups: Mapping[str, str]) -> str:
    """`12 groups in the names (patient01, patient02, ...)`."""
    names = sorted(set(groups.values()))
    return f"{counted(len(names), 'group')} in the names ({', '.join(names[:2])}, ...)"
