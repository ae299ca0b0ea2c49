"""Biharmonic inpainting of a border: the smoothest surface that continues an image."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Margins = tuple[int, int, int, int]  # top, bottom, left, right: pixels to add


class _Solver(NamedTuple):
    """factor: of the unknown pixels' equations; back @ known values is their right side, negated.
    known, unknown: indices of pixels in the flat canvas."""

    factor: Any
    back: Any
    known: NDArray[np.int64]
    unknown: NDArray[np.int64]


# Numbers in the factors that a process keeps, 12 bytes each: half a gigabyte. The last used size is
# at the end, and is kept whatever it takes.
MAX_KEPT = 40_000_000
_kept: OrderedDict[tuple[int, int, Margins], _Solver] = OrderedDict()


def biharmonic_border(image_HWC: NDArray[np.uint8], margins: Margins) -> NDArray[np.uint8]:
    """The image with margins in which the Laplacian's Laplacian is 0, and free outer edges.

    Values are rounded and cut to 0..255. (Biharmonic inpainting: Damelin & Hoang 2018.)
    """
    height, width, channels = image_HWC.shape
    top, bottom, left, right = margins
    solver = _solver(height, width, margins)
    result = np.zeros((height + top + bottom, width + left + right, channels))
    result[top : top + height, left : left + width] = image_HWC
    flat = result.reshape(-1, channels)  # a view
    flat[solver.unknown] = -solver.factor.solve(solver.back @ flat[solver.known])
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def _solver(height: int, width: int, margins: Margins) -> _Solver:
    """That of a size, factored once as long as there is room for it."""
    size = (height, width, margins)
    if size not in _kept:
        _kept[size] = _factored(*size)
        while len(_kept) > 1 and sum(kept.factor.nnz for kept in _kept.values()) > MAX_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(size)
    return _kept[size]


def _factored(height: int, width: int, margins: Margins) -> _Solver:
    """What is least is the sum of squares of the discrete Laplacian over the canvas: its normal
    equations are the biharmonic equation, and sparse."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    top, bottom, left, right = margins
    rows, columns = height + top + bottom, width + left + right
    laplace = sparse.kronsum(_second_difference(columns), _second_difference(rows), format="csr")
    inside = np.zeros((rows, columns), dtype=np.bool_)
    inside[top : top + height, left : left + width] = True
    known, unknown = np.flatnonzero(inside), np.flatnonzero(~inside)
    given, wanted = laplace[:, known], laplace[:, unknown]
    # symmetric and positive definite: half the time and memory of splu's own choice
    factor = splu(
        (wanted.T @ wanted).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return _Solver(factor, (wanted.T @ given).tocsr(), known, unknown)


def _second_difference(length: int) -> Any:
    """(length, length): x[i-1] - 2 x[i] + x[i+1]; at an end the difference to the one neighbor."""
    from scipy import sparse

    diagonal = np.full(length, -2.0)
    diagonal[[0, -1]] = -1.0
    ones = np.ones(length - 1)
    return sparse.diags([ones, diagonal, ones], offsets=[-1, 0, 1])
