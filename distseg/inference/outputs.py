"""Where predicted masks may go: never onto what they are made from, nor onto another's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distseg.data.mask_values import MARK, MaskValues
from distseg.inference.inputs import Inputs
from distseg.records.errors import UserError, printable_path
from distseg.records.files import real_path, remove_stale, write_json
from distseg.records.tables import read_cells


@dataclass(frozen=True)
class Outputs:
    """What `distseg predict` is asked to write.

    masks: the folder of the masks, ID.png, and with several `labels` LABEL/ID.png.
    table: of RLEs. header: its first line.
    probabilities, overlays: folders of ID.npy and of ID.png.
    """

    masks: Path
    labels: Sequence[str] = ()
    table: Path | None = None
    header: Sequence[str] = field(default_factory=tuple)
    probabilities: Path | None = None
    overlays: Path | None = None

    @property
    def folders(self) -> dict[str, tuple[Path, tuple[str, ...], str]]:
        """By option: the folder, the folders in it, and the suffix of its files."""
        found = {"--out": (self.masks, tuple(self.labels) or ("",), ".png")}
        if self.probabilities is not None:
            found["--probabilities"] = (self.probabilities, ("",), ".npy")
        if self.overlays is not None:
            found["--overlay"] = (self.overlays, ("",), ".png")
        return found

    def files_of(self, name: str) -> list[Path]:
        """The files of an image in all folders."""
        return [
            folder / label / f"{name}{suffix}"
            for folder, inside, suffix in self.folders.values()
            for label in inside
        ]


def refuse_overwriting(inputs: Inputs, data_root: Path, out: Outputs) -> None:
    """UserError unless `distseg predict` may write all that it is asked for.

    Masks that an earlier prediction wrote are replaced, and so is its table; nothing else is.
    Nothing is written here. data_root: the folder of the data set that the run was trained on.
    """
    names = [sample.id for sample in inputs.samples]
    sources = {*map(Path, (sample.image for sample in inputs.samples))}
    parents = {path.parent for path in sources}
    sources = {real_path(path) for path in sources} | sources
    written: set[Path] = set()
    for option, (folder, inside, suffix) in out.folders.items():
        folders = [folder, *(folder / name for name in inside if name)]
        for one in folders:
            if one.exists() and not one.is_dir():
                raise UserError(f"{option}: {printable_path(one)}: is no folder")
            _refuse_inputs(option, one, inputs, parents)
        files = [folder / label / f"{name}{suffix}" for label in inside for name in names]
        real = _real(files)
        if taken := real & (sources | written):
            what = "an image" if taken & sources else "a file that another option asks for"
            raise UserError(
                f"{option}: {printable_path(min(taken))}: is {what}; name another folder"
            )
        written |= real
        if not (folder / MARK).is_file():
            _refuse_existing(option, files)
    if out.table is not None:
        folders_read = (inputs.root, data_root) if inputs.is_folder else (data_root,)
        _check_table(out.table, written, out.header, folders_read, sources)


def mark(out: Outputs, inputs: Inputs, run: Path, values: MaskValues) -> None:
    """Create the folders, and note in each that `distseg predict` fills it, and what the values of
    the masks mean. What a prediction that was killed has half-written is removed."""
    if out.table is not None:
        remove_stale(out.table.parent, out.table.name)
    for option, (folder, inside, _) in out.folders.items():
        for label in inside:
            remove_stale(folder / label)
        record: dict[str, Any] = {"run": str(run), "images": str(inputs.root)}
        own: Mapping[str, Any] = {"planes": values.record()} if option == "--out" else {}
        write_json(folder / MARK, {**record, **own})


def _refuse_inputs(option: str, folder: Path, inputs: Inputs, parents: Iterable[Path]) -> None:
    """UserError: masks would lie among the images that they are made from."""
    if inputs.is_folder and _lies_in(folder, inputs.root):
        raise UserError(
            f"{option}: {printable_path(folder)}: is, or lies in, the folder of --images, "
            f"{inputs.root}: masks would take the place of images; name another folder"
        )
    if not inputs.is_folder and folder.exists() and any(folder.samefile(one) for one in parents):
        raise UserError(
            f"{option}: {printable_path(folder)}: is the folder of images of --images; name "
            "another folder"
        )


def _real(files: Sequence[Path]) -> set[Path]:
    """The files by whatever links and mounts their folders are reached."""
    parents = {parent: real_path(parent) for parent in {path.parent for path in files}}
    return {parents[path.parent] / path.name for path in files}


def _refuse_existing(option: str, files: Iterable[Path]) -> None:
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UserError(
            f"{option}: {printable_path(there[0])}: is there already, and `distseg predict` did "
            f"not write it; {len(there)} such files. Name another folder, or remove them"
        )


def _check_table(
    table: Path, written: set[Path], header: Sequence[str], inputs: Sequence[Path],
    sources: set[Path],
) -> None:  # fmt: skip
    """UserError: the table is no file, is an input or a mask, or is somebody else's."""
    where = f"--rle: {printable_path(table)}"
    if table.is_dir():
        raise UserError(f"{where}: is a folder; name a file")
    real = real_path(table)
    if real in written:
        raise UserError(f"{where}: is the mask of an image; name another file")
    if not table.exists() and not table.is_symlink():
        return
    if table.is_symlink():
        raise UserError(f"{where}: is a link to {printable_path(real)}; name the file itself")
    if not table.is_file():
        raise UserError(f"{where}: is no file that could be written")
    if real in sources or any(_lies_in(table.parent, folder) for folder in inputs):
        raise UserError(f"{where}: is a file of the input; name another")
    if _first_line(table) != list(header):
        raise UserError(
            f"{where}: is there already, and `distseg predict` did not write it: it does not begin "
            f"with {','.join(header)}. Name another file, or remove it"
        )


def _first_line(table: Path) -> list[str]:
    try:
        return next(read_cells(table), (0, []))[1]
    except UserError:
        return []


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies below it, by whatever links and mounts it is reached."""
    if not folder.exists():
        return False
    real = real_path(path)
    return any(one.exists() and one.samefile(folder) for one in (real, *real.parents))
