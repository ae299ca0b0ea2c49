"""Files are listed by their names, without a look at each; what was listed is known again only as
long as nothing has changed."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from distseg.config.data import FolderConfig
from distseg.data.formats.arrangement import arranged
from distseg.data.formats.names import files_in, unchanged
from distseg.data.formats.row import image_files, split_name
from distseg.data.layouts import layout
from tests.data.data_helpers import config, gray, save

LONG_AGO = 1_500_000_000


@pytest.mark.parametrize(
    "name", ["a.png", "a.b.png", "a", "a.", ".png", "..png", "a..png", ".", "a b.PNG", "ä.tif", ""]
)
def test_a_name_is_split_as_a_path_is(name: str) -> None:
    path = PurePosixPath(name)
    assert split_name(name) == (path.stem or name, path.suffix)


def test_images_are_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "B.png", "a_1.png", "a-1.png", ".c.png", "notes.txt", "é.png"):
        (tmp_path / name).touch()
    images = [p for p in sorted(tmp_path.iterdir()) if p.suffix == ".png" and p.name[0] != "."]
    assert image_files(tmp_path, "here") == images
    listed = files_in(tmp_path, ".", None, "images")
    assert [one.files for one in listed] == [[str(path)] for path in images]


def test_names_that_change_are_seen(tmp_path: Path) -> None:
    """Although they were listed a moment before, and although the time was long ago."""
    for i in range(4):
        save(tmp_path / "images" / f"a{i}.png", gray(i, 8, 8))
        save(tmp_path / "masks" / f"a{i}_mask.png", gray(i, 8, 8))
    assert arranged(tmp_path, FolderConfig()).mask == "{id}_mask"
    for path in list((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(path.name.replace("_mask", "_gt")))
    assert arranged(tmp_path, FolderConfig()).mask == "{id}_gt"
    for folder in ("images", "masks"):
        os.utime(tmp_path / folder, (LONG_AGO, LONG_AGO))
    assert arranged(tmp_path, FolderConfig()).mask == "{id}_gt"
    for path in list((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(path.name.replace("_gt", "_seg")))
    assert arranged(tmp_path, FolderConfig()).mask == "{id}_seg"


def test_what_may_have_changed_equals_nothing(tmp_path: Path) -> None:
    assert unchanged(tmp_path) != unchanged(tmp_path)  # made just now
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))
    assert unchanged(tmp_path) == unchanged(tmp_path)
    assert unchanged(tmp_path / "none") != unchanged(tmp_path / "none")
    (tmp_path / "inside").mkdir()
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))
    assert unchanged(tmp_path) != unchanged(tmp_path)  # what lies in there has a time of its own


def test_a_link_that_leaves_is_no_image_and_no_mask(tmp_path: Path) -> None:
    root, secret = tmp_path / "set", tmp_path / "secret.png"
    save(secret, gray(9, 8, 8))
    for i in range(5):
        save(root / "images" / f"a{i}.png", gray(i, 8, 8))
        save(root / "masks" / f"a{i}.png", gray(0, 8, 8))
    for path in (root / "images" / "a1.png", root / "masks" / "a2.png"):
        path.unlink()
        path.symlink_to(secret)
    inside = root / "masks" / "a3.png"
    inside.unlink()
    inside.symlink_to(root / "masks" / "a4.png")  # one that stays is as good as its file
    rows = {row.id: row.problem for row in layout("folder").train(config(root))}
    assert {own for own, problem in rows.items() if problem} == {"a1", "a2"}
    assert all("is a link that leaves its folder" in rows[own] for own in ("a1", "a2"))
