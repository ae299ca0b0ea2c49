"""The standard error of a score, against the textbook and a loop."""

from __future__ import annotations

import numpy as np
import pytest

from distseg.functional.bootstrap import standard_error
from distseg.functional.metrics import per_image, summarize


def test_the_bootstrap_agrees_with_the_textbook_and_with_a_loop() -> None:
    rng = np.random.default_rng(2)
    truth, pred = rng.integers(0, 30, (2, 200, 2))
    counts = np.stack([rng.integers(0, np.minimum(pred, truth) + 1), pred, truth], axis=-1)
    images = per_image(counts, "dice").mean(axis=1)
    error = standard_error(counts, "dice")
    assert error == pytest.approx(images.std() / np.sqrt(200), rel=0.1)
    assert error == standard_error(counts, "dice")  # seeded
    drawn = np.random.default_rng(0).integers(200, size=(1000, 200))
    loop = np.std([summarize(counts[d], "miou")["score"] for d in drawn], ddof=1)
    assert standard_error(counts, "miou") == pytest.approx(loop, rel=1e-6)
    assert standard_error(counts[:1], "dice") == pytest.approx(0.0, abs=1e-12)
