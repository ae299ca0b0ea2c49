"""Small data sets with planted truth: what people have, as files, and what it means."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.data.data_helpers import gray, save

NUM, SIZE = 12, 16
Array = NDArray[Any]
Writer = Callable[[Path, Array, int], object]  # (path without suffix, 0/1 mask, number of the row)
CE = [{"loss": {"cross_entropy": 1.0}}]


@dataclass(frozen=True)
class Truth:
    """What training must be given: targets (K, H, W) by id, and images (H, W, C) where they are
    what is tested. `left_out`: ids that must not be used, and why that is fine is the case's."""

    targets: Mapping[str, Array]
    images: Mapping[str, Array] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def shape(i: int) -> NDArray[np.uint8]:
    """0/1, aligned to blocks of 8 x 8 pixels (those of JPEG); every third row has no object."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if i % 3:
        mask[8 * (i % 2) :, 8 * (i // 2 % 2) : 8 + 8 * (i // 2 % 2)] = 1
    return mask


def classes(i: int, highest: int = 2) -> NDArray[np.uint8]:
    """Class numbers 0..highest: bands, of which each row has another division."""
    rows = (np.arange(SIZE) + i) // 3 % (highest + 1)
    return np.repeat(rows.astype(np.uint8)[:, None], SIZE, axis=1)


def ids(num: int = NUM) -> list[str]:
    return [f"a{i}" for i in range(num)]


def images(root: Path, num: int = NUM) -> None:
    for i in range(num):
        save(root / "images" / f"a{i}.png", gray(i, SIZE, SIZE))


def binary(root: Path, write: Writer) -> Truth:
    """images/ and masks/ of two values, each mask written by `write`."""
    images(root)
    (root / "masks").mkdir()
    for i in range(NUM):
        write(root / "masks" / f"a{i}", shape(i), i)
    return Truth({f"a{i}": shape(i)[None] for i in range(NUM)})


def indexed(root: Path, write: Writer, highest: int = 2) -> Truth:
    """The same with class numbers 0..highest."""
    images(root)
    (root / "masks").mkdir()
    for i in range(NUM):
        write(root / "masks" / f"a{i}", classes(i, highest), i)
    return Truth({f"a{i}": classes(i, highest)[None] for i in range(NUM)})


# -- how a mask is written -------------------------------------------------------------------------


def png(low: int = 0, high: int = 255, dtype: Any = np.uint8) -> Writer:
    def write(path: Path, mask: Array, i: int) -> None:
        save(path.with_suffix(".png"), np.where(mask > 0, high, low).astype(dtype))

    return write


def numbers(suffix: str = ".png") -> Writer:
    return lambda path, mask, i: save(path.with_suffix(suffix), mask)


def npy(low: float, high: float, dtype: Any) -> Writer:
    return lambda path, mask, i: np.save(
        path.with_suffix(".npy"), np.where(mask > 0, high, low).astype(dtype)
    )


def either(first: Writer, other: Writer, use_other: Callable[[int], bool]) -> Writer:
    """Some rows by one writer, some by another."""
    return lambda path, mask, i: (other if use_other(i) else first)(path, mask, i)


def jpeg(quality: int) -> Writer:
    def write(path: Path, mask: Array, i: int) -> None:
        noisy = (mask * 200 + 10 + gray(i, SIZE, SIZE) % 40).astype(np.uint8)
        save(path.with_suffix(".jpg"), noisy, quality=quality)

    return write


def palette(*colors: tuple[int, int, int], order: Iterable[int] = (), **options: Any) -> Writer:
    """Indices into a palette of `colors`. order: the place of the value 0, 1, ... in it."""
    places = np.array([*order] or [*range(len(colors))], np.uint8)

    def write(path: Path, mask: Array, i: int) -> None:
        image = Image.fromarray(places[mask], "P")
        image.putpalette([part for color in colors for part in color])
        suffix = options.get("suffix", ".png")
        image.save(path.with_suffix(suffix), **{k: v for k, v in options.items() if k != "suffix"})

    return write


def colored(*colors: tuple[int, int, int]) -> Writer:
    """RGB: colors[0] is 0, colors[1] is 1, ..."""
    return lambda path, mask, i: save(path.with_suffix(".png"), np.array(colors, np.uint8)[mask])


def alpha(color: Callable[[Array], Array], plane: Callable[[Array], Array], mode: str) -> Writer:
    """Gray or color of `color(mask)`, and the alpha of `plane(mask)`."""

    def write(path: Path, mask: Array, i: int) -> None:
        front, behind = color(mask).astype(np.uint8), plane(mask).astype(np.uint8)
        planes = [front] * (3 if mode == "RGBA" else 1) + [behind]
        Image.fromarray(np.dstack(planes), mode).save(path.with_suffix(".png"))

    return write


# -- other layouts ---------------------------------------------------------------------------------


def runs(mask: Array) -> str:
    """The RLE of a mask, pixel by pixel: down the columns, from 1; each run for itself."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return " ".join(f"{a} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True))


def pieces(mask: Array) -> list[str]:
    """The RLEs of the columns of a mask, one for each that holds something: a row per object."""
    whole = []
    for column in np.flatnonzero(mask.any(axis=0)):
        own = np.zeros_like(mask)
        own[:, column] = mask[:, column]
        whole.append(runs(own))
    return whole


def tgs_table(root: Path, cells: Callable[[Array, int], list[str]]) -> Truth:
    """TGS without masks: a line of train.csv for each of `cells(mask, i)`."""
    lines = ["id,rle_mask"]
    for i in range(NUM):
        save(root / "train" / "images" / f"a{i}.png", gray(i, SIZE, SIZE))
        lines += [f"a{i},{cell}" for cell in cells(shape(i), i)]
    save(root / "test" / "images" / "t0.png", gray(50, SIZE, SIZE))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return Truth({f"a{i}": shape(i)[None] for i in range(NUM)})


def tianchi_table(root: Path, cells: Callable[[Array, int], list[str]]) -> Truth:
    """Tianchi: a line of train_mask.csv for each of `cells(mask, i)`."""
    lines = []
    for i in range(NUM):
        save(root / "train" / f"a{i}.jpg", gray(i, SIZE, SIZE))
        lines += [f"a{i}.jpg\t{cell}" for cell in cells(shape(i), i)]
    (root / "train_mask.csv").write_text("\n".join(lines) + "\n")
    return Truth({f"a{i}.jpg": shape(i)[None] for i in range(NUM)})


def severstal_table(root: Path, cells: Callable[[Array, int], list[str]]) -> Truth:
    """Severstal with ClassId: two classes, the second where the first has no object."""
    lines = ["ImageId,ClassId,EncodedPixels"]
    targets = {}
    for i in range(NUM):
        save(root / "train_images" / f"a{i}.jpg", gray(i, SIZE, SIZE))
        planes = [shape(i), shape(i + 1) * (1 - shape(i))]
        targets[f"a{i}.jpg"] = np.stack(planes)
        for number, plane in enumerate(planes, start=1):
            lines += [f"a{i}.jpg,{number},{cell}" for cell in cells(plane, i)]
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return Truth(targets)


# -- images ----------------------------------------------------------------------------------------


def deep(root: Path, write: Callable[[Path, int], Array]) -> Truth:
    """Ordinary masks, and images that `write` makes; it returns what each must be read as."""
    truth = binary(root, png())
    for path in (root / "images").iterdir():
        path.unlink()
    made = {f"a{i}": write(root / "images" / f"a{i}", i) for i in range(NUM)}
    return Truth(truth.targets, made)


def with_exif(path: Path, array: Array, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(path, array, exif=exif)


def turned(array: Array, orientation: int) -> Array:
    """What is stored, where a viewer that obeys EXIF shows `array`: written down from the standard
    (the place of row 0 and column 0), not taken from the reader."""
    stored = {1: array, 3: array[::-1, ::-1], 6: np.rot90(array, 1), 8: np.rot90(array, -1)}
    return np.ascontiguousarray(stored[orientation])


def png_16_color(path: Path, array: Array) -> None:
    """An RGB PNG of 16 bits a channel, byte by byte: Pillow cannot write one."""
    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
