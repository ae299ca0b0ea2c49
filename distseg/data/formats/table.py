"""Any table of RLEs, or of paths of masks: a line for each image, image and class, or object.

What its columns hold, where the images lie and how its RLEs count are found from the files where
that is sure, and are else refused with the key of `data.csv` to write. Airbus ships, Severstal,
TGS, clouds, nerves and the like are such tables. An image's id is what the table calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distseg.config.layouts import CsvConfig
from distseg.config.schema import Config
from distseg.data.columns import Form, is_empty, is_path, read_form
from distseg.data.formats.detected import Detected
from distseg.data.formats.row import Cell, Row, SubmissionSpec, files_per_class
from distseg.data.places import Images, folders_of
from distseg.data.table_files import (
    convention,
    listing_of,
    mask_files,
    sample_form,
    sample_path,
    sample_rows,
    tables_of,
    test_images,
    train_folders,
)
from distseg.data.table_rows import Entry, Listing, class_ids_of
from distseg.functional.naming import as_name
from distseg.functional.rle import target_kind
from distseg.records.errors import UserError

# keys of `data` that only some layouts read
READS = (
    *("table", "csv", "overlap", "mask_values", "mask_channel", "colors"),
    *("folder.inverted", "folder.threshold", "folder.numbered"),
)


def detect(root: Path) -> Detected | None:
    """A table of the masks of images that are there, too."""
    for path in tables_of(root, sample=False):
        try:
            form = read_form(path, CsvConfig())
            lines = [form.parts(cells) for _, cells in form.lines()]
            folders_of(root, (name for name, _ in lines), "data.csv.images")
        except UserError:
            continue
        names = list(dict.fromkeys(value for _, value in lines if value))
        if all(name.isdecimal() for name in names):
            names = [f"class_{name}" for name in sorted(names, key=int)]
        classes = [as_name(name) for name in names] or ["object"]
        keys = {"task": "multilabel" if names[1:] else "binary", "classes": classes}
        return Detected({"data": {"format": "table"}, **keys}, f"{path.name} holds masks of images")
    return None


def said(config: Config) -> list[str]:
    """What of the table's form was found: its columns, and how its RLEs count."""
    listing = listing_of(config)
    form = listing.form
    columns = [f"image in {form.image}", f"mask in {form.mask}"]
    columns += [f"class in {form.class_}"] if form.class_ else []
    line = f"{form.path.name}: {', '.join(columns)}" + (" with the class" if form.joined else "")
    if not listing.is_paths:
        order, base = convention(config, listing, Images.of(train_folders(config, listing)))
        line += f"; RLEs count {'down the columns' if order == 'column' else 'along the rows'}"
        line += f" from {base}"
    read = {*form.image_columns, form.mask, form.class_}
    unread = [name for name in form.names if name not in read]
    return [line + (f"; not read: {', '.join(unread)}" if unread else "")]


def train(config: Config) -> list[Row]:
    """A row for each image of the table, in its order, and for each image beside them that the
    table does not name, as `data.csv.unlisted` says; these are then sorted together by id."""
    listing = listing_of(config)
    images = Images.of(train_folders(config, listing))
    kind = "file:" if listing.is_paths else f"{target_kind(*convention(config, listing, images))}:"
    masks = mask_files(config, listing) if listing.is_paths else None
    found = {name: images.find(name) for name in listing.entries}
    used: dict[Path, list[str]] = {}
    for name, (path, _) in found.items():
        if path is not None:
            used.setdefault(path, []).append(name)
    rows, per_class = (
        [],
        listing.is_paths and config.task == "multilabel" and listing.form.has_classes,
    )
    for name, entry in listing.entries.items():
        path, problem = found[name]
        if path is not None and len(used[path]) > 1:  # its objects are divided among them
            first, second = used[path][:2]
            problem = f"{path.name} is called {first!r} and {second!r}; give it one name"
        problem = problem and f"{listing.form.path.name}, line {entry.line}: {problem}"
        texts, odd = _texts(config, listing, name, entry, masks)
        problem = problem or entry.problem or odd
        shown = path if path and not problem else listing.form.path
        target = files_per_class(texts) if per_class else kind + "|".join(texts)
        rows.append(Row(name, str(shown), target, problem=problem))
    left = [path for path in images.names.values() if path not in used]
    tests = {row.image for row in test(config)} if left else set()
    left = [path for path in left if str(path) not in tests]
    others = list(_unlisted(config, listing, left, kind))
    if others and not others[0].problem:
        rows = sorted([*rows, *others], key=lambda row: row.id)
    else:
        rows += others
    return rows[: config.data.limit]


def _texts(
    config: Config, listing: Listing, name: str, entry: Entry, masks: Images | None
) -> tuple[list[str], str]:
    """The target of an image, one text a class, and what is wrong with it."""
    table, problem = listing.form.path.name, ""
    lacking = [
        class_id
        for number, class_id in enumerate(listing.class_ids)
        if class_id and number not in entry.cells
    ]
    complete = listing.has_empty_classes and config.data.csv.unlisted != "empty"
    if lacking and complete and not entry.is_whole:
        problem = f"{table}: no row of {name} for class {lacking[0]}; each class has one"
    texts, num = [], _num_texts(config, listing)
    for number in range(num):
        cells = entry.cells.get(number, [])
        if masks is not None:
            cells, odd = _paths(masks, cells)
            problem = problem or (odd and f"{table}, line {entry.line}: {odd}")
            if not cells and num == 1 and not problem:
                problem = (
                    f"{table}, line {entry.line}: the path of the mask is empty, and whether that "
                    "means no object is not known; write one of an empty mask"
                )
        texts.append(";".join(cells))
    return texts, problem


def _num_texts(config: Config, listing: Listing) -> int:
    """One a class; of files without a class, one that holds all classes."""
    has_classes = listing.form.has_classes
    if listing.is_paths and has_classes and config.task == "multiclass":
        raise UserError(f"{listing.form.path}: a mask file for each class is for task: multilabel")
    return len(config.classes) if has_classes or not listing.is_paths else 1


def _paths(masks: Images, cells: Sequence[str]) -> tuple[list[str], str]:
    found = []
    for cell in cells:
        path, problem = masks.find(cell)
        if path is not None and ("|" in str(path) or ";" in str(path)):
            problem = "the mask's path has a '|' or ';', which separate paths here"
        if problem:
            return [], problem
        found.append(str(path))
    return found, ""


def _unlisted(config: Config, listing: Listing, paths: Sequence[Path], kind: str) -> Iterator[Row]:
    """A row for each image that the table does not name: with a problem, or without an object."""
    meaning, table = config.data.csv.unlisted, listing.form.path
    if not paths or meaning == "leave_out":
        return
    if meaning is None and not listing.empties and not listing.is_paths:
        raise UserError(
            f"data.csv.unlisted: {table.name} has no row for an empty mask and does not name "
            f"{len(paths)} images of {paths[0].parent}, as {paths[0].name}: write empty where they "
            "have no object, or leave_out"
        )
    if meaning == "empty" and listing.is_paths:
        raise UserError("data.csv.unlisted: empty: is for a table of RLEs, not of paths of masks")
    suffixed = any(is_path(name) for name in listing.entries)
    problem = "" if meaning == "empty" else f"an image that {table.name} does not name"
    for path in paths:
        name = path.name if suffixed else path.stem
        yield Row(name, str(path), kind + "|" * (len(config.classes) - 1), problem=problem)


# -- test images and submission -------------------------------------------------------------------


def test(config: Config) -> list[Row]:
    """In the sample submission's order; every image of the test folder where there is none."""
    sample, images = sample_path(config), test_images(config)
    if images is None:
        return []
    if sample is None:
        suffixed = any(is_path(name) for name in listing_of(config).entries)
        found = [Row(p.name if suffixed else p.stem, str(p)) for p in images.names.values()]
        return found[: config.data.limit]
    rows = []
    for name, (line, _) in sample_rows(config, sample).items():
        path, problem = images.find(name)
        if path is None and "no image" not in problem:
            raise UserError(f"{sample}, line {line}: {problem}")
        shown = path or images.folders[0] / name
        rows.append(Row(name, str(shown), problem="" if path else "no such image"))
    return rows[: config.data.limit]


def submission(config: Config) -> SubmissionSpec:
    """In the form of the sample submission, else in that of the train table."""
    ids, listing, sample = [row.id for row in test(config)], listing_of(config), sample_path(config)
    if sample is None and listing.is_paths:
        return SubmissionSpec("masks", ids=ids, class_ids=_mask_classes(config))
    form = sample_form(config, sample) if sample else listing.form
    roles: dict[str, Cell] = {form.image: "id", form.mask: "rle"}
    if form.class_ is not None:
        roles[form.class_] = "class"
    columns = form.names if sample else tuple(name for name in form.names if name in roles)
    if "{" in form.image or (sample and len(roles) < len(columns)):
        odd = [name for name in columns if name not in roles] or [form.image]
        raise UserError(
            f"{form.path}: what a submission has in the column {odd[0]} is not known; valid: "
            "image, class and RLE. Name a sample submission of these with data.csv.sample"
        )
    has_classes = form.has_classes
    order, base = convention(config, listing, Images.of(train_folders(config, listing)))
    return SubmissionSpec(
        columns=columns, cells=tuple(roles[name] for name in columns), separator=form.separator,
        header=form.header, ids=ids, order=order, base=base,
        empty=_empty(config, form, listing), class_ids=_classes(config, form, listing, has_classes),
    )  # fmt: skip


def _empty(config: Config, form: Form, listing: Listing) -> str:
    """What an empty mask is written as: the config's, the sample's, or the train table's."""
    if config.data.csv.empty is not None:
        return config.data.csv.empty
    own = dict.fromkeys(c[form.mask] for _, c in form.lines() if is_empty(c[form.mask]))
    tokens = list(own or listing.empties)
    if len(tokens) == 1:
        return tokens[0]
    told = (
        f"has {' and '.join(map(repr, tokens[:3]))}" if tokens else "has no row without an object"
    )
    raise UserError(
        f"data.csv.empty: {form.path}: what a mask without an object is written as is not known: "
        f'the table {told}; write it, as "" or "-1"'
    )


def _classes(
    config: Config, form: Form, listing: Listing, has_classes: bool
) -> tuple[str, ...] | None:
    if has_classes:
        ids = listing.class_ids if listing.form.has_classes else class_ids_of((), config)
        written = (form.parts(cells, config.classes)[1] for _, cells in form.lines())
        odd = next((one for one in written if one and one not in ids), None)
        if odd is not None and form is not listing.form:
            raise UserError(
                f"{form.path}: has the class {odd[:40]!r}; those of {listing.form.path.name} are "
                f"{', '.join(filter(None, ids))}"
            )
        return ids
    if len(config.classes) > 1:
        raise UserError(
            f"{form.path}: no column is known to hold the class, and the config has "
            f"{len(config.classes)} classes; write data.csv.class_column"
        )
    return None


def _mask_classes(config: Config) -> tuple[str, ...] | None:
    return tuple(config.classes) if len(config.classes) > 1 else None


def test_truth(config: Config) -> list[Row] | None:
    return None


def has_rles(config: Config) -> bool:
    """Whether the table holds RLEs, and no paths of mask files."""
    return not listing_of(config).is_paths
