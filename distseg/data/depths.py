"""The depth of an image's place (TGS depths.csv) as its last input channel."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.read_input import BadFile, read_image
from distseg.records.errors import UserError
from distseg.records.tables import read_table

Depths = dict[str, int]  # stem of the image's file: 0..255


def load_depths(config: Config) -> Depths | None:
    """`data.depths`, the least depth as 0 and the greatest as 255; None where there is no such
    table. UserError: it cannot be read, or a line has no number."""
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


def read_input(path: str | Path, channels: int, depths: Depths | None) -> NDArray[np.uint8]:
    """uint8 (H, W, channels); with depths the last channel is constant. BadFile as `read_image`,
    or an image that the table does not name."""
    if depths is None:
        return read_image(path, channels)
    name = Path(path).stem
    if name not in depths:
        raise BadFile(path, f"data.depths has no id {name!r}")
    image = read_image(path, channels - 1)
    plane = np.full((*image.shape[:2], 1), depths[name], np.uint8)
    return np.concatenate([image, plane], axis=2)
