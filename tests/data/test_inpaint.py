"""Biharmonic padding: exact where the answer is known, smooth where it is not."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from distseg.config.data import InputConfig
from distseg.config.load import parse_config
from distseg.data import inpaint
from distseg.data.fit import Fit
from distseg.data.inpaint import biharmonic_border
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError
from tests.tiny import tiny_tree


def test_a_constant_goes_on_and_the_image_stays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    padded = biharmonic_border(image, (2, 3, 4, 1))
    assert padded.shape == (14, 16, 3) and np.array_equal(padded[2:11, 4:15], image)
    flat = biharmonic_border(np.full((9, 11, 1), 70, np.uint8), (2, 3, 4, 1))
    assert (flat == 70).all()


def test_the_laplacian_is_as_small_as_a_dense_least_squares_makes_it() -> None:
    """Against numpy's solver on the operator applied to unit images."""
    rng = np.random.default_rng(1)
    image = rng.integers(80, 170, (4, 5, 1), dtype=np.uint8)
    rows, columns = 7, 8

    def laplacian(x: np.ndarray) -> np.ndarray:
        p = np.pad(x, 1, mode="edge")
        return p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4 * x

    units = np.eye(rows * columns).reshape(-1, rows, columns)
    operator = np.stack([laplacian(u).ravel() for u in units], axis=1)
    inside = np.zeros((rows, columns), dtype=bool)
    inside[1:5, 2:7] = True
    known = inside.ravel()
    found, *_ = np.linalg.lstsq(
        operator[:, ~known], -operator[:, known] @ image.ravel(), rcond=None
    )
    padded = biharmonic_border(image, (1, 2, 2, 1))[..., 0]
    assert np.abs(padded[~inside] - np.clip(found, 0, 255)).max() <= 0.5 + 1e-6


def test_each_size_is_factored_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpaint, "_kept", OrderedDict())
    made: list[int] = []
    real = inpaint._factored

    def counted(height: int, *rest: Any) -> Any:
        made.append(height)
        return real(height, *rest)

    monkeypatch.setattr(inpaint, "_factored", counted)

    def pad(*heights: int) -> list[int]:
        made.clear()
        for height in heights:
            biharmonic_border(np.zeros((height, 9, 1), np.uint8), (2, 2, 2, 2))
        return made

    heights = range(8, 28)
    assert pad(*heights, *heights) == [*heights]
    monkeypatch.setattr(inpaint, "MAX_KEPT", 0)  # room for the last used alone
    assert pad(28, 28, 8) == [28, 8] and len(inpaint._kept) == 1


def test_the_border_counts_nowhere_and_prediction_undoes_it() -> None:
    fit = Fit(InputConfig(height=16, width=16, channels=1, pad_mode="biharmonic"))
    image = np.random.default_rng(2).integers(0, 256, (13, 11, 1), dtype=np.uint8)
    canvas, target = fit.train(image, np.ones((1, 13, 11), np.uint8), np.random.default_rng(0))
    assert (target == 1).sum() == 13 * 11 and (target == VOID).sum() == 256 - 13 * 11
    assert np.array_equal(fit.forward(image), canvas)


def test_a_random_offset_is_refused() -> None:
    size = {"height": 64, "width": 64, "channels": 1, "pad_mode": "biharmonic"}
    with pytest.raises(UserError, match="random_offset"):
        parse_config(tiny_tree(input={**size, "random_offset": True}), "t")
