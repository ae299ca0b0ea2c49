"""Severstal: both forms of its table, in both directions."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distseg.data.inspect import inspect
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.functional.rle import encode
from distseg.records.errors import UserError
from distseg.submission.read import open_masks
from distseg.submission.score import score_rows, score_submission
from tests.data.formats.layout_helpers import brute_decode, config_of, severstal
from tests.tiny import write_submission


def test_both_tables_of_severstal_say_the_same(tmp_path: Path) -> None:
    masks = severstal(tmp_path)
    rows = layout("severstal").train(config_of("severstal", tmp_path))
    sparse = config_of("severstal", tmp_path, table="three.csv")
    assert rows == layout("severstal").train(sparse)
    assert [row.id for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    for row in rows:
        target = read_target(row.target, sparse, 16, 24)
        for kind in range(1, 5):
            expected = masks[row.id].get(kind, np.zeros((16, 24), np.uint8))
            assert np.array_equal(target[kind - 1], expected)
            text = row.target.removeprefix("rle:").split("|")[kind - 1]
            assert np.array_equal(target[kind - 1], brute_decode(text, 16, 24))


def test_severstal_submission_has_four_rows_an_image_in_order(tmp_path: Path) -> None:
    severstal(tmp_path)
    config = config_of("severstal", tmp_path)
    spec = layout("severstal").submission(config)
    mask = np.zeros((4, 16, 24), dtype=np.uint8)
    mask[1, 0, 0] = 1
    write_submission(spec, tmp_path / "s.csv", {"y.jpg": mask, "z.jpg": mask}, "multilabel")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    sample = (tmp_path / "sample_submission.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [line.split(",")[0] for line in sample]
    assert lines[2] == "z.jpg_2,1 1" and lines[1] == "z.jpg_1,"


@pytest.mark.parametrize(
    "header", ["ImageId,ClassId,EncodedPixels", "ImageId,EncodedPixels,ClassId"]
)
def test_severstal_submission_is_in_the_samples_form(tmp_path: Path, header: str) -> None:
    """Joined ids or a column of classes: the same test images, and the same masks once read."""
    severstal(tmp_path)
    config, form = config_of("severstal", tmp_path), layout("severstal")
    rng = np.random.default_rng(0)
    masks = {name: (rng.random((4, 16, 24)) < 0.3).astype(np.uint8) for name in ("y.jpg", "z.jpg")}
    masks["z.jpg"][1] = 0
    rows = form.test(config)
    joined, apart = tmp_path / "joined.csv", tmp_path / "apart.csv"
    write_submission(form.submission(config), joined, masks, "multilabel")
    (tmp_path / "sample_submission.csv").write_text(f"{header}\nz.jpg,1,1\ny.jpg,1,1\n")
    assert form.test(config) == rows and [row.id for row in rows] == ["z.jpg", "y.jpg"]
    spec = form.submission(config)
    write_submission(spec, apart, masks, "multilabel")
    table = list(csv.DictReader(apart.open()))
    assert apart.read_text().partition("\n")[0] == header
    keys = [(row["ImageId"], row["ClassId"]) for row in table]
    assert keys == [(name, str(kind)) for name in ("z.jpg", "y.jpg") for kind in range(1, 5)]
    assert table[1]["EncodedPixels"] == ""
    sides = [open_masks(path) for path in (joined, apart)]
    for (name, kind), key in zip(keys, sides[0].keys, strict=True):
        for side in sides:
            assert np.array_equal(side.values(key, 16, 24), masks[name][int(kind) - 1])
    scores = score_submission(apart, joined, "mean_dice", height=16, width=24)
    assert scores["per_class"] == [1.0] * 4
    targets = {name: "|".join(encode(plane) for plane in own) for name, own in masks.items()}
    truth = [replace(row, target=f"rle:{targets[row.id]}") for row in rows]
    assert score_rows(config, spec, apart, truth)["score"] == 1.0


def test_a_sample_of_severstal_without_a_class_is_refused(tmp_path: Path) -> None:
    severstal(tmp_path)
    (tmp_path / "sample_submission.csv").write_text("ImageId,EncodedPixels\nz.jpg,\n")
    with pytest.raises(UserError, match=r"sample_submission\.csv: column 'ClassId' is missing"):
        layout("severstal").test(config_of("severstal", tmp_path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q.jpg_1,1 3", "no image 'q.jpg'"),
        ("a.jpg_5,1 3", "class '5'"),
        ("a.jpg_x,1 3", "class 'x'"),
        ("../a.jpg_1,1 3", "no image"),
    ],
)
def test_bad_lines_of_severstal_go_to_quarantine(tmp_path: Path, line: str, said: str) -> None:
    severstal(tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write(line + "\n")
    config = config_of("severstal", tmp_path, allow_bad=True)
    checked = inspect(config, layout("severstal").train(config))
    assert any(said in bad[2] and "line 14" in bad[2] for bad in checked.quarantine)
    assert {row.id for row in checked.good} >= {"b.jpg", "c.jpg"}


def test_a_cut_table_of_severstal_is_no_empty_mask(tmp_path: Path) -> None:
    severstal(tmp_path)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:-1]) + "\n")
    last = lines[-1].partition(",")[0]
    rows = {row.id: row for row in layout("severstal").train(config_of("severstal", tmp_path))}
    problems = [row.problem for row in rows.values() if row.problem]
    assert problems == [f"train.csv: no row {last}; each class has one"]
