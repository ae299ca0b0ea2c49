"""The depths of the images' places (TGS depths.csv), as 8-bit values."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.id_tables import read_numbers
from distseg.records.errors import UserError

Depths = dict[str, int]  # by the plain stem of the image's file name: 0..255


def load_depths(config: Config) -> Depths | None:
    """The table of `data.depths`, with the least depth as 0 and the greatest as 255.

    None where the config names no table. UserError: it cannot be read, or a line has no number.
    """
    if config.data.depths is None:
        return None
    return _load(Path(config.data.root) / config.data.depths)


@lru_cache(maxsize=4)
def _load(path: Path) -> Depths:
    values = read_numbers(path, "z")
    if not values:
        raise UserError(f"{path}: it holds no depth")
    low, high = min(values.values()), max(values.values())
    return {name: round(255 * (z - low) / max(high - low, 1e-9)) for name, z in values.items()}
