"""What the values of the mask files mean: keys of a config, or a refusal that names the key.

Only what is surely understood is written down. A set whose values could mean several things is
refused with one line for each reading: the key that a person adds to the command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.data.image_file import decode, open_file
from distseg.data.mask_file import Color, read_mask
from distseg.records.errors import UserError

MAX_CLASSES = 64  # more values, or colors, are noise rather than classes
MAX_COLORS = 1024  # of a file, that are counted
LOSSY = (".jpg", ".jpeg", ".jpe", ".webp")
NEAR = 32  # gray levels that JPEG noise stays within, around 0 and 255
BLACK: Color = (0, 0, 0)
NAMED: dict[Color, str] = {
    (255, 255, 255): "white", (255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue",
    (255, 255, 0): "yellow", (255, 0, 255): "magenta", (0, 255, 255): "cyan",
    (128, 0, 0): "maroon", (0, 128, 0): "dark_green", (0, 0, 128): "navy",
    (128, 128, 0): "olive", (128, 0, 128): "purple", (0, 128, 128): "teal",
    (128, 128, 128): "gray",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Values:
    """What the mask files of a set hold.

    pixels: pixels by gray value or class number; files: how many files hold it.
    colors: pixels by color, of files of three channels; colored: how many of them are not gray.
    plain: files of one channel.
    most: values of the file that holds most of them.
    lossy: whether files are of a kind that changes values (JPEG).
    num: files that were read.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    files: Counter[int] = field(default_factory=Counter)
    colors: Counter[Color] = field(default_factory=Counter)
    colored: int = 0
    plain: int = 0
    most: int = 0
    lossy: bool = False
    num: int = 0

    @classmethod
    def joined(cls, parts: Iterable[Values]) -> Values:
        """Of several files together."""
        found = list(parts)
        pixels, files, colors = Counter[int](), Counter[int](), Counter[Color]()
        for part in found:
            pixels.update(part.pixels)
            files.update(part.files)
            colors.update(part.colors)
        return cls(
            pixels, files, colors, sum(part.colored for part in found),
            sum(part.plain for part in found), max((part.most for part in found), default=0),
            any(part.lossy for part in found), sum(part.num for part in found),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Labels:
    """Keys of a config (a tree) that say what the masks mean, and by dotted key why."""

    keys: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)


def mask_values(path: str, channel: str = "auto") -> Values:
    """What one mask file holds. BadFile: it cannot be read, or its labels are not clear."""
    lossy = Path(path).suffix.lower() in LOSSY
    with open_file(path) as file:
        decoded = decode(file, path)
    image = decoded.pixels
    if isinstance(image, Image.Image) and image.mode in ("RGB", "CMYK", "YCbCr"):
        array = np.asarray(image.convert("RGB"))
        colors = _colors(array)
        if any(max(color) - min(color) > (NEAR if lossy else 0) for color in colors):
            return Values(colors=colors, colored=1, most=len(colors), lossy=lossy, num=1)
        gray = np.bincount(array[..., 1].ravel(), minlength=256)
        counts = Counter({int(value): int(gray[value]) for value in np.flatnonzero(gray)})
        return Values(counts, Counter(list(counts)), colors, 0, 0, len(counts), lossy, 1)
    coding = read_mask(path, channel).coding  # type: ignore[arg-type]
    counts = Counter(dict(coding.counts))
    return Values(counts, Counter(list(counts)), plain=1, most=len(counts), lossy=lossy, num=1)


def _colors(array_HW3: NDArray[np.uint8]) -> Counter[Color]:
    packed = (array_HW3.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    values, sizes = np.unique(packed, return_counts=True)
    order = np.argsort(-sizes)[:MAX_COLORS]
    return Counter(
        {(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255): int(n)
         for v, n in zip(values[order], sizes[order], strict=True)}
    )  # fmt: skip


# -- what they mean -------------------------------------------------------------------------------


def decide(values: Values, given: Mapping[str, Any], root: str) -> Labels:
    """What the masks mean, beside what `given` says (keys of a config, as a tree).

    UserError: that needs a decision; each line names the key.
    """
    data = given.get("data", {})
    if values.colored or "colors" in data:
        return _colored(values, given, root)
    if "mask_values" in data or not values.num:
        return _told(given)
    if "threshold" in data.get("folder", {}):
        return _binary(given, {}, {})
    void = given.get("void")
    seen = sorted(set(values.pixels) - {void})
    if given.get("task") in ("multiclass", "multilabel"):
        return _numbered(seen, values, given, root)
    if _is_noisy(values, seen):
        return _noise(values, given, root)
    if given.get("task") == "binary" or len(seen) <= 2 or set(seen) <= {0, 1, 255, 65535}:
        if len(seen) > 2 and values.most > 2:  # 0, 1 and 255 in one file
            raise UserError(_unclear(seen, values, root))
        # two values, or files of two values: `judge` says what is wrong with them, if anything is
        return _binary(given, {}, {"task": f"the masks hold {_listed(values, seen)}"})
    return _numbered(seen, values, given, root)


def _is_noisy(values: Values, seen: Sequence[int]) -> bool:
    return values.lossy or len(seen) > MAX_CLASSES


def _noise(values: Values, given: Mapping[str, Any], root: str) -> Labels:
    """Masks saved as JPEG: two values with noise around them."""
    total = values.pixels.total()
    near = sum(n for v, n in values.pixels.items() if v <= NEAR or 255 - NEAR <= v <= 255)
    if near < 0.97 * total:
        raise UserError(
            f"{root}: the masks hold {len(values.pixels)} values, and not only near 0 and 255: "
            "they are no masks, or were saved as pictures. Say data.folder.threshold=N (values "
            "above it are the object), or save them without loss"
        )
    why = f"{near / total:.1%} of the pixels lie within {NEAR} of 0 or 255: noise of a lossy file"
    return _binary(given, {"folder": {"threshold": 127}}, {"data.folder.threshold": why})


def _binary(given: Mapping[str, Any], data: dict[str, Any], why: dict[str, str]) -> Labels:
    keys: dict[str, Any] = {"task": "binary", "data": data}
    if "classes" not in given:
        keys["classes"] = ["object"]
        why = {"classes": "the masks do not say what it is called", **why}
    return Labels(keys, why)


def _numbered(seen: Sequence[int], values: Values, given: Mapping[str, Any], root: str) -> Labels:
    """A class per value."""
    if not seen or len(seen) > MAX_CLASSES:
        raise UserError(_unclear(seen, values, root))
    task = given.get("task", "multiclass")
    names = given.get("classes")
    first = 1 if task == "multilabel" else 0
    if names is not None:  # they say what each number means; `judge` compares
        return Labels({"task": task})
    asked = "task" in given
    is_plain = seen[-1] < MAX_CLASSES and 0 in seen
    if not is_plain and not asked:
        raise UserError(_unclear(seen, values, root))
    kept = [value for value in seen if value or first == 0]
    why = {"classes": f"the masks hold {_listed(values, seen)}; name them as you like"}
    listed = [_class_name(value, first) for value in kept]
    keys: dict[str, Any] = {"task": task, "classes": listed}
    why["task"] = f"the masks hold {len(seen)} values, a class each"
    if kept != list(range(first, first + len(kept))):
        meaning = {value: number for number, value in enumerate(kept, start=first)}
        keys["data"] = {"mask_values": {0: 0, **meaning} if first else meaning}
        why["data.mask_values"] = "value of a file: number of the class"
    return Labels(keys, why)


def _class_name(value: int, first: int) -> str:
    return "background" if value == 0 and first == 0 else f"class_{value}"


def _unclear(seen: Sequence[int], values: Values, root: str) -> str:
    shown = _listed(values, seen)
    if len(seen) > MAX_CLASSES:
        return (
            f"{root}: the masks hold {len(seen)} values ({shown}): more than {MAX_CLASSES} are no "
            "classes. Say data.folder.threshold=N (values above it are the object)"
        )
    inner = [value for value in seen if value != 255]
    meaning = ", ".join(f"{value}: {number}" for number, value in enumerate(seen))
    lines = [f"{root}: the masks hold {shown}, and what they mean is not known. Say one of:"]
    if 255 in seen and inner and inner[-1] < MAX_CLASSES:
        lines.append(f"{root}: void=255 where 255 counts nowhere")
    lines.append(f"{root}: task=multiclass where each value is a class")
    lines.append(f'{root}: "data.mask_values={{{meaning}}}" with the number of the class that each '
                 "means (255: counts nowhere)")  # fmt: skip
    return "\n".join(lines)


def _listed(values: Values, seen: Sequence[int], limit: int = 8) -> str:
    total = max(1, values.pixels.total())
    parts = [
        f"{value} in {values.files[value]} of {values.num} files "
        f"({values.pixels[value] / total:.1%})"
        for value in seen[:limit]
    ]
    return ", ".join(parts) + (f", and {len(seen) - limit} more" if len(seen) > limit else "")


def _told(given: Mapping[str, Any]) -> Labels:
    """`data.mask_values` says what each value means: the classes are what it names."""
    meaning = given.get("data", {}).get("mask_values")
    if meaning is None:
        return Labels({})
    highest = max((int(v) for v in meaning.values() if int(v) != 255), default=0)
    task = given.get("task", "binary" if highest <= 1 else "multiclass")
    if "classes" in given:
        return Labels({"task": task})
    numbers = range(1 if task == "multilabel" else 0, highest + 1)
    names = ["background" if n == 0 else f"class_{n}" for n in numbers]
    return Labels({"task": task, "classes": ["object"] if task == "binary" else names})


def _colored(values: Values, given: Mapping[str, Any], root: str) -> Labels:
    colors = given.get("data", {}).get("colors")
    if colors is not None:
        names = [name for name in colors if name not in ("background", "void")]
        if given.get("task", "") != "binary" and (len(names) > 1 or "background" not in colors):
            task = given.get("task", "multiclass")
            first = ["background"] if "background" in colors and task == "multiclass" else []
            return Labels({"task": task, "classes": given.get("classes", [*first, *names])})
        return Labels({"task": "binary", "classes": given.get("classes", names)})
    found = values.colors
    if values.lossy or len(found) > MAX_CLASSES or values.plain or "classes" in given:
        mixed = f"; {values.plain} others hold gray values" if values.plain else ""
        raise UserError(
            f"{root}: mask files hold {len(found)} colors{mixed}: say what each color means, as "
            '"data.colors={background: [0, 0, 0], road: [128, 64, 128]}"; a file that was saved '
            "with loss (JPEG) cannot be read by color"
        )
    ordered = [BLACK] * (BLACK in found) + [c for c, _ in found.most_common() if c != BLACK]
    why = f"the masks hold {len(ordered)} colors; name them as you like, in classes and colors"
    if BLACK in found and len(ordered) == 2:
        colors = {"background": list(BLACK), "object": list(ordered[1])}
        return Labels(
            {"task": "binary", "classes": ["object"], "data": {"colors": colors}},
            {"data.colors": "black, and one color"},
        )
    names = [_color_name(color) for color in ordered]
    if len(names) < 2:
        raise UserError(f"{root}: all masks hold one color, {list(ordered[0])}: no object")
    return Labels(
        {"task": "multiclass", "classes": names,
         "data": {"colors": {n: list(c) for n, c in zip(names, ordered, strict=True)}}},
        {"data.colors": why, "task": "a class for each color"},
    )  # fmt: skip


def _color_name(color: Color) -> str:
    if color == BLACK:
        return "background"
    return NAMED.get(color, "color_{}_{}_{}".format(*color))
