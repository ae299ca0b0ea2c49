"""What the values of the mask files mean: keys of a config, or a refusal that names the key.

Only what is surely understood is written down. A set whose values could mean several things is
refused with one line for each reading: the key that a person adds to the command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.data import MAX_PIXELS
from distseg.data.image_file import decode, open_file
from distseg.data.mask_file import Channel, Color, mask_of
from distseg.init.colors import (
    BLACK,
    RARE,
    color_name,
    colors_of,
    filling_values,
    no_classes,
    odd_text,
    ordered,
)
from distseg.init.noise import HALF, NEAR, noise_of
from distseg.init.objects import Held, may_number_objects
from distseg.records.errors import UserError

MAX_CLASSES = 64  # more values, or colors, are noise rather than classes
MAX_VALUES = 1024  # of a file, that are counted
LOSSY = (".jpg", ".jpeg", ".jpe", ".webp")


@dataclass(frozen=True, slots=True)
class Values:
    """What the mask files of a set hold.

    pixels: pixels by gray value or class number; files: how many files hold it.
    colors: pixels by color, of files of three channels; colored: how many of them are not gray.
    plain: files of one channel.
    most: values of the file that holds most of them.
    lossy: whether files are of a kind that changes values (JPEG).
    num: files that were read.
    filling: values and colors that fill 3 x 3 pixels somewhere.
    noise: pixels near 0 that are not the background; far: those of them that are near no object.
    held: files by the values that they hold together.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    files: Counter[int] = field(default_factory=Counter)
    colors: Counter[Color] = field(default_factory=Counter)
    colored: int = 0
    plain: int = 0
    most: int = 0
    lossy: bool = False
    num: int = 0
    filling: frozenset[int | Color] = frozenset()
    noise: int = 0
    far: int = 0
    held: Counter[Held] = field(default_factory=Counter)

    @classmethod
    def joined(cls, parts: Iterable[Values]) -> Values:
        """Of several files together."""
        found = list(parts)
        pixels, files, colors = Counter[int](), Counter[int](), Counter[Color]()
        held = Counter[Held]()
        for part in found:
            pixels.update(part.pixels)
            files.update(part.files)
            colors.update(part.colors)
            held.update(part.held)
        return cls(
            pixels, files, colors, sum(part.colored for part in found),
            sum(part.plain for part in found), max((part.most for part in found), default=0),
            any(part.lossy for part in found), sum(part.num for part in found),
            frozenset().union(*(part.filling for part in found)),
            sum(part.noise for part in found), sum(part.far for part in found), held,
        )  # fmt: skip

    @property
    def usual(self) -> int | Color | None:
        """The value, or color, that most pixels have."""
        most: list[tuple[Any, int]] = (self.colors if self.colored else self.pixels).most_common(1)
        return most[0][0] if most else None

    def holds_others(self, value: int | Color | None) -> bool:
        """Whether there is another value, or color, than this."""
        own: Iterable[Any] = self.colors if isinstance(value, tuple) else self.pixels
        return any(one != value for one in own)


@dataclass(frozen=True, slots=True)
class Labels:
    """Keys of a config (a tree) that say what the masks mean, and by dotted key why."""

    keys: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)


def mask_values(path: str, channel: Channel = "auto", max_pixels: int = MAX_PIXELS) -> Values:
    """What one mask file holds. BadFile: it cannot be read, or its labels are not clear."""
    with open_file(path) as file:
        decoded = decode(file, path, max_pixels)
        file.seek(0)
        lossless = b"VP8L" in file.read(64)  # a WebP of that kind
    lossy = Path(path).suffix.lower() in LOSSY and not lossless
    image = decoded.pixels
    if not isinstance(image, Image.Image) or image.mode not in ("RGB", "CMYK", "YCbCr"):
        return replace(_gray_values(mask_of(decoded, channel).labels, lossy), plain=1)
    array = np.asarray(image.convert("RGB"))
    colors, filling = colors_of(array)
    if any(max(color) - min(color) > (NEAR if lossy else 0) for color in colors):
        return Values(
            colors=colors, colored=1, most=len(colors), lossy=lossy, num=1, filling=filling
        )
    gray = _gray_values(array[..., 1], lossy)
    return replace(gray, colors=colors, filling=gray.filling | filling)


def _gray_values(labels_HW: NDArray, lossy: bool) -> Values:
    if labels_HW.dtype in (np.uint8, np.uint16):
        sizes = np.bincount(labels_HW.ravel())
        values = np.flatnonzero(sizes)
        sizes = sizes[values]
    else:
        values, sizes = np.unique(labels_HW, return_counts=True)
    most = np.argsort(-sizes, kind="stable")[:MAX_VALUES]
    counts = Counter(dict(zip(values[most].tolist(), sizes[most].tolist(), strict=True)))
    held = [value for value in values[: MAX_CLASSES + 2].tolist() if value]
    noise, far = noise_of(labels_HW) if lossy or len(values) > 2 else (0, 0)
    filling = {int(value) for value in filling_values(labels_HW)} & counts.keys()
    return Values(
        counts, Counter(list(counts)), most=len(values), lossy=lossy, num=1, noise=noise, far=far,
        filling=frozenset(filling), held=Counter([tuple(held)]),
    )  # fmt: skip


# -- what they mean -------------------------------------------------------------------------------


def decide(
    values: Values, given: Mapping[str, Any], root: str, one_part: Callable[[], bool] = lambda: True
) -> Labels:
    """What the masks mean, beside what `given` says (keys of a config, as a tree). one_part: tells
    whether what has one value is one connected part, in each file; asked where that matters.

    UserError: that needs a decision; each line names the key.
    """
    data = given.get("data", {})
    if values.colored or "colors" in data:
        return _colored(values, given, root)
    if "mask_values" in data or not values.num:
        return _told(given)
    folder = data.get("folder", {})
    if "threshold" in folder or folder.get("numbered"):
        return _binary(given, {}, {})
    void = given.get("void")
    seen = sorted(set(values.pixels) - {void})
    if given.get("task") in ("multiclass", "multilabel"):
        if values.lossy and len(seen) > 2 and "classes" not in given:
            raise UserError(
                f"{root}: the masks were saved with loss (JPEG), which makes {len(seen)} values of "
                "the class numbers: save them as PNG, or name the classes"
            )
        return _numbered(seen, values, given, root)
    if values.lossy or len(seen) > MAX_CLASSES:
        return _noise(values, given, root)
    if given.get("task") == "binary" or len(seen) <= 2 or set(seen) <= {0, 1, 255, 65535}:
        if len(seen) > 2 and values.most > 2:  # 0, 1 and 255 in one file
            raise UserError(_unclear(seen, values, root))
        # two values, or files of two values: `judge` says what is wrong with them, if anything is
        return _binary(given, {}, {"task": f"the masks hold {_listed(values, seen)}"})
    if "classes" not in given and may_number_objects(values.held, void) and one_part():
        raise UserError(
            f"{root}: the masks hold {_listed(values, seen)}: each file has other values, and each "
            "value is one connected part, as numbers of objects are. Say one of:\n"
            f"{root}: data.folder.numbered=true where they number objects: every value but 0 is "
            f"the object\n{root}: task=multiclass where each value is a class"
        )
    return _numbered(seen, values, given, root)


def _noise(values: Values, given: Mapping[str, Any], root: str) -> Labels:
    """Masks saved as JPEG, or smoothed: two values, with others at the edges."""
    total = values.pixels.total()

    def pixels(low: int, high: int) -> int:
        return sum(n for v, n in values.pixels.items() if low <= v <= high)

    white, bright = pixels(255 - NEAR, 255), pixels(HALF + 1, 255)
    near = pixels(0, NEAR) + white
    is_noise = 10 * values.far <= values.noise + white and 2 * white >= bright
    is_noise = is_noise and (white > 0 or not values.noise)
    if near < 0.97 * total or not is_noise:
        numbered = (
            "" if values.lossy else
            "data.folder.numbered=true where each object has a number of its own, or "
        )  # fmt: skip
        raise UserError(
            f"{root}: the masks hold {len(values.pixels)} values, and not only near 0 and 255 with "
            "noise at the edges: they number objects or classes, or were saved as pictures. Say "
            f"{numbered}data.folder.threshold=N where values above N are the object; or save them "
            "without loss"
        )
    why = (
        f"{near / total:.1%} of the pixels lie within {NEAR} of 0 or 255: noise of a lossy file, "
        "or soft edges"
    )
    return _binary(given, {"folder": {"threshold": HALF}}, {"data.folder.threshold": why})


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
    least = RARE * values.pixels.total()
    strays = [v for v in seen if values.pixels[v] < least and v not in values.filling]
    if (strays or not is_plain) and not asked:
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
            "classes. Say data.folder.numbered=true where each object has a number of its own, or "
            "data.folder.threshold=N where values above N are the object"
        )
    inner = [value for value in seen if value != 255]
    meaning = ", ".join(f"{value}: {number}" for number, value in enumerate(seen))
    lines = [f"{root}: the masks hold {shown}, and what they mean is not known. Say one of:"]
    if 255 in seen and inner and inner[-1] < MAX_CLASSES:
        lines.append(f"{root}: void=255 where 255 counts nowhere")
    lines.append(f"{root}: task=multiclass where each value is a class")
    lines.append(f'{root}: "data.mask_values={{{meaning}}}" with the number of the class that each '
                 "means (255: counts nowhere)")  # fmt: skip
    if seen[0] == 0 and seen[-1] >= MAX_CLASSES:
        lines.append(f"{root}: data.folder.threshold={seen[-1] // 2} where values above it are the "
                     "object, and the others soft edges or noise")  # fmt: skip
    if 0 in seen and len(seen) > 2:
        lines.append(f"{root}: data.folder.numbered=true where each object has a number of its own")
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
            "with loss (JPEG) or has soft edges cannot be read by color"
        )
    if odd := no_classes(found, values.filling):
        raise UserError(f"{root}: {odd_text(odd, found)}")
    every = ordered(found)
    why = f"the masks hold {len(every)} colors; name them as you like, in classes and colors"
    if BLACK in found and len(every) == 2:
        colors = {"background": list(BLACK), "object": list(every[1])}
        return Labels(
            {"task": "binary", "classes": ["object"], "data": {"colors": colors}},
            {"data.colors": "black, and one color"},
        )
    names = [color_name(color) for color in every]
    if len(names) < 2:
        raise UserError(f"{root}: all masks hold one color, {list(every[0])}: no object")
    return Labels(
        {"task": "multiclass", "classes": names,
         "data": {"colors": {n: list(c) for n, c in zip(names, every, strict=True)}}},
        {"data.colors": why, "task": "a class for each color"},
    )  # fmt: skip
