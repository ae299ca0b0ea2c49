"""Statistics of one image against values that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distseg.functional.statistics import STATISTICS, image_statistics

IMAGE = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)


def logits(mask: np.ndarray, scale: float = 6.0) -> np.ndarray:
    return np.where(mask, scale, -scale).astype(np.float32)[None, None]


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((10, 10), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_overlaps_and_areas() -> None:
    truth, seen = box(0, 4, 0, 10), box(2, 6, 0, 10)
    found, mean, mask = image_statistics(
        logits(seen), truth[None].astype(np.uint8), IMAGE, "binary"
    )
    assert list(found) == list(STATISTICS)
    assert found["iou"] == pytest.approx(20 / 60) and found["dice"] == pytest.approx(40 / 80)
    assert found["area"] == 0.4 and found["target_area"] == 0.4
    assert found["rectangle"] == 1 and found["thin"] == 0 and found["constant"] == 0
    assert mask.tolist() == [seen.tolist()] and mean.shape == (1, 10, 10)


def test_two_empty_masks_agree() -> None:
    none = np.zeros((10, 10), dtype=bool)
    found, _, _ = image_statistics(logits(none), none[None].astype(np.uint8), IMAGE, "binary")
    assert found["iou"] == found["dice"] == found["boundary"] == found["agreement"] == 1
    assert found["rectangle"] == found["thin"] == found["full"] == 0


def test_certainty() -> None:
    half = np.zeros((1, 1, 10, 10), dtype=np.float32)
    half[..., :5] = math.log(0.9 / 0.1)
    found, _, _ = image_statistics(half, None, IMAGE, "binary")
    assert found["decided"] == 0.5 and math.isnan(found["iou"])
    assert found["confidence"] == pytest.approx((0.9 + 0.5) / 2)
    bits = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert found["entropy"] == pytest.approx((bits + 1) / 2, abs=1e-5)


def test_agreement_is_with_the_mean_of_the_members() -> None:
    a, b = box(0, 4, 0, 10), box(0, 8, 0, 10)
    found, _, mask = image_statistics(
        np.concatenate([logits(a, 1.0), logits(b, 6.0)]), None, IMAGE, "binary"
    )
    assert mask[0].sum() == 80  # the surer one wins where they differ
    assert found["agreement"] == pytest.approx((40 / 80 + 1) / 2)


def test_boundaries_are_stricter_than_areas() -> None:
    truth, seen = box(1, 9, 1, 9), box(2, 9, 1, 9)
    found, _, _ = image_statistics(logits(seen), truth[None].astype(np.uint8), IMAGE, "binary")
    # inner boundaries one pixel wide: 28 and 26 pixels, 20 of them common
    assert found["boundary"] == pytest.approx(20 / 34) and found["iou"] == pytest.approx(56 / 64)


def test_void_counts_nowhere() -> None:
    truth = box(0, 5, 0, 10).astype(np.uint8)[None]
    truth[:, 5:] = 255
    found, _, _ = image_statistics(logits(np.ones((10, 10), bool)), truth, IMAGE, "binary")
    assert found["iou"] == 1.0


@pytest.mark.parametrize(
    ("mask", "flags"),
    [
        (box(3, 4, 0, 10), {"rectangle", "thin"}),
        (box(0, 10, 0, 10), {"full"}),
        (box(2, 7, 2, 7) ^ box(3, 4, 3, 4), set()),
    ],
)
def test_shapes_that_a_tired_hand_draws(mask: np.ndarray, flags: set[str]) -> None:
    found, _, _ = image_statistics(logits(mask), mask[None].astype(np.uint8), IMAGE, "binary")
    assert {name for name in ("rectangle", "thin", "full") if found[name]} == flags


def test_a_constant_image_and_the_head() -> None:
    none = np.zeros((10, 10), dtype=bool)
    found, _, _ = image_statistics(
        logits(none), None, np.full((10, 10, 1), 7, np.uint8), "binary", np.array([2.0])
    )
    assert found["constant"] == 1
    assert found["head_certainty"] == pytest.approx(1 - 1 / (1 + math.exp(-2)))


def test_multiclass_leaves_the_ground_out() -> None:
    classes = np.full((3, 10, 10), -4.0, dtype=np.float32)
    classes[0], classes[2, :5] = 0.0, 4.0
    target = np.zeros((1, 10, 10), dtype=np.uint8)
    target[:, :5] = 2
    found, _, mask = image_statistics(classes[None], target, IMAGE, "multiclass")
    assert mask.shape == (2, 10, 10) and found["iou"] == 1.0 and found["area"] == 0.5
