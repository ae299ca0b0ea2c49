"""Biharmonic inpainting of a border: the smoothest surface that continues an image."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Margins = tuple[int, int, int, int]  # top, bottom, left, right: pixels to add


class _Solver(NamedTuple):
    """The factored equations of one canvas size.

    factor: SuperLU's factorization of the unknown pixels' equations.
    back: sparse (unknown, known); times the known values it is the right side, negated.
    known, unknown: indices of the pixels in the flat canvas.
    """

    factor: Any
    back: Any
    known: NDArray[np.int64]
    unknown: NDArray[np.int64]


# How many numbers the factors of a process may hold, at 12 bytes each: half a gigabyte. The size
# that was used last stands at the end, and is kept whatever it takes.
MAX_KEPT = 40_000_000
_kept: OrderedDict[tuple[int, int, Margins], _Solver] = OrderedDict()


def biharmonic_border(image_HWC: NDArray[np.uint8], margins: Margins) -> NDArray[np.uint8]:
    """The image uint8 (H + top + bottom, W + left + right, C) with a border that continues it.

    In the border the Laplacian of the Laplacian is 0, and the outer edges are free. Values are
    rounded and cut to 0..255. (Biharmonic inpainting: Damelin & Hoang 2018.)
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
    """The cached factorization for this size. A new size pushes out those that were used longest
    ago, once the cache is full."""
    size = (height, width, margins)
    if size not in _kept:
        _kept[size] = _factored(*size)
        while len(_kept) > 1 and sum(kept.factor.nnz for kept in _kept.values()) > MAX_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(size)
    return _kept[size]


def _factored(height: int, width: int, margins: Margins) -> _Solver:
    """Factor the equations of a size. The border minimizes the sum of squares of the discrete
    Laplacian over the canvas; the normal equations of that are the discrete biharmonic equation,
    and they are sparse."""
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
    """The sparse matrix (length, length) of x[i-1] - 2 x[i] + x[i+1]; at an end, where there is one
    neighbor, of the difference to it."""
    from scipy import sparse

    diagonal = np.full(length, -2.0)
    diagonal[[0, -1]] = -1.0
    ones = np.ones(length - 1)
    return sparse.diags([ones, diagonal, ones], offsets=[-1, 0, 1])
