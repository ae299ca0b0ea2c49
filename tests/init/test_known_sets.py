"""`init` of the folders that people of nnU-Net, ultralytics and labelme have: what is written,
and loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.run.check import mistakes
from tests.data.formats import test_labelme, test_nnunet, test_yolo
from tests.init.made_sets import Make


def test_a_raw_data_set_of_nnunet(made: Make, tmp_path: Path) -> None:
    root = test_nnunet.raw(tmp_path / "Dataset001_Cells", {"background": 0, "cell": 1}, 1)
    config, written = made(root)
    assert (config.task, config.classes, config.metric) == ("binary", ["cell"], "dice")
    assert "# dataset.json has the channels and labels of nnU-Net" in written.text
    assert "4 train images and 2 test images" in written.text
    assert not mistakes(config)
    target = read_target(layout("folder").train(config)[0].target, config, 12, 16)
    assert np.array_equal(target[0], test_nnunet.mask(1))


def test_polygons_of_yolo(made: Make, tmp_path: Path) -> None:
    config, written = made(test_yolo.whole(tmp_path / "set"))
    assert (config.task, config.classes) == ("multilabel", ["cat", "dog"])
    assert (config.data.format, config.data.folds.kind) == ("yolo", "split")
    assert "# data.yaml has the parts and names of YOLO" in written.text
    assert "the data set's own validation part (2 of 7 train images) is kept" in written.text
    assert not mistakes(config)
    target = read_target(layout("yolo").train(config)[0].target, config, 12, 20)
    assert np.array_equal(target, test_yolo.PLANES["a"])


def test_shapes_of_labelme(made: Make, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number in range(6):
        test_labelme.put(root, f"s{number}", [test_labelme.CELL] * (number % 3 > 0), number)
    config, written = made(root)
    assert (config.task, config.classes, config.data.format) == ("binary", ["cell"], "labelme")
    assert "# s0.json has shapes of labelme" in written.text
    assert not mistakes(config)
