"""Which images share a batch."""

from __future__ import annotations

from distseg.config.data import InputConfig
from distseg.data.fit import Fit
from distseg.data.loader import canvas_batches


def test_a_batch_has_one_canvas_for_each_input() -> None:
    crop, resize, pad = (
        Fit(InputConfig(height=64, width=64, fit=fit)) for fit in ("crop", "resize", "pad")
    )
    sizes = [(64, 64), (96, 64), (60, 60), (96, 64)]
    assert canvas_batches(sizes, [resize], 4) == [[0, 1, 2, 3]]
    assert canvas_batches(sizes, [resize, crop], 4) == [[0, 2], [1, 3]]
    assert canvas_batches(sizes, [pad], 4) == [[0, 2], [1, 3]]
    assert canvas_batches(sizes, [resize, crop], 1) == [[0], [2], [1], [3]]
