"""Metrics: values by hand, and the definition of the TGS score, threshold by threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.functional import metrics as M


@pytest.mark.parametrize(
    ("counts", "tgs", "dice", "iou"),
    [
        ((0, 0, 0), 1, 1, 1),  # both empty
        ((0, 5, 0), 0, 0, 0),  # false positive on an empty image
        ((0, 0, 5), 0, 0, 0),  # missed
        ((3, 3, 4), 0.5, 6 / 7, 0.75),
        ((1, 1, 2), 0, 2 / 3, 0.5),  # IoU of exactly .5 exceeds nothing
        ((3, 4, 4), 0.2, 0.75, 0.6),
        ((4, 4, 4), 1, 1, 1),
        ((19, 19, 20), 0.9, 38 / 39, 0.95),  # strictly greater: .95 does not count
    ],
)
def test_values_by_hand(counts: tuple[int, int, int], tgs: float, dice: float, iou: float) -> None:
    assert M.tgs(*counts) == tgs
    assert M.dice(*counts) == pytest.approx(dice, abs=1e-15)
    assert M.iou(*counts) == pytest.approx(iou, abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_tgs_is_its_definition(inter: int, more_pred: int, more_truth: int) -> None:
    pred, truth = inter + more_pred, inter + more_truth
    union = pred + truth - inter
    expected = sum(100 * inter > t * union for t in range(50, 100, 5)) if union else 10
    assert M.tgs_tenths(inter, pred, truth) == expected


def test_tgs_at_every_exact_threshold() -> None:
    for t in range(50, 100, 5):
        assert M.tgs_tenths(t, t, 100) == (t - 50) // 5
        assert M.tgs_tenths(t * 10 + 1, t * 10 + 1, 1000) == (t - 50) // 5 + 1


def test_pixel_counts_by_hand_and_shapes() -> None:
    pred = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    truth = np.array([[1, 0, 0], [0, 1, 1]], dtype=bool)
    assert M.pixel_counts(pred, truth).tolist() == [2, 3, 3]
    both = M.pixel_counts(np.stack([pred, ~pred]), np.stack([truth, ~truth]))
    assert both.tolist() == [[2, 3, 3], [2, 3, 3]] and both.dtype == np.int64
    batch = M.pixel_counts(np.stack([pred, truth])[:, None], np.stack([truth, truth])[:, None])
    assert batch.tolist() == [[[2, 3, 3]], [[3, 3, 3]]]


def test_pixel_counts_leaves_out_invalid_pixels() -> None:
    rng = np.random.default_rng(0)
    pred, truth = rng.random((2, 3, 4, 5, 6)) < 0.5
    valid = rng.random((3, 5, 6)) < 0.5
    counts = M.pixel_counts(pred, truth, valid)
    for n in range(3):
        p, t = pred[n][:, valid[n]], truth[n][:, valid[n]]
        assert counts[n].T.tolist() == [
            (p & t).sum(1).tolist(),
            p.sum(1).tolist(),
            t.sum(1).tolist(),
        ]
    assert np.array_equal(M.pixel_counts(pred[0], truth[0], valid[0]), counts[0])


@pytest.mark.parametrize(
    ("pred", "truth", "valid"),
    [
        (np.ones((2, 2), np.uint8), np.ones((2, 2), bool), None),
        (np.ones((2, 2), bool), np.ones((2, 3), bool), None),
        (np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((2, 3), bool)),
        (np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((2, 2), np.uint8)),
    ],
)
def test_pixel_counts_rejects(
    pred: np.ndarray, truth: np.ndarray, valid: np.ndarray | None
) -> None:
    with pytest.raises(ValueError, match=r"bool|differ|does not fit"):
        M.pixel_counts(pred, truth, valid)


def test_confusion_matrix_by_hand_and_its_sums() -> None:
    truth = np.array([[0, 1, 2], [1, 1, 255]], dtype=np.uint8)
    pred = np.array([[0, 1, 1], [2, 1, 0]], dtype=np.uint8)
    matrix = M.confusion_matrix(pred, truth, 3, void=255)
    assert matrix.tolist() == [[1, 0, 0], [0, 2, 1], [0, 1, 0]]  # rows are the truth
    one_hot = [M.pixel_counts(pred == k, truth == k, truth != 255) for k in range(3)]
    sums = np.stack([np.diag(matrix), matrix.sum(0), matrix.sum(1)], axis=1)
    assert np.array_equal(np.stack(one_hot), sums)
    # classes: 1/1, 2/4, 0/2
    assert M.miou(*sums.T) == pytest.approx(0.5)


def test_confusion_matrix_rejects_classes_out_of_range() -> None:
    good, bad = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    with pytest.raises(ValueError, match="truth holds class 255"):
        M.confusion_matrix(good, bad, 3)
    with pytest.raises(ValueError, match="prediction holds class 255"):
        M.confusion_matrix(bad, good, 3, void=255)
    assert M.confusion_matrix(bad, bad, 3, void=255).sum() == 0


def test_miou_leaves_out_absent_classes() -> None:
    assert M.miou([2, 0], [4, 0], [2, 0]) == 0.5
    assert M.miou([2, 0], [4, 1], [2, 0]) == 0.25
    assert M.miou([0, 0], [0, 0], [0, 0]) == 1.0


COUNTS = np.array([[[3, 3, 4], [0, 0, 0]], [[1, 1, 2], [0, 7, 0]]])  # 2 images, 2 classes


def test_summarize_by_hand() -> None:
    report = M.summarize(COUNTS, "tgs")
    assert report["score"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert report["per_class"] == [0.25, 0.5]
    assert report["positives"] == 0.25 and report["negatives"] == 0.5
    assert report["dice_pos"] == pytest.approx((6 / 7 + 2 / 3) / 2) and report["dice_neg"] == 0.5
    assert report["iou"] == pytest.approx((0.75 + 1 + 0.5 + 0) / 4)
    assert report["num_images"] == 2
    assert M.summarize(COUNTS, "mean_dice")["score"] == M.summarize(COUNTS, "dice")["score"]


def test_summarize_miou_is_of_summed_counts() -> None:
    report = M.summarize(COUNTS, "miou")
    assert report["per_class"] == [pytest.approx(4 / 6), 0.0]
    assert report["score"] == pytest.approx(2 / 6)
    assert report["positives"] == pytest.approx((0.75 + 0.5) / 2)
    absent = M.summarize(np.array([[[3, 3, 4], [0, 0, 0]]]), "miou")
    assert absent["per_class"] == [0.75, None] and absent["score"] == 0.75


def test_summarize_without_positives_or_images() -> None:
    report = M.summarize(np.zeros((3, 1, 3), np.int64), "dice")
    assert report["positives"] is None and report["dice_pos"] is None
    assert report["negatives"] == 1.0
    with pytest.raises(ValueError, match="at least one image"):
        M.summarize(np.zeros((0, 1, 3), np.int64), "dice")


def test_per_image() -> None:
    assert M.per_image(COUNTS, "tgs").tolist() == [[0.5, 1.0], [0.0, 0.0]]
    assert np.array_equal(M.per_image(COUNTS, "miou"), M.per_image(COUNTS, "iou"))


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'mean_dise'. Did you mean 'mean_dice'\?"):
        M.per_image(COUNTS, "mean_dise")
