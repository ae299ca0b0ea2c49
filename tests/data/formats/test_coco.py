"""COCO files: objects drawn as they were meant, parts as folds; damaged files refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as pycoco

from distseg.cli import main
from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data import coco_file, shapes
from distseg.data.coco_file import read_coco
from distseg.data.detect import detect
from distseg.data.folds import assign_folds
from distseg.data.formats.row import Row
from distseg.data.inspect import inspect
from distseg.data.layouts import layout, submission_of
from distseg.data.read_target import read_target
from distseg.data.shapes import draw_shapes
from distseg.records.errors import UserError
from distseg.submission.score import score_rows
from tests.data.data_helpers import gray, save
from tests.tiny import write_submission

COCO = layout("coco")
HEIGHT, WIDTH = 12, 20
VOID = 255
Mask = NDArray[np.uint8]
Tree = dict[str, Any]


def config_of(root: Path, task: str = "multilabel", **data: Any) -> Config:
    animals = ["cat", "dog"]
    classes = {"binary": ["cell"], "multilabel": animals, "multiclass": ["background", *animals]}
    tree: Tree = {
        "name": "t",
        "task": task,
        "classes": data.pop("classes", classes[task]),
        "data": {"format": "coco", "root": str(root), **data},
        "input": {"height": 32, "width": 32, "fit": "resize"},
        "members": {"a": {}},
        "stages": [{"loss": {"cross_entropy" if task == "multiclass" else "bce": 1.0}}],
    }
    return parse_config(tree, "t")


def box(top: int, bottom: int, left: int, right: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def polygon(top: int, bottom: int, left: int, right: int) -> list[float]:
    """The corners of a box: what lies between them is its pixels."""
    return [left, top, right, top, right, bottom, left, bottom]


def counts(mask: Mask) -> list[int]:
    """Uncompressed run lengths, pixel by pixel down the columns; the first is of background."""
    found, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            value = pixel
            found.append(0)
        found[-1] += 1
    return found


def rle(mask: Mask) -> Tree:
    return {"size": [HEIGHT, WIDTH], "counts": counts(mask)}


def compressed(mask: Mask) -> Tree:
    made = pycoco.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": made["counts"].decode()}


def tree(names: list[str], objects: list[tuple[int, int, Any, int]]) -> Tree:
    """images 10, 11, ...; categories 3 cat and 7 dog; objects: (image, category, shape, crowd)."""
    return {
        "info": {"description": "made"},
        "images": [
            {"id": 10 + i, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "segmentation": s, "iscrowd": crowd,
             "area": 1, "bbox": [0, 0, 1, 1]}
            for n, (i, c, s, crowd) in enumerate(objects)
        ],
    }  # fmt: skip


def pictures(folder: Path, names: list[str], seed: int = 0) -> None:
    for number, name in enumerate(names):
        save(folder / name, gray(seed + number, HEIGHT, WIDTH))


TRAIN = [f"t{n}.png" for n in range(6)]
OBJECTS: list[tuple[int, int, Any, int]] = [
    (10, 3, [polygon(1, 4, 2, 7), polygon(8, 11, 2, 7)], 0),  # an object of two parts
    (10, 3, [polygon(3, 6, 5, 9)], 0),  # a second one that overlaps it
    (11, 7, rle(box(0, 5, 12, 20)), 0),
    (11, 3, compressed(box(6, 12, 0, 4)), 0),
    (12, 3, [polygon(0, 12, 0, 20)], 0),  # the whole image
    (13, 7, [polygon(2, 9, 3, 9)], 0),
    (13, 7, rle(box(0, 12, 14, 20)), 1),  # a crowd
    (15, 7, compressed(box(5, 6, 0, 20)), 0),  # image 14 has none
]
PLANES = {  # cat, dog, void
    "t0": (box(1, 4, 2, 7) | box(8, 11, 2, 7) | box(3, 6, 5, 9), box(0, 0, 0, 0), box(0, 0, 0, 0)),
    "t1": (box(6, 12, 0, 4), box(0, 5, 12, 20), box(0, 0, 0, 0)),
    "t2": (box(0, 12, 0, 20), box(0, 0, 0, 0), box(0, 0, 0, 0)),
    "t3": (box(0, 0, 0, 0), box(2, 9, 3, 9), box(0, 12, 14, 20)),
    "t4": (box(0, 0, 0, 0), box(0, 0, 0, 0), box(0, 0, 0, 0)),
    "t5": (box(0, 0, 0, 0), box(5, 6, 0, 20), box(0, 0, 0, 0)),
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def whole(root: Path) -> None:
    """COCO's own places: annotations/, train2017/ and so on, captions beside the objects."""
    notes = root / "annotations"
    write(notes / "instances_train2017.json", tree(TRAIN, OBJECTS))
    write(notes / "instances_val2017.json", tree(["v0.png", "v1.png"], OBJECTS[:3]))
    write(notes / "captions_train2017.json", {"images": [], "annotations": []})
    test = tree(["z.png", "y.png"], [])
    del test["annotations"]
    write(notes / "image_info_test2017.json", test)
    pictures(root / "train2017", TRAIN)
    pictures(root / "val2017", ["v0.png", "v1.png"], 20)
    pictures(root / "test2017", ["y.png", "z.png"], 30)


def expected(task: str, name: str) -> Mask:
    cat, dog, void = PLANES[name]
    labels = {
        "binary": (cat | dog)[None],
        "multilabel": np.stack([cat, dog]),
        "multiclass": (cat + 2 * dog)[None],
    }[task]
    return np.where(void > 0, VOID, labels).astype(np.uint8)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_objects_are_drawn_as_they_were_planted(tmp_path: Path, task: str) -> None:
    """Polygons of several parts, run lengths of both kinds, crowds, and an image without any."""
    whole(tmp_path)
    config = config_of(tmp_path, task, folds={"kind": "split"})
    rows = COCO.train(config)
    assert [row.id for row in rows] == [*PLANES, "v0", "v1"]
    checked = inspect(config, rows)
    assert not checked.quarantine and len(checked.good) == 8
    for row in checked.good[:6]:
        target = read_target(row.target, config, HEIGHT, WIDTH)
        assert np.array_equal(target, expected(task, row.id)), row.id
    folds = assign_folds(config, checked.good, checked.coverage, [], checked.together)
    assert folds == [-1] * 6 + [0, 0]
    tests = COCO.test(config)
    assert [(row.id, Path(row.image).name) for row in tests] == [("z", "z.png"), ("y", "y.png")]
    assert COCO.test_truth(config) is None


def test_the_categories_of_a_binary_set(tmp_path: Path) -> None:
    """One category is the object, whatever its name; of several the config says which."""
    pictures(tmp_path / "images", TRAIN)
    write(tmp_path / "all.json", tree(TRAIN, OBJECTS[:2]))
    config = config_of(tmp_path, "binary")
    target = read_target(COCO.train(config)[0].target, config, HEIGHT, WIDTH)
    assert np.array_equal(target, expected("binary", "t0"))
    write(tmp_path / "all.json", tree(TRAIN, OBJECTS))
    with pytest.raises(UserError, match=r"unknown category 'cell'.*Valid: cat, dog"):
        COCO.train(config)
    with pytest.raises(UserError, match=r"objects of dog, which are no classes.*other_categories"):
        COCO.train(config_of(tmp_path, "binary", classes=["cat"]))
    options = {"classes": ["cat"], "coco": {"other_categories": "background"}}
    config = config_of(tmp_path, "binary", **options)
    rows = {row.id: row for row in COCO.train(config)}
    target = read_target(rows["t1"].target, config, HEIGHT, WIDTH)
    assert np.array_equal(target[0], PLANES["t1"][0])
    options = {"classes": ["cat"], "coco": {"other_categories": "void"}}
    config = config_of(tmp_path, "binary", **options)
    rows = {row.id: row for row in COCO.train(config)}
    target = read_target(rows["t1"].target, config, HEIGHT, WIDTH)
    assert np.array_equal(target[0], np.where(PLANES["t1"][1] > 0, VOID, PLANES["t1"][0]))


def test_classes_that_overlap(tmp_path: Path) -> None:
    objects = [*OBJECTS, (10, 7, [polygon(2, 10, 3, 6)], 0)]
    pictures(tmp_path / "images", TRAIN)
    write(tmp_path / "all.json", tree(TRAIN, objects))
    config = config_of(tmp_path, "multiclass", allow_bad=True)
    checked = inspect(config, COCO.train(config))
    assert [bad[0] for bad in checked.quarantine] == ["t0"]
    assert "pixels are of cat and of dog" in checked.quarantine[0][2]
    config = config_of(tmp_path, "multiclass", overlap="class")
    target = read_target(COCO.train(config)[0].target, config, HEIGHT, WIDTH)
    assert np.array_equal(target[0], np.where(box(2, 10, 3, 6) > 0, 2, PLANES["t0"][0]))
    both = config_of(tmp_path, "multilabel")
    target = read_target(COCO.train(both)[0].target, both, HEIGHT, WIDTH)
    assert np.array_equal(target, [PLANES["t0"][0], box(2, 10, 3, 6)])


def test_drawing_is_that_of_pycocotools() -> None:
    """Any polygons together and any run lengths, against the library's own way."""
    rng = np.random.default_rng(0)
    for number in range(40):
        height, width = rng.integers(5, 60, 2).tolist()
        corners = [
            (rng.random(2 * int(rng.integers(3, 9))) * np.resize([width, height], 2)[0]).clip(
                0, None
            )
            for _ in range(1 + number % 5 * 20)
        ]
        outlines = [np.round(one, 2).tolist() for one in corners]
        for one in outlines:
            one[::2] = np.clip(one[::2], 0, width).tolist()
            one[1::2] = np.clip(one[1::2], 0, height).tolist()
        wanted = pycoco.decode(pycoco.merge(pycoco.frPyObjects(outlines, height, width)))
        texts = [shapes.polygon(one, height, width) for one in outlines]
        drawn, void = draw_shapes(f"{height}x{width}:{';'.join(texts)}|", height, width)
        assert np.array_equal(drawn, wanted) and not void.any()
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        packed = pycoco.encode(np.asfortranarray(mask))["counts"].decode()
        record = {"size": [height, width], "counts": packed}
        text = coco_file._run_lengths(record, height, width)
        assert np.array_equal(draw_shapes(f"{height}x{width}:{text}|", height, width)[0], mask)


def test_places_that_people_have(tmp_path: Path) -> None:
    """A JSON beside its images in each folder, the same names in all; file_name with folders."""
    for part in ("train", "valid", "test"):
        names = ["0.png", "1.png"]
        pictures(tmp_path / part, names, len(part))
        write(tmp_path / part / "_annotations.coco.json", tree(names, OBJECTS[:4]))
    config = config_of(tmp_path)
    rows = COCO.train(config)
    assert [(row.id, row.validates) for row in rows] == [
        ("0", False), ("1", False), ("val_0", True), ("val_1", True),
    ]  # fmt: skip
    assert [Path(row.image).parent.name for row in rows] == ["train", "train", "valid", "valid"]
    truth = COCO.test_truth(config)
    assert truth is not None and [Path(row.image).parent.name for row in truth] == ["test"] * 2
    assert [row.target for row in COCO.test(config)] == ["", ""]
    other = tmp_path / "other"
    write(other / "labels.json", tree(["a/0.png", "b/0.png"], OBJECTS[:4]))
    pictures(other / "pictures" / "a", ["0.png"])
    pictures(other / "pictures" / "b", ["0.png"], 5)
    found = COCO.train(config_of(other))
    assert [row.id for row in found] == ["a_0", "b_0"] and not any(row.problem for row in found)
    assert [Path(row.image).parent.name for row in found] == ["a", "b"]


@pytest.mark.parametrize("per_object", [False, True])
def test_a_submission_and_its_score(tmp_path: Path, per_object: bool) -> None:
    """The truth of the test images, written as a submission, scores 1."""
    whole(tmp_path)
    shutil.rmtree(tmp_path / "test2017")
    (tmp_path / "annotations" / "image_info_test2017.json").unlink()
    write(tmp_path / "annotations" / "instances_test.json", tree(TRAIN, OBJECTS))
    pictures(tmp_path / "test2017", TRAIN, 40)
    config = config_of(tmp_path, coco={"submission": "rle", "images": "train2017"})
    update = {"submission": config.submission.model_copy(update={"per_object": per_object})}
    config = config.model_copy(update=update)
    truth, spec = COCO.test_truth(config), submission_of(config)
    assert truth is not None and spec.class_ids == ("cat", "dog")
    masks = {name: np.stack(planes[:2]) for name, planes in PLANES.items()}
    write_submission(spec, tmp_path / "s.csv", masks, "multilabel")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 2 + per_object  # the cats of t0 are two connected parts
    assert score_rows(config, spec, tmp_path / "s.csv", truth)["score"] == 1.0


# -- damaged and hostile files --------------------------------------------------------------------


def put(*keys: str | int, value: Any) -> Callable[[Tree], Any]:
    """A change of one value of the JSON."""

    def edit(content: Tree) -> Tree:
        node: Any = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return content

    return edit


def again(key: str) -> Callable[[Tree], Any]:
    return lambda content: {**content, key: [*content[key], content[key][0]]}


FIRST = ("annotations", 0)
DAMAGED: dict[str, tuple[Callable[[Tree], Any], str]] = {
    "no JSON": (lambda content: "{", "cannot be read as JSON"),
    "a list": (lambda content: [content], "is no COCO file"),
    "no images": (lambda content: {}, "is no COCO file"),
    "images of no kind": (put("images", value={}), "images is {}; valid: a list"),
    "an image of no kind": (put("images", 0, value=3), r"images\[0\]: is 3; valid: a mapping"),
    "no image": (put("images", value=[]), r"annotations\[0\]: image_id 10 is that of no image"),
    "an image twice": (again("images"), r"images\[6\]: id 10 stands twice"),
    "a file twice": (
        put("images", 1, "file_name", value="t0.png"),
        r"images\[1\]: file_name 't0.png' stands twice",
    ),
    "a file of no name": (put("images", 0, "file_name", value=None), "file_name is None"),
    "a height of no kind": (put("images", 0, "height", value="12"), "height is '12'"),
    "a height below 1": (put("images", 0, "height", value=0), "height is 0; valid: a whole"),
    "NaN as a height": (put("images", 0, "height", value=math.nan), "holds NaN, which is no num"),
    "infinity": (put(*FIRST, "area", value=math.inf), "holds Infinity, which is no number"),
    "no annotations": (lambda content: content.pop("annotations") and content, "no list `annot"),
    "an object twice": (again("annotations"), r"annotations\[8\]: id 0 stands twice"),
    "an unknown image": (put(*FIRST, "image_id", value=99), "image_id 99 is that of no image"),
    "an unknown category": (put(*FIRST, "category_id", value=4), "category_id 4 is that of no"),
    "a true category": (put(*FIRST, "category_id", value=True), "category_id is True; valid"),
    "a category twice": (again("categories"), r"categories\[2\]: 3, 'cat' stands twice"),
    "a category of another name": (
        put("categories", 1, "name", value="Dog"),
        r"classes: .*unknown category 'dog'\. Did you mean 'Dog'",
    ),
    "a nested list": (lambda content: "[" * 200_000, "nested too deeply"),
    "a long number": (lambda content: '{"images": ' + "9" * 5000 + "}", "cannot be read as JSON"),
    "no text": (lambda content: "\udcff", "cannot be read as JSON"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    edit, said = DAMAGED[name]
    pictures(tmp_path / "images", TRAIN)
    content = edit(tree(TRAIN, OBJECTS))
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "all.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=said) as raised:
        COCO.train(config_of(tmp_path))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_VALUES"])
def test_a_file_that_is_too_large_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    pictures(tmp_path / "images", TRAIN)
    write(tmp_path / "all.json", tree(TRAIN, OBJECTS))
    monkeypatch.setattr(coco_file, limit, 20)
    with pytest.raises(UserError, match=r"has more than|at most 20 are read"):
        read_coco(tmp_path / "all.json", 1000)


BAD_OBJECTS: dict[str, tuple[Any, str]] = {
    "no shape": (None, "segmentation is None; valid: polygons or an RLE"),
    "no polygon": ([], r"segmentation is \[\]"),
    "two corners": ([[1, 1, 5, 5]], "three corners or more"),
    "an odd number": ([[1, 1, 5, 5, 3, 3, 2]], "three corners or more"),
    "a text": ([[1, 1, 5, 5, "3", 3]], "the coordinate '3'; valid: numbers"),
    "a truth": ([[1, 1, 5, 5, True, 3]], "the coordinate True; valid: numbers"),
    "beyond the image": ([[1, 1, 30, 1, 5, 5]], "the corner 30, 1, outside of 12x20"),
    "before the image": ([[1, 1, -7.5, 1, 5, 5]], r"the corner -7\.5, 1, outside of 12x20"),
    "a huge number": ([[1, 1, 1e300, 1, 5, 5]], r"1e\+300, outside of 12x20"),
    "another size": ({"size": [20, 12], "counts": [240]}, r"the size \[20, 12\], its image"),
    "too few pixels": ({"size": [12, 20], "counts": [239]}, "an RLE of 239 pixels"),
    "a length below 0": ({"size": [12, 20], "counts": [250, -10]}, "a length below 0"),
    "a real length": ({"size": [12, 20], "counts": [1.5, 238.5]}, r"has counts \[1\.5"),
    "no compressed text": ({"size": [12, 20], "counts": "\x01"}, "is no compressed RLE"),
    "half a number": ({"size": [12, 20], "counts": "P"}, "ends within a number"),
    "a length of 2^60": ({"size": [12, 20], "counts": "PPPPPPPPPPPP1"}, "no compressed RLE"),
    "a compressed length below 0": ({"size": [12, 20], "counts": "O"}, "a length below 0"),
    "a long text": ({"size": [12, 20], "counts": "0" * 9000}, "an RLE of 9,000 characters"),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_an_image_with_a_bad_object_is_set_aside(tmp_path: Path, name: str) -> None:
    shape, said = BAD_OBJECTS[name]
    pictures(tmp_path / "images", TRAIN)
    write(tmp_path / "all.json", tree(TRAIN, [*OBJECTS, (14, 3, shape, 0)]))
    config = config_of(tmp_path, allow_bad=True)
    rows = {row.id: row for row in COCO.train(config)}
    assert [row.id for row in rows.values() if row.problem] == ["t4"]
    with pytest.raises(UserError, match=said):
        raise UserError(rows["t4"].problem)
    assert rows["t4"].problem.startswith("all.json: annotations[8]: ")


def test_limits_of_a_polygon_and_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies up to a pixel outside is moved to the edge; an outline without end is refused."""
    pictures(tmp_path / "images", TRAIN)
    near = [-0.6, -0.4, 20.5, -0.4, 20.5, 12.3, -0.6, 12.3]
    write(tmp_path / "all.json", tree(TRAIN, [*OBJECTS, (14, 3, [near], 0)]))
    config = config_of(tmp_path)
    rows = {row.id: row for row in COCO.train(config)}
    assert read_target(rows["t4"].target, config, HEIGHT, WIDTH)[0].all()
    monkeypatch.setattr(shapes, "MAX_OUTLINE", 50)
    write(tmp_path / "all.json", tree(TRAIN, [*OBJECTS, (14, 3, [near * 3], 0)]))
    problems = [row.problem for row in COCO.train(config) if row.problem]
    assert any("a polygon has an outline of" in one for one in problems)
    small = config_of(tmp_path, max_pixels=100)
    assert all("more than data.max_pixels, 100" in row.problem for row in COCO.train(small))


def test_labels_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "images", TRAIN)
    content = tree(TRAIN, OBJECTS[:2])
    content["images"][4]["height"] = HEIGHT + 1
    content["images"][3] |= {"height": WIDTH, "width": HEIGHT}
    write(tmp_path / "all.json", content)
    config = config_of(tmp_path, "binary", allow_bad=True)
    bad = {name: reason for name, _, reason in inspect(config, COCO.train(config)).quarantine}
    assert bad.keys() == {"t3", "t4"}
    assert "the labels are for 13x20, the image is 12x20" in bad["t4"]
    assert "EXIF turns the picture, but not its labels" in bad["t3"]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hosts", "a/../../secret.png", "..\\x", "."]
)
def test_a_file_name_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    pictures(tmp_path, ["secret.png"])
    pictures(root / "images", TRAIN)
    content = tree(TRAIN, OBJECTS)
    content["images"][4]["file_name"] = name
    write(root / "all.json", content)
    config = config_of(root, coco={"images": "images"}, allow_bad=True)
    problems = [row.problem for row in COCO.train(config) if row.problem]
    said = ("leaves its folder", "no name in UTF-8", "too long for a file name")
    assert len(problems) == 1 and any(one in problems[0] for one in said)
    assert all(Path(row.image).is_relative_to(root) for row in COCO.train(config))


def test_an_image_with_two_names_is_set_aside(tmp_path: Path) -> None:
    """Its objects would be divided among two rows."""
    pictures(tmp_path / "images", TRAIN)
    content = tree([*TRAIN, "t1"], OBJECTS)
    write(tmp_path / "all.json", content)
    problems = {row.id: row.problem for row in COCO.train(config_of(tmp_path)) if row.problem}
    assert len(problems) == 2
    assert all("t1.png is called 't1.png' and 't1'" in one for one in problems.values())


def test_which_file_and_which_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "images", TRAIN)
    with pytest.raises(UserError, match=r"data\.coco\.train: no JSON .* name it"):
        COCO.train(config_of(tmp_path))
    write(tmp_path / "a.json", tree(TRAIN, OBJECTS))
    write(tmp_path / "b.json", tree(TRAIN, OBJECTS))
    with pytest.raises(UserError, match=r"data\.coco\.train: a\.json and b\.json may be it"):
        COCO.train(config_of(tmp_path))
    good: list[Row] = COCO.train(config_of(tmp_path, coco={"train": "b.json"}))
    assert len(good) == 6
    shutil.copytree(tmp_path / "images", tmp_path / "pictures")
    with pytest.raises(UserError, match=r"data\.coco\.images: .*say which is meant"):
        COCO.train(config_of(tmp_path, coco={"train": "b.json"}))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: t\ntask: multilabel\nclasses: [cat, dog]\ndata:\n  root: {tmp_path}\n"
        "  format: coco\n  coco: {train: c.json, images: pictures}\n  csv: {base: 1}\n"
        "members: {a: {}}\nsubmission: {per_object: true}\n"
    )
    assert main(["inspect", str(config)]) == 2
    lines = capsys.readouterr().err
    assert "data.coco.train: " in lines and "c.json: no such file" in lines
    assert "data.csv.base: format: coco does not read it; it is for format: table" in lines


def test_a_folder_with_a_json_is_detected(tmp_path: Path) -> None:
    assert COCO.detect(tmp_path) is None
    whole(tmp_path)
    keys = {"data": {"format": "coco", "folds": {"kind": "split"}}, "task": "multilabel"}
    assert detect(tmp_path).keys == {**keys, "classes": ["cat", "dog"]}
    config = config_of(tmp_path)
    assert COCO.has_split(config)
    assert [line.split(":")[0] for line in COCO.said(config)] == ["test", "train", "val"]
    assert "(6 images, 9 shapes)" in COCO.said(config)[1]


def test_a_category_is_found_by_its_name_or_its_id(tmp_path: Path) -> None:
    pictures(tmp_path / "images", TRAIN)
    content = tree(TRAIN, OBJECTS)
    content["categories"] = [{"id": 3, "name": "traffic light"}, {"id": 7, "name": "犬"}]
    write(tmp_path / "all.json", content)
    config = config_of(tmp_path, classes=["traffic_light", "7"])
    assert COCO.detect(tmp_path).keys["classes"] == config.classes
    rows = {row.id: row for row in COCO.train(config)}
    for name in PLANES:
        target = read_target(rows[name].target, config, HEIGHT, WIDTH)
        assert np.array_equal(target, expected("multilabel", name))
