"""What a layout says of a folder that it recognizes: keys of a config, as far as names and tables
tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Detected:
    """A folder that a layout can read.

    keys: keys of the config that the layout is sure of, as a tree: `data` with its format, and
        where tables or folders tell them `task`, `classes`, `void`, `metric`.
    why: what was recognized, a half sentence: "train/images and train/masks are there".
    """

    keys: Mapping[str, Any]
    why: str
