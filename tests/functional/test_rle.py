"""RLE: vectors by hand, a pixel-by-pixel reference, and every real string, to the letter."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from distseg.functional.rle import decode, decode_union, encode

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1)
)
OPTIONS = [(order, base) for order in ("column", "row") for base in (0, 1)]


def slow_encode(mask: Any, order: Any, base: Any) -> str:
    """One pixel at a time, as the format's description reads."""
    height, width = mask.shape
    scan = [(y, x) for x in range(width) for y in range(height)]
    pixels = [mask[p] for p in (scan if order == "column" else sorted(scan))]
    runs, last = [], 0
    for i, pixel in enumerate(pixels):
        if pixel and not last:
            runs.append([i + base, 0])
        if pixel:
            runs[-1][1] += 1
        last = pixel
    return " ".join(f"{start} {length}" for start, length in runs)


@pytest.mark.parametrize(
    ("mask", "order", "base", "rle"),
    [
        ([[1, 0, 1], [1, 0, 0]], "column", 1, "1 2 5 1"),
        ([[1, 1, 1], [1, 1, 1]], "column", 1, "1 6"),
        ([[1, 0, 1], [1, 0, 0]], "row", 1, "1 1 3 2"),
        ([[1, 0, 1], [1, 0, 0]], "column", 0, "0 2 4 1"),
        ([[0, 0], [0, 1]], "column", 1, "4 1"),
    ],
)
def test_vectors_by_hand(mask: Any, order: Any, base: Any, rle: Any) -> None:
    assert encode(np.array(mask), order=order, base=base) == rle
    assert decode(rle, *np.shape(mask), order=order, base=base).tolist() == mask


def test_the_usual_example_is_one_indexed() -> None:
    mask = decode("1 3 10 5", 4, 5)
    assert (np.flatnonzero(mask.ravel(order="F")) + 1).tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    assert mask.dtype == np.uint8 and mask.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, option=st.sampled_from(OPTIONS))
def test_equals_the_slow_reference_and_round_trips(mask: Any, option: Any) -> None:
    order, base = option
    rle = encode(mask, order=order, base=base)
    assert rle == slow_encode(mask, order, base)
    assert np.array_equal(decode(rle, *mask.shape, order=order, base=base), mask)


@pytest.mark.parametrize("value", [True, 1, 255, 65535])
def test_any_non_zero_pixel_is_foreground(value: Any) -> None:
    assert encode(np.array([[0, value]])) == "2 1"


@pytest.mark.parametrize("token", ["", "-", "-1"])
def test_empty_tokens(token: str) -> None:
    empty = np.zeros((2, 3), dtype=np.uint8)
    assert encode(empty, empty=token) == token
    for value in (token, f" {token} ", None, float("nan"), np.float64("nan")):
        assert not decode(value, 2, 3, empty=token).any()


def test_blank_text_is_empty_under_every_token() -> None:
    assert not decode("", 2, 3, empty="-1").any()
    assert not decode(" \n", 2, 3, empty="-").any()


def test_touching_runs_are_accepted_and_merge() -> None:
    mask = decode("1 2 3 2", 1, 5)
    assert mask.tolist() == [[1, 1, 1, 1, 0]]
    assert encode(mask) == "1 4"


@pytest.mark.parametrize(
    ("rle", "why"),
    [
        ("1 2 5", "pairs of start and length, but holds 3"),
        ("0 2", "starts under 1"),
        ("-3 2", "starts under 1"),
        ("1 0", "length under 1"),
        ("1 -2", "length under 1"),
        ("1 7", "beyond the 6 pixels"),
        ("7 1", "beyond the 6 pixels"),
        ("1 3 3 1", r"run 2 .*overlaps"),
        ("4 1 1 1", r"run 2 .*does not start after"),
        ("2 1 2 1", "does not start after"),
        ("1 x", "whole numbers only, not 'x'"),
        ("1.0 2", "whole numbers only"),
        ("1_0 2", "whole numbers only"),
        ("٣ 2", "whole numbers only"),
        ("-", "whole numbers only"),
        ("1 " + "9" * 400, "beyond every image"),
        ("999999999999999999 999999999999999999", "beyond the 6 pixels"),
        (3.5, "must be text, not float"),
    ],
)
def test_rejections(rle: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(rle, 2, 3)


def test_base_zero_moves_the_limits() -> None:
    assert decode("0 1", 2, 3, base=0)[0, 0] == 1
    with pytest.raises(ValueError, match="beyond the 6 pixels"):
        decode("6 1", 2, 3, base=0)


def test_bad_options_and_shapes() -> None:
    with pytest.raises(ValueError, match="Did you mean 'column'"):
        encode(np.zeros((2, 2)), order="columns")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="0 or 1, not 2"):
        decode("1 1", 2, 2, base=2)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match=r"shape \(H, W\)"):
        encode(np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="at least 1"):
        decode("", 0, 2)


def test_a_union_is_that_of_the_masks_one_by_one() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((40, 13, 17)) > 0.8
    for order, base, empty in (("column", 1, ""), ("row", 0, "-1")):
        options: Any = {"order": order, "base": base, "empty": empty}
        texts = [encode(mask, **options) for mask in [*masks, np.zeros((13, 17), bool)]]
        union = decode_union(texts, 13, 17, **options)
        assert union.dtype == np.uint8 and np.array_equal(union, masks.any(axis=0))
    assert not decode_union([], 2, 3).any()
    many = decode_union(["1 6"] * 300, 2, 3)  # more than a byte counts
    assert (many == 1).all()
    with pytest.raises(ValueError, match="beyond the 6 pixels"):
        decode_union(["1 2", "5 3"], 2, 3)


def real_strings(name: str) -> list[str]:
    root = Path(os.environ.get("DISTSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = {
        "tgs": root / "tgs/train.csv",
        "severstal": root / "severstal/train_three_columns.csv",
        "tianchi": root / "tianchi/train_mask.csv",
    }[name]
    if not path.exists():
        pytest.skip(f"no real data at {path} (set DISTSEG_DATA)")
    csv.field_size_limit(1 << 30)
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if name == "tianchi" else ","))
    return [row[-1] for row in (rows if name == "tianchi" else rows[1:])]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"), [("tgs", (101, 101)), ("severstal", (256, 1600)), ("tianchi", (512, 512))]
)
def test_real_strings_round_trip_to_the_letter(name: str, shape: tuple[int, ...]) -> None:
    strings = real_strings(name)
    assert len(strings) > 10 and any(strings)
    for rle in strings:
        mask = decode(rle, *shape)
        assert encode(mask) == rle
        assert mask.sum() == sum(map(int, rle.split()[1::2]))
