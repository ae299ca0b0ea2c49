"""`submission.per_object`: a row for each connected object, which together are the mask."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distseg.config.load import parse_config
from distseg.data.formats.row import SubmissionSpec
from distseg.data.layouts import submission_of
from distseg.functional.rle import decode, encode, encode_labels
from distseg.records.errors import UserError
from distseg.submission.read import open_masks
from distseg.submission.write import ShareWriter, merge_shares
from tests.tiny import write_submission

Mask = NDArray[np.uint8]


def objects(mask: Mask) -> list[Mask]:
    """The parts of a mask whose pixels touch at a side or a corner, by filling each."""
    left, found = {(y, x) for y, x in np.argwhere(mask).tolist()}, []
    while left:
        waiting, own = [left.pop()], np.zeros_like(mask)
        while waiting:
            y, x = waiting.pop()
            own[y, x] = 1
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            waiting += near
        found.append(own)
    return found


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("base", [0, 1])
def test_each_object_has_a_row(tmp_path: Path, order: str, base: int) -> None:
    """Also those that touch only across the end of a line: a run never holds two objects."""
    rng = np.random.default_rng(base)
    masks = {f"a{i}": (rng.random((1, 13, 9)) < 0.07 * i).astype(np.uint8) for i in range(8)}
    masks["b"] = np.zeros((1, 4, 4), np.uint8)
    masks["b"][0, 3, 0] = masks["b"][0, 0, 1] = masks["b"][0, 0, 3] = masks["b"][0, 1, 0] = 1
    spec = SubmissionSpec(
        ids=list(masks), order=order, base=base, empty="-", per_object=True,  # type: ignore[arg-type]
    )  # fmt: skip
    write_submission(spec, tmp_path / "s.csv", masks)
    rows: dict[str, list[str]] = {}
    with (tmp_path / "s.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["id"], []).append(row["rle_mask"])
    assert list(rows) == list(masks) and rows["a0"] == ["-"]
    for name, mask in masks.items():
        wanted = sorted(encode(one, order=order, base=base) for one in objects(mask[0])) or ["-"]  # type: ignore[arg-type]
        assert sorted(rows[name]) == wanted
    source = open_masks(tmp_path / "s.csv", order=order, base=base, empty="-", per_object=True)
    for name, mask in masks.items():
        assert np.array_equal(source.values(name, *mask.shape[1:]), mask[0])
    with pytest.raises(UserError, match="already; valid: each id once"):
        open_masks(tmp_path / "s.csv", order=order, base=base, empty="-")


@pytest.mark.parametrize("per_object", [False, True])
def test_a_cell_holds_one_rle(tmp_path: Path, per_object: bool) -> None:
    (tmp_path / "s.csv").write_text("id,rle\na,1 3;7 2\n")
    with pytest.raises(UserError, match="line 2: '1 3;7 2' is no RLE"):
        open_masks(tmp_path / "s.csv", per_object=per_object)


def test_each_class_has_its_objects(tmp_path: Path) -> None:
    mask = np.zeros((2, 6, 6), np.uint8)
    mask[0, 0, 0] = mask[0, 5, 5] = mask[1, 2:4, 2:4] = 1
    spec = SubmissionSpec(
        columns=("EncodedPixels", "ImageId", "ClassId"), cells=("rle", "id", "class"),
        ids=["b.jpg", "a.jpg"], class_ids=("1", "2"), per_object=True,
    )  # fmt: skip
    empty = np.zeros_like(mask)
    write_submission(spec, tmp_path / "s.csv", {"a.jpg": mask, "b.jpg": empty}, "multilabel")
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "EncodedPixels,ImageId,ClassId", ",b.jpg,1", ",b.jpg,2",
        "1 1,a.jpg,1", "36 1,a.jpg,1", "15 2 21 2,a.jpg,2",
    ]  # fmt: skip


def test_objects_that_read_back_wrong_never_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SubmissionSpec(ids=["a"], per_object=True)
    mask = np.zeros((1, 5, 5), np.uint8)
    mask[0, 1, 1] = mask[0, 3, 3] = 1
    for texts in (["7 1"], ["7 1", "7 1", "19 1"], ["7 1", "18 1"]):
        monkeypatch.setattr("distseg.functional.rle.encode_labels", lambda *a, t=texts, **k: t)
        writer = ShareWriter(spec, tmp_path / "s.csv")
        writer.add("a", mask)
        writer.close()
        with pytest.raises(AssertionError, match="reads back wrong"):
            merge_shares(spec, tmp_path / "s.csv", 1)
        assert not (tmp_path / "s.csv").exists()


def test_labels_are_encoded_as_masks_are() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (11, 7))
    assert encode_labels(np.zeros((3, 3), np.int32)) == []
    for order in ("column", "row"):
        texts = encode_labels(labels, order=order)
        for number, text in enumerate(texts, start=1):
            assert np.array_equal(decode(text, 11, 7, order=order), labels == number)
    assert encode_labels(np.full((2, 3), 9)) == ["1 6"]


def test_masks_in_files_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "test_images").mkdir()
    tree = {"name": "t", "members": {"a": {}}, "submission": {"per_object": True}}
    config = parse_config({**tree, "data": {"root": str(tmp_path)}}, "t")
    with pytest.raises(UserError, match=r"submission\.per_object: true: is for a table of RLEs"):
        submission_of(
            config.model_copy(
                update={
                    "data": config.data.model_copy(
                        update={
                            "folder": config.data.folder.model_copy(update={"test_images": None})
                        }
                    )
                }
            )
        )
    rle = config.data.folder.model_copy(update={"submission": "rle", "test_images": None})
    config = config.model_copy(update={"data": config.data.model_copy(update={"folder": rle})})
    assert submission_of(config) == replace(submission_of(config), per_object=True)
