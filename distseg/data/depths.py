"""The depths of the images' places (TGS depths.csv), as 8-bit values."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.tables import read_table

Depths = dict[str, int]  # by the stem of the image's file name: 0..255


def load_depths(config: Config) -> Depths | None:
    """The table of `data.depths`, with the least depth as 0 and the greatest as 255.

    None where the config names no table. UserError: it cannot be read, or a line has no number.
    """
    if config.data.depths is None:
        return None
    return _load(Path(config.data.root) / config.data.depths)


@lru_cache(maxsize=4)
def _load(path: Path) -> Depths:
    values: dict[str, float] = {}
    for line, cells in read_table(path, ("id", "z")):
        try:
            values[cells["id"] or ""] = float(cells["z"] or "")
        except ValueError:
            raise UserError(f"{path}, line {line}: z: {cells['z']!r} is no number") from None
    if not values or not np.isfinite(list(values.values())).all():
        raise UserError(f"{path}: it holds no depth, or one that is not finite")
    low, high = min(values.values()), max(values.values())
    return {name: round(255 * (z - low) / max(high - low, 1e-9)) for name, z in values.items()}
