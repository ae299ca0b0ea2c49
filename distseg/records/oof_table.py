"""oof.csv: each out-of-fold image's honest score, with the pixel counts that it comes from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distseg.functional.metrics import per_image
from distseg.records.files import atomic_write
from distseg.records.manifest import Manifest


def write_rows(
    path: Path, manifest: Manifest, rows: Sequence[int], part_of: Sequence[str],
    counts_NC3: NDArray[np.int64], metric: str,
) -> None:  # fmt: skip
    """oof.csv: each image's honest score, for a look at the worst and for later selection."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "fold", "part", "score", "inter", "pred", "truth"])
    scores = per_image(counts_NC3, metric).mean(axis=1)
    for row, part, score, table in zip(rows, part_of, scores, counts_NC3, strict=True):
        sums = [" ".join(map(str, column)) for column in table.T]
        sample = manifest[row]
        writer.writerow([sample.id, sample.fold, part, f"{score:.6f}", *sums])
    atomic_write(path, text.getvalue())


def read_counts(path: Path) -> dict[str, NDArray[np.int64]]:
    """Counts (C, 3) by id of an oof.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["id"]: np.array(
                [[int(v) for v in row[key].split()] for key in ("inter", "pred", "truth")]
            ).T
            for row in csv.DictReader(file)
        }
