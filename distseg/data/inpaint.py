"""Biharmonic inpainting of a border: the smoothest surface that continues an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Margins = tuple[int, int, int, int]  # top, bottom, left, right: pixels to add


def biharmonic_border(image_HWC: NDArray[np.uint8], margins: Margins) -> NDArray[np.uint8]:
    """The image with margins in which the Laplacian's Laplacian is 0, and free outer edges.

    Values are rounded and cut to 0..255. (Biharmonic inpainting: Damelin & Hoang 2018.)
    """
    height, width, channels = image_HWC.shape
    top, bottom, left, right = margins
    solve, unknown = _solver(height, width, margins)
    result = np.zeros((height + top + bottom, width + left + right, channels))
    result[top : top + height, left : left + width] = image_HWC
    flat = result.reshape(-1, channels)  # a view
    flat[unknown] = solve(flat)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _solver(
    height: int, width: int, margins: Margins
) -> tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], NDArray[np.int64]]:
    """(all values (P, C) -> those of the unknown pixels, their indices), factored once a size.

    What is least is the sum of squares of the discrete Laplacian over the canvas: its normal
    equations are the biharmonic equation, and sparse.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    top, bottom, left, right = margins
    rows, columns = height + top + bottom, width + left + right
    laplace = sparse.kronsum(_second_difference(columns), _second_difference(rows), format="csr")
    inside = np.zeros((rows, columns), dtype=np.bool_)
    inside[top : top + height, left : left + width] = True
    known, unknown = np.flatnonzero(inside), np.flatnonzero(~inside)
    given, wanted = laplace[:, known], laplace[:, unknown]
    factor = splu((wanted.T @ wanted).tocsc())
    back = (wanted.T @ given).tocsr()
    return lambda flat: -factor.solve(back @ flat[known]), unknown


def _second_difference(length: int) -> Any:
    """(length, length): x[i-1] - 2 x[i] + x[i+1]; at an end the difference to the one neighbor."""
    from scipy import sparse

    diagonal = np.full(length, -2.0)
    diagonal[[0, -1]] = -1.0
    ones = np.ones(length - 1)
    return sparse.diags([ones, diagonal, ones], offsets=[-1, 0, 1])
