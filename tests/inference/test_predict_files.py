"""`distseg predict`: what it takes, what it writes, in which values, and what it says last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import distseg
from distseg.cli import main
from distseg.data.mask_values import MARK, chosen_values, own_values
from distseg.data.prepare import prepare
from distseg.functional.rle import decode
from distseg.records.errors import UserError
from distseg.records.paths import Run
from tests.attack.victim import trained_run, victim_tree
from tests.data.data_helpers import config as folder_config
from tests.data.data_helpers import gray, save
from tests.data.made_data import CE, classes, numbers, palette, shape

BACKGROUND = 200  # of the data set's masks, in which 0 is the object


@dataclass(frozen=True)
class World:
    """A run that was trained on masks of 0 (the object) and 200, and the folder around it."""

    run: Path
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Bright squares on dark ground are the objects."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("inverted")
    for i in range(12):
        object_ = shape(i)
        image = np.where(object_ > 0, 220, 40).astype(np.uint8) + gray(i) // 16
        save(folder / "data" / "images" / f"a{i}.png", image.astype(np.uint8))
        mask = np.where(object_ > 0, 0, BACKGROUND).astype(np.uint8)
        save(folder / "data" / "masks" / f"a{i}.png", mask)
    tree = victim_tree(folder / "data")
    tree["data"]["folder"] = {"inverted": True, "rle_order": "row", "submission": "rle"}
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 1, "epochs_per_cycle": 20}
    tree["stages"][0]["optimizer"]["lr"] = 1e-2
    return World(trained_run(tree, folder / "run").folder, folder)


@pytest.fixture
def images(world: World, tmp_path: Path) -> Path:
    """in/: b0.png and b1.png, and in sub-folders b2 and b3, of which two have one name."""
    for place, i in (("b0", 1), ("b1", 2), ("x/b2", 4), ("x/y/b2", 5)):
        image = np.where(shape(i) > 0, 220, 40).astype(np.uint8)
        save(tmp_path / "in" / f"{place}.png", image)
    return tmp_path / "in"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {str(p.relative_to(folder).with_suffix("")): read(p) for p in folder.rglob("*.png")}


def predict(world: World, *arguments: object) -> int:
    return main(["predict", str(world.run), *map(str, arguments)])


def test_a_tree_in_the_values_of_the_data(
    world: World, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes out can be scored against the data's own masks, and is right."""
    (images / "x" / "broken.png").write_bytes(b"\x89PNG no more")
    assert predict(world, "--images", images, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"wrote 4 masks to {tmp_path}/out/, 1 unreadable: x/broken.png"
    found = masks_in(tmp_path / "out")
    assert set(found) == {"b0", "b1", "x/b2", "x/y/b2"}
    assert {*np.unique(list(found.values())).tolist()} == {0, BACKGROUND}
    for name, i in (("b0", 1), ("b1", 2), ("x/b2", 4), ("x/y/b2", 5)):
        truth = np.where(shape(i) > 0, 0, BACKGROUND).astype(np.uint8)
        save(tmp_path / "truth" / f"{name}.png", truth)
    command = ["score", str(tmp_path / "out"), str(tmp_path / "truth"), "--run", str(world.run)]
    assert main(command) == 0
    score = json.loads(capsys.readouterr().out)["score"]
    assert score > 0.8, "it has learned the bright squares"
    for values in ("255", "index"):  # the folder says what its values are
        out = tmp_path / f"out{values}"
        assert predict(world, "--images", images, "--out", out, "--values", values) == 0
        high = {"255": 255, "index": 1}[values]
        again = masks_in(out)
        assert all(np.array_equal((m == 0) * high, again[name]) for name, m in found.items())
        capsys.readouterr()
        assert main(["score", str(out), *command[2:]]) == 0
        assert json.loads(capsys.readouterr().out)["score"] == score


INPUTS: dict[str, tuple[Callable[[Path], list[Path | str]], set[str]]] = {
    "a file": (lambda f: [f / "b1.png"], {"b1"}),
    "several files": (lambda f: [f / "b0.png", f / "x" / "b2.png"], {"b0", "x/b2"}),
    "a folder": (lambda f: [f / "x"], {"b2", "y/b2"}),
    "a glob": (lambda f: [f"{f}/b*.png"], {"b0", "b1"}),
    "a glob of folders": (lambda f: [f"{f}/*/b*.png"], {"x/b2"}),
    "a glob of trees": (lambda f: [f"{f}/x/**/*.png"], {"b2", "y/b2"}),
    "a folder and a file": (lambda f: [f / "x", f / "b0.png"], {"x/b2", "x/y/b2", "b0"}),
    "a link to a file": (lambda f: [link(f.parent / "l.png", f / "b0.png")], {"l"}),
}


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("name", INPUTS)
def test_what_images_names(world: World, images: Path, tmp_path: Path, name: str) -> None:
    given, ids = INPUTS[name]
    broken = distseg.predict_folder(world.run, given(images), tmp_path / "out")
    assert broken == [] and set(masks_in(tmp_path / "out")) == ids


def test_a_wildcard_is_one_of_the_name_alone(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(images, tmp_path / "a[b]c")
    monkeypatch.chdir(tmp_path / "a[b]c")
    assert distseg.predict_folder(world.run, "b*.png", tmp_path / "out") == []
    assert set(masks_in(tmp_path / "out")) == {"b0", "b1"}
    assert predict(world, "--images", "x*/../none.png", "--out", tmp_path / "no") == 2
    assert "`..` may not follow a wildcard" in capsys.readouterr().err


@pytest.mark.parametrize("out", [".", "a/.."])
def test_beside_a_folder_without_a_name_of_its_own(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "here" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert predict(world, "--images", images / "b0.png", "--out", out, "--overlay") == 0
    assert (tmp_path / "here" / "b0.png").is_file()
    assert (tmp_path / "here_overlay" / "b0.png").is_file()


def test_an_image_that_can_be_read_no_more_has_no_mask_any_more(
    world: World, images: Path, tmp_path: Path
) -> None:
    command = ("--images", images, "--out", tmp_path / "out", "--probabilities", "--overlay")
    assert predict(world, *command) == 0
    (images / "x" / "b2.png").write_bytes(b"\x89PNG no more")
    assert predict(world, *command) == 0
    for folder, suffix in (("out", "png"), ("out_overlay", "png"), ("out_probabilities", "npy")):
        left = {p.name for p in (tmp_path / folder).rglob(f"*.{suffix}")}
        assert not (tmp_path / folder / "x" / f"b2.{suffix}").exists() and f"b0.{suffix}" in left


def test_what_is_asked_for_beside_masks(
    world: World, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", tmp_path / "t.csv"
    asked = ("--probabilities", "--overlay", tmp_path / "seen", "--rle", table)
    for _ in range(2):  # what it wrote it may write again
        assert predict(world, "--images", images, "--out", out, *asked) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote 4 masks to {out}/"
    masks = masks_in(out)
    ensemble = distseg.load_ensemble(world.run)
    for one in ensemble.predict(images):
        found = np.load(tmp_path / "out_probabilities" / f"{one.id}.npy")
        assert found.dtype == np.float16 and np.allclose(found, one.probabilities, atol=1e-3)
        seen = read(tmp_path / "seen" / f"{one.id}.png")
        image = np.repeat(read(images / f"{one.id}.png")[..., None], 3, axis=2)
        is_object = one.mask > 0
        assert is_object.any() and np.array_equal(seen[~is_object], image[~is_object])
        assert (seen[is_object] != image[is_object]).any(axis=1).all()
        assert np.array_equal(masks[one.id] == 0, is_object)
    lines = table.read_text().splitlines()
    assert lines[0] == "id,rle" and len(lines) == 5
    for line in lines[1:]:  # along the rows, as the data's
        name, code = line.split(",")
        assert np.array_equal(decode(code, 16, 16, order="row") > 0, masks[name] == 0)


REFUSED: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "out is the folder of the file": (
        lambda f: ["--images", f / "b0.png", "--out", f], "is the folder of images of --images",
    ),
    "out is the folder of the glob": (
        lambda f: ["--images", f"{f}/b*.png", "--out", f], "is the folder of images",
    ),
    "out is that folder, with other names": (
        lambda f: ["--images", f / "b0.png", "--out", f, "--overlay", f / "o"], "is the folder",
    ),
    "out lies in the tree": (
        lambda f: ["--images", f, "--out", f / "x" / "out"], "masks would take the place of images",
    ),
    "a tree whose masks would be images": (
        lambda f: ["--images", f / "x", "--out", f / "x" / ".." / "x"], "take the place of images",
    ),
    "overlay is out": (
        lambda f: ["--images", f, "--out", f.parent / "o", "--overlay", f.parent / "o"],
        "is a file that another option asks for",
    ),
    "overlay lies in the images": (
        lambda f: ["--images", f, "--out", f.parent / "o", "--overlay", f / "o"], "--overlay: ",
    ),
    "no file": (lambda f: ["--images", f / "no.png", "--out", f.parent / "o"], "no such folder"),
    "no match": (lambda f: ["--images", f"{f}/*.jpg", "--out", f.parent / "o"], "no file matches"),
    "two of one name": (
        lambda f: [
            "--images", save(f / "b0.bmp", gray(0)).parent, "--out", f.parent / "o",
        ], "two images of one name",
    ),
    "unknown values": (
        lambda f: ["--images", f, "--out", f.parent / "o", "--values", "254"], "'254'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(
    world: World, images: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, says = REFUSED[name]
    given = arguments(images)
    before = {p: p.read_bytes() for p in images.parent.rglob("*") if p.is_file()}
    try:
        assert predict(world, *given) == 2
    except SystemExit as error:  # the parser's own
        assert error.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert says in errors[-1], errors
    assert {p: p.read_bytes() for p in images.parent.rglob("*") if p.is_file()} == before


def test_nothing_readable_is_a_failure(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.png").write_bytes(b"no image")
    assert predict(world, "--images", tmp_path / "b.png", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"wrote 0 masks to {tmp_path}/out/, 1 unreadable: b.png"


def test_what_was_exported_speaks_the_same_language(
    world: World, images: Path, tmp_path: Path
) -> None:
    distseg.export_run(world.run, tmp_path / "model")
    distseg.predict_folder(tmp_path / "model", images, tmp_path / "a")
    distseg.predict_folder(world.run, images, tmp_path / "b")
    left, right = masks_in(tmp_path / "a"), masks_in(tmp_path / "b")
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[name], right[name]) for name in left)
    record = distseg.score_submission(tmp_path / "a", tmp_path / "b", run=tmp_path / "model")
    assert record["score"] == 1.0


# -- the values themselves -------------------------------------------------------------------------

MULTI: dict[str, Any] = {"task": "multiclass", "classes": ["ground", "a", "b"], "stages": CE}
BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 128, 0)
OWN: dict[str, tuple[Any, dict[str, Any], list[list[Any]]]] = {
    "0 and 255": (255, {}, [[0, 255]]),
    "0 and 1": (1, {}, [[0, 1]]),
    "16 bits": (np.uint16(65535), {}, [[0, 65535]]),
    "one bit": (True, {}, [[0, 255]]),
    "inverted": (200, {"data__folder": {"inverted": True}}, [[200, 0]]),
    "threshold": (200, {"data__folder": {"threshold": 127}}, [[0, 255]]),
    "mask_values": (9, {"data__mask_values": {9: 1, 0: 0, 8: 1}}, [[0, 9]]),
    "mask_values that no PNG holds": (9, {"data__mask_values": {9: 1, -1: 0}}, [[0, 255]]),
    "void": (1, {"void": 255}, [[0, 1]]),
}


@pytest.mark.parametrize("name", OWN)
def test_the_values_of_the_data(tmp_path: Path, name: str) -> None:
    from distseg.data.mask_file import Coding

    value, settings, expected = OWN[name]
    bits = 1 if value is True else 8 * np.asarray(value).dtype.itemsize
    bits = 8 if isinstance(value, int) and value is not True else bits
    counts = {0: 9, int(value): 3, **({255: 4} if name == "void" else {})}
    held = [(-1, Coding(f"{i}.png", bits, counts)) for i in range(3)]
    assert own_values(folder_config(tmp_path, **settings), held).record() == expected


def test_the_values_of_a_prepared_run(tmp_path: Path) -> None:
    """Colors of classes, written and read back as the data's."""
    colors = {"ground": BLACK, "a": RED, "b": GREEN}
    config = folder_config(tmp_path / "data", **MULTI, data__colors=colors)
    for i in range(12):
        save(tmp_path / "data" / "images" / f"a{i}.png", gray(i))
        (tmp_path / "data" / "masks").mkdir(exist_ok=True)
        palette(BLACK, RED, GREEN)(tmp_path / "data" / "masks" / f"a{i}", classes(i), i)
    run = Run(tmp_path / "run")
    prepare(config, run)
    values = chosen_values(config, run.data, "data")
    assert values.record() == [[list(BLACK), list(RED), list(GREEN)]]
    assert values.pixels(classes(1)).shape == (16, 16, 3)
    assert (values.pixels(classes(1))[classes(1) == 1] == RED).all()
    with pytest.raises(UserError, match="is for masks of two values"):
        chosen_values(config, run.data, "255")
    assert chosen_values(config, run.data, "index").record() == [[0, 1, 2]]


def test_each_class_has_values_of_its_own(tmp_path: Path) -> None:
    config = folder_config(tmp_path / "data", task="multilabel", classes=["one", "two"])
    for i in range(12):
        save(tmp_path / "data" / "images" / f"a{i}.png", gray(i))
        for name, high in (("one", 1), ("two", 255)):
            save(tmp_path / "data" / "masks" / name / f"a{i}.png", shape(i) * np.uint8(high))
    run = Run(tmp_path / "run")
    prepare(config, run)
    assert chosen_values(config, run.data, "data").record() == [[0, 1], [0, 255]]
    for path in (tmp_path / "data" / "masks").iterdir():
        shutil.rmtree(path)
    for i in range(12):  # one file for all classes: what overlaps needs a file each
        numbers()(tmp_path / "data" / "masks" / f"a{i}", classes(i), i)
    other = Run(tmp_path / "other")
    prepare(config, other)
    assert chosen_values(config, other.data, "data").record() == [[0, 255], [0, 255]]


def test_a_mark_that_was_damaged_is_named(world: World, images: Path, tmp_path: Path) -> None:
    distseg.predict_folder(world.run, images, tmp_path / "out")
    mark = tmp_path / "out" / MARK
    mark.write_text(mark.read_text().replace(str(BACKGROUND), '"x"'))
    with pytest.raises(UserError, match=r"\.distseg\.json: damaged"):
        distseg.score_submission(tmp_path / "out", tmp_path / "out", run=world.run)
