"""Every layout whose data set is there reads it whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distseg.data.inspect import inspect
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from tests.data.formats.layout_helpers import brute_decode, config_of


@pytest.mark.parametrize(
    ("form", "train", "test", "size"),
    [("severstal", 43, 41, (256, 1600)), ("tianchi", 62, 20, (512, 512)),
     ("oxford_pet", 20, 6, None), ("camvid", 157, 39, (360, 480))],
)  # fmt: skip
def test_the_real_sets(
    data_root: Path, form: str, train: int, test: int, size: tuple[int, int] | None
) -> None:
    """Every row is good, and its RLE is what a brute-force decoder makes of it."""
    config = config_of(form, data_root / form)
    if form == "camvid":
        names = [f"c{number}" for number in range(11)]
        config = config.model_copy(update={"classes": names})
    rows = layout(form).train(config)
    checked = inspect(config, rows)
    assert len(checked.good) == train and not checked.quarantine
    assert len(layout(form).test(config)) == test
    if size and form in ("severstal", "tianchi"):
        for row in rows[:5]:
            target = read_target(row.target, config, *size)
            texts = row.target.removeprefix("rle:").split("|")
            for plane, text in zip(target, texts, strict=True):
                assert np.array_equal(plane, brute_decode(text, *size))
    if form == "severstal":
        other = config_of(form, data_root / form, table="train_three_columns.csv")
        assert rows == layout(form).train(other)
