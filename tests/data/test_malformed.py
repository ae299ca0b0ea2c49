"""Every malformed input gives one quarantine row, or one UserError, with file and reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.schema import Config
from distseg.data.folds import assign_folds, read_groups
from distseg.data.inspect import inspect
from distseg.data.layouts import layout
from distseg.data.prepare import prepare
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.data.data_helpers import config, folder, gray, save, tgs

NUM = 6


def write(name: str, data: bytes | str) -> Callable[[Path], object]:
    raw = data.encode() if isinstance(data, str) else data
    return lambda root: (root / name).write_bytes(raw)


def cut(name: str, keep: float) -> Callable[[Path], object]:
    """Truncate a file to a share of its bytes."""

    def change(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * keep)])

    return change


def array(name: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda root: save(root / name, values)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def line(number: int, text: str) -> Callable[[Path], object]:
    """Replace a line of train.csv (0 is the header)."""

    def change(root: Path) -> None:
        lines = (root / "train.csv").read_text().splitlines()
        lines[number] = text
        (root / "train.csv").write_text("\n".join(lines) + "\n")

    return change


def link_out(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        outside = save(root.parent / "outside.png", gray(50))
        (root / name).unlink()
        (root / name).symlink_to(outside)

    return change


def flip_bytes(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 8] = bytes(255 - b for b in data[middle : middle + 8])
        (root / name).write_bytes(bytes(data))

    return change


def save_array(name: str, values: np.ndarray, pickled: bool = False) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).with_suffix(".png").unlink()
        np.save((root / name), values, allow_pickle=pickled)

    return change


def other(name: str, suffix: str) -> Callable[[Path], object]:
    """The same picture again, under another suffix."""
    return lambda root: Image.open(root / name).save((root / name).with_suffix(suffix))


MASK = np.zeros((16, 16), dtype=np.uint8)
INDEX = {
    "task": "multiclass",
    "classes": ["ground", "a", "b"],
    "stages": [{"loss": {"cross_entropy": 1.0}}],
}
COLOR = np.zeros((16, 16, 3), dtype=np.uint8)
COLOR[2:4, 2:4, 0] = 255
THREE = MASK.copy()
THREE[0, :3] = [1, 2, 3]
IMAGE, M = "images/a1.png", "masks/a1.png"


# what breaks, settings, the file that is named, words of the reason
def make_folder(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).mkdir()


def break_link(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).symlink_to(root / "images/none.png")


def save_instead(path: Path, value: float) -> None:
    """A TIFF of one real number in place of an image."""
    Image.fromarray(np.full((16, 16), value, np.float32)).save(path.with_suffix(".tif"))
    path.unlink()


QUARANTINED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str, str]] = {
    "empty image file": (write(IMAGE, b""), {}, IMAGE, "cannot be read"),
    "image is text": (write(IMAGE, "hello"), {}, IMAGE, "cannot be read"),
    "image cut in half": (cut(IMAGE, 0.5), {}, IMAGE, "truncated"),
    "image cut in its header": (cut(IMAGE, 0.05), {}, IMAGE, "cannot be read"),
    "image bytes flipped": (flip_bytes(IMAGE), {}, IMAGE, "cannot be read"),
    "image is a folder": (
        make_folder, {}, IMAGE, "cannot be read",
    ),
    "image is a broken link": (
        break_link,
        {}, IMAGE, "no such",
    ),
    "image is a link that leaves": (link_out(IMAGE), {}, IMAGE, "leaves its folder"),
    "mask is a link that leaves": (link_out(M), {}, IMAGE, "leaves its folder"),
    "image larger than a padded input": (
        lambda r: (array(IMAGE, gray(1, 40, 16))(r), array(M, np.zeros((40, 16), np.uint8))(r)),
        {}, IMAGE, "larger than the input",
    ),
    "image of NaN": (
        lambda r: save_instead(r / IMAGE, np.nan),
        {}, "images/a1.tif", "are no image",
    ),
    "array of objects": (
        save_array("images/a1.npy", np.array([{}, 1]), pickled=True), {}, "images/a1.npy", "array",
    ),
    "array of five axes": (
        save_array("images/a1.npy", np.zeros((1,) * 5, np.uint8)), {}, "images/a1.npy", "shape",
    ),
    "array of two channels": (
        save_array("images/a1.npy", np.zeros((16, 16, 2), np.uint8)), {}, "images/a1.npy",
        "2 channels",
    ),
    "mask of another size": (array(M, np.zeros((16, 15), np.uint8)), {}, M, "16x15"),
    "mask turned by 90 degrees": (
        lambda r: (array(IMAGE, gray(1, 12, 16))(r), array(M, np.zeros((16, 12), np.uint8))(r)),
        {}, M, "16x12",
    ),
    "empty mask file": (write(M, b""), {}, M, "cannot be read"),
    "mask cut in half": (cut(M, 0.6), {}, M, "cannot be read"),
    "color mask": (array(M, COLOR), {}, M, "color picture"),
    "binary mask of three values": (array(M, THREE), {}, M, "two values"),
    "mask of real numbers": (
        lambda r: save_instead(r / M, 0.5), {}, "masks/a1.tif", "real numbers",
    ),
    "class beyond the last": (array(M, THREE), INDEX, M, "value 3 is no class of 0..2"),
    "void that is not set": (
        lambda r: array(M, np.where(np.arange(16) > 8, 255, MASK).astype(np.uint8))(r),
        INDEX, M, "value 255 is no class of 0..2, and no void",
    ),
    "image without a mask": (remove(M), {}, IMAGE, "no mask"),
    "mask without an image": (remove(IMAGE), {}, M, "a mask without an image"),
    "two images of one stem": (other(IMAGE, ".bmp"), {}, "images/a1.png", "already that of"),
    "two masks of one stem": (other(M, ".bmp"), {}, IMAGE, "two masks"),
    "constant image, excluded": (
        array(IMAGE, MASK + 7), {"data__exclude_constant": True}, IMAGE, "all pixels are",
    ),
}  # fmt: skip

# the same for data.format: tgs without a masks folder: what breaks, words of the reason
TABLE = {
    "RLE of an odd count": (line(2, "a1,1 2 3"), "odd|pairs"),
    "RLE with a word": (line(2, "a1,1 x"), "'x'"),
    "RLE from 0": (line(2, "a1,0 4"), "under 1"),
    "RLE beyond the image": (line(2, "a1,250 8"), "beyond"),
    "RLE of length 0": (line(2, "a1,4 0"), "length under 1"),
    "RLE that overlaps": (line(2, "a1,1 5 3 2"), "overlap"),
    "RLE out of order": (line(2, "a1,9 2 1 2"), "before"),
    "id that goes up": (line(2, "a1,\n../../outside,1 1"), "leaves its folder"),
    "id that is absolute": (line(2, "a1,\n/etc/passwd,1 1"), "leaves its folder"),
    "id with a backslash": (line(2, "a1,\n..\\outside,1 1"), "leaves its folder"),
    "id without a file": (line(2, "a1,\nzzz,1 1"), "no image zzz.png"),
    "id too long": (line(2, "a1,\n" + "z" * 5000 + ",1 1"), "line 4"),
    "empty id": (line(2, "a1,\n,1 1"), "id is empty"),
    "line that ends early": (line(2, "a1"), "ends before rle_mask"),
    "image that no line names": (line(2, ""), "does not name"),
}

# whole files that cannot be used: format, what breaks, settings, the file, words of the reason
STOPPED = {
    "no images folder": (
        "folder", lambda r: (r / "images").rename(r / "imagex"), {}, "images",
        "Did you mean 'imagex'",
    ),
    "empty images folder": (
        "folder", lambda r: [p.unlink() for p in (r / "images").iterdir()], {}, "images",
        "no image",
    ),
    "no masks folder": ("folder", lambda r: (r / "masks").rename(r / "x"), {}, "masks", "no such"),
    "table without a column": ("tgs", line(0, "id,mask"), {}, "train.csv", "'rle_mask' is missing"),
    "table not in UTF-8": ("tgs", write("train.csv", b"id,rle_mask\n\xff\xfe,\n"), {}, "train.csv",
                           "cannot be read"),
    "table of zeros": ("tgs", write("train.csv", b"\0" * 64), {}, "train.csv", "train.csv"),
    "empty table": ("tgs", write("train.csv", b""), {}, "train.csv", "'id' is missing"),
    "table with an open quote": ("tgs", line(2, 'a1,"1 2'), {}, "train.csv", "cannot be read"),
    "table with a cell too many": ("tgs", line(2, "a1,1 2,3"), {}, "line 3", "more cells"),
    "no table": ("tgs", remove("train.csv"), {}, "train.csv", "No such file"),
    "submission with an id twice": (
        "tgs", write("sample_submission.csv", "id,rle_mask\nt0,\nt0,\n"), {},
        "sample_submission.csv, line 3", "twice",
    ),
    "submission that leaves": (
        "tgs", write("sample_submission.csv", "id,rle_mask\n../t0,\n"), {},
        "sample_submission.csv, line 2", "leaves its folder",
    ),
    "submission without rows": (
        "tgs", write("sample_submission.csv", "id,rle_mask\n"), {}, "sample_submission.csv",
        "no id",
    ),
    "folds: an id twice": ("folder", write("f.csv", "id,fold\na0,0\na0,1\n"), {}, "f.csv, line 3",
                           "twice"),
    "folds: not a number": (
        "folder", write("f.csv", "id,fold\na0,x\n"), {}, "f.csv, line 2", "'x'",
    ),
    "folds: under -1": ("folder", write("f.csv", "id,fold\na0,-2\n"), {}, "f.csv, line 2", "'-2'"),
    "folds: ids missing": ("folder", write("f.csv", "id,fold\na0,0\n"), {}, "f.csv", "'a1'"),
    "folds: none validated": (
        "folder", write("f.csv", "id,fold\n" + "".join(f"a{i},-1\n" for i in range(NUM))), {},
        "f.csv", "no row is validated",
    ),
    "folds: duplicates apart": (
        "folder", lambda r: (
            (r / "images/a5.png").write_bytes((r / "images/a4.png").read_bytes()),
            write("f.csv", "id,fold\n" + "".join(f"a{i},{i % 2}\n" for i in range(NUM)))(r)),
        {}, "f.csv", "same image",
    ),
    "folds: no such file": ("folder", lambda r: None, {}, "f.csv", "No such file"),
    "groups: an id missing": (
        "folder", write("g.csv", "id,patient\na0,x\n"),
        {"data__folds": {"kind": "group", "groups": "g.csv", "column": "patient"}}, "g.csv", "'a1'",
    ),
    "groups: no such column": (
        "folder", write("g.csv", "id,person\na0,x\n"),
        {"data__folds": {"kind": "group", "groups": "g.csv", "column": "patient"}}, "g.csv",
        "'patient' is missing",
    ),
}  # fmt: skip


def check(config: Config) -> list[tuple[str, str, str]]:
    """All that `prepare` opens; the quarantine."""
    module = layout(config.data.format)
    module.test(config)
    checked = inspect(config, module.train(config))
    groups = read_groups(config, [row.id for row in checked.good])
    assign_folds(config, checked.good, checked.coverage, groups, checked.together)
    return checked.quarantine


@pytest.mark.parametrize("case", QUARANTINED)
def test_one_bad_row_is_set_aside(tmp_path: Path, case: str) -> None:
    root = folder(tmp_path / "data", NUM)
    change, settings, file, words = QUARANTINED[case]
    if "task" in settings:
        for path in (root / "masks").iterdir():
            save(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8))
    change(root)
    quarantine = check(config(root, **settings, data__allow_bad="task" in settings))
    assert len(quarantine) == 1, quarantine
    name, found, reason = quarantine[0]
    assert name == "a1" and found.endswith(file) and words in reason, quarantine


@pytest.mark.parametrize("case", TABLE)
def test_one_bad_line_is_set_aside(tmp_path: Path, case: str) -> None:
    root = tgs(tmp_path / "data", NUM, masks=False)
    change, words = TABLE[case]
    change(root)
    quarantine = check(config(root, data__format="tgs"))
    assert len(quarantine) == 1, quarantine
    _, file, reason = quarantine[0]
    assert file and any(word in reason for word in words.split("|")), quarantine


@pytest.mark.parametrize("case", STOPPED)
def test_a_bad_table_or_folder_is_one_error(tmp_path: Path, case: str) -> None:
    kind, change, settings, file, words = STOPPED[case]
    root = (folder if kind == "folder" else tgs)(tmp_path / "data", NUM)
    if kind == "tgs" and "submission" not in case:
        for path in (root / "train/masks").iterdir():
            path.unlink()
        (root / "train/masks").rmdir()
    change(root)
    if case.startswith("folds"):
        settings = {"data__folds": {"kind": "file", "path": "f.csv"}}
    with pytest.raises(UserError) as error:
        check(config(root, data__format=kind, **settings))
    message = str(error.value)
    assert file in message and words in message and "\n" not in message, message


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_name_that_is_no_utf_8_is_set_aside(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / "data", NUM)
    (root / name / "a1.png").rename(root / name / os.fsdecode(b"a\xff.png"))
    run = Run(tmp_path / "run")
    prepare(config(root), run)
    assert len(Manifest.read(run.truth)) == NUM - 1
    text = (run.data / "quarantine.csv").read_text(encoding="utf-8")
    assert f"{name}/a\\udcff.png" in text


def test_strict_stops_at_the_first_bad_row(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", NUM)
    write(IMAGE, b"")(root)
    with pytest.raises(UserError, match=r"images/a1.png.*1 of 6 rows are bad"):
        check(config(root, data__strict=True))
