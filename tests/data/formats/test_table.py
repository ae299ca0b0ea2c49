"""Tables of RLEs and mask paths: read as they were meant, written in the same form, or refused."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.cli import main
from distseg.config.schema import Config
from distseg.data.cache import cache_key
from distseg.data.convention import find_base, find_order
from distseg.data.detect import detect
from distseg.data.inspect import inspect
from distseg.data.layouts import layout, submission_of
from distseg.data.mask_values import run_rle, write_values
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from distseg.records.files import read_json, write_json
from tests.data.data_helpers import save
from tests.data.formats import layout_helpers, table_sets
from tests.data.formats.table_sets import HEIGHT, SETS, WIDTH, MadeSet, pixels, table_config
from tests.tiny import write_submission

TABLE = layout("table")
SHIPS, SAMPLE = "train_ship_segmentations_v2.csv", "sample_submission_v2.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, MadeSet]]:
    """A set by its name, made once."""
    known: dict[str, tuple[Path, MadeSet]] = {}

    def get(name: str) -> tuple[Path, MadeSet]:
        if name not in known:
            root = tmp_path_factory.mktemp(name)
            known[name] = (root, SETS[name](root))
        return known[name]

    return get


@pytest.mark.parametrize("name", SETS)
def test_training_is_given_what_was_planted(made: Any, name: str) -> None:
    root, found = made(name)
    config = found.config(root)
    checked = inspect(config, TABLE.train(config))
    assert not checked.quarantine
    assert [row.id for row in checked.good] == list(found.truth)
    for row in checked.good:
        target = read_target(row.target, config, HEIGHT, WIDTH)
        assert np.array_equal(target, found.truth[row.id]), row.id


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("sparse",)])
def test_a_run_keeps_how_its_table_counts_when_the_data_are_gone(
    made: Any, tmp_path: Path, name: str
) -> None:
    """A run that was moved, and an ensemble that was exported, write RLEs as the data set does."""
    root, found = made(name)
    config = found.config(root)
    write_values(config, (), tmp_path)
    spec = submission_of(config)
    moved = config.model_copy(
        update={"data": config.data.model_copy(update={"root": str(tmp_path / "gone")})}
    )
    expected = {"order": spec.order, "base": spec.base, "empty": spec.empty}
    assert run_rle(moved, tmp_path) == expected
    record = read_json(tmp_path / "mask_values.json")
    write_json(tmp_path / "mask_values.json", {**record, "rle": {**expected, "base": 2}})
    with pytest.raises(UserError, match=r"mask_values\.json"):
        run_rle(moved, tmp_path)


def test_a_set_that_does_not_say_how_it_counts_is_asked_when_a_table_is_written(
    made: Any, tmp_path: Path
) -> None:
    root, found = made("sparse")
    write_values(found.config(root), (), tmp_path)
    assert "rle" not in read_json(tmp_path / "mask_values.json")
    with pytest.raises(UserError, match=r"data\.csv\.empty"):
        run_rle(found.config(root), tmp_path)


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("sparse",)])
@pytest.mark.parametrize("per_object", [False, True])
def test_a_submission_is_in_the_form_of_its_set(
    made: Any, tmp_path: Path, name: str, per_object: bool
) -> None:
    """Columns, order of the ids, order and base of the pixels, and what is empty; read by hand."""
    root, found = made(name)
    config = found.config(root)
    tests = TABLE.test(config)
    assert tuple(row.id for row in tests) == found.tests and not any(r.problem for r in tests)
    if not tests:
        return
    config = config.model_copy(
        update={"submission": config.submission.model_copy(update={"per_object": per_object})}
    )
    spec, path = submission_of(config), tmp_path / "s.csv"
    assert (spec.order, spec.base, spec.empty) == found.said
    masks = {row.id: next(iter(found.truth.values())) * 0 for row in tests}
    masks[tests[0].id] = np.ascontiguousarray(list(found.truth.values())[2])
    write_submission(spec, path, masks, found.task)
    mark = next((mark for mark in "\t;" if mark in path.read_text()), ",")
    lines = list(csv.reader(path.open(), delimiter=mark))
    assert found.header is None or mark.join(lines.pop(0)) == found.header
    assert list(dict.fromkeys(_image(found, line) for line in lines)) == list(found.tests)
    assert (len(lines) > len({tuple(line[:-1]) for line in lines})) == (
        per_object and found.task == "binary"
    )
    read = {row.id: np.zeros_like(masks[row.id]) for row in tests}
    for line in lines:
        own = line[-1] if line[-1] != spec.empty else ""
        plane = pixels(own, HEIGHT, WIDTH, spec.order, spec.base)
        number = _number(found, line)
        if found.task == "multiclass":
            read[_image(found, line)][0][plane > 0] = number
        else:
            read[_image(found, line)][number] |= plane
    assert all(np.array_equal(read[name], mask) for name, mask in masks.items())


def _image(found: MadeSet, line: list[str]) -> str:
    joined = found.header is not None and "_" in found.header and found.task == "multilabel"
    return line[0].rpartition("_")[0] if joined else line[0]


def _number(found: MadeSet, line: list[str]) -> int:
    if found.task == "binary":
        return 0
    value = line[1] if len(line) == 3 else line[0].rpartition("_")[2]
    if value in found.classes:
        return list(found.classes).index(value)
    return int(value) - (found.task == "multilabel")


# -- the same as the own layouts ------------------------------------------------------------------


OWN: dict[str, dict[str, Any]] = {
    "severstal": {"task": "multilabel", "classes": table_sets.D4, "table": "train.csv"},
    "tianchi": {},
    "tgs": {},
}


def _tgs(root: Path) -> None:
    lines = ["id,rle_mask"]
    for number in range(6):
        mask = table_sets.whole(table_sets.blobs(number))
        table_sets.image(root / "train" / "images" / f"a{number}.png", number)
        lines.append(f"a{number},{table_sets.runs(mask)}")
    table_sets.write(root / "train.csv", lines)
    table_sets.write(root / "depths.csv", ["id,z", "a0,1"])
    for number in range(2):
        table_sets.image(root / "test" / "images" / f"t{number}.png", 10 + number)
    table_sets.write(root / "sample_submission.csv", ["id,rle_mask", "t1,1 1", "t0,1 1"])


@pytest.mark.parametrize("form", OWN)
def test_a_table_is_what_its_own_layout_makes_of_it(tmp_path: Path, form: str) -> None:
    make = {"severstal": layout_helpers.severstal, "tianchi": layout_helpers.tianchi, "tgs": _tgs}
    make[form](tmp_path)
    _same(tmp_path, form, tmp_path / "out")


@pytest.mark.data
@pytest.mark.parametrize(
    "form", [pytest.param(one, marks=pytest.mark.slow) if one == "tgs" else one for one in OWN]
)
def test_a_real_table_is_what_its_own_layout_makes_of_it(
    data_root: Path, tmp_path: Path, form: str
) -> None:
    _same(data_root / form, form, tmp_path / "out")


def _same(root: Path, form: str, out: Path) -> None:
    """The same rows, targets, images and coverage (all that folds are made from), the same test
    images, and byte by byte the same submission."""
    options = {"csv": {"order": "column", "base": 1}, "allow_bad": True, **OWN[form]}
    own_options = {k: v for k, v in options.items() if k != "csv"}
    configs = [
        table_config(root, format=form, **own_options), table_config(root, **options),
    ]  # fmt: skip
    checked = [inspect(c, layout(c.data.format).train(c)) for c in configs]
    rows = [[(r.id, r.image, r.height, r.width) for r in one.good] for one in checked]
    assert rows[0] == rows[1] and rows[0]
    assert [f.content for f in checked[0].facts] == [f.content for f in checked[1].facts]
    assert np.array_equal(checked[0].coverage, checked[1].coverage)
    assert checked[0].duplicates == checked[1].duplicates
    assert not checked[0].quarantine and not checked[1].quarantine
    tests = [layout(c.data.format).test(c) for c in configs]
    assert tests[0] == tests[1] and tests[0]
    num = len(configs[0].classes)
    rng = np.random.default_rng(0)
    planes = (rng.random((num, 8, 8)) < 0.3).astype(np.uint8)
    planes[0] = 0
    texts = []
    for number, config in enumerate(configs):
        path = out / f"{number}.csv"
        path.parent.mkdir(exist_ok=True)
        masks = {row.id: planes * np.uint8(place % 2) for place, row in enumerate(tests[0])}
        write_submission(submission_of(config), path, masks, config.task)
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


# -- what is not sure is refused ------------------------------------------------------------------


def _edit(old: str, new: str, name: str | None = None) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        path = root / (name or next(p.name for p in root.glob("*.csv") if "sample" not in p.name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def _square(root: Path) -> None:
    for folder in ("train_v2", "test_v2"):
        for path in (root / folder).iterdir():
            table_sets.save(path, np.random.default_rng(0).integers(1, 255, (48, 48, 3), np.uint8))


def _no_edge(root: Path) -> None:
    """No object reaches the last pixel."""
    path = root / SHIPS
    lines = [line for line in path.read_text().splitlines() if not line.endswith(" 6")]
    path.write_text("\n".join(lines) + "\n")


def _drop_empty(root: Path) -> None:
    path = root / SHIPS
    lines = [line for line in path.read_text().splitlines() if not line.endswith(",")]
    path.write_text("\n".join(lines) + "\n")


Edit = Callable[[Path], object]
REFUSED: dict[str, tuple[Edit, str]] = {
    "square images do not say the order": (_square, r"data\.csv\.order: .*column .*row"),
    "no run says the base": (_no_edge, r"data\.csv\.base: .*from 0 or from 1"),
    "runs say both bases": (
        _edit("0.jpg,", "0.jpg,0 3"),
        r"data\.csv\.base: .*'0 3' starts at 0",
    ),
    "images that a table without empty rows leaves out": (
        _drop_empty,
        r"data\.csv\.unlisted: .*2 images .*0\.jpg.*empty.*leave_out",
    ),
    "no column of masks": (
        _edit("EncodedPixels", "Weather"),
        r"no column is known to hold the mask.*data\.csv\.mask_column",
    ),
    "no column of images": (
        _edit("ImageId", "Weather"),
        r"no column is known to hold the image.*data\.csv\.image_column",
    ),
    "two columns of masks": (
        _edit("ImageId,Enc", "ImageId,rle,Enc"),
        r"may hold the mask; write data\.csv\.mask_column",
    ),
    "two columns of one name": (_edit("ImageId", "EncodedPixels"), "two columns are called"),
    "a row with more cells": (_edit("0.jpg,", "0.jpg,,1"), r"v2\.csv, line 2: 3 cells; valid: 2"),
    "a row with fewer cells": (_edit("0.jpg,", "0.jpg"), r"line 2: 1 cells; valid: 2"),
    "a row without an image": (_edit("0.jpg,", ",1 2"), r"line 2: the image is empty"),
    "an empty file": (lambda root: (root / SHIPS).write_text(""), "is empty"),
    "a header alone": (
        lambda root: (root / SHIPS).write_text("ImageId,EncodedPixels\n"),
        "has no rows",
    ),
    "bytes": (lambda root: (root / SHIPS).write_bytes(b"\xff\xfe\x00"), "no text in UTF-8"),
    "two tables": (
        lambda root: shutil.copy(root / SHIPS, root / "old.csv"),
        r"data\.table: .*old\.csv, train_ship.*name it",
    ),
    "no table": (lambda root: (root / SHIPS).unlink(), r"data\.table: .*none"),
    "two samples": (
        lambda root: shutil.copy(root / SAMPLE, root / "sample_submission.csv"),
        r"data\.csv\.sample: .* and .*; name it",
    ),
    "two folders of these images": (
        lambda root: shutil.copytree(root / "train_v2", root / "train_big"),
        r"data\.csv\.images: .*say which is meant",
    ),
    "no folder of these images": (
        lambda root: shutil.rmtree(root / "train_v2"),
        r"data\.csv\.images: no folder .*holds the image '0\.jpg'",
    ),
    "a row of the sample with more cells": (
        _edit("b.jpg,1 2", "b.jpg,1,1", SAMPLE),
        r"sample_submission_v2\.csv, line 2: 3 cells",
    ),
    "a column of the sample that nobody knows": (
        lambda root: (root / SAMPLE).write_text("ImageId,Score,EncodedPixels\nb.jpg,1,\n"),
        r"what a submission has in the column Score is not known",
    ),
    "two ways to write an empty mask": (
        lambda root: (root / SAMPLE).write_text("ImageId,EncodedPixels\nb.jpg,-\na.jpg,-1\n"),
        r"data\.csv\.empty: .*'-' and '-1'",
    ),
    "an id of the sample that leaves its folder": (
        _edit("a.jpg,", "../a.jpg,", SAMPLE),
        r"\.\./a\.jpg",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sure_is_refused_with_the_key(tmp_path: Path, name: str) -> None:
    edit, said = REFUSED[name]
    made = SETS["airbus"](tmp_path)
    edit(tmp_path)
    _refused(made.config(tmp_path), said)


def test_a_table_without_a_column_of_classes_has_one_class(tmp_path: Path) -> None:
    SETS["airbus"](tmp_path)
    config = table_config(tmp_path, "multilabel", ("a", "b"))
    _refused(config, r"no column is known to hold the class.*data\.csv\.class_column")


def test_no_way_to_write_an_empty_mask_is_known(tmp_path: Path) -> None:
    made = SETS["sparse"](tmp_path)
    table_sets.images(tmp_path / "test", ["t.jpg"])
    lines = ["ImageId,ClassId,EncodedPixels", "t.jpg,1,1 2", "t.jpg,2,1 2"]
    table_sets.write(tmp_path / "sample_submission.csv", lines)
    _refused(made.config(tmp_path), r"data\.csv\.empty: .*no row without an object")
    options = {"unlisted": "empty", "empty": "-1"}
    assert TABLE.submission(made.config(tmp_path, csv=options)).empty == "-1"


def _refused(config: Config, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        TABLE.train(config)
        TABLE.test(config)
        TABLE.submission(config)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(("data.", config.data.root)) for line in lines)


BAD_ROWS: dict[str, tuple[str, str]] = {
    "0.jpg,abc": ("whole numbers only", "0.jpg"),
    "0.jpg,1 2 3": ("pairs of start and length", "0.jpg"),
    "0.jpg,1 99999": ("beyond the 640 pixels", "0.jpg"),
    "0.jpg,5 2 1 2": ("does not start after", "0.jpg"),
    "0.jpg,1 2|3 4": ("is no RLE", "0.jpg"),
    "x.jpg,1 2": ("no image 'x.jpg'", "x.jpg"),
    "../train_v2/0.jpg,1 2": ("no path of a file here", "../train_v2/0.jpg"),
    "/etc/passwd,1 2": ("no path of a file here", "/etc/passwd"),
    "0.jpg,0.png": ("is a path, the others are RLEs", "0.jpg"),
}


@pytest.mark.parametrize("line", BAD_ROWS)
def test_a_bad_row_is_set_aside_by_its_line(tmp_path: Path, line: str) -> None:
    made = SETS["airbus"](tmp_path)
    with (tmp_path / SHIPS).open("a") as file:
        file.write(f"{line}\n")
    said, name = BAD_ROWS[line]
    options = {"csv": {"order": "column", "base": 1}, "allow_bad": True}
    config = made.config(tmp_path, **options)
    checked = inspect(config, TABLE.train(config))
    assert [bad[0] for bad in checked.quarantine] == [name]
    assert said in checked.quarantine[0][2]
    assert [row.id for row in checked.good] == [one for one in made.truth if one != name]


def test_an_image_that_a_table_of_paths_does_not_name_has_no_label(tmp_path: Path) -> None:
    SETS["mask_names"](tmp_path)
    table_sets.image(tmp_path / "images" / "9.png", 9)
    config = partial(table_config, tmp_path, "multilabel", ("x", "y"))
    rows = TABLE.train(config())
    assert [row.id for row in rows if row.problem] == ["9.png"]
    rows = TABLE.train(config(csv={"unlisted": "leave_out"}))
    assert len(rows) == 6 and not any(row.problem for row in rows)
    with pytest.raises(UserError, match="is for a table of RLEs, not of paths"):
        TABLE.train(config(csv={"unlisted": "empty"}))


def test_a_sample_with_other_classes_is_refused(tmp_path: Path) -> None:
    made = SETS["severstal_like"](tmp_path)
    _edit("z.jpg_4,", "z.jpg_five,", "sample_submission.csv")(tmp_path)
    with pytest.raises(UserError, match=r"class 'five'; those of train\.csv are 1, 2, 3, 4"):
        TABLE.submission(made.config(tmp_path))


def test_an_image_with_two_names_is_set_aside(tmp_path: Path) -> None:
    """Its objects would be divided among two rows."""
    made = SETS["airbus"](tmp_path)
    with (tmp_path / SHIPS).open("a") as file:
        file.write("1,1 2\n")
    rows = TABLE.train(made.config(tmp_path))
    problems = {row.id: row.problem for row in rows if row.problem}
    assert problems.keys() == {"1.jpg", "1"}
    assert all("1.jpg is called '1.jpg' and '1'" in one for one in problems.values())


def test_an_empty_path_of_a_mask_is_no_empty_mask(tmp_path: Path) -> None:
    SETS["mask_paths"](tmp_path)
    _edit("data/mask/0_0.png", "")(tmp_path)
    rows = TABLE.train(table_config(tmp_path))
    assert [row.id for row in rows if "path of the mask is empty" in row.problem] == [rows[0].id]
    rows = TABLE.train(table_config(tmp_path, "multilabel", ("a", "b")))
    assert [row.id for row in rows if "path of the mask is empty" in row.problem] == [rows[0].id]


def test_a_class_that_is_none_and_a_class_that_lacks(tmp_path: Path) -> None:
    made = SETS["severstal_like"](tmp_path)
    _edit("i0.jpg_1,", "i0.jpg_9,")(tmp_path)
    _edit("i1.jpg_1,\n", "")(tmp_path)
    config = made.config(tmp_path, allow_bad=True)
    problems = {row.id: row.problem for row in TABLE.train(config) if row.problem}
    assert "class '9'; valid: 1, 2, 3, 4" in problems["i0.jpg"]
    assert "no row of i1.jpg for class 1; each class has one" in problems["i1.jpg"]
    assert len(problems) == 2


GAPS: dict[str, tuple[str, str, list[str] | None, tuple[str, ...] | str]] = {
    "gaps": ("124", "multilabel", None, ("1", "2", "4")),
    "from 2": ("23", "multilabel", None, ("2", "3")),
    "in another order": ("12", "multilabel", ["class_2", "class_1"], ("2", "1")),
    "a class without a row": ("13", "multilabel", ["class_1", "class_2", "class_3"],
                              ("1", "2", "3")),
    "of a background": ("13", "multiclass", ["background", "class_1", "class_3"], ("", "1", "3")),
    "from 0": ("023", "multilabel", None, ("0", "2", "3")),
    "counted": ("12", "multilabel", ["rust", "dent"], ("1", "2")),
    "counted from 0": ("01", "multilabel", ["class_1", "class_2"], ("0", "1")),
    "other names": ("124", "multilabel", ["rust", "dent", "hole"], "1, 2, 4.*1 to 3.*class_4"),
    "other names from 2": ("23", "multilabel", ["rust", "dent"], "2, 3.*1 to 2.*first_class"),
}  # fmt: skip


@pytest.mark.parametrize("name", GAPS)
def test_numbers_of_classes_that_have_gaps(tmp_path: Path, name: str) -> None:
    """`class_4` is class 4 wherever it stands; which class another name is has to be said."""
    numbers, task, classes, expected = GAPS[name]
    lines = ["ImageId,ClassId,EncodedPixels"]
    for number in numbers:
        table_sets.image(tmp_path / "pictures" / f"i{number}.png", int(number))
        box = table_sets.box(int(number), int(number) + 2, 3, 9)
        lines.append(f"i{number}.png,{number},{table_sets.runs(box)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    if classes is None:
        classes = detect(tmp_path).keys["classes"]
        assert classes == [f"class_{number}" for number in numbers]
    config = table_config(tmp_path, task, classes, csv={"order": "column", "base": 1})
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"classes: the table numbers its classes {expected}"):
            TABLE.train(config)
        return
    rows = TABLE.train(config)
    for number, row in zip(numbers, rows, strict=True):
        filled = [bool(code) for code in row.target.removeprefix("rle:").split("|")]
        assert filled == [one == number for one in expected] and not row.problem


def test_paths_of_masks_of_one_class(tmp_path: Path) -> None:
    """The file that a line with a class names is of two values, and holds no numbers of classes."""
    for number in range(2):
        table_sets.image(tmp_path / "images" / f"{number}.png", number)
        save(tmp_path / "masks" / f"m{number}.png", table_sets.box(2, 9, 3, 9) * np.uint8(255))
    lines = ["image,class,mask_path", "0.png,rust,m0.png", "1.png,rust,m1.png"]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    config = table_config(tmp_path, "multilabel", ["rust"])
    for row in TABLE.train(config):
        target = read_target(row.target, config, table_sets.HEIGHT, table_sets.WIDTH)
        assert np.array_equal(target, table_sets.box(2, 9, 3, 9)[None])


def test_objects_of_two_classes_in_one_pixel(tmp_path: Path) -> None:
    """A multiclass set refuses them, or orders them as `data.overlap` says."""
    SETS["multiclass"](tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("m0.jpg,2,1 100\n")
    classes = ("background", "car", "road")
    config = table_config(tmp_path, "multiclass", classes, allow_bad=True)
    checked = inspect(config, TABLE.train(config))
    assert [bad[0] for bad in checked.quarantine] == ["m0.jpg"]
    assert "pixels are of car and of road" in checked.quarantine[0][2]
    refused, config = config, table_config(tmp_path, "multiclass", classes, overlap="class")
    assert cache_key(refused, []) != cache_key(config, [])
    rows = {row.id: row for row in inspect(config, TABLE.train(config)).good}
    target = read_target(rows["m0.jpg"].target, config, HEIGHT, WIDTH)
    expected = np.where(pixels("1 100", HEIGHT, WIDTH) > 0, 2, table_sets._by_class(0, 2)[0])
    assert np.array_equal(target[0], expected)


def test_keys_that_the_table_does_not_need_are_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 2, a line for each; given keys are used instead of what is found."""
    made = SETS["airbus"](tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: t\nvoid: 255\ndata:\n  format: table\n  root: {tmp_path}\n"
        "  folder: {threshold: 3}\n  coco: {train: a.json}\n  overlap: class\nmembers: {a: {}}\n"
    )
    assert main(["inspect", str(config)]) == 2
    lines = capsys.readouterr().err
    for said in (
        "data.folder.threshold: is for mask files; the table holds RLEs",
        "void: 255: is for mask files; the table holds RLEs",
        "data.coco.train: format: table does not read it; it is for format: coco",
        "data.overlap: class: is for task: multiclass, not binary",
    ):
        assert said in lines
    given = {"images": "train_v2", "test_images": ["test_v2"], "sample": SAMPLE, "empty": "",
             "image_column": "ImageId", "mask_column": "EncodedPixels", "order": "column",
             "base": 1}  # fmt: skip
    named = made.config(tmp_path, csv=given, table=SHIPS)
    found = made.config(tmp_path)
    assert TABLE.train(named) == TABLE.train(found) and TABLE.test(named) == TABLE.test(found)
    assert TABLE.submission(named) == TABLE.submission(found)
    with pytest.raises(UserError, match=r"image_column .*'ImageID'\. Did you mean 'ImageId'"):
        TABLE.train(made.config(tmp_path, csv={"image_column": "ImageID"}))


def test_a_folder_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """stage1_train/ID/images/ID.png, as DSB2018 has it: more folders than names are probed."""
    monkeypatch.setattr("distseg.data.places.PROBED", 2)
    made = SETS["airbus"](tmp_path)
    for path in list((tmp_path / "train_v2").iterdir()):
        own = tmp_path / "stage1_train" / path.stem / "images"
        own.mkdir(parents=True)
        table_sets.image(tmp_path / "stage1_train" / path.stem / "masks" / path.name, 99)
        path.rename(own / path.name)
    config = made.config(tmp_path)
    rows = TABLE.train(config)
    assert [row.id for row in rows] == list(made.truth) and not any(row.problem for row in rows)
    assert {Path(row.image).parent.name for row in rows} == {"images"}


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("order", ["column", "row"])
def test_order_and_base_are_found_or_not_said(order: str, base: int) -> None:
    """Of many random sets none is taken for another order or base."""
    rng, told = np.random.default_rng(base), []
    for _ in range(60):
        height, width = rng.integers(12, 60, 2).tolist()
        texts = []
        for _ in range(12):
            mask = np.zeros((height, width), np.uint8)
            y, x = int(rng.integers(height)), int(rng.integers(width))
            mask[y : y + int(rng.integers(1, 30)), x : x + int(rng.integers(1, 30))] = 1
            texts.append(table_sets.runs(mask, order, base))
        found = find_order(texts, partial(_size, (height, width)))
        assert found in (None, order)
        known = find_base(texts, partial(_size, (height, width)), found)
        assert known in (None, base)
        told.append(found is not None)
    assert sum(told) > 30


def _size(size: tuple[int, int], place: int) -> tuple[int, int]:
    return size


@pytest.mark.parametrize("base", [0, 1])
def test_one_run_does_not_say_another_base_than_the_edges(base: int) -> None:
    """A number that is wrong in one row would move every mask by a pixel."""
    texts = [table_sets.runs(table_sets.box(0, 5, n, n + 4), "column", base) for n in range(12)]
    size = partial(_size, (HEIGHT, WIDTH))
    assert find_base(texts[1:], size, "column") is None
    wrong = "0 3" if base else f"{HEIGHT * WIDTH} 1"
    with pytest.raises(ValueError, match=f"the runs at the edges count from {base}"):
        find_base([*texts[1:], wrong], size, "column")
    right = table_sets.runs(table_sets.box(10, HEIGHT, 30, WIDTH) + table_sets.box(0, 2, 0, 3),
                            "column", base)  # fmt: skip
    assert find_base([*texts[1:], right], size, "column") == base


DETECTED: dict[str, tuple[str, list[str]]] = {
    "airbus": ("binary", ["object"]),
    "severstal_like": ("multilabel", ["class_1", "class_2", "class_3", "class_4"]),
    "clouds": ("multilabel", list(table_sets.CLOUDS)),
    "nerve": ("binary", ["object"]),
    "rows_from_0": ("multilabel", ["large", "small"]),
    "mask_paths": ("binary", ["object"]),
}


@pytest.mark.parametrize("name", DETECTED)
def test_a_folder_with_a_table_is_detected(made: Any, name: str) -> None:
    """With its task and classes; what it finds is said."""
    root, found = made(name)
    detected = TABLE.detect(root)
    task, classes = DETECTED[name]
    assert detected.keys == {"data": {"format": "table"}, "task": task, "classes": classes}
    assert (detect(root) == detected) == (name != "severstal_like")  # which has a layout of its own
    rows = TABLE.train(table_config(root, task, classes))
    assert rows == TABLE.train(found.config(root)) and not any(row.problem for row in rows)
    (said,) = TABLE.said(found.config(root))
    assert ("RLEs count" in said) == (name != "mask_paths")
    if name == "rows_from_0":
        assert said == (
            "train.csv: image in id, mask in segmentation, class in class; RLEs count along the "
            "rows from 0"
        )


def test_a_folder_without_a_table_is_not_detected(tmp_path: Path) -> None:
    assert TABLE.detect(tmp_path) is None
    SETS["airbus"](tmp_path)
    shutil.rmtree(tmp_path / "train_v2")
    assert TABLE.detect(tmp_path) is None


def test_a_class_is_found_by_the_name_that_a_config_may_write(tmp_path: Path) -> None:
    table_sets.joined(tmp_path, "Image_Label", ["large bowel", "small bowel"], ["a", "b"])
    config = table_config(tmp_path, "multilabel", ["large_bowel", "small_bowel"])
    assert TABLE.submission(config).class_ids == ("large bowel", "small bowel")
    row = TABLE.train(config)[0]
    wanted = table_sets._by_class(0, 2)
    assert np.array_equal(read_target(row.target, config, HEIGHT, WIDTH), wanted)
