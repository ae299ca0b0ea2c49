"""Images, masks and tables that nobody can use: set aside by name, or refused, in little memory."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.records.paths import Run
from tests.attack.odd import make_odd
from tests.attack.victim import attack, check


def png(height: int, width: int, data: bytes = b"", depth: int = 8, color: int = 0) -> bytes:
    """A PNG whose header claims a size, with `data` as its compressed pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        sum_ = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_)

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = data or zlib.compress(b"\0" * 20)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def npy(shape: tuple[int, ...], dtype: str = "|u1", size: int = 0, version: int = 1) -> bytes:
    """The header of a .npy file, and `size` bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + bytes(size)


def good_png() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 10), 7, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sparse(path: Path, header: bytes, size: int) -> None:
    path.write_bytes(header)
    os.truncate(path, len(header) + size)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
# By name of the file: its bytes, or what makes it.
IMAGES: dict[str, tuple[str, bytes | Callable[[Path], object]]] = {
    "a bomb of 169 million pixels": ("x.png", png(13_000, 13_000)),
    "a bomb of four billion pixels": ("x.png", png(65_000, 65_000)),
    "a bomb of 2^31 by 2^31": ("x.png", png(2**31 - 1, 2**31 - 1)),
    "a bomb of 16-bit colors": ("x.png", png(13_000, 13_000, depth=16, color=6)),
    "just below the limit, cut": ("x.png", png(9_999, 9_999)),
    "wide, cut": ("x.png", png(1, 90_000_000)),
    "a BMP that claims much": (
        "x.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6),
    ),
    "a PGM that claims much": ("x.pgm", b"P5 60000 60000 255\n"),
    "a PGM of text": ("x.pgm", b"P2 3 3 255\n1 2 x"),
    "a GIF that claims much": ("x.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)),
    "no pixels": ("x.png", png(0, 10)),
    "a sparse array of 9 GB": ("x.npy", lambda p: sparse(p, npy((95_000, 95_000)), 95_000**2)),
    "a sparse array of floats": (
        "x.npy", lambda p: sparse(p, npy((30_000, 30_000), "<f8"), 8 * 30_000**2),
    ),
    "an array that claims more than it has": ("x.npy", npy((5000, 5000), size=10)),
    "an array of many channels": (
        "x.npy", lambda p: sparse(p, npy((10, 10, 10_000_000)), 10**9),
    ),
    "an array of 2^62 values": ("x.npy", npy((2**31, 2**31))),
    "an array of negative size": ("x.npy", npy((-1, 10), size=10)),
    "an array of no size": ("x.npy", npy((0, 10))),
    "an array of 30 axes": ("x.npy", npy((1,) * 30, size=1)),
    "an array of objects": ("x.npy", npy((2, 2), "|O", size=100)),
    "an array of texts": ("x.npy", npy((2, 2), "<U9", size=200)),
    "an array of complex": ("x.npy", npy((2, 2), "<c16", size=64)),
    "an array of NaN": ("x.npy", npy((2, 2), "<f8") + np.full(4, np.nan).tobytes()),
    "an array of a newer format": ("x.npy", npy((2, 2), size=4, version=9)),
    "an array whose header is code": (
        "x.npy",
        b"\x93NUMPY\x01\x00\x36\x00__import__('os').system('touch /tmp/distseg_was_here')\n",
    ),
    "a pickle as an array": ("x.npy", b"\x80\x04\x8c\x05posix\x94."),
    "a zip as an array": ("x.npy", b"PK\x03\x04" + bytes(50)),
    "EPS under another name": ("x.png", EPS),
    "EPS as a TIFF": ("x.tif", EPS),
    "PDF under another name": ("x.png", b"%PDF-1.4\n"),
    "SVG under another name": ("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "HTML": ("x.jpg", b"<html>not found</html>"),
    "empty": ("x.png", b""),
    "one byte": ("x.png", b"\x89"),
    "a header alone": ("x.png", png(12, 10)[:33]),
    "cut": ("x.png", good_png()[:-30]),
    "flipped": ("x.png", good_png()[:45] + b"\0\0\0\0" + good_png()[49:]),
    "a TIFF of an endless directory": (
        "x.tif", b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x01\0\0\0\x08\0\0\0",
    ),
    "a JPEG without an end": ("x.jpg", b"\xff\xd8\xff\xe0" + bytes(50)),
    "a WebP that is none": ("x.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8L" + bytes(20)),
    "a JPEG 2000 that is none": ("x.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
    **{
        what: ("x.png", lambda path, what=what: make_odd(what, path.parent, path.name))  # type: ignore[misc]
        for what in ("a pipe", "a device", "a folder", "a socket", "a loop", "a dangling link")
    },
    "a link that leaves": ("x.png", lambda p: p.symlink_to("/etc/hostname")),
    "a link to an image elsewhere": ("x.png", lambda p: p.symlink_to(_elsewhere(p))),
    "a name that is no UTF-8": ("x\udcff.png", good_png()),
    "a name of control characters": ("x\x1b[31m\x07.png", b"no image"),
    "a name with a line feed": ("x\ny.png", b"no image"),
    "a name in both directions": ("x\u202egnp.png", b"no image"),
}  # fmt: skip


def _elsewhere(path: Path) -> Path:
    other = path.parents[2] / "elsewhere.png"
    other.write_bytes(good_png())
    return other


def put(folder: Path, name: str) -> Path:
    file, content = IMAGES[name]
    path = folder / file
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    return path


# A name alone makes no image bad: those files are read where their bytes can be.
@pytest.mark.parametrize("name", IMAGES)
def test_predict_sets_it_aside(name: str, moved: Run, tmp_path: Path) -> None:
    images = tmp_path / "v" / "test_images"
    put(images, name)
    out, table = tmp_path / "out", tmp_path / "t.csv"
    outcome = attack("predict", moved.folder, "--images", images, "--out", out, "--rle", table)
    check(outcome, (0,), "x")
    assert outcome.said.isprintable() or "\x1b" not in outcome.said
    assert "mask" in outcome.said  # gets an empty one, or none
    assert len([p for p in out.iterdir() if p.name.startswith("test_images")]) == 4
    assert len(table.read_text(encoding="utf-8").splitlines()) >= 5
    assert not Path("/tmp/distseg_was_here").exists()


@pytest.mark.parametrize("name", IMAGES)
def test_inspect_sets_it_aside(name: str, moved: Run) -> None:
    root = moved.folder.parent / "data"
    path = put(root / "images", name)
    (root / "masks" / f"{path.stem}.png").write_bytes(good_png())
    outcome = attack("inspect", moved.folder.parent / "config.yaml")
    check(outcome, (0,), "quarantine: ")
    assert "quarantine: 0" not in outcome.said
    assert "12 train images" in outcome.said
    assert "\x1b" not in outcome.said
    assert not Path("/tmp/distseg_was_here").exists()


MASKS = [name for name, (file, _) in IMAGES.items() if file.startswith("x.")]


@pytest.mark.parametrize("name", MASKS)
def test_inspect_sets_its_mask_aside(name: str, moved: Run) -> None:
    root = moved.folder.parent / "data"
    path = put(root / "masks", name)
    (root / "images" / f"{path.stem}.png").write_bytes(good_png())
    outcome = attack("inspect", moved.folder.parent / "config.yaml")
    check(outcome, (0,), "quarantine: ")
    assert "quarantine: 0" not in outcome.said
    assert "12 train images" in outcome.said


BIG = 100_000_000
TABLES: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "a header alone": b"id,rle\n",
    "one column": b"id\na\n",
    "a line of 100 MB": lambda: b"id,rle\na," + b"1" * BIG + b"\n",
    "a header of 100 MB": lambda: b"i" * BIG,
    "50 million cells": lambda: b"id,rle\n" + b"," * 50_000_000 + b"\n",
    "ten million runs": lambda: b"id,rle\na," + b"1 1 " * 10_000_000 + b"\n",
    "half a million runs that overlap": lambda: b"id,rle\na," + b"1 1 " * 500_000 + b"\n",
    "an open quote": b'id,rle\n"a,1 1\n' + b"b,1 1\n" * 1000,
    "a quote inside": b'id,rle\na"b"c,1 1\n"a"x,1 1\n',
    "NUL": b"id,rle\na\0,1 1\n",
    "not UTF-8": b"id,rle\n\xff\xfe,1 1\n",
    "UTF-16": "id,rle\na,1 1\n".encode("utf-16"),
    "PNG": good_png(),
    "an id twice": b"id,rle\na,1 1\na,1 1\n",
    "an empty id": b"id,rle\n,1 1\n",
    "an id of a megabyte": b"id,rle\n" + b"x" * 1_000_000 + b",1 1\n",
    "too few cells": b"id,rle\na\n",
    "too many cells": b"id,rle\na,1 1,2,3\n",
    "an odd count": b"id,rle\na,1 1 1\n",
    "a length of 0": b"id,rle\na,1 0\n",
    "a negative start": b"id,rle\na,-5 3\n",
    "start 0": b"id,rle\na,0 3\n",
    "beyond the image": b"id,rle\na,1 999999999\n",
    "beyond int64": b"id,rle\na,1 99999999999999999999999\n",
    "a number of a megabyte": b"id,rle\na,1 " + b"9" * 1_000_000 + b"\n",
    "descending": b"id,rle\na,9 1 1 1\n",
    "overlapping": b"id,rle\na,1 5 3 5\n",
    "words": b"id,rle\na,one two\n",
    "underscores": b"id,rle\na,1_0 2\n",
    "other digits": "id,rle\na,١ ٢\n".encode(),
    "a fraction": b"id,rle\na,1.5 2\n",
    "NaN": b"id,rle\na,nan nan\n",
    "hexadecimal": b"id,rle\na,0x1 2\n",
    "control characters": b"id,rle\n\x1b[31ma,x y\n",
    "another id": b"id,rle\nother,1 1\n",
    "a formula": b"id,rle\n=cmd|' /C calc'!A0,1 1\n",
}  # fmt: skip


@pytest.mark.parametrize("side", ["submission", "truth"])
@pytest.mark.parametrize("name", TABLES)
def test_score_refuses_a_table(name: str, side: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("id,rle\na,1 1\n")
    content = TABLES[name]
    bad.write_bytes(content() if callable(content) else content)
    pair = (bad, good) if side == "submission" else (good, bad)
    outcome = attack("score", *pair, "--metric", "dice", "--height", "20", "--width", "20")
    check(outcome, (2,), "bad.csv")
    assert len(outcome.errors) == 1
    assert "\x1b" not in outcome.said
    assert outcome.peak < 1 << 30


ARGUMENTS = (
    ("--height", "1000000", "--width", "1000000"), ("--height", "0", "--width", "10"),
    ("--height", "-1", "--width", "-1"), ("--height", "10"), ("--height", "9" * 30, "--width", "1"),
    (), ("--metric", "x" * 1_000_000), ("--images", "/nowhere"), ("--images", "/dev/null"),
    ("--height", "1", "--width", "1", "--num-classes", "100000000000"),
)  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda found: " ".join(found)[:40])
def test_score_refuses_arguments(arguments: tuple[str, ...], tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,rle\na,1 1\n")
    metric = () if "--metric" in arguments else ("--metric", "dice")
    check(attack("score", table, table, *metric, *arguments), (2,))


@pytest.mark.parametrize("what", ["a pipe", "a device", "a socket", "a loop", "a long name"])
def test_score_of_what_is_no_file(what: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,rle\na,1 1\n")
    path = make_odd(what, tmp_path, "x.csv")
    check(attack("score", path, table, "--metric", "dice", "--height", "2", "--width", "2"), (2,))
