"""labelme's JSON files: shapes drawn as they were meant; what is none refused, with its file."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.check import mistakes
from distseg.data.detect import detect
from distseg.data.inspect import inspect
from distseg.data.layouts import layout, said, submission_of
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from distseg.submission.score import score_rows
from tests.data.data_helpers import gray, save
from tests.tiny import write_submission

LABELME = layout("labelme")
HEIGHT, WIDTH = 24, 32


def box(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def shape(label: str, points: Any, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def corners(top: int, bottom: int, left: int, right: int) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def coded(mask: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(mask > 0).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CELL = shape("cell", corners(2, 7, 3, 9))
RING = np.ones((5, 6), np.uint8)
RING[1:4, 1:5] = 0


def put(root: Path, name: str, shapes: list[Any] | None, number: int = 0, /, **keys: Any) -> Path:
    """An image, and its JSON where there are shapes."""
    save(root / f"{name}.png", gray(number, HEIGHT, WIDTH))
    path = root / f"{name}.json"
    if shapes is not None:
        tree = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png",
                "imageData": "A" * 4000, "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
        path.write_text(json.dumps(tree | keys))
    return path


def config_of(root: Path, classes: tuple[str, ...] = ("cell", "dirt"), **data: Any) -> Config:
    tree: dict[str, Any] = {
        "name": "t",
        "task": "binary" if len(classes) == 1 else "multilabel",
        "classes": list(classes),
        "data": {"format": "labelme", "root": str(root), "folds": {"num": 2}, **data},
        "input": {"height": 32, "width": 32, "channels": 1},
        "members": {"a": {}},
    }
    return parse_config(tree, "t")


def planes(root: Path, *classes: str) -> NDArray[np.uint8]:
    config = config_of(root, classes or ("cell", "dirt"))
    return read_target(LABELME.train(config)[0].target, config, HEIGHT, WIDTH)


# -- what is read ----------------------------------------------------------------------------------


def test_each_kind_of_shape_is_drawn_as_it_was_planted(tmp_path: Path) -> None:
    ring = shape("dirt", [[10, 4], [15, 8]], "mask", mask=coded(RING))
    put(tmp_path, "a", [CELL, shape("cell", [[20, 10], [30, 20]], "rectangle"), ring])
    cell, dirt = planes(tmp_path)
    assert np.array_equal(cell, box(2, 7, 3, 9) | box(10, 20, 20, 30))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:9, 10:16] = RING
    assert np.array_equal(dirt, expected)


def test_a_circle_is_cut_off_at_the_edge(tmp_path: Path) -> None:
    put(tmp_path, "a", [shape("cell", [[4, 12], [12, 12]], "circle")])
    (cell,) = planes(tmp_path, "cell")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x + 0.5 - 4, y + 0.5 - 12)
    assert (cell[distance < 7.2] == 1).all() and (cell[distance > 8.8] == 0).all()


def test_ignored_shapes_count_nowhere(tmp_path: Path) -> None:
    put(tmp_path, "a", [CELL, shape("__ignore__", corners(2, 4, 3, 9), None)])
    (cell,) = planes(tmp_path, "cell")
    assert np.array_equal(cell, np.where(box(2, 4, 3, 9) > 0, 255, box(2, 7, 3, 9)))


def test_parts_tests_and_their_truth(tmp_path: Path) -> None:
    """Images in folders of their own, paths of another system, one stem in two folders."""
    for number, name in enumerate("abcd"):
        put(tmp_path / "train/day1", name, [CELL] if number else [], number)
    put(tmp_path / "train/day2", "a", [CELL], 5, imagePath="..\\..\\elsewhere\\a.png")
    put(tmp_path / "val", "v", [CELL], 6)
    put(tmp_path / "test", "s", [CELL], 7)
    found = detect(tmp_path)
    assert found.keys["data"] == {"format": "labelme", "folds": {"kind": "split"}}
    assert (found.keys["task"], found.keys["classes"]) == ("binary", ["cell"])
    config = config_of(tmp_path, ("cell",), folds={"kind": "split"})
    rows = LABELME.train(config)
    names = ["a", "b", "c", "d"]
    assert [row.id for row in rows] == [
        *(f"train_day1_{one}" for one in names),
        "train_day2_a",
        "v",
    ]
    assert [row.validates for row in rows] == [False] * 5 + [True]
    assert not inspect(config, rows).quarantine
    assert read_target(rows[0].target, config, HEIGHT, WIDTH).sum() == 0
    assert [row.id for row in LABELME.test(config)] == ["s"]
    assert "train: 5 JSON files, 4 shapes" in said(config)
    assert not mistakes(config)
    truth = LABELME.test_truth(config)
    assert truth is not None
    spec = submission_of(config)
    write_submission(spec, tmp_path / "out", {"s": box(2, 7, 3, 9)[None]})
    assert score_rows(config, spec, tmp_path / "out", truth)["score"] == 1.0


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "keys", "said"),
    [
        ([shape("cell", corners(2, 7, 3, 90))], {}, "shapes[0]: a polygon has the corner 90, 2"),
        ([CELL, shape("cell", [[1, 1], [2, 2]])], {}, "shapes[1]: polygon"),
        ([shape("cell", [[1, 1], [2, 2]], "line")], {}, "shape_type 'line' has no area"),
        ([shape("cell", [[1, 1]], "point")], {}, "shape_type 'point' has no area"),
        ([shape("cell", [[1, 1]], "rectangle")], {}, "a rectangle of 1 points"),
        ([shape("cell", [[1, None]], "polygon")], {}, "the coordinate None"),
        ([shape("cell", [[1, float("1e300")]])], {}, "the coordinate"),
        ([shape("", corners(2, 7, 3, 9))], {}, "label is ''"),
        ([shape("cell", [[99, 3], [3, 3]], "circle")], {}, "corner 99, 3"),
        ([shape("cell", [[1, 1], [2, 2]], "mask", mask=coded(RING))], {}, "a mask of (6, 5)"),
        ([shape("cell", [[1, 1], [40, 2]], "mask", mask="")], {}, "outside of 24x32"),
        ([shape("cell", [[1, 1], [6, 5]], "mask", mask="??")], {}, "a mask that is no PNG"),
        ([shape("cell", [[1, 1], [6, 5]], "mask", mask=None)], {}, "a mask that is no PNG"),
        (["cell"], {}, "shapes[0]: is 'cell'; valid: a mapping"),
        ([], {"imageHeight": None}, "imageHeight is None"),
        ([], {"imageHeight": 1 << 20, "imageWidth": 1 << 20}, "more than data.max_pixels"),
        ([], {"shapes": 3}, "shapes is 3; valid: a list"),
        ([CELL], {"imageHeight": WIDTH, "imageWidth": HEIGHT}, "the labels are for 32x24"),
    ],
)  # fmt: skip
def test_a_bad_file_is_a_bad_row(
    tmp_path: Path, shapes: list[Any], keys: dict[str, Any], said: str
) -> None:
    put(tmp_path, "bad", shapes, **keys)
    put(tmp_path, "good", [CELL], 1)
    config = config_of(tmp_path, ("cell",), allow_bad=True)
    checked = inspect(config, LABELME.train(config))
    ((name, _, why),) = [(bad[0], bad[1], str(bad)) for bad in checked.quarantine]
    assert name == "bad" and said in why
    assert [row.id for row in checked.good] == ["good"]


def test_files_that_are_no_json_and_images_that_are_not_there(tmp_path: Path) -> None:
    put(tmp_path, "good", [CELL], 1)
    put(tmp_path, "lost", [CELL], 2)
    (tmp_path / "lost.png").unlink()
    put(tmp_path, "torn", [CELL], 3).write_text('{"shapes": [')
    put(tmp_path, "twice", [CELL], 4, imagePath="good.png")
    rows = {row.id: row.problem for row in LABELME.train(config_of(tmp_path, ("cell",),
            labelme={"unlisted": "leave_out"}))}  # fmt: skip
    assert "lost.json: imagePath is 'lost.png': no such image" in rows["lost"]
    assert "torn.json: cannot be read as JSON" in rows["torn"]
    assert "good.json and twice.json are both its labels" in rows["good"]


def test_no_image_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", gray(9, HEIGHT, WIDTH))
    put(tmp_path / "set", "a", [CELL], imagePath="../secret.png")
    put(tmp_path / "set", "b", [CELL], 1)
    (tmp_path / "set/a.png").unlink()
    (tmp_path / "set/a.png").symlink_to(tmp_path / "secret.png")
    rows = LABELME.train(config_of(tmp_path / "set", ("cell",)))
    assert [bool(row.problem) for row in rows] == [True, False]


def test_images_without_a_json_are_a_question(tmp_path: Path) -> None:
    put(tmp_path, "a", [CELL])
    put(tmp_path, "b", None, 1)
    with pytest.raises(UserError, match=r"data\.labelme\.unlisted: 1 image of 2 .*b\.png: write"):
        LABELME.train(config_of(tmp_path, ("cell",)))
    for meaning, expected in (("empty", ["a", "b"]), ("leave_out", ["a"])):
        config = config_of(tmp_path, ("cell",), labelme={"unlisted": meaning})
        rows = LABELME.train(config)
        assert [row.id for row in rows] == expected and not inspect(config, rows).quarantine
    assert read_target(LABELME.train(config_of(tmp_path, ("cell",), labelme={"unlisted": "empty"}))
                       [1].target, config, HEIGHT, WIDTH).sum() == 0  # fmt: skip


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "a", [CELL, shape("dirt", corners(10, 12, 3, 9))])
    with pytest.raises(UserError, match=r"has objects of dirt.*data\.labelme\.other_categories"):
        planes(tmp_path, "cell")
    with pytest.raises(UserError, match=r"unknown category 'cel'.*Did you mean 'cell'"):
        planes(tmp_path, "cel", "dirt")


def test_shapes_without_an_area_alone_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a", [shape("cell", [[1, 1], [2, 2]], "linestrip")])
    with pytest.raises(UserError, match=r"no JSON of labelme has a shape .*linestrip"):
        detect(tmp_path)
