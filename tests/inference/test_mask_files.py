"""Masks as files and as an RLE table, for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.functional.rle import decode
from distseg.inference.mask_files import mask_files
from distseg.records.tables import read_rows
from tests.tiny import tiny_tree

MASK = np.array([[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [1, 0, 0]]], np.uint8)


def config_of(task: str, classes: list[str]) -> Config:
    tree: dict[str, Any] = tiny_tree(task=task, classes=classes)
    tree["metric"] = "miou" if task == "multiclass" else "dice"
    tree["stages"][0]["loss"] = {"cross_entropy" if task == "multiclass" else "bce": 1.0}
    return parse_config(tree, "test")


def read(path: Path) -> list[Any]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).tolist()


def test_several_labels_have_a_folder_each(tmp_path: Path) -> None:
    config = config_of("multilabel", ["cat", "dog"])
    with mask_files(config, tmp_path, tmp_path / "out", tmp_path / "rle.csv") as sink:
        sink.add("one", MASK)
        assert not (tmp_path / "rle.csv").exists(), "the table appears when all is done"
    for label, plane in zip(("cat", "dog"), MASK, strict=True):
        assert read(tmp_path / "out" / label / "one.png") == (plane * 255).tolist()
    rows = read_rows(tmp_path / "rle.csv")
    assert [(row["id"], row["class"]) for row in rows] == [("one", "cat"), ("one", "dog")]
    assert [decode(row["rle"], 2, 3).tolist() for row in rows] == MASK.tolist()


def test_class_numbers_stay_numbers(tmp_path: Path) -> None:
    config = config_of("multiclass", ["a", "b", "c"])
    numbers = np.array([[[0, 2, 1]]], np.uint8)
    with mask_files(config, tmp_path, tmp_path / "out", None) as sink:
        sink.add("one", numbers)
    assert read(tmp_path / "out" / "one.png") == numbers[0].tolist()


def test_a_table_that_was_there_survives_an_error(tmp_path: Path) -> None:
    config, table = config_of("binary", ["a"]), tmp_path / "rle.csv"
    table.write_text("id,rle\nold,1 1\n")
    with pytest.raises(RuntimeError), mask_files(config, tmp_path, tmp_path / "out", table) as sink:
        sink.add("one", MASK[:1])
        raise RuntimeError
    assert table.read_text() == "id,rle\nold,1 1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rle.csv"]


def test_a_table_has_a_row_for_each_object_where_the_submission_has(tmp_path: Path) -> None:
    tree = tiny_tree(submission={"per_object": True})
    config = parse_config(tree, "test")
    mask = np.array([[[1, 0, 0, 1], [1, 0, 0, 0]]], np.uint8)
    with mask_files(config, tmp_path, tmp_path / "out", tmp_path / "rle.csv") as sink:
        sink.add("two", mask)
        sink.add("none", np.zeros_like(mask))
    rows = [(row["id"], row["rle"]) for row in read_rows(tmp_path / "rle.csv")]
    assert rows == [("two", "1 2"), ("two", "7 1"), ("none", "")]
