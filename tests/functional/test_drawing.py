"""Pictures with outlines."""

import numpy as np

from distseg.functional.drawing import PREDICTION_RGB, TRUTH_RGB, draw


def test_outlines_lie_on_the_borders() -> None:
    image = np.full((24, 20, 1), 90, dtype=np.uint8)
    truth, mask = np.zeros((2, 1, 24, 20), dtype=np.uint8)
    truth[0, 2:8, 2:8], mask[0, 12:20, 4:16], truth[0, 22:] = 1, 1, 255
    drawn = draw(image, truth, mask, "binary")
    assert drawn.shape == (240, 200, 3) and drawn[0, 0].tolist() == [90, 90, 90]
    assert drawn[20, 50].tolist() == list(TRUTH_RGB)
    assert drawn[120, 100].tolist() == list(PREDICTION_RGB)
    assert drawn[50, 50].tolist() == [90, 90, 90] and drawn[230, 100].tolist() == [90, 90, 90]
