"""Submissions: streamed in any order, whole or not there at all; and scoring of any file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data.formats.row import SubmissionSpec
from distseg.data.layouts import layout
from distseg.functional import rle
from distseg.functional.metrics import summarize
from distseg.records.errors import UserError
from distseg.submission.score import score_rows, score_submission
from distseg.submission.write import (
    ShareWriter,
    merge_shares,
)
from tests.made_run import made_config, write_data
from tests.tiny import write_submission

SHAPE = (7, 5)


def add_all(writer: ShareWriter, masks: dict[str, np.ndarray]) -> None:
    for name, mask in masks.items():
        writer.add(name, mask)
    writer.close()


def made_masks(num: int = 6, classes: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    masks = (rng.random((num, classes, *SHAPE)) < 0.4).astype(np.uint8)
    masks[1] = 0
    masks[2] = 1
    return {f"id{i}": mask for i, mask in enumerate(masks)}


def test_rows_are_in_the_required_order_and_form(tmp_path: Path) -> None:
    masks = made_masks()
    ids = ["id3", "id0", "id2", "id1", "id5", "id4"]
    write_submission(SubmissionSpec(ids=ids), tmp_path / "s.csv", masks)
    rows = list(csv.reader((tmp_path / "s.csv").open()))
    assert rows[0] == ["id", "rle_mask"] and [row[0] for row in rows[1:]] == ids
    for name, text in rows[1:]:
        assert np.array_equal(rle.decode(text, *SHAPE), masks[name][0])
    assert dict(rows[1:])["id1"] == "" and dict(rows[1:])["id2"] == "1 35"
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]  # nothing else is left


def test_other_forms(tmp_path: Path) -> None:
    masks = {"a.jpg": np.eye(3, dtype=np.uint8)[None], "b.jpg": np.zeros((1, 3, 3), np.uint8)}
    spec = SubmissionSpec(
        ids=list(masks), separator="\t", header=False, empty="-1", order="row", base=0
    )
    write_submission(spec, tmp_path / "s.tsv", masks)
    assert (tmp_path / "s.tsv").read_text() == "a.jpg\t0 1 4 1 8 1\nb.jpg\t-1\n"
    two = SubmissionSpec(
        ids=["x"], class_ids=("1", "2"), columns=("ImageId_ClassId", "EncodedPixels")
    )
    mask = np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.uint8)
    write_submission(two, tmp_path / "s.csv", {"x": mask}, task="multilabel")
    assert (tmp_path / "s.csv").read_text() == "ImageId_ClassId,EncodedPixels\nx_1,\nx_2,1 4\n"
    index = SubmissionSpec(ids=["x"], class_ids=("ground", "car"))
    labels = np.array([[[0, 1], [0, 0]]], dtype=np.uint8)
    write_submission(index, tmp_path / "s.csv", {"x": labels}, task="multiclass")
    assert (tmp_path / "s.csv").read_text() == "id,rle_mask\nx_ground,1 2 4 1\nx_car,3 1\n"
    apart = SubmissionSpec(
        columns=("Pixels", "Image", "Class"), cells=("rle", "id", "class"), ids=["x_1"],
        class_ids=("1", "2"),
    )  # fmt: skip
    write_submission(apart, tmp_path / "s.csv", {"x_1": mask}, task="multilabel")
    assert (tmp_path / "s.csv").read_text() == "Pixels,Image,Class\n,x_1,1\n1 4,x_1,2\n"


@pytest.mark.parametrize(
    ("task", "classes", "names"),
    [
        ("binary", 1, {"x.png": [0, 255]}),
        ("multiclass", 1, {"x.png": [0, 1]}),
        ("multilabel", 2, {"p/x.png": [0, 255], "q/x.png": [0, 255]}),
    ],
)
def test_folders_of_masks(tmp_path: Path, task: str, classes: int, names: dict[str, Any]) -> None:
    ids = None if classes == 1 else ("p", "q")
    spec = SubmissionSpec("masks", ids=["x"], class_ids=ids)
    mask = np.zeros((classes, 4, 3), dtype=np.uint8)
    mask[:, 1] = 1
    for _ in range(2):  # a second time replaces the first
        write_submission(spec, tmp_path / "masks", {"x": mask}, task=task)
        found = sorted(p.relative_to(tmp_path / "masks") for p in tmp_path.rglob("*.png"))
        assert [path.as_posix() for path in found] == list(names)
    for name, values in names.items():
        pixels = np.asarray(Image.open(tmp_path / "masks" / name))
        assert pixels.shape == (4, 3) and np.unique(pixels).tolist() == values
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_parts_of_several_ranks_make_the_same_file(tmp_path: Path) -> None:
    masks = made_masks(11)
    spec = SubmissionSpec(ids=list(masks))
    write_submission(spec, tmp_path / "one.csv", masks)
    for rank in range(3):
        writer = ShareWriter(spec, tmp_path / "many.csv", share=(rank, 3))
        for name in list(masks)[rank::3]:
            writer.add(name, masks[name])
        writer.close()
    merge_shares(spec, tmp_path / "many.csv", 3)
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_every_id_exactly_once(tmp_path: Path) -> None:
    masks = made_masks()
    spec = SubmissionSpec(ids=list(masks))
    path = tmp_path / "s.csv"
    path.write_text("the old one")
    writer = ShareWriter(spec, path)
    writer.add("id0", masks["id0"])
    with pytest.raises(UserError, match="'id0' was predicted twice"):
        writer.add("id0", masks["id0"])
    with pytest.raises(UserError, match="'other' is not among its ids"):
        writer.add("other", masks["id0"])
    writer.add("id3", masks["id3"])
    writer.close()
    with pytest.raises(UserError, match="'id1' has no prediction; 4 such of 6 ids"):
        merge_shares(spec, path, 1)
    assert path.read_text() == "the old one"
    for rank in range(2):  # both ranks predicted everything
        add_all(ShareWriter(spec, path, share=(rank, 2)), masks)
    with pytest.raises(UserError, match="'id0' was predicted twice, 6 such"):
        merge_shares(spec, path, 2)
    with pytest.raises(UserError, match="part0of3: this share of the submission is missing"):
        merge_shares(spec, path, 3)
    assert path.read_text() == "the old one"


def test_what_is_on_disk_is_compared_with_what_was_given(tmp_path: Path) -> None:
    masks = made_masks()
    path = tmp_path / "s.csv"
    part = ShareWriter(SubmissionSpec(ids=list(masks)), path)
    add_all(part, masks)
    rows = part.folder / "rows.jsonl"
    rows.write_text(rows.read_text().replace("1 35", "1 34"))  # a disk that lies
    with pytest.raises(AssertionError, match="id2 reads back wrong"):
        merge_shares(part.spec, path, 1)
    assert not path.exists()


# -- scoring --------------------------------------------------------------------------------------


def write_table(path: Path, masks: dict[str, np.ndarray], header: str = "id,rle_mask") -> Path:
    rows = [f"{name},{rle.encode(mask[0])}" for name, mask in masks.items()]
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return path


def slow(masks: dict[str, np.ndarray], truth: dict[str, np.ndarray], metric: str) -> float:
    counts = [[[(masks[k] & t).sum(), masks[k].sum(), t.sum()]] for k, t in truth.items()]
    return summarize(np.array(counts), metric)["score"]


@pytest.mark.parametrize("metric", ["tgs", "dice", "miou"])
def test_tables_and_folders_score_alike(tmp_path: Path, metric: str) -> None:
    masks = made_masks()
    truth = {**dict(zip(masks, reversed(masks.values()), strict=True)), "id0": masks["id0"]}
    expected = slow(masks, truth, metric)
    answer = write_table(tmp_path / "a.csv", masks)
    tables = {
        "csv": write_table(tmp_path / "t.csv", truth),
        "plain": write_table(tmp_path / "p.csv", truth, header=""),
        "tsv": tmp_path / "t.tsv",
    }
    tables["tsv"].write_text(tables["plain"].read_text().replace(",", "\t"))
    for table in tables.values():
        record = score_submission(answer, table, metric, height=SHAPE[0], width=SHAPE[1])
        assert record["score"] == pytest.approx(expected) and record["metric"] == metric
        assert record["num_images"] == 6 and record["standard_error"] > 0
    for folder, source in (("masks", masks), ("truth", truth)):
        (tmp_path / folder).mkdir()
        for name, mask in source.items():
            Image.fromarray(mask[0] * np.uint8(255)).save(tmp_path / folder / f"{name}.png")
    for left, right in ((answer, tmp_path / "truth"), (tmp_path / "masks", tables["csv"])):
        assert score_submission(left, right, metric)["score"] == pytest.approx(expected)
    images = tmp_path / "masks"
    given = score_submission(answer, tables["csv"], metric, images=images)
    assert given["score"] == pytest.approx(expected)


def test_rows_per_class_score_as_classes(tmp_path: Path) -> None:
    """Four rows an image, and the short form: image, class, RLE of non-empty pairs only."""
    full, short = tmp_path / "full.csv", tmp_path / "short.csv"
    full.write_text("ImageId_ClassId,EncodedPixels\na.jpg_1,1 2\na.jpg_2,\nb.jpg_1,\nb.jpg_2,3 1\n")
    short.write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 4\nb.jpg,2,3 1\n")
    record = score_submission(full, short, "mean_dice", height=3, width=3)
    assert record["per_class"] == pytest.approx([(2 * 2 / 6 + 1) / 2, 1.0])
    assert record["num_images"] == 2
    assert score_submission(short, full, "mean_dice", height=3, width=3)["score"] == record["score"]


def test_numbers_in_ids_are_no_classes(tmp_path: Path) -> None:
    """`img_1` is class 1 of `img` only where the file says so."""
    rows = ["img_1,1 2", "img_2,", "img_3,3 1"]
    for name, header in (("plain", "id,rle_mask"), ("joined", "ImageId_ClassId,EncodedPixels")):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    size: dict[str, Any] = {"height": 3, "width": 3}
    plain = score_submission(tmp_path / "plain.csv", tmp_path / "plain.csv", "dice", **size)
    joined = score_submission(tmp_path / "joined.csv", tmp_path / "joined.csv", "dice", **size)
    assert (plain["num_images"], joined["num_images"]) == (3, 1)


def test_class_indices_and_void(tmp_path: Path) -> None:
    for folder, pixels in (("a", [[0, 1], [2, 2]]), ("t", [[0, 1], [1, 9]])):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array(pixels, dtype=np.uint8)).save(tmp_path / folder / "x.png")
    record = score_submission(tmp_path / "a", tmp_path / "t", "miou", num_classes=3, void=9)
    assert record["score"] == pytest.approx((1 + 0.5 + 0) / 3)
    with pytest.raises(UserError, match="give the number of classes"):
        score_submission(tmp_path / "a", tmp_path / "t", "miou")
    with pytest.raises(UserError, match=r"holds 9; valid: 0\.\.2"):
        score_submission(tmp_path / "a", tmp_path / "t", "miou", num_classes=3)


def test_void_is_the_truths_value_alone(tmp_path: Path) -> None:
    """Masks of 0 and 255, as a run writes them, against a truth of 0, 1 and, for void, 255."""
    rng = np.random.default_rng(3)
    counts = []
    for folder in ("a", "t"):
        (tmp_path / folder).mkdir()
    for name in "xyz":
        pred, truth = rng.random(SHAPE) < 0.5, rng.choice([0, 1, 255], SHAPE).astype(np.uint8)
        Image.fromarray(pred * np.uint8(255)).save(tmp_path / "a" / f"{name}.png")
        Image.fromarray(truth).save(tmp_path / "t" / f"{name}.png")
        pixels = [(p, t == 1) for p, t in zip(pred.flat, truth.flat, strict=True) if t != 255]
        sums = [sum(bool(one) for one in ones) for ones in zip(*pixels, strict=True)]
        counts.append([[sum(bool(p and t) for p, t in pixels), *sums]])
    for metric in ("dice", "iou", "miou"):
        record = score_submission(tmp_path / "a", tmp_path / "t", metric, void=255)
        assert record["score"] == pytest.approx(summarize(np.array(counts), metric)["score"])
        assert 0.2 < record["score"] < 0.8
    assert score_submission(tmp_path / "t", tmp_path / "t", "iou", void=255)["score"] == 1.0


def test_a_void_class_index_is_no_prediction(tmp_path: Path) -> None:
    """What a submission holds where the truth is void counts nowhere; elsewhere it is a class."""
    for folder, pixels in (
        ("a", [[0, 1], [2, 9]]),
        ("t", [[0, 1], [1, 9]]),
        ("b", [[0, 9], [2, 2]]),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array(pixels, dtype=np.uint8)).save(tmp_path / folder / "x.png")
    record = score_submission(tmp_path / "a", tmp_path / "t", "miou", num_classes=3, void=9)
    assert record["score"] == pytest.approx((1 + 0.5 + 0) / 3)
    with pytest.raises(UserError, match=r"b: 'x' holds 9; valid: 0\.\.2"):
        score_submission(tmp_path / "b", tmp_path / "t", "miou", num_classes=3, void=9)


HEAD = "id,rle_mask\n"
MALFORMED = {
    "odd count": (HEAD + "a,1 2 3\nb,\n", r"bad.csv, line 2: 'a', of 7x5: .*3 numbers; valid"),
    "start under 1": (HEAD + "a,0 2\nb,\n", "line 2: 'a', .*starts under 1"),
    "negative start": (HEAD + "a,-3 2\nb,\n", "line 2: 'a', .*starts under 1"),
    "length under 1": (HEAD + "a,\nb,3 0\n", "line 3: 'b', .*length under 1"),
    "beyond the image": (HEAD + "a,30 9\nb,\n", "line 2: 'a', .*beyond the 35 pixels"),
    "overlap": (HEAD + "a,1 4 3 2\nb,\n", "line 2: 'a', .*overlaps"),
    "descending": (HEAD + "a,9 2 1 2\nb,\n", "line 2: 'a', .*does not start after"),
    "no number": (HEAD + "a,1 x 3\nb,\n", "line 2: 'a', .*whole numbers only, not 'x'"),
    "a fraction": (HEAD + "a,1.0 2\nb,\n", "line 2: 'a', .*not '1.0'"),
    "no number, no header": ("a,1 x\nb,\n", "line 1: 'a', .*not 'x'"),
    "huge number": (HEAD + f"a,{'9' * 30} 1\nb,\n", "line 2: 'a', .*beyond every image"),
    "duplicate": (
        HEAD + "a,\nb,\na,1 1\n",
        "line 4: 'a' was on line 2 already",
    ),
    "empty id": (HEAD + "a,\n,1 2\n", "line 3: the id is empty"),
    "a cell too many": (HEAD + "a,1 2,3\nb,\n", "line 2: 'a': 3 cells; valid: 2"),
    "a cell too few": (HEAD + "a\nb,\n", "line 2: 'a': 1 cells; valid: 2"),
    "one column": ("id\na\nb\n", "line 1: 'id' is one cell; valid: id and RLE"),
    "unknown columns": (
        "x,y,z\na,1,2\n",
        "line 1: none of the columns x, y, z is known to hold RLE",
    ),
    "four columns": ("1,2,3,4\n", "line 1: 4 cells; valid: id, RLE or id, class, RLE"),
    "empty file": ("", "is empty; valid: lines of id and RLE"),
    "blank lines": ("\n\n", "is empty"),
    "header only": (HEAD, "has a header and no rows"),
    "torn quote": (HEAD + 'a,"1 2\nb,\n', "line 3: cannot be read as a table: unexpected end"),
    "missing id": (HEAD + "a,\n", "bad.csv: has no 'b', which .*truth.csv has; 1 such of 2 ids"),
    "extra id": (HEAD + "a,\nb,\nc,\nd,\n", "truth.csv: has no 'c', .*; 2 such of 4 ids"),
    "not UTF-8": (b"id,rle_mask\n\xff\xfe,1 2\n", "it is no text in UTF-8"),
    "zero byte": (b"id,rle_mask\na,1 \x00\nb,\n", "line 2"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tables_are_one_clear_error(tmp_path: Path, case: str) -> None:
    content, message = MALFORMED[case]
    bad, truth = tmp_path / "bad.csv", tmp_path / "truth.csv"
    bad.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    truth.write_text(HEAD + "a,1 2\nb,\n")
    with pytest.raises(UserError, match=message) as caught:
        score_submission(bad, truth, "dice", height=SHAPE[0], width=SHAPE[1])
    assert "\n" not in str(caught.value)


def test_other_mistakes_of_scoring(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", made_masks())
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (table, "dise", {}, "unknown metric 'dise'. Did you mean 'dice'"),
        (table, "dice", {}, "give --images DIR, or --height and --width"),
        (table, "dice", {"height": 7}, "--height 7 --width None: valid: both"),
        (table, "dice", {"images": tmp_path / "imges"}, "imges: no such folder"),
        (tmp_path / "b.csv", "dice", {}, "b.csv: there is no such file or folder"),
    ]
    for truth, metric, options, message in cases:
        with pytest.raises(UserError, match=message):
            score_submission(table, truth, metric, **options)
    (tmp_path / "masks").mkdir()
    for name in made_masks():
        Image.new("L", (5, 7)).save(tmp_path / "masks" / f"{name}.png")
    assert score_submission(table, tmp_path / "masks", "dice")["score"] < 1
    with pytest.raises(UserError, match="is 7x5, its image is 9x9"):
        score_submission(table, tmp_path / "masks", "dice", height=9, width=9)
    (tmp_path / "masks" / "id4.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(UserError, match=r"id4\.png"):
        score_submission(table, tmp_path / "masks", "dice")
    Image.new("L", (5, 7)).save(tmp_path / "masks" / "id4.png")
    Image.new("L", (5, 7)).save(tmp_path / "masks" / "id4.bmp")
    with pytest.raises(UserError, match="a second mask of 'id4'"):
        score_submission(table, tmp_path / "masks", "dice")


@pytest.mark.parametrize("kind", ["masks", "rle"])
def test_the_runs_own_submission_against_known_truth(tmp_path: Path, kind: str) -> None:
    write_data(tmp_path / "data")
    options = {"submission": kind, "test_masks": "test_masks"}
    data = {"format": "folder", "root": str(tmp_path / "data"), "folder": options}
    config = made_config(tmp_path / "data", data=data)
    form = layout("folder")
    spec, truth = form.submission(config), form.test_truth(config)
    masks = {}
    for name in spec.ids:
        with Image.open(tmp_path / "data" / "test_masks" / f"{name}.png") as image:
            masks[name] = (np.asarray(image) > 0).astype(np.uint8)[None]
    path = tmp_path / "answer"
    write_submission(spec, path, masks)
    assert score_rows(config, spec, path, truth)["score"] == 1.0
    first = next(name for name, mask in masks.items() if mask.any())
    masks[first][:] = 0
    write_submission(spec, path, masks)
    assert score_rows(config, spec, path, truth)["score"] == pytest.approx(1 - 1 / len(masks))
    with pytest.raises(UserError, match="none of the 0 test images"):
        score_rows(config, spec, path, [])
