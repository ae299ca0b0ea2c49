"""Finished masks as image files and as an RLE table, written one by one as they are predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from distseg.config.schema import Config
from distseg.functional.rle import encode
from distseg.records.files import atomic_write
from distseg.records.tables import WriteRow, table_writer


class MaskSink(Protocol):
    """Takes finished masks in any order; the submission's writer is one, too."""

    def add(self, name: str, mask_CHW: np.ndarray) -> None:
        """mask_CHW: uint8 (C, H, W) of 0 and 1; multiclass: (1, H, W) of class numbers."""


class MaskFiles:
    """Masks as PNG files: 0 and 255 in FOLDER/ID.png, with several labels in
    FOLDER/LABEL/ID.png; class numbers for multiclass."""

    def __init__(self, config: Config, folder: Path, write_row: WriteRow | None) -> None:
        self.folder, self.write_row = folder, write_row
        self.labels = config.classes if config.task == "multilabel" else []
        self.scale = np.uint8(1 if config.task == "multiclass" else 255)

    def add(self, name: str, mask_CHW: np.ndarray) -> None:
        for label, plane in zip(self.labels or [""], mask_CHW, strict=True):
            path = self.folder / label / f"{name}.png"
            ok, png = cv2.imencode(".png", plane * self.scale)
            assert ok, "cv2 encodes any uint8 array"
            atomic_write(path, png.tobytes())
            if self.write_row is not None:
                names = (name, label) if self.labels else (name,)
                self.write_row((*names, encode(plane)))


def table_header(config: Config) -> tuple[str, ...]:
    """The first line of the table of RLEs."""
    return ("id", "class", "rle") if config.task == "multilabel" else ("id", "rle")


@contextlib.contextmanager
def mask_files(config: Config, folder: Path, rle_path: Path | None) -> Iterator[MaskFiles]:
    """Masks into `folder`, and with `rle_path` a table `id,rle` (`id,class,rle` with several
    labels) that is put in place when the block ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    if rle_path is None:
        yield MaskFiles(config, folder, None)
        return
    with table_writer(rle_path, table_header(config)) as write_row:
        yield MaskFiles(config, folder, write_row)
