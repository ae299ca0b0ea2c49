"""Where a table, its images and its sample submission lie, and how its RLEs count: as the config
says, or found where the files say it for sure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.columns import SEPARATORS, Form, is_empty, read_form
from distseg.data.convention import Base, Order, find_base, find_order
from distseg.data.image_file import image_size
from distseg.data.places import Images, folders_of, given_folders, holds_any, test_folders
from distseg.data.table_rows import Listing, read_listing
from distseg.records.errors import UserError
from distseg.records.files import path_problem
from distseg.records.tables import read_cells

_SAMPLE = re.compile(r"sample|submi", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".txt")


def table_path(config: Config) -> Path:
    """The train table. UserError: none, or several, look like one."""
    root = Path(config.data.root)
    if config.data.table is not None:
        return root / config.data.table
    found, errors = [], []
    for path in tables_of(root, sample=False):
        try:
            read_form(path, config.data.csv)
            found.append(path)
        except UserError as error:
            errors.append(error)
    if len(found) == 1:
        return found[0]
    if not found and len(errors) == 1:
        raise errors[0]
    names = ", ".join(path.name for path in found) or "none"
    raise UserError(
        f"data.table: {config.data.root}: which table holds the masks is not sure (columns of "
        f"image and mask have: {names}); name it"
    )


def tables_of(root: Path, *, sample: bool) -> list[Path]:
    """The tables in a folder that are sample submissions by their names, or those that are not."""
    if problem := path_problem(root, "folder"):
        raise UserError(f"data.root: {root}: {problem}")
    return sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in _TABLES and path.name[0] != "."
        if bool(_SAMPLE.search(path.name)) == sample and path.is_file()
    )


def sample_path(config: Config) -> Path | None:
    """The sample submission. UserError: several could be it, or the key names none."""
    root, given = Path(config.data.root), config.data.csv.sample
    if given is not None:
        if problem := path_problem(root / given):
            raise UserError(f"data.csv.sample: {root / given}: {problem}")
        return root / given
    found = [path for path in tables_of(root, sample=True) if path.stat().st_size]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"data.csv.sample: {names} may be the sample submission; name it")
    return found[0] if found else None


def listing_of(config: Config) -> Listing:
    path = table_path(config)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, stat.st_mtime_ns, stat.st_size, _Key(config))


class _Key:
    """A config as the key of a cache: what of it says how a table is read."""

    def __init__(self, config: Config) -> None:
        self.config = config
        data = config.data
        self.text = repr((data.csv, config.task, config.classes, data.root, data.max_pixels))

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@functools.lru_cache(maxsize=2)  # a command lists a data set several times
def _read(path: Path, time: int, size: int, key: _Key) -> Listing:
    return read_listing(path, key.config)


def train_folders(config: Config, listing: Listing) -> list[Path]:
    root, given = Path(config.data.root), config.data.csv.images
    if given is not None:
        return given_folders(root, given, "data.csv.images")
    return folders_of(root, listing.entries, "data.csv.images")


def mask_files(config: Config, listing: Listing) -> Images:
    """The mask files that the table names."""
    root, given = Path(config.data.root), config.data.csv.masks
    if given is not None:
        return Images.of(given_folders(root, given, "data.csv.masks"), masks=True)
    cells = (
        cell for entry in listing.entries.values() for own in entry.cells.values() for cell in own
    )
    return Images.of(folders_of(root, cells, "data.csv.masks", masks=True), masks=True)


def sample_form(config: Config, sample: Path) -> Form:
    """The columns of a sample are found by their names alone: a key is for the train table, and
    counts where the sample has that column, too."""
    own, given = config.data.csv, {}
    _, header = next(read_cells(sample, SEPARATORS), (1, []))
    for key in ("image_column", "class_column", "mask_column"):
        value = getattr(own, key)
        given[key] = value if value is not None and value in header else None
    return read_form(sample, own.model_copy(update=given))


def sample_rows(config: Config, sample: Path) -> dict[str, tuple[int, str]]:
    """The images of a sample submission in its order, each with its first line and what stands
    there for a mask."""
    form, rows = sample_form(config, sample), dict[str, tuple[int, str]]()
    for line, cells in form.lines():
        name, _ = form.parts(cells, config.classes)
        if not name:
            raise UserError(f"{sample}, line {line}: the image is empty")
        rows.setdefault(name, (line, cells[form.mask]))
    if not rows:
        raise UserError(f"{sample}: it names no image")
    return rows


def test_images(config: Config) -> Images | None:
    """The images to predict; None where there are none yet. UserError: several folders may hold
    them."""
    root, given = Path(config.data.root), config.data.csv.test_images
    sample, key = sample_path(config), "data.csv.test_images"
    if given is not None:
        return Images.of(given_folders(root, given, key))
    if sample is None:
        folders = test_folders(root, train_folders(config, listing_of(config)))
    else:
        names = sample_rows(config, sample)
        folders = folders_of(root, names, key, test=True) if holds_any(root, names) else []
    return Images.of(folders) if folders else None


# -- how RLEs count -------------------------------------------------------------------------------


def convention(config: Config, listing: Listing, images: Images) -> tuple[Order, Base]:
    """Order and base of the RLEs, as the config says or as those of the table and of the sample
    submission say it themselves. UserError: none does."""
    if listing.counted is None:
        listing.counted = _convention(config, listing, images)
    return listing.counted


def _convention(config: Config, listing: Listing, images: Images) -> tuple[Order, Base]:
    options, table = config.data.csv, listing.form.path
    order: Order | None = options.order
    base: Base | None = options.base
    if order is not None and base is not None:
        return order, base
    found = list(_examples(config, listing, images))

    def size(place: int) -> tuple[int, int] | None:
        holder, name, _ = found[place]
        path, _ = holder.find(name)
        try:
            return image_size(path, config.data.max_pixels) if path else None
        except UserError:
            return None  # the check of the row says so

    texts = [text for _, _, text in found]
    order = order or find_order(texts, size)
    if base is None:
        try:
            base = find_base(texts, size, order)
        except ValueError as error:
            raise UserError(f"data.csv.base: {table}: {error}; write 0 or 1") from None
    lines = []
    if order is None:
        lines.append(
            f"data.csv.order: {table}: whether its RLEs go down the columns or along the rows "
            "cannot be seen; write column (Kaggle's usual) or row"
        )
    if base is None:
        lines.append(
            f"data.csv.base: {table}: whether its RLEs count pixels from 0 or from 1 cannot be "
            "seen; write 1 (Kaggle's usual) or 0"
        )
    if order is None or base is None:
        raise UserError("\n".join(lines))
    return order, base


def _examples(
    config: Config, listing: Listing, images: Images
) -> Iterator[tuple[Images, str, str]]:
    """(where the image lies, its name, RLE) of the table's rows and of the sample submission's."""
    for name, entry in listing.entries.items() if not listing.is_paths else ():
        if not entry.problem:
            for cells in entry.cells.values():
                yield from ((images, name, cell) for cell in cells)
    sample, tests = sample_path(config), test_images(config)
    if sample is not None and tests is not None:
        for name, (_, text) in sample_rows(config, sample).items():
            if not is_empty(text):
                yield tests, name, text
