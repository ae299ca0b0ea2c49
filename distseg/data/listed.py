"""What a layout lists, and whether its files are still those of before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distseg.config.schema import Config
from distseg.data.cache import stamp
from distseg.data.formats.row import Row
from distseg.data.layouts import layout


@dataclass(frozen=True)
class Listed:
    """The rows of a layout, and what their files are, by size and time, as one hash each."""

    train: list[Row]
    test: list[Row]
    train_files: str
    test_files: str

    @classmethod
    def of(cls, config: Config) -> Listed:
        form = layout(config.data.format)
        train, test = form.train(config), form.test(config)
        return cls(train, test, _files_hash(train), _files_hash(test))


def _files_hash(rows: Sequence[Row]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for row in rows:
        digest.update(stamp(row) + row.problem.encode(errors="surrogateescape"))
    return digest.hexdigest()
