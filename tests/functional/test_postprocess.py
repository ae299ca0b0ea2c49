"""Components and the postprocess rule, on small masks drawn by hand."""

from typing import Any

import numpy as np
import pytest

from distseg.functional.postprocess import apply_postprocess, fill_holes, remove_small


def grid(text: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in text.split()], dtype=np.uint8)


MASK = grid("11000 11010 00100 00000 10000")  # 4 + a diagonal pair touching it, and one alone


def test_remove_small_by_connectivity() -> None:
    eight = remove_small(MASK, 3)
    assert eight.sum() == 6 and eight[4, 0] == 0 and eight.dtype == np.uint8
    four = remove_small(MASK, 3, connectivity=4)
    assert np.array_equal(four, grid("11000 11000 00000 00000 00000"))
    assert np.array_equal(remove_small(MASK, 1), MASK)
    assert not remove_small(MASK, 7).any()
    assert MASK.sum() == 7  # the input is left alone


def test_remove_small_keeps_the_exact_area_and_any_non_zero() -> None:
    assert remove_small(MASK * 255, 6).sum() == 6
    assert not remove_small(np.zeros((3, 3), np.uint8), 1).any()
    assert remove_small(np.ones((3, 3), np.uint8), 9).all()


def test_fill_holes() -> None:
    ring = grid("11100 10100 11110 00101 00011")
    filled = fill_holes(ring, 1)
    assert filled[1, 1] == 1 and filled[3, 3] == 1 and filled.sum() == ring.sum() + 2
    assert np.array_equal(fill_holes(ring, 0), ring)
    four = fill_holes(ring, 1, connectivity=4)  # a diagonal leaks: (3, 3) joins the outside
    assert four[1, 1] == 1 and four[3, 3] == 0
    assert not fill_holes(np.zeros((3, 3), np.uint8), 99).any()


def test_large_holes_and_the_border_stay() -> None:
    frame = np.ones((5, 5), np.uint8)
    frame[1:4, 1:4] = 0
    assert np.array_equal(fill_holes(frame, 8), frame)
    assert fill_holes(frame, 9).all()
    bay = np.ones((3, 3), np.uint8)
    bay[0, 1] = 0
    assert np.array_equal(fill_holes(bay, 99), bay)


def test_connectivity_is_checked() -> None:
    with pytest.raises(ValueError, match="4 or 8, not 6"):
        remove_small(MASK, 1, connectivity=6)


LOGITS = np.array([[[0, 1, 2], [3, -1, 4]], [[5, 5, 5], [-5, -5, -5]]], dtype=np.float16)


def test_threshold_is_strict_and_per_class() -> None:
    masks = apply_postprocess(LOGITS, {"threshold": [1.0, 5.0]})
    assert masks.tolist() == [[[0, 0, 1], [1, 0, 1]], [[0, 0, 0], [0, 0, 0]]]
    assert masks.dtype == np.uint8


def test_thresholds_are_not_rounded_to_float16() -> None:
    logits = np.array([[[np.float16(0.3)]]])  # 0.300048828125
    assert apply_postprocess(logits, {"threshold": [0.3]}).sum() == 1


def test_min_area_empties_below_it() -> None:
    def kept(area: int) -> list[int]:
        rule = {"threshold": [0.0, 0.0], "min_area": [area, 0]}
        return apply_postprocess(LOGITS, rule).sum(axis=(1, 2)).tolist()

    assert kept(4) == [4, 3]
    assert kept(5) == [0, 3]


def test_double_threshold_gates_then_draws_with_the_bottom() -> None:
    def kept(top: float, area: int) -> int:
        rule = {"threshold": [-2.0, 0.0], "double": [{"top": top, "area": area}, None]}
        return int(apply_postprocess(LOGITS, rule)[0].sum())

    assert kept(2.0, 2) == 6  # 3 and 4 exceed 2, strictly
    assert kept(2.0, 3) == 0


def test_components_go_before_the_total_area_is_counted() -> None:
    mask = grid("1110 0000 1010")[None]
    rule = {"threshold": [0.5], "min_component": [2], "min_area": [4]}
    logits = mask.astype(np.float32)
    assert apply_postprocess(logits, rule).sum() == 0
    assert apply_postprocess(logits, {**rule, "min_area": [3]}).sum() == 3
    assert apply_postprocess(logits, {**rule, "min_component": [0]}).sum() == 5


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"threshold": [0, 0], "min_aera": [1, 1]}, "Did you mean 'min_area'"),
        ({"threshold": [0]}, "each of the 2 classes"),
        ({"threshold": 0.0}, "each of the 2 classes"),
        ({"min_area": [1, 1]}, "needs a 'threshold'"),
        ({"threshold": [0, 0], "double": [{"top": 1}, None]}, "double threshold is"),
    ],
)
def test_bad_rules(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        apply_postprocess(LOGITS, rule)


def test_holes_and_full_masks_by_rule() -> None:
    frame = np.ones((1, 5, 5), np.float32)
    frame[0, 2, 2] = -1
    rule = {"threshold": [0.0]}
    assert apply_postprocess(frame, rule).sum() == 24
    assert apply_postprocess(frame, {**rule, "fill_holes": [1]}).sum() == 25
    frame[0, 0, 0] = -1  # at the border: no hole
    assert apply_postprocess(frame, {**rule, "fill_holes": [9]}).sum() == 24
    assert apply_postprocess(frame, {**rule, "full_mask": [0.92]}).sum() == 25  # 23 of 25
    assert apply_postprocess(frame, {**rule, "full_mask": [0.93]}).sum() == 23
    assert apply_postprocess(frame, {**rule, "full_mask": [0.0]}).sum() == 23
