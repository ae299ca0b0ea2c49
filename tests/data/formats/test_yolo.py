"""YOLO's polygons: drawn as they were meant, parts as the YAML names them; what is none refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data import shapes, yolo_file
from distseg.data.check import mistakes
from distseg.data.detect import detect
from distseg.data.folds import assign_folds
from distseg.data.inspect import inspect
from distseg.data.layouts import layout, said, submission_of, with_own_split
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from distseg.submission.score import score_rows
from tests.data.data_helpers import gray, save
from tests.tiny import write_submission

YOLO = layout("yolo")
HEIGHT, WIDTH = 12, 20
Mask = NDArray[np.uint8]


def box(top: int, bottom: int, left: int, right: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def line(number: int, top: int, bottom: int, left: int, right: int) -> str:
    """The corners of a box, in shares of the image: what lies between them is its pixels."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    shares = [f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners]
    return f"{number} {' '.join(shares)}"


CAT, DOG, BOTH = line(0, 2, 7, 3, 9), line(1, 4, 11, 5, 19), line(1, 3, 5, 4, 6)
PLANES = {"a": (box(2, 7, 3, 9), box(4, 11, 5, 19)), "b": (box(2, 7, 3, 9), box(0, 0, 0, 0)),
          "c": (box(0, 0, 0, 0), box(0, 0, 0, 0)), "d": (box(0, 0, 0, 0), box(0, 0, 0, 0)),
          "e": (box(0, 0, 0, 0), box(3, 5, 4, 6) | box(4, 11, 5, 19))}  # fmt: skip
TEXTS: dict[str, str | None] = {
    "a": f"{CAT}\n{DOG}\n", "b": CAT, "c": "", "d": None, "e": f"\n{BOTH}\n{DOG}",
}  # fmt: skip
USUAL = {"path": ".", "train": "images/train", "val": "images/val", "names": ["cat", "dog"]}


def put(root: Path, part: str, texts: dict[str, str | None], style: str = "{kind}/{part}") -> None:
    for number, (name, text) in enumerate(texts.items()):
        folder = root / style.format(kind="images", part=part)
        save(folder / f"{name}.png", gray(number + 10 * len(part), HEIGHT, WIDTH))
        labels = root / style.format(kind="labels", part=part)
        labels.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (labels / f"{name}.txt").write_text(text)


def write(root: Path, name: str = "data.yaml", **keys: Any) -> Path:
    (root / name).write_text(yaml.safe_dump({**USUAL, **keys}))
    return root


def whole(root: Path, **keys: Any) -> Path:
    put(root, "train", TEXTS)
    put(root, "val", {"v": DOG, "w": CAT})
    return write(root, **keys)


def config_of(root: Path, task: str = "multilabel", **data: Any) -> Config:
    classes = ["background", "cat", "dog"] if task == "multiclass" else ["cat", "dog"]
    tree: dict[str, Any] = {
        "name": "t",
        "task": task,
        "classes": data.pop("classes", classes),
        "data": {"format": "yolo", "root": str(root), **data},
        "input": {"height": 32, "width": 32, "fit": "resize", "channels": 1},
        "members": {"a": {}},
        "stages": [{"loss": {"cross_entropy" if task == "multiclass" else "bce": 1.0}}],
    }
    return parse_config(tree, "t")


def planes(config: Config, number: int = 0) -> NDArray[np.uint8]:
    return read_target(YOLO.train(config)[number].target, config, HEIGHT, WIDTH)


# -- what is read ----------------------------------------------------------------------------------


def test_polygons_are_drawn_as_they_were_planted(tmp_path: Path) -> None:
    """Of one class and of several, that overlap; texts that are empty, or not there."""
    config = config_of(whole(tmp_path), folds={"kind": "split"})
    rows = YOLO.train(config)
    assert [row.id for row in rows] == [*TEXTS, "v", "w"]
    checked = inspect(config, rows)
    assert not checked.quarantine
    for row in checked.good[:5]:
        assert np.array_equal(read_target(row.target, config, HEIGHT, WIDTH), PLANES[row.id])
    folds = assign_folds(config, checked.good, checked.coverage, [], checked.together)
    assert folds == [-1] * 5 + [0, 0]
    assert not mistakes(config)


def test_numbers_are_shares_of_the_image_that_there_is(tmp_path: Path) -> None:
    config = config_of(whole(tmp_path))
    twice = read_target(YOLO.train(config)[0].target, config, 2 * HEIGHT, 2 * WIDTH)
    assert np.array_equal(twice, np.kron(PLANES["a"], np.ones((1, 2, 2), np.uint8)))


def test_classes_of_one_pixel(tmp_path: Path) -> None:
    root = whole(tmp_path)
    checked = inspect(config := config_of(root, "multiclass", allow_bad=True), YOLO.train(config))
    assert [bad[0] for bad in checked.quarantine] == ["a"]
    cat, dog = PLANES["a"]
    covered = planes(config_of(root, "multiclass", overlap="class"))[0]
    assert np.array_equal(covered, np.where(dog > 0, 2, cat))


def test_names_that_are_no_classes(tmp_path: Path) -> None:
    root = whole(tmp_path)
    with pytest.raises(UserError, match=r"has objects of dog, .*data\.yolo\.other_categories"):
        YOLO.train(config_of(root, "binary", classes=["cat"]))
    with pytest.raises(UserError, match=r"unknown category 'cow'.*Valid: cat, dog"):
        YOLO.train(config_of(root, "binary", classes=["cow"]))
    cat, dog = PLANES["a"]
    found = {
        meaning: planes(
            config_of(root, "binary", classes=["cat"], yolo={"other_categories": meaning})
        )[0]
        for meaning in ("background", "void")
    }
    assert np.array_equal(found["background"], cat)
    assert np.array_equal(found["void"], np.where(dog > 0, 255, cat))


def test_what_is_detected(tmp_path: Path) -> None:
    root = whole(tmp_path, names={0: "cat", 1: "big dog", 2: "cow"})
    found = detect(root)
    data = {"format": "yolo", "folds": {"kind": "split"}}
    assert found.keys == {"data": data, "task": "multilabel", "classes": ["cat", "big_dog"]}
    assert found.why.endswith("there are objects of 2 of its 3 names")
    put(root, "train", {"a": CAT, "e": CAT})
    put(root, "val", {"v": CAT})
    found = detect(write(root, names=["cat"]))
    assert (found.keys["task"], found.keys["classes"]) == ("binary", ["cat"])


# -- places ----------------------------------------------------------------------------------------


def test_roboflow_leads_out_of_the_folder_and_means_it(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        put(tmp_path, part, {f"{part}{n}": TEXTS[n] for n in TEXTS}, "{part}/{kind}")
    write(tmp_path, path="../datasets/x", **{
        key: f"../{part}/images" for key, part in (("train", "train"), ("val", "valid"),
                                                   ("test", "test"))})  # fmt: skip
    config = config_of(tmp_path)
    rows = YOLO.train(config)
    assert sum(row.validates for row in rows) == 5 and len(rows) == 10
    assert YOLO.has_split(config) and with_own_split(config).data.folds.kind == "split"
    assert [row.target for row in YOLO.test(config)] == [""] * 5
    truth = YOLO.test_truth(config)
    assert truth is not None and len(truth) == 5
    masks = {
        row.id: planes for row, planes in zip(truth, map(np.stack, PLANES.values()), strict=True)
    }
    spec = submission_of(config)
    write_submission(spec, tmp_path / "out", masks, "multilabel")
    assert score_rows(config, spec, tmp_path / "out", truth)["score"] == 1.0


def test_lists_of_images_and_of_folders(tmp_path: Path) -> None:
    put(tmp_path, "one", {"a": CAT, "b": DOG, "c": CAT})
    put(tmp_path, "two", {"d": CAT})
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("images/one/a.png\n./../images/one/b.png\n\n")
    root = write(tmp_path, path="/datasets/x", train=["lists/train.txt", "images/two"], val=None)
    assert [row.id for row in YOLO.train(config_of(root))] == ["a", "b", "d"]
    write(root, val=None, train=["images/one", "images"])  # of which each counts once
    assert [row.id for row in YOLO.train(config_of(root))] == ["a", "b", "c", "d"]
    write(root, val=None, train="lists/train.txt")
    (tmp_path / "lists/train.txt").write_text("images/one/a.png\nimages/one/none.png\n/etc/x.png\n")
    problems = [row.problem for row in YOLO.train(config_of(root))]
    assert problems[0] == "" and problems[1].startswith("no such file")
    assert "lies outside of data.root" in problems[2]


def test_ids_are_paths_where_stems_are_not_all_different(tmp_path: Path) -> None:
    put(tmp_path, "train/x", {"a": CAT})
    put(tmp_path, "train/y", {"a": DOG})
    put(tmp_path, "val", {"a": DOG})
    rows = YOLO.train(config_of(write(tmp_path)))
    assert [row.id for row in rows] == ["images_train_x_a", "images_train_y_a", "a"]
    put(tmp_path, "train/y", {"b": DOG})
    (tmp_path / "images/train/y/a.png").unlink()
    assert [row.id for row in YOLO.train(config_of(tmp_path))] == ["a", "b", "val_a"]


def test_two_images_of_one_text_are_set_aside(tmp_path: Path) -> None:
    root = whole(tmp_path)
    save(root / "images/train/a.bmp", gray(9, HEIGHT, WIDTH))
    bad = [row for row in YOLO.train(config_of(root)) if row.problem]
    assert [row.problem for row in bad] == ["a.bmp and a.png share a.txt"] * 2


def test_texts_beside_images(tmp_path: Path) -> None:
    for name in ("train", "val"):
        put(tmp_path, name, {f"{name}{n}": DOG for n in range(2)}, "{part}")
    rows = YOLO.train(config_of(write(tmp_path, train="train", val="val", path=None)))
    assert len(rows) == 4 and all("poly" in row.target for row in rows)


def test_a_part_that_is_another_is_none_of_its_own(tmp_path: Path) -> None:
    root = whole(tmp_path, val="images/train", test="images/none")
    config = config_of(root)
    assert not YOLO.has_split(config) and len(YOLO.train(config)) == 5
    notes = said(config)
    assert any("val has the images of train: no part of its own" in one for one in notes)
    assert any("no image is predicted: " in one and "no such folder" in one for one in notes)
    write(root, val=["images/train", "images/val"])
    with pytest.raises(UserError, match=r"val: 5 of its images are in train, too, as a\.png"):
        YOLO.train(config)


@pytest.mark.parametrize("place", ["/etc", "../../..", "../other/images", "images/link"])
def test_nothing_is_read_outside_of_the_folder(tmp_path: Path, place: str) -> None:
    root = tmp_path / "set"
    whole(root)
    put(tmp_path / "other", "", {"x": CAT}, "{kind}")
    (root / "images/link").symlink_to(tmp_path / "other/images")
    with pytest.raises(UserError, match=r"train: .*: (lies outside of data\.root|.*leaves)"):
        YOLO.train(config_of(write(root, train=place)))


def test_links_that_lead_out_are_set_aside(tmp_path: Path) -> None:
    root = tmp_path / "set"
    whole(root)
    put(tmp_path / "other", "", {"x": CAT}, "{kind}")
    (root / "labels/train/d.txt").symlink_to(tmp_path / "other/labels/x.txt")
    (root / "images/train/x.png").symlink_to(tmp_path / "other/images/x.png")
    bad = {row.id: row.problem for row in YOLO.train(config_of(root)) if row.problem}
    assert set(bad) == {"d", "x"} and all("leaves" in problem for problem in bad.values())


# -- what is refused -------------------------------------------------------------------------------

BAD_LINES: dict[str, tuple[str, str]] = {
    "a box": ("0 0.5 0.5 0.1 0.1", "a box, not a polygon"),
    "two corners": ("0 0.5 0.5", "2 numbers; valid: x and y of three corners or more"),
    "an odd number": ("0 .1 .1 .2 .2 .3 .3 .4", "7 numbers; valid"),
    "pixels": ("0 1 1 15 2 7 9", "15 is no share of the image"),
    "below 0": ("0 -0.2 .1 .2 .2 .3 .3", "-0.2 is no share of the image"),
    "another class": ("7 .1 .1 .2 .2 .3 .3", "class 7 is none of the 2 that `names` has"),
    "half a class": ("0.5 .1 .1 .2 .2 .3 .3", "class 0.5 is none"),
    "a word": ("cat .1 .1 .2 .2 .3 .3", "'cat .1 .1 .2 .2 .3 .3': valid: numbers"),
    "no number": ("0 nan .1 .2 .2 .3 .3", "nan is no share of the image"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_sets_its_image_aside(tmp_path: Path, name: str) -> None:
    text, why = BAD_LINES[name]
    root = whole(tmp_path)
    (root / "labels/train/b.txt").write_text(f"{CAT}\n{text}\n")
    bad = {row.id: row.problem for row in YOLO.train(config_of(root)) if row.problem}
    assert list(bad) == ["b"] and bad["b"].startswith(f"b.txt, line 2: {why}")


def test_a_share_that_was_rounded_is_moved_to_the_edge(tmp_path: Path) -> None:
    root = whole(tmp_path)
    (root / "labels/train/a.txt").write_text("0 -0.0004 0 1.0002 0 1 1.0001 0 1\n")
    assert planes(config_of(root))[0].all()


def test_texts_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = whole(tmp_path)
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe0")
    monkeypatch.setattr(yolo_file, "MAX_BYTES", len(f"{BOTH}\n{DOG}"))  # one less than e.txt has
    bad = {row.id: row.problem for row in YOLO.train(config_of(root)) if row.problem}
    assert set(bad) == {"a", "e"} and "UTF-8" in bad["a"] and "MiB" in bad["e"]


def test_an_outline_without_end_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "MAX_OUTLINE", 40)
    checked = inspect(config := config_of(whole(tmp_path), allow_bad=True), YOLO.train(config))
    assert {bad[0] for bad in checked.quarantine} == {"a", "e", "v"}  # those of a dog
    assert "a polygon has an outline of 42 pixels" in checked.quarantine[0][2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"train": "image/train"}, "train: .*image/train: no such folder"),
    "no images": ({"train": "labels/train"}, "train: 'labels/train': no image files there"),
    "no labels": ({"train": "images"}, "in train, too"),
    "a number": ({"train": 3}, "train: 3; valid: a path"),
    "no names": ({"names": {}}, "names: {}; valid"),
    "names by name": ({"names": {"cat": 0}}, "names: 'cat'; valid: numbers from 0"),
    "a name that is none": ({"names": [["cat"]]}, r"names\.0: \['cat'\]; valid: a text"),
    "a truth": ({"names": ["cat", True]}, r"names\.1: True; valid: a text"),
    "key points": ({"kpt_shape": [17, 3]}, "kpt_shape: the labels are boxes with key points"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_yaml_that_cannot_be_used_is_one_line(tmp_path: Path, name: str) -> None:
    keys, why = REFUSED[name]
    root = whole(tmp_path, **keys)
    for call in (lambda: detect(root), lambda: YOLO.train(config_of(root))):
        with pytest.raises(UserError, match=why) as raised:
            call()
        assert len(str(raised.value).splitlines()) == 1 and "data.yaml: " in str(raised.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.2 0.2\n", "each of 14 objects is a box, not a polygon"),
        ("", "no image has an object that can be used: the texts are empty"),
        ("9 .1 .1 .2 .2 .3 .3", "no image has an object that can be used: a.txt, line 1: class 9"),
    ],
)
def test_a_set_without_polygons_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    put(tmp_path, "train", dict.fromkeys(TEXTS, text))
    put(tmp_path, "val", dict.fromkeys("vw", text))
    with pytest.raises(UserError, match=why):
        detect(write(tmp_path))


def test_a_part_without_labels_is_no_part_without_objects(tmp_path: Path) -> None:
    root = whole(tmp_path)
    for path in (root / "labels/val").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"val: no image has labels: .*labels/val/v\.txt"):
        YOLO.train(config_of(root))


def test_which_yaml_is_meant(tmp_path: Path) -> None:
    root = whole(tmp_path)
    (root / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"(?s)no layout.*format=yolo: .*write a data\.yaml, as"):
        detect(root)
    write(root, "a.yaml")
    write(root, "b.yml", val=None)
    (root / "other.yaml").write_text("name: x\ntrain: {batch_size: 3}\n")
    with pytest.raises(UserError, match=r"data\.yolo\.yaml: a\.yaml and b\.yml may be it"):
        detect(root)
    assert len(YOLO.train(config_of(root, yolo={"yaml": "b.yml"}))) == 5
    for name, why in (("c.yaml", "no such file"), ("../x.yaml", "leaves its folder")):
        with pytest.raises(UserError, match=rf"data\.yolo\.yaml: .*{why}"):
            YOLO.train(config_of(root, yolo={"yaml": name}))


def test_a_yaml_of_aliases_is_refused(tmp_path: Path) -> None:
    root = whole(tmp_path)
    levels = "".join(f"k{n + 1}: &k{n + 1} [{', '.join([f'*k{n}'] * 10)}]\n" for n in range(9))
    (root / "data.yaml").write_text(f"train: a\nnames: [x]\nk0: &k0 [x]\n{levels}")
    with pytest.raises(UserError, match="no layout is recognized"):
        detect(root)
    with pytest.raises(UserError, match="aliases written out"):
        YOLO.train(config_of(root, yolo={"yaml": "data.yaml"}))
