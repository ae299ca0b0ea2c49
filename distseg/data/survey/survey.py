"""The whole survey of a data set: measures, findings, tables, in one pass over its files."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from distseg.config.schema import Config
from distseg.data import folds
from distseg.data.formats.row import Row
from distseg.data.image_file import decode, is_constant, open_file
from distseg.data.inspect import Checked, NeedsLevels, inspect, with_levels
from distseg.data.judge import Bad, values_text
from distseg.data.passed_over import passed_over
from distseg.data.read_input import reading_of, to_input
from distseg.data.survey.findings import SERIOUS, Finding, Surveyed, find, fits_of
from distseg.data.survey.measure import Measured, class_names, measure
from distseg.data.survey.shift import find_shift
from distseg.data.threads import in_threads
from distseg.records.errors import UserError

Tick = Callable[[str, int, int], None]  # what is read, how many, of how many
MOST_BINS = 12


def survey(
    config: Config, train: Sequence[Row], test: Sequence[Row], tick: Tick = lambda *_: None
) -> tuple[Surveyed, Checked, list[Finding]]:
    """Open, check and measure every file, once; where images of more than 8 bits have no
    `data.levels`, once more. UserError as `inspect` raises it."""
    try:
        measured, checked = _train(config, train, tick)
    except NeedsLevels:
        config = with_levels(config, train)
        measured, checked = _train(config, train, tick)
    tests, broken = _tests(config, test, tick)
    surveyed = Surveyed(
        config, measured, tests, checked.quarantine, broken, find_shift(measured, tests),
        fits_of(config, measured),
    )  # fmt: skip
    return surveyed, checked, find(surveyed)


def _train(config: Config, rows: Sequence[Row], tick: Tick) -> tuple[list[Measured], Checked]:
    numbers = itertools.count(1)

    def keep(*_: Any) -> None:
        tick("train images", next(numbers), len(rows))

    checked = inspect(config, rows, keep, of_each=functools.partial(measure, config))
    return [
        replace(one, mode=facts.mode, constant=facts.constant)
        for one, facts in zip(checked.found, checked.facts, strict=True)
    ], checked


def _tests(config: Config, rows: Sequence[Row], tick: Tick) -> tuple[list[Measured], list[Bad]]:
    """Test images that can be read, and the others with the reason."""

    def look(row: Row) -> Measured | Bad:
        if row.problem:
            return (row.id, str(row.image), row.problem)
        try:
            with open_file(row.image) as file:
                decoded = decode(file, row.image, config.data.max_pixels)
            image = to_input(decoded, reading_of(config))
        except (UserError, OSError, MemoryError) as error:
            return (row.id, str(row.image), str(error) or type(error).__name__)
        one = measure(config, row.id, image, None)
        return replace(one, mode=decoded.mode, constant=is_constant(image))

    good: list[Measured] = []
    broken: list[Bad] = []
    for number, result in enumerate(in_threads(look, rows), 1):
        if isinstance(result, Measured):
            good.append(result)
        else:
            broken.append(result)
        tick("test images", number, len(rows))
    return good, broken


def record(surveyed: Surveyed, checked: Checked, findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything that the page shows, for programs."""
    config, train, test = surveyed.config, surveyed.train, surveyed.test
    names = class_names(config)
    shift = surveyed.shift
    return {
        "source": f"{config.data.format} {config.data.root}",
        "task": config.task,
        "classes": config.classes,
        "train": len(train),
        "test": len(test),
        "quarantine": len(surveyed.quarantine),
        "serious": sum(finding.level == SERIOUS for finding in findings),
        "sizes": {"train": _counts(train, _size), "test": _counts(test, _size)},
        "modes": {"train": _counts(train, _mode), "test": _counts(test, _mode)},
        "mask_values": values_text(checked.held) if checked.held else "",
        "passed_over": list(passed_over(config)),
        "findings": [{**asdict(finding), "count": len(finding.ids)} for finding in findings],
        "areas": {name: areas(train, number) for number, name in enumerate(names)},
        "objects": {name: objects(train, number) for number, name in enumerate(names)},
        "together": together(train, len(names)),
        "folds": _folds(config, checked),
        "shift": None if shift is None else {
            "auc": shift.auc, "standard_error": shift.standard_error,
            "features": [list(one) for one in shift.features],
            "stand_out": [test[i].id for i in shift.outliers],
        },
    }  # fmt: skip


def areas(images: Sequence[Measured], number: int) -> dict[str, Any]:
    """Images without the class, and a histogram of its pixels in the others: bins are powers of
    two, as sizes of objects go over decades."""
    found = np.array([image.shapes[number].area for image in images if image.shapes], np.int64)
    return {"empty": int((found == 0).sum()), **_histogram(found[found > 0])}


def objects(images: Sequence[Measured], number: int) -> dict[str, Any]:
    """A histogram of the number of objects of an image that has any."""
    found = np.array([image.shapes[number].objects for image in images if image.shapes], np.int64)
    return _histogram(found[found > 0])


def _histogram(values: np.ndarray) -> dict[str, Any]:
    """edges: of bins [a, b); counts: of each. Doubling bins, each whole, at most MOST_BINS."""
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = int(values.min()), int(values.max())
    if high - low < MOST_BINS:
        edges = list(range(low, high + 2))
    else:
        factor = max(2.0, (high / max(1, low)) ** (1 / MOST_BINS))
        edges = [low]
        while edges[-1] <= high:
            edges.append(max(edges[-1] + 1, round(edges[-1] * factor)))
    return {"edges": edges, "counts": np.histogram(values, edges)[0].tolist()}


def together(images: Sequence[Measured], num_classes: int) -> list[list[int]]:
    """Images that hold both of two classes, by their numbers; one class alone on the diagonal."""
    has = np.array(
        [[shape.area > 0 for shape in image.shapes] for image in images if image.shapes], bool
    ).reshape(-1, num_classes)
    return (has.T.astype(np.int64) @ has).tolist()


def _folds(config: Config, checked: Checked) -> list[list[Any]]:
    """The balance of the folds that the config makes, a header first; nothing where they cannot
    be made."""
    try:
        divided = folds.assign_folds(
            config, checked.good, checked.coverage,
            folds.read_groups(config, [row.id for row in checked.good]), checked.together,
        )  # fmt: skip
    except UserError:
        return []
    return [list(row) for row in folds.balance(config, divided, checked.coverage)]


def _size(image: Measured) -> str:
    return f"{image.height}x{image.width}"


def _mode(image: Measured) -> str:
    return image.mode


def _counts(images: Sequence[Measured], key: Callable[[Measured], str]) -> dict[str, int]:
    return dict(Counter(map(key, images)).most_common(20))
