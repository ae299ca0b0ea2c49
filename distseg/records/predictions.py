"""Predictions: a table of ids bound row to row to raw logits at the images' native size."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from distseg.records.errors import Damaged, UserError
from distseg.records.files import begin_folder, parsing, put_folder
from distseg.records.tables import read_rows, write_table

COLUMNS = ("id", "channels", "height", "width", "crc32")  # of index.csv; crc32: of a row's bytes
LOGIT_LIMIT = 65504.0  # the largest finite float16


class PredictionsWriter:
    """Append float16 logits row by row; the folder appears, whole, when the writer closes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, begin_folder(folder)
        self.file = (self.temporary / "logits.f16").open("wb")
        self.rows: list[tuple[str, int, int, int, int]] = []

    def add(self, name: str, logits_CHW: np.ndarray) -> None:
        """logits_CHW: any float dtype; clipped to float16's range. UserError: one is NaN."""
        if np.isnan(logits_CHW).any():
            raise UserError(f"{self.folder}: logits of {name!r} are not numbers (NaN)")
        clipped = np.clip(logits_CHW, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16)
        data = np.ascontiguousarray(clipped).tobytes()
        self.file.write(data)
        channels, height, width = clipped.shape
        self.rows.append((name, channels, height, width, zlib.crc32(data)))

    def close(self) -> None:
        """The folder is whole: it takes its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        write_table(self.temporary / "index.csv", COLUMNS, self.rows)
        put_folder(self.temporary, self.folder)


class Predictions:
    """Rows of logits, memory-mapped: `predictions[row]` is float16 (C, H, W), never a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index_path = folder / "index.csv"
        if not index_path.is_file():
            raise UserError(f"{folder}: no predictions here (index.csv is missing)")
        rows = read_rows(index_path)
        with parsing(index_path, self.advice):
            self.ids = [row["id"] for row in rows]
            self.shapes = [(int(r["channels"]), int(r["height"]), int(r["width"])) for r in rows]
            # folders of earlier versions have no checksums
            self.sums = [int(row["crc32"]) for row in rows if "crc32" in row]
            if any(min(shape) < 1 for shape in self.shapes):
                raise ValueError("a size below 1")
        sizes = np.array([c * h * w for c, h, w in self.shapes], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.index = {name: row for row, name in enumerate(self.ids)}
        path = folder / "logits.f16"
        found = path.stat().st_size if path.is_file() else 0
        if found != 2 * int(self.offsets[-1]):
            expected = 2 * int(self.offsets[-1])
            raise Damaged(path, f"{found} bytes, its index says {expected}", self.advice)
        empty = np.zeros(0, dtype=np.float16)
        # as a plain array: each slice of a memmap would be one more memmap, which takes its time
        self.flat = np.memmap(path, np.float16, mode="r").view(np.ndarray) if len(rows) else empty

    @property
    def advice(self) -> str:
        """What to do where the folder is damaged."""
        return f"remove the folder {self.folder}, and `distseg run` makes it again"

    def check(self) -> None:
        """Damaged: logits are not those that were written. One pass over the file."""
        for name, row, expected in zip(self.ids, self, self.sums, strict=False):
            if zlib.crc32(np.ascontiguousarray(row).data) != expected:
                raise Damaged(
                    self.folder / "logits.f16",
                    f"the logits of {name!r} have another checksum than when they were written",
                    self.advice,
                )
        if any(np.isnan(row).any() for row in self):
            raise Damaged(self.folder / "logits.f16", "it holds NaN", self.advice)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> np.ndarray:
        start, stop = self.offsets[row], self.offsets[row + 1]
        return self.flat[start:stop].reshape(self.shapes[row])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def of(self, name: str) -> np.ndarray:
        """Logits of the sample `name`, float16 (C, H, W)."""
        return self[self.index[name]]


def merge(parts: Sequence[Path], folder: Path, order: Iterable[str]) -> None:
    """Join the parts that ranks wrote into one folder, in `order`; the parts are removed.

    An id that several parts hold is taken once.
    """
    found = {name: (p, p.index[name]) for p in map(Predictions, parts) for name in p.ids}
    writer = PredictionsWriter(folder)
    for name in order:
        predictions, row = found[name]
        writer.add(name, predictions[row])
    writer.close()
    for part in parts:
        shutil.rmtree(part)
