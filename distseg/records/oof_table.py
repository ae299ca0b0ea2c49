"""oof.csv: each out-of-fold image's honest score, with the pixel counts that it comes from.

Columns: id, fold, part (the label of the split that the row is in), score (of the image, the mean
over its classes), and inter, pred, truth (pixels of each class, separated by spaces).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distseg.functional.metrics import per_image
from distseg.records.errors import UserError
from distseg.records.files import parsing
from distseg.records.manifest import Manifest
from distseg.records.tables import read_rows, write_table

COUNTS = ("inter", "pred", "truth")


def write_rows(
    path: Path, manifest: Manifest, rows: Sequence[int], split_of: Sequence[str],
    counts_NC3: NDArray[np.int64], metric: str,
) -> None:  # fmt: skip
    """Write the table, for a look at the worst images and for later selection.

    Args:
        rows: of `manifest`; split_of: each one's split; counts_NC3: each one's counts.
        metric: what `score` is of.
    """
    scores = per_image(counts_NC3, metric).mean(axis=1)
    lines = []
    for row, split, score, counts in zip(rows, split_of, scores, counts_NC3, strict=True):
        sums = [" ".join(map(str, column)) for column in counts.T]
        sample = manifest[row]
        lines.append([sample.id, sample.fold, split, f"{score:.6f}", *sums])
    write_table(path, ["id", "fold", "part", "score", *COUNTS], lines)


def read_counts(path: Path) -> dict[str, NDArray[np.int64]]:
    """Counts (C, 3) by id. UserError: there is no such file."""
    if not path.is_file():
        raise UserError(
            f"{path}: no out-of-fold counts here; remove the ensemble.json beside it, and "
            "`distseg run` makes both again"
        )
    with parsing(path, "remove it and the ensemble.json beside it; `distseg run` makes both again"):
        return {
            row["id"]: np.array([[int(v) for v in row[key].split()] for key in COUNTS]).T
            for row in read_rows(path)
        }


def is_table(path: Path) -> bool:
    """Whether `read_counts` can read a file."""
    try:
        return bool(read_counts(path))
    except UserError:
        return False
