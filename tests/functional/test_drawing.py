"""Pictures with outlines."""

import itertools

import numpy as np

from distseg.functional.drawing import (
    CLASS_RGB,
    PREDICTION_RGB,
    TRUTH_RGB,
    class_rgb,
    draw,
    draw_both,
)


def test_outlines_lie_on_the_borders() -> None:
    image = np.full((24, 20, 1), 90, dtype=np.uint8)
    truth, mask = np.zeros((2, 1, 24, 20), dtype=np.uint8)
    truth[0, 2:8, 2:8], mask[0, 12:20, 4:16], truth[0, 22:] = 1, 1, 255
    drawn = draw(image, truth, mask, "binary")
    assert drawn.shape == (240, 200, 3) and drawn[0, 0].tolist() == [90, 90, 90]
    assert drawn[20, 50].tolist() == list(TRUTH_RGB)
    assert drawn[120, 100].tolist() == list(PREDICTION_RGB)
    assert drawn[50, 50].tolist() == [90, 90, 90] and drawn[230, 100].tolist() == [90, 90, 90]


def test_each_class_has_a_color_of_its_own() -> None:
    apart = [np.linalg.norm(np.subtract(a, b)) for a, b in itertools.combinations(CLASS_RGB, 2)]
    assert min(apart) > 60
    assert class_rgb(0) == CLASS_RGB[0] == class_rgb(len(CLASS_RGB))


def test_several_classes_show_truth_and_prediction_apart() -> None:
    """Above each other, or beside each other where the image is upright; void has no color."""
    image = np.full((20, 40, 3), 100, dtype=np.uint8)
    truth, mask = np.zeros((2, 1, 20, 40), dtype=np.uint8)
    truth[0, :, :20], truth[0, :, 30:], mask[0, :, 20:] = 1, 255, 9
    drawn = draw_both(image, truth, mask, "multiclass")
    assert drawn.shape == (244, 240, 3)
    first, ninth = ((100 + np.array(class_rgb(k))) // 2 for k in (0, 8))
    assert np.array_equal(drawn[60, 60], first) and np.array_equal(drawn[184, 180], ninth)
    for y, x in ((60, 150), (60, 210), (184, 60)):
        assert drawn[y, x].tolist() == [100, 100, 100]
    upright = draw_both(
        image.transpose(1, 0, 2), truth.transpose(0, 2, 1), mask.transpose(0, 2, 1), "multiclass"
    )
    assert upright.shape == (240, 244, 3)
