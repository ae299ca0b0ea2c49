"""Outputs are never put onto inputs, nor onto files of somebody else; whatever the way there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.records.paths import Run
from tests.attack.victim import attack, check


def fingerprint(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder, by its path; links are not followed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def masks_with_names(base: Path) -> Path:
    """A person's own masks, of the same names as the images."""
    folder = base / "own_masks"
    folder.mkdir()
    for path in (base / "images").iterdir():
        Image.fromarray(np.full((12, 10), 255, np.uint8)).save(folder / path.name)
    return folder


# By name: (--out, --rle) of a prediction of BASE/images that must be refused.
REFUSED: dict[str, Callable[[Path], tuple[Path, Path | None]]] = {
    "out is the images": lambda b: (b / "images", None),
    "out is the images, with a dot": lambda b: (b / "images" / ".", None),
    "out is the images, by way of another": lambda b: (b / "run" / ".." / "images", None),
    "out is a link to the images": lambda b: (link(b / "link", b / "images"), None),
    "out is below a link to the images": lambda b: (link(b / "link", b / "images") / "new", None),
    "out lies in the images": lambda b: (b / "images" / "masks", None),
    "out lies deep in the images": lambda b: (b / "images" / "a" / "b" / "c", None),
    "out is a chain of links": lambda b: (link(b / "two", link(b / "one", b / "images")), None),
    "out holds somebody's masks": lambda b: (masks_with_names(b), None),
    "out is the masks of the data": lambda b: (shutil.copytree(b / "images", b / "m2"), None),
    "out is a file": lambda b: (write(b / "file", "x"), None),
    "out is below a file": lambda b: (write(b / "file", "x") / "out", None),
    "rle is an image": lambda b: (b / "out", b / "images" / "test_images000.png"),
    "rle is a link to an image": lambda b: (
        b / "out", link(b / "t.csv", b / "images" / "test_images000.png"),
    ),
    "rle is a hard link to an image": lambda b: (
        b / "out", _hard(b / "images" / "test_images000.png", b / "t.csv"),
    ),
    "rle is a folder": lambda b: (b / "out", b / "images"),
    "rle is a mask of this prediction": lambda b: (b / "out", b / "out" / "test_images000.png"),
    "rle is the config": lambda b: (b / "out", b / "config.yaml"),
    "rle is the run's config": lambda b: (b / "out", b / "run" / "config.yaml"),
    "rle is the run's ensemble": lambda b: (b / "out", b / "run" / "ensemble.json"),
    "rle is the run's folds": lambda b: (b / "out", b / "run" / "folds.csv"),
    "rle is a person's table": lambda b: (b / "out", write(b / "train.csv", "id,rle_mask\na,\n")),
    "rle is an empty file": lambda b: (b / "out", write(b / "t.csv", "")),
    "rle is a table of the data": lambda b: (b / "out", write(b / "data" / "t.csv", "id,rle\n")),
    "rle is a device": lambda b: (b / "out", Path("/dev/full")),
    "rle is a pipe": lambda b: (b / "out", _pipe(b / "t.csv")),
    "rle is a dangling link": lambda b: (b / "out", link(b / "t.csv", b / "nowhere")),
    "rle lies below a file": lambda b: (b / "out", write(b / "file", "x") / "t.csv"),
}  # fmt: skip


def _hard(source: Path, path: Path) -> Path:
    os.link(source, path)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.fixture
def base(moved: Run) -> Path:
    folder = moved.folder.parent
    shutil.copytree(folder / "test_images", folder / "images")
    return folder


def predict(base: Path, out: Path, table: Path | None = None) -> tuple[object, ...]:
    rle = ("--rle", table) if table else ()
    return ("predict", base / "run", "--images", base / "images", "--out", out, *rle)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(name: str, base: Path) -> None:
    out, table = REFUSED[name](base)
    before = fingerprint(base)
    check(attack(*predict(base, out, table)), (2,))
    assert fingerprint(base) == before


def test_what_predict_wrote_it_may_write_again(base: Path) -> None:
    for _ in range(2):
        check(attack(*predict(base, base / "out", base / "t.csv")), (0,))
    assert len(list((base / "out").glob("*.png"))) == 4
    assert (base / "t.csv").read_text().startswith("id,rle\n")
    check(attack(*predict(base, base / "new" / "deep", base / "other" / "t.csv")), (0,))
    check(attack(*predict(base, base, base / "t.csv")), (0,))  # above the images, beside them


RUN_FILES = ("config.yaml", "submission.csv", "report.html", "ensemble.json", "train.log")


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("command", ["run", "train", "find-lr"])
def test_a_folder_of_somebody_else_becomes_no_run(name: str, command: str, moved: Run) -> None:
    """`--out .` beside one's own config must not replace it by the written-out one."""
    base = moved.folder.parent
    home = base / "home"
    home.mkdir()
    shutil.copy(base / "config.yaml", home / name)
    before = fingerprint(home)
    more = {"train": ("--member", "a", "--fold", "0"), "find-lr": ("--member", "a")}
    outcome = attack(command, base / "config.yaml", "--out", home, *more.get(command, ()))
    if name != "train.log":
        check(outcome, (2,), name)
        assert fingerprint(home) == before
    else:
        check(outcome, (0,))
        assert fingerprint(home).items() >= before.items()


@pytest.mark.parametrize("where", ["images", "masks", "images/run"])
def test_a_run_does_not_lie_among_the_images(where: str, moved: Run) -> None:
    base = moved.folder.parent
    before = fingerprint(base / "data")
    outcome = attack("run", base / "config.yaml", "--out", base / "data" / where)
    check(outcome, (2,), "--out")
    assert fingerprint(base / "data") == before
