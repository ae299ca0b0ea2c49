"""Layouts of Severstal, Tianchi, Oxford-IIIT Pet and CamVid: both directions, good and bad rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.folds import assign_folds
from distseg.data.formats import layout
from distseg.data.formats.row import SubmissionSpec
from distseg.data.inspect import inspect
from distseg.data.read_target import read_target
from distseg.functional.rle import encode
from distseg.records.errors import UserError
from distseg.submission.read import open_masks
from distseg.submission.score import score_rows, score_submission
from distseg.submission.write import ShareWriter
from tests.tiny import write_submission

CLASSES = {"severstal": ["d1", "d2", "d3", "d4"], "camvid": ["sky", "road", "car"]}
TASKS = {"severstal": "multilabel", "camvid": "multiclass"}


def config_of(form: str, root: Path, **data: Any) -> Config:
    tree = {
        "name": "t",
        "task": TASKS.get(form, "binary"),
        "classes": CLASSES.get(form, ["thing"]),
        "void": 11 if form == "camvid" else None,
        "data": {"format": form, "root": str(root), **data},
        "input": {"height": 32, "width": 32, "fit": "resize"},
        "members": {"a": {}},
        "stages": [{"loss": {"cross_entropy" if form == "camvid" else "bce": 1.0}}],
    }
    return parse_config(tree, "t")


def brute_decode(text: str, height: int, width: int) -> np.ndarray:
    """Pixel by pixel, as the competitions' pages describe it."""
    mask = np.zeros((height, width), dtype=np.uint8)
    numbers = [int(part) for part in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for position in range(start - 1, start - 1 + length):
            mask[position % height, position // height] = 1
    return mask


def save_image(path: Path, height: int = 16, width: int = 24, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def severstal(root: Path) -> dict[str, dict[int, np.ndarray]]:
    """Three images, the second without a defect; both forms of the table."""
    masks: dict[str, dict[int, np.ndarray]] = {"a.jpg": {}, "b.jpg": {}, "c.jpg": {}}
    for number, (name, kinds) in enumerate([("a.jpg", (1, 3)), ("c.jpg", (4,))]):
        for kind in kinds:
            mask = np.zeros((16, 24), dtype=np.uint8)
            mask[2 + number : 9, kind : kind + 7] = 1
            masks[name][kind] = mask
    four, three = ["ImageId_ClassId,EncodedPixels"], ["ImageId,ClassId,EncodedPixels"]
    for number, name in enumerate(masks):
        save_image(root / "train_images" / name, seed=number)
        for kind in range(1, 5):
            text = encode(masks[name][kind]) if kind in masks[name] else ""
            four.append(f"{name}_{kind},{text}")
            three += [f"{name},{kind},{text}"] if text else []
    (root / "train.csv").write_text("\n".join(four) + "\n")
    (root / "three.csv").write_text("\n".join(three) + "\n")
    lines = ["ImageId_ClassId,EncodedPixels"]
    for number, name in enumerate(["z.jpg", "y.jpg"]):
        save_image(root / "test_images" / name, seed=10 + number)
        lines += [f"{name}_{kind},1 1" for kind in range(1, 5)]
    (root / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    return masks


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
    size = {"height": 16, "width": 24}
    assert score_submission(apart, joined, "mean_dice", **size)["per_class"] == [1.0] * 4
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
        ("a.jpg_1,1 3", "stands twice"),
        ("../a.jpg_1,1 3", "no image"),
    ],
)
def test_bad_lines_of_severstal_go_to_quarantine(tmp_path: Path, line: str, said: str) -> None:
    severstal(tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write(line + "\n")
    config = config_of("severstal", tmp_path)
    checked = inspect(config, layout("severstal").train(config))
    assert any(said in bad[2] and "line 14" in bad[2] for bad in checked.quarantine)
    assert {row.id for row in checked.good} >= {"b.jpg", "c.jpg"}


def tianchi(root: Path) -> list[np.ndarray]:
    masks, lines = [], []
    for number in range(3):
        mask = np.zeros((16, 24), dtype=np.uint8)
        mask[number * 3 : 12, 4:9] = number < 2
        masks.append(mask)
        save_image(root / "train" / f"B{number}.jpg", seed=number)
        lines.append(f"B{number}.jpg\t{encode(mask)}")
    (root / "train_mask.csv").write_text("\n".join(lines) + "\n")
    for name in ("T1.jpg", "T0.jpg"):
        save_image(root / "test_a" / name, seed=ord(name[1]))
    (root / "test_a_samplesubmit.csv").write_text("T1.jpg\t\nT0.jpg\t\n")
    return masks


def test_tianchi_reads_and_writes_tabs_without_a_header(tmp_path: Path) -> None:
    masks = tianchi(tmp_path)
    config = config_of("tianchi", tmp_path)
    rows = layout("tianchi").train(config)
    for row, mask in zip(rows, masks, strict=True):
        assert not row.problem and np.array_equal(read_target(row.target, config, 16, 24)[0], mask)
    made = {"T0.jpg": masks[0][None], "T1.jpg": masks[2][None]}
    write_submission(layout("tianchi").submission(config), tmp_path / "s.csv", made)
    assert (tmp_path / "s.csv").read_text() == f"T1.jpg\t\nT0.jpg\t{encode(masks[0])}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [("X.jpg\t1 3\n", "no image X.jpg"), ("../B0.jpg\t1 3\n", "leaves its folder")],
)
def test_bad_lines_of_tianchi(tmp_path: Path, line: str, said: str) -> None:
    tianchi(tmp_path)
    with (tmp_path / "train_mask.csv").open("a") as file:
        file.write(line)
    rows = layout("tianchi").train(config_of("tianchi", tmp_path))
    assert sum(bool(row.problem) for row in rows) == 1 and said in rows[-1].problem


def test_a_comma_table_is_no_tianchi_table(tmp_path: Path) -> None:
    tianchi(tmp_path)
    (tmp_path / "train_mask.csv").write_text("B0.jpg\t1 3\tx\n")
    with pytest.raises(UserError, match="3 cells"):
        layout("tianchi").train(config_of("tianchi", tmp_path))


def test_a_cut_table_of_severstal_is_no_empty_mask(tmp_path: Path) -> None:
    severstal(tmp_path)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:-1]) + "\n")
    last = lines[-1].partition(",")[0]
    rows = {row.id: row for row in layout("severstal").train(config_of("severstal", tmp_path))}
    problems = [row.problem for row in rows.values() if row.problem]
    assert problems == [f"train.csv: no row {last}; each class has one"]


def test_a_list_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "annotations" / "test.txt").write_text("../../cat_3 1 1 1\n")
    with pytest.raises(UserError, match=r"test\.txt, line 1: '\.\./\.\./cat_3\.jpg' is no plain"):
        layout("oxford_pet").test(config_of("oxford_pet", tmp_path))
    spec = SubmissionSpec("masks", ids=["../evil"])
    with pytest.raises(UserError, match="leaves its folder"):
        ShareWriter(spec, tmp_path / "out" / "masks")


def pets(root: Path) -> np.ndarray:
    trimap = np.full((16, 24), 2, dtype=np.uint8)
    trimap[4:12, 4:12], trimap[6:10, 6:10] = 3, 1
    for number, name in enumerate(("cat_1", "dog_2", "cat_3")):
        save_image(root / "images" / f"{name}.jpg", seed=number)
        path = root / "annotations" / "trimaps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(trimap).save(path)
    (root / "annotations" / "trainval.txt").write_text("# list\ncat_1 1 1 1\ndog_2 2 2 1\n")
    (root / "annotations" / "test.txt").write_text("cat_3 1 1 1\n")
    return trimap


@pytest.mark.parametrize(("border", "value"), [("pet", 1), ("background", 0), ("ignore", 255)])
def test_the_border_of_a_trimap_is_what_the_config_says(
    tmp_path: Path, border: str, value: int
) -> None:
    trimap = pets(tmp_path)
    config = config_of("oxford_pet", tmp_path, border=border)
    rows = layout("oxford_pet").train(config)
    assert [row.id for row in rows] == ["cat_1", "dog_2"]
    target = read_target(rows[0].target, config, 16, 24)[0]
    assert set(target[trimap == 3]) == {value}
    assert set(target[trimap == 1]) == {1} and set(target[trimap == 2]) == {0}
    assert [row.id for row in layout("oxford_pet").test(config)] == ["cat_3"]
    assert layout("oxford_pet").submission(config).kind == "masks"


def test_pets_without_an_image_or_a_trimap_are_quarantined(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "images" / "cat_1.jpg").unlink()
    (tmp_path / "annotations" / "trimaps" / "dog_2.png").unlink()
    rows = layout("oxford_pet").train(config_of("oxford_pet", tmp_path))
    assert "no image cat_1.jpg" in rows[0].problem and "line 2" in rows[0].problem
    assert "no trimap dog_2.png" in rows[1].problem


def test_a_trimap_value_without_a_meaning_is_named(tmp_path: Path) -> None:
    pets(tmp_path)
    path = tmp_path / "annotations" / "trimaps" / "cat_1.png"
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(path)
    config = config_of("oxford_pet", tmp_path)
    with pytest.raises(UserError, match="value 7 has no meaning"):
        read_target(f"file:{path}", config, 16, 24)


def test_mask_values_translate_any_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 100, 200]], np.uint8)).save(path)
    config = config_of("folder", tmp_path, mask_values={0: 0, 100: 255, 200: 1})
    assert read_target(f"file:{path}", config, 1, 3).tolist() == [[[0, 255, 1]]]


def camvid(root: Path) -> None:
    for part, num in (("train", 4), ("val", 2), ("test", 1)):
        for number in range(num):
            seed = number + 10 * len(part)
            save_image(root / part / f"{part}{number}.png", seed=seed)
            if part != "test":
                labels = np.random.default_rng(seed).integers(0, 4, (16, 24), dtype=np.uint8)
                labels[labels == 3] = 11
                path = root / f"{part}annot" / f"{part}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(path)


def test_camvid_validates_its_own_part_and_void_counts_nowhere(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"})
    rows = layout("camvid").train(config)
    folds = assign_folds(config, rows, np.zeros((6, 3)), [""] * 6, [row.id for row in rows])
    assert folds == [-1] * 4 + [0] * 2
    labels = np.asarray(Image.open(rows[0].target.removeprefix("file:")))
    target = read_target(rows[0].target, config, 16, 24)[0]
    assert np.array_equal(target == 255, labels == 11) and target.min() == 0
    assert np.array_equal(target[labels < 3], labels[labels < 3])
    assert layout("camvid").submission(config).ids == ["test0"]


def test_a_limit_cuts_each_part_of_camvid(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"}, limit=1)
    rows = layout("camvid").train(config)
    assert [(row.id, row.validates) for row in rows] == [("train0", False), ("val0", True)]
    ids = [row.id for row in rows]
    assert assign_folds(config, rows, np.zeros((2, 3)), [""] * 2, ids) == [-1, 0]


def test_a_twin_of_a_validated_image_does_not_train(tmp_path: Path) -> None:
    camvid(tmp_path)
    config = config_of("camvid", tmp_path, folds={"kind": "split"})
    rows = layout("camvid").train(config)
    keys = [row.id for row in rows]
    keys[0] = keys[-1]  # byte-identical images
    assert assign_folds(config, rows, np.zeros((6, 3)), [""] * 6, keys)[0] == 0


def test_split_needs_a_validation_part(tmp_path: Path) -> None:
    tianchi(tmp_path)
    config = config_of("tianchi", tmp_path, folds={"kind": "split"})
    rows = layout("tianchi").train(config)
    with pytest.raises(UserError, match="no validation part"):
        assign_folds(config, rows, np.zeros((3, 1)), [""] * 3, ["1", "2", "3"])


@pytest.mark.parametrize(
    ("form", "train", "test", "size"),
    [("severstal", 43, 41, (256, 1600)), ("tianchi", 62, 20, (512, 512)),
     ("oxford_pet", 20, 6, None), ("camvid", 157, 39, (360, 480))],
)  # fmt: skip
def test_the_real_sets(
    data_root: Path, form: str, train: int, test: int, size: tuple[int, int] | None
) -> None:
    """Every row is good, and its RLE is what a brute-force decoder makes of it."""
    config = config_of(form, data_root / form)
    if form == "camvid":
        names = [f"c{number}" for number in range(11)]
        config = config.model_copy(update={"classes": names})
    rows = layout(form).train(config)
    checked = inspect(config, rows)
    assert len(checked.good) == train and not checked.quarantine
    assert len(layout(form).test(config)) == test
    if size and form in ("severstal", "tianchi"):
        for row in rows[:5]:
            target = read_target(row.target, config, *size)
            texts = row.target.removeprefix("rle:").split("|")
            for plane, text in zip(target, texts, strict=True):
                assert np.array_equal(plane, brute_decode(text, *size))
    if form == "severstal":
        other = config_of(form, data_root / form, table="train_three_columns.csv")
        assert rows == layout(form).train(other)
