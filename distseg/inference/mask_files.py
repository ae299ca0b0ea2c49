"""Finished masks as image files and as an RLE table, written one by one as they are predicted."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.mask_values import MaskValues, run_rle, usual_values
from distseg.functional.drawing import encode_png
from distseg.functional.rle import encode_rows
from distseg.records.files import atomic_write
from distseg.records.tables import WriteRow, table_writer


class MaskSink(Protocol):
    """Takes finished masks in any order; the submission's writer is one, too."""

    def add(self, name: str, mask_CHW: np.ndarray) -> None:
        """mask_CHW: uint8 (C, H, W) of 0 and 1; multiclass: (1, H, W) of class numbers."""

    def leave_out(self, name: str, mask_CHW: np.ndarray, *, is_sized: bool) -> str:
        """An image that cannot be read; returns what becomes of it.

        mask_CHW: without an object. is_sized: whether its size is that of the image.
        """


class MaskFiles:
    """Masks as PNG files in FOLDER/ID.png, with several labels in FOLDER/LABEL/ID.png, in given
    values. An image that cannot be read has no file, and in the table nothing in its row.

    written: the images that have a mask.
    """

    def __init__(
        self, config: Config, folder: Path, values: MaskValues,
        write_row: WriteRow | None = None, rle: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """rle: how the RLEs of `write_row` count: order, base and empty of `functional.rle`."""
        self.folder, self.values, self.write_row = folder, values, write_row
        self.labels = config.classes if config.task == "multilabel" else []
        self.names = [] if config.task == "binary" else config.classes
        self.is_indexed = config.task == "multiclass"
        self.rle = {"per_object": config.submission.per_object, **(rle or {})}
        self.written = 0

    def add(self, name: str, mask_CHW: np.ndarray) -> None:
        for number, (label, plane) in enumerate(zip(self.labels or [""], mask_CHW, strict=True)):
            path = self.folder / label / f"{name}.png"
            atomic_write(path, encode_png(self.values.pixels(plane, number)))
        self._row(name, mask_CHW)
        self.written += 1

    def leave_out(self, name: str, mask_CHW: np.ndarray, *, is_sized: bool) -> str:
        self._row(name, np.zeros_like(mask_CHW[:, :1, :1]), is_read=False)
        return "gets no mask"

    def _row(self, name: str, mask_CHW: np.ndarray, *, is_read: bool = True) -> None:
        if self.write_row is None:
            return
        planes = mask_CHW
        if self.is_indexed:
            classes = np.arange(len(self.names))[:, None, None]
            planes = (mask_CHW == classes) & is_read
        for label, plane in zip(self.names or [""], planes, strict=True):
            for text in encode_rows(plane, **self.rle):
                self.write_row((name, *([label] if label else []), text))


def write_array(path: Path, array: NDArray) -> None:
    """A .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    atomic_write(path, buffer.getvalue())


def table_header(config: Config) -> tuple[str, ...]:
    """The first line of the table of RLEs."""
    return ("id", "rle") if config.task == "binary" else ("id", "class", "rle")


@contextlib.contextmanager
def mask_files(
    config: Config, data: Path, folder: Path, rle_path: Path | None,
    values: MaskValues | None = None,
) -> Iterator[MaskFiles]:  # fmt: skip
    """Masks into `folder`, and with `rle_path` a table `id,rle` (`id,class,rle` with several
    classes), whose RLEs count as those of the data set, that is put in place when the block ends
    without an error. data: of the run; see `chosen_values`. values: `usual_values` by default."""
    folder.mkdir(parents=True, exist_ok=True)
    values = usual_values(config) if values is None else values
    if rle_path is None:
        yield MaskFiles(config, folder, values)
        return
    with table_writer(rle_path, table_header(config)) as write_row:
        yield MaskFiles(config, folder, values, write_row, run_rle(config, data))
