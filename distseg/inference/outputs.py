"""Where predicted masks may go: never onto what they are made from, nor onto another's files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from distseg.records.errors import UserError, printable_path
from distseg.records.files import real_path, write_json
from distseg.records.tables import read_cells

MARK = ".distseg.json"  # in a folder of masks: `distseg predict` has filled it


def refuse_overwriting(
    images: Path, data_root: Path, names: Sequence[str], folder: Path, labels: Sequence[str],
    table: Path | None, header: Sequence[str],
) -> None:  # fmt: skip
    """UserError unless `distseg predict` may write `folder`/[LABEL/]NAME.png, and `table`.

    Masks that an earlier prediction wrote are replaced, and so is its table; nothing else is.
    Nothing is written here.

    Args:
        images: the folder that is predicted.
        data_root: the folder of the data set that the run was trained on.
        header: the first line of a table that may be replaced.
    """
    folders = [folder / label for label in labels] or [folder]
    for one in (folder, *folders):
        if one.exists() and not one.is_dir():
            raise UserError(f"--out: {printable_path(one)}: is no folder")
        if _lies_in(one, images):
            raise UserError(
                f"--out: {printable_path(one)}: is, or lies in, the folder of --images, {images}: "
                "masks would take the place of images; name another folder"
            )
    files = [one / f"{name}.png" for one in folders for name in names]
    if not (folder / MARK).is_file():
        _refuse_existing(files)
    if table is not None:
        _check_table(table, files, header, (images, data_root))


def mark(folder: Path, images: Path, run: Path) -> None:
    """Create the folder, and note in it that `distseg predict` fills it."""
    write_json(folder / MARK, {"run": str(run), "images": str(images)})


def _refuse_existing(files: Iterable[Path]) -> None:
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UserError(
            f"--out: {printable_path(there[0])}: is there already, and `distseg predict` did not "
            f"write it; {len(there)} such files. Name another folder, or remove them"
        )


def _check_table(
    table: Path, files: Sequence[Path], header: Sequence[str], inputs: Sequence[Path]
) -> None:
    """UserError: the table is no file, is an input or a mask, or is somebody else's."""
    where = f"--rle: {printable_path(table)}"
    if table.is_dir():
        raise UserError(f"{where}: is a folder; name a file")
    real = real_path(table)
    if real in {real_path(path.parent) / path.name for path in files}:
        raise UserError(f"{where}: is the mask of an image; name another file")
    if not table.exists() and not table.is_symlink():
        return
    if table.is_symlink():
        raise UserError(f"{where}: is a link to {printable_path(real)}; name the file itself")
    if not table.is_file():
        raise UserError(f"{where}: is no file that could be written")
    if any(_lies_in(table.parent, folder) for folder in inputs):
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
