"""In which values a data set writes its masks, and how its RLEs count, so that predicted masks can
be written the same.

What a mask file or a table holds is known only after all of it was read: `prepare` writes it down
for the run, and whoever writes or scores masks of the run reads it there, wherever the data are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.judge import Held
from distseg.data.layouts import rle_options
from distseg.data.mask_file import Coding, Color
from distseg.data.read_target import ALL
from distseg.functional.rle import encode
from distseg.records.errors import UserError, unknown
from distseg.records.files import parsing, read_json, read_json_or, write_json

Kind = Literal["data", "255", "index"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RECORD = "mask_values.json"
MARK = ".distseg.json"  # in a folder of masks: `distseg predict` has filled it
Value = int | Color
_HIGHEST = 65535  # that a PNG holds


@dataclass(frozen=True, slots=True)
class MaskValues:
    """What the labels of finished masks are written as.

    planes: for each mask of an image (one, or one per class in multilabel) the value of the label
        0, 1, ...: a number of 0..65535 or a color (red, green, blue).
    """

    planes: tuple[tuple[Value, ...], ...]

    def pixels(self, labels_HW: NDArray[np.uint8], plane: int = 0) -> NDArray:
        """What is written for a mask of labels: uint8 or uint16 (H, W), or uint8 (H, W, 3)."""
        values = np.array(self.planes[plane])
        dtype = np.uint16 if values.max() > 255 else np.uint8
        return values.astype(dtype)[labels_HW]

    def meanings(self, plane: int = 0) -> dict[Value, int]:
        """The label of each value."""
        return {value: label for label, value in enumerate(self.planes[plane])}

    def record(self) -> list[list[Any]]:
        """For a JSON; `of_record` reads it back."""
        return [[list(v) if isinstance(v, tuple) else v for v in values] for values in self.planes]

    @classmethod
    def of_record(cls, record: Any) -> MaskValues:
        """ValueError or TypeError: it is none."""
        planes = tuple(
            tuple((int(v[0]), int(v[1]), int(v[2])) if isinstance(v, list) else int(v) for v in one)
            for one in record
        )
        if not planes or any(len(one) < 2 or len(set(one)) < len(one) for one in planes):
            raise ValueError("each mask needs two values or more, which differ")
        if any(isinstance(v, int) and not 0 <= v <= _HIGHEST for one in planes for v in one):
            raise ValueError(f"a value lies in 0..{_HIGHEST}")
        return cls(planes)


def standard_values(config: Config, kind: str) -> MaskValues:
    """The values of `--values 255` or `index`. UserError: 255 for class numbers."""
    num = len(config.classes)
    if config.task == "multiclass":
        if kind == "255":
            raise UserError(
                f"--values: 255: is for masks of two values, and these have {num} classes; valid: "
                "data, index"
            )
        return MaskValues((tuple(range(num)),))
    planes = num if config.task == "multilabel" else 1
    return MaskValues(((0, 255 if kind == "255" else 1),) * planes)


def usual_values(config: Config) -> MaskValues:
    """Class numbers in multiclass, else 0 and 255."""
    return standard_values(config, "index" if config.task == "multiclass" else "255")


def chosen_values(config: Config, data: Path, kind: str) -> MaskValues:
    """The values of a `--values`. data: where a run keeps what it found about its data; where it
    has not written it down, the config tells."""
    if kind not in KINDS:
        raise unknown("value of --values", kind, KINDS)
    if kind != "data":
        return standard_values(config, kind)
    path = data / RECORD
    if not path.is_file():
        return own_values(config, ())
    record = read_json(path, "planes")
    with parsing(path):
        found = MaskValues.of_record(record["planes"])
        if len(found.planes) != len(usual_values(config).planes):
            raise ValueError(f"{len(found.planes)} planes of {len(config.classes)} classes")
    return found


def marked_values(folder: Path) -> MaskValues | None:
    """The values that `distseg predict` wrote the masks of a folder with; None without its mark."""
    record = read_json_or(folder / MARK, {})
    if "planes" not in record:
        return None
    with parsing(folder / MARK, "give --values"):
        return MaskValues.of_record(record["planes"])


def run_rle(config: Config, data: Path) -> dict[str, Any]:
    """Order, base and empty (see `functional.rle`) of the RLEs of a run's data set. data: see
    `chosen_values`; a run of an earlier version has not written them down, and its data tell."""
    path = data / RECORD
    record = read_json_or(path, {})
    if "rle" not in record:
        return rle_options(config)
    with parsing(path):
        found = {key: record["rle"][key] for key in ("order", "base", "empty")}
        encode(np.zeros((1, 1)), **found)  # it says what is wrong with them
        return found


def write_values(config: Config, held: Sequence[Held], data: Path) -> None:
    """Write down what the mask files of a data set hold, and how its RLEs count. data: see
    `chosen_values`."""
    _write_record(data, own_values(config, held), lambda: rle_options(config))


def copy_values(config: Config, data: Path, to: Path) -> None:
    """Write down in another folder what a run's `data` says."""
    _write_record(to, chosen_values(config, data, "data"), lambda: run_rle(config, data))


def _write_record(folder: Path, values: MaskValues, rle: Callable[[], dict[str, Any]]) -> None:
    record: dict[str, Any] = {"planes": values.record()}
    # A set that does not say how it writes an empty mask is no mistake until a table is written.
    with contextlib.suppress(UserError):
        record["rle"] = rle()
    write_json(folder / RECORD, record)


def own_values(config: Config, held: Sequence[Held]) -> MaskValues:
    """The values that a data set's own mask files say its labels with. held: what those hold.

    Where several values mean a label, the first that the config names. Where its files cannot say
    what a mask of the task says (a table of RLEs; classes that may overlap, in one file), the
    `usual_values`.
    """
    is_named = config.data.colors is not None or config.data.value_map is not None
    if config.task == "multilabel":
        per_class = any(number != ALL for number, _ in held)
        if is_named or not per_class:  # in one file a pixel has one class; these may overlap
            return usual_values(config)
        numbers = range(len(config.classes))
        return MaskValues(tuple(_two(config, [c for n, c in held if n == k]) for k in numbers))
    if is_named:
        return _named(config) or usual_values(config)
    if config.task == "multiclass":
        return usual_values(config)
    return MaskValues((_two(config, [coding for _, coding in held]),))


def _named(config: Config) -> MaskValues | None:
    """The value of each label, from data.colors or data.mask_values; None where they leave one
    without a value that a PNG can hold."""
    first: dict[int, Value] = {}
    for color, label in (config.data.color_map(config.task, config.classes) or {}).items():
        first.setdefault(label, color)
    for value, label in (config.data.value_map or {}).items():
        if 0 <= value <= _HIGHEST:
            first.setdefault(label, value)
    labels = range(len(config.classes) if config.task == "multiclass" else 2)
    return MaskValues((tuple(first[k] for k in labels),)) if first.keys() >= set(labels) else None


def _two(config: Config, codings: Sequence[Coding]) -> tuple[Value, Value]:
    """The values of background and object in masks of which 0 says one of them."""
    options = config.data.folder
    own = [coding for coding in codings if len(set(coding.counts) - {config.void}) <= 2]
    values = {value for coding in own for value in coding.counts} - {0, config.void}
    bits = {coding.bits for coding in own}
    white = 65535 if options.threshold > 254 or (bits == {16} and values == {65535}) else 255
    is_two = options.threshold == 0 and not options.numbered
    is_one = len(values) == 1 and is_two and bits != {1}
    other = values.pop() if is_one else white
    other = other if 0 < other <= _HIGHEST else white
    return (other, 0) if options.inverted else (0, other)
