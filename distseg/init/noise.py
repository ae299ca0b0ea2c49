"""What compression with loss makes of a mask of black and white: other values at the edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR = 32  # gray levels that the noise stays within, around 0 and 255
HALF = 127  # gray levels above it are nearer to white
REACH = 16  # pixels from an object that its noise lies within: the blocks of JPEG


def noise_of(labels_HW: NDArray) -> tuple[int, int]:
    """(Pixels near 0 that are not the background, those of them that are near no object.)

    The noise of JPEG lies in the blocks at an object's edge, and class numbers do not. The
    background is the most frequent value near 0: JPEG may turn all of a black area into another
    value.
    """
    is_low = (labels_HW >= 0) & (labels_HW <= NEAR)
    if labels_HW.dtype.kind not in "iu" or not is_low.any():
        return 0, 0
    is_noise = is_low & (labels_HW != np.bincount(labels_HW[is_low]).argmax())
    kernel = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    is_near = cv2.dilate((labels_HW > HALF).astype(np.uint8), kernel) > 0
    return int(is_noise.sum()), int((is_noise & ~is_near).sum())
