"""Masks to a submission, streamed in any order, checked, and put in place.

Each rank writes one share of the images: encoded masks go to disk as they come, memory holds an
id, a place in the file and a checksum of each. `merge_shares` joins the shares, reads the result
back, compares every mask with its checksum, and only then renames it into place.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.data.formats.row import SubmissionSpec, locate
from distseg.functional import rle
from distseg.functional.drawing import encode_png
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError
from distseg.records.files import begin_folder, put_folder, whole_folder
from distseg.records.tables import read_cells, table_writer

Mask = NDArray[np.uint8]


def share_path(path: Path, number: int, total: int) -> Path:
    """The folder of share `number` of `total` of the submission `path`, beside it."""
    return path.with_name(f"{path.name}.part{number}of{total}")


class ShareWriter:
    """Share number share[0] of share[1] of a submission: a folder beside `path`, whole once closed.

    kind "rle": encodings go to rows.jsonl, one for each object where the spec says so; kind
    "masks": ID.png of 0/255 for binary, of the class index for multiclass, and CLASS/ID.png of
    0/255 for multilabel.
    """

    def __init__(
        self, spec: SubmissionSpec, path: Path, *, share: tuple[int, int] = (0, 1),
        task: str = "binary",
    ) -> None:  # fmt: skip
        self.spec, self.path, self.task = spec, Path(path), task
        self.known, self.seen = frozenset(spec.ids), set[str]()
        for name in spec.ids if spec.kind == "masks" else []:
            if problem := locate(self.path, f"{name}.png")[1]:
                raise UserError(f"submission {self.path.name}: {problem}")
        self.folder = share_path(self.path, *share)
        self.temporary = begin_folder(self.folder)
        self.rows = (self.temporary / "rows.jsonl").open("w", encoding="utf-8")

    def add(self, name: str, mask_CHW: Mask) -> None:
        """mask_CHW: uint8 (C, H, W) of 0 and 1, or (1, H, W) class index for multiclass.

        Raises:
            UserError: `name` is not in the submission, or was added before.
        """
        if name not in self.known:
            raise UserError(f"submission {self.path.name}: {name!r} is not among its ids")
        if name in self.seen:
            raise UserError(f"submission {self.path.name}: {name!r} was predicted twice")
        self.seen.add(name)
        for key, plane in _planes(self.spec, self.task, name, mask_CHW):
            self.write(name, key, plane)

    def leave_out(self, name: str, mask_CHW: Mask, *, is_sized: bool) -> str:
        """An image that cannot be read; returns what becomes of it. An RLE without an object has
        no size, and so its row is right whatever the image's; a mask has one, and where it is not
        known (`is_sized`), there is no file. Otherwise as `add`."""
        if is_sized or self.spec.kind == "rle":
            nothing = np.uint8(VOID if self.task == "multiclass" else 0)  # not even background
            self.add(name, mask_CHW if is_sized else np.full_like(mask_CHW[:, :1, :1], nothing))
            return "gets an empty mask"
        assert name in self.known and name not in self.seen
        self.seen.add(name)
        self.rows.write(json.dumps({"id": name, "key": "", "size": [0, 0], "crc": 0}) + "\n")
        return "its size is not known: it has no mask in the submission"

    def write(self, name: str, key: str, plane_HW: Mask) -> None:
        """One mask: the file `key`.png, or an encoding in its row."""
        row: dict[str, Any] = {
            "id": name,
            "key": key,
            "size": plane_HW.shape,
            "crc": _crc(plane_HW),
        }
        if self.spec.kind == "rle":
            row["rles"] = _encoded(self.spec, plane_HW)
        else:
            scale = 1 if self.task == "multiclass" else 255
            _write_png(self.temporary / f"{key}.png", plane_HW * np.uint8(scale))
        self.rows.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """The share is whole: it takes its name."""
        self.rows.close()
        put_folder(self.temporary, self.folder)


def merge_shares(
    spec: SubmissionSpec, path: Path, num_shares: int, *, task: str = "binary"
) -> None:
    """When all shares are closed: join them to `path`, and remove them and those of another
    division, which a stopped start has left.

    Raises:
        UserError: an id is missing or in two shares; the message has the first one and the count.
            `path` is then as it was before.
    """
    path = Path(path)
    shares = [share_path(path, number, num_shares) for number in range(num_shares)]
    places = _index(shares)
    _check_ids(spec, places, path)
    # The old submission stays until the new one has been read back: what a board would refuse, or
    # what a full disk has cut off, never takes its place.
    if spec.kind == "rle":
        temporary = path.with_name(path.name + ".tmp")
        _write_table(spec, temporary, places)
        _verify_table(spec, temporary, places)
        temporary.replace(path)
    else:
        with whole_folder(path) as folder:
            _join_masks(folder, places, task)
    for share in path.parent.glob(f"{path.name}.part*"):
        shutil.rmtree(share)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one mask lies: the share, the byte of its row, and what it must decode to."""

    share: Path
    key: str
    offset: int
    size: tuple[int, int]
    crc: int

    def row(self) -> dict[str, Any]:
        """The row as `ShareWriter` wrote it."""
        with (self.share / "rows.jsonl").open("rb") as file:
            file.seek(self.offset)
            return json.loads(file.readline())


def _index(shares: Sequence[Path]) -> dict[str, list[_Place]]:
    """Places of the masks by id; an id in two shares is the user's mistake."""
    places: dict[str, list[_Place]] = {}
    for share in (share for share in shares if not share.is_dir()):
        raise UserError(f"{share}: this share of the submission is missing: its rank did not end")
    for share in shares:
        own: dict[str, list[_Place]] = {}
        offset = 0  # bytes: a row is read again when its turn in the table has come
        with (share / "rows.jsonl").open("rb") as file:
            for line in file:
                row = json.loads(line)
                height, width = row["size"]
                place = _Place(share, row["key"], offset, (height, width), row["crc"])
                own.setdefault(row["id"], []).append(place)
                offset += len(line)
        twice = sorted(own.keys() & places.keys())
        if twice:
            raise UserError(f"submission: {twice[0]!r} was predicted twice, {len(twice)} such ids")
        places |= own
    return places


def _check_ids(spec: SubmissionSpec, places: dict[str, list[_Place]], path: Path) -> None:
    twice = [name for name, count in Counter(spec.ids).items() if count > 1]
    if twice:
        raise UserError(f"submission {path.name}: its list of ids has {twice[0]!r} twice")
    missing = [name for name in spec.ids if name not in places]
    extra = sorted(places.keys() - set(spec.ids))
    for names, problem in ((missing, "has no prediction"), (extra, "is not among its ids")):
        if names:
            raise UserError(
                f"submission {path.name}: {names[0]!r} {problem}; {len(names)} such of "
                f"{len(spec.ids)} ids"
            )


def _write_table(spec: SubmissionSpec, path: Path, places: dict[str, list[_Place]]) -> None:
    header = spec.columns if spec.header else ()
    with table_writer(path, header, spec.separator) as write_row:
        for name in spec.ids:
            for place in places[name]:
                for text in place.row()["rles"]:
                    write_row(_cells(spec, name, place.key, text))


def _verify_table(spec: SubmissionSpec, path: Path, places: dict[str, list[_Place]]) -> None:
    """Read the written file as a board would, and compare every mask."""
    expected = ((name, place) for name in spec.ids for place in places[name])
    rows = (cells for _, cells in read_cells(path, spec.separator))
    if spec.header:
        assert next(rows) == list(spec.columns), f"{path}: the header was not written"
    for name, place in expected:
        texts, same = [], True
        for _ in place.row()["rles"]:
            cells = next(rows, [""] * len(spec.cells))
            texts.append(cells[spec.cells.index("rle")])
            same = same and cells == _cells(spec, name, place.key, texts[-1])
        mask = rle.decode_union(texts, *place.size, **_rle_options(spec))
        area = sum(int(length) for text in texts for length in text.split()[1::2])
        same = same and area == mask.sum()  # no object on another
        assert same and _crc(mask) == place.crc, f"{path}: {place.key} reads back wrong"
    assert next(rows, None) is None, f"{path}: has more rows than were written"


def _cells(spec: SubmissionSpec, name: str, key: str, text: str) -> list[str]:
    """One row of the table; key: `ID_CLASS` of several classes, as `_planes` makes it."""
    values = {"id": key, "rle": text}
    if "class" in spec.cells:
        values |= {"id": name, "class": key.removeprefix(f"{name}_")}
    return [values[cell] for cell in spec.cells]


def _join_masks(folder: Path, places: dict[str, list[_Place]], task: str) -> None:
    for place in (place for found in places.values() for place in found if place.key):
        target = folder / f"{place.key}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.share / f"{place.key}.png", target)
        with Image.open(target) as image:
            pixels = np.asarray(image)
        mask = pixels if task == "multiclass" else (pixels > 0).astype(np.uint8)
        assert _crc(mask) == place.crc, f"{target}: reads back wrong"


def _planes(
    spec: SubmissionSpec, task: str, name: str, mask_CHW: Mask
) -> Iterator[tuple[str, Mask]]:
    """What one image is written as: (key, uint8 (H, W)). One row or file per class, except that
    multiclass masks are one file of class indices."""
    assert mask_CHW.dtype == np.uint8 and mask_CHW.ndim == 3, "masks are uint8 (C, H, W)"
    if spec.class_ids is None or (spec.kind == "masks" and task == "multiclass"):
        assert len(mask_CHW) == 1, "several classes need class_ids to be told apart"
        yield name, mask_CHW[0]
        return
    for number, class_id in enumerate(spec.class_ids):
        if not class_id:
            continue
        plane = mask_CHW[0] == number if task == "multiclass" else mask_CHW[number]
        key = f"{name}_{class_id}" if spec.kind == "rle" else f"{class_id}/{name}"
        yield key, plane.astype(np.uint8)


def _encoded(spec: SubmissionSpec, plane_HW: Mask) -> list[str]:
    return rle.encode_rows(plane_HW, per_object=spec.per_object, **_rle_options(spec))


def _rle_options(spec: SubmissionSpec) -> dict[str, Any]:
    return {"order": spec.order, "base": spec.base, "empty": spec.empty}


def _crc(mask_HW: Mask) -> int:
    return zlib.crc32(np.ascontiguousarray(mask_HW, dtype=np.uint8).tobytes())


def _write_png(path: Path, pixels_HW: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels_HW))
