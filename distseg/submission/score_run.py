"""A submission's score by what a run's config says: classes, values, void, RLEs and the metric.

The truth is read as the run reads the masks of its data set. The submission is read as it was
written: `distseg predict` leaves in a folder of masks what their values mean. Where nothing says
it, and the two ways to read it differ, the score is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.image_file import image_size
from distseg.data.judge import Held, judge_values
from distseg.data.mask_values import MaskValues, chosen_values, marked_values, run_rle, usual_values
from distseg.functional.metrics import METRICS, VOID, count_masks
from distseg.records.errors import UserError, unknown
from distseg.records.files import real_path
from distseg.records.manifest import Manifest
from distseg.records.paths import Run, find_run
from distseg.submission.score import fixed_size, image_paths, same_ids, scored
from distseg.submission.sides import MaskTable, Planes, Side, Size, open_sides


def score_with_run(
    submission: Path, truth: Path, folder: Path, *, metric: str | None = None,
    values: str | None = None, images: Path | None = None, height: int | None = None,
    width: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a submission; it and the truth are each an RLE table or a folder of masks.

    Args:
        folder: a run, or an exported ensemble.
        metric: instead of the run's.
        values: what the submission's masks hold, see `chosen_values`; None: as `distseg predict`
            noted in their folder, else as the data set's own.
        images, height, width: the size of RLE masks, where neither side nor the run knows it.

    Returns:
        `metrics.summarize`, with metric and standard_error.

    Raises:
        UserError: no run, an unknown metric, a file that cannot be read or means nothing, ids that
            do not match, or a submission that can be read in two ways.
    """
    run = find_run(folder)
    config = load_config(run.config)
    if metric is not None and metric not in METRICS:
        raise unknown("metric", metric, METRICS, "--metric: ")
    guess, real = open_sides(config, submission, truth, run_rle(config, run.data))
    ids = same_ids(submission, list(guess.targets), truth, list(real.targets))
    sizes = _Sizes(run, config, (real, guess), images, fixed_size(height, width))
    ways = _ways(config, run, guess, values)
    counts, held = [], []
    for name in ids:
        size = sizes.of(name)
        target, own = real.planes(name, *size)
        held += own
        masks = _agreed(guess, ways, name, size)
        counts.append(_counted(config, guess, name, masks, target))
    judge_values(_at(config, truth), held)
    return scored(np.stack(counts), metric or config.metric)


def _at(config: Config, path: Path) -> Config:
    """The config, where messages name `path` in place of the data's root."""
    data = config.data.model_copy(update={"root": str(path)})
    return config.model_copy(update={"data": data})


def _ways(config: Config, run: Run, side: Side, kind: str | None) -> list[tuple[str, Config]]:
    """The ways to read a submission's masks, by the `--values` that says them: one where that is
    known."""
    if isinstance(side, MaskTable):
        return [("", config)]
    own = ("data", config)
    if kind == "data":
        return [own]
    if kind is not None:
        return [(kind, _written(config, chosen_values(config, run.data, kind)))]
    usual = _written(config, usual_values(config))
    other = ("index" if config.task == "multiclass" else "255", usual)
    marked = marked_values(side.path)
    if marked is not None:
        if len(marked.planes) != len(usual_values(config).planes):
            raise UserError(f"{side.path}: was predicted by a run of another task or other classes")
        return [("", _written(config, marked))]
    if run.folder.resolve() in real_path(side.path).parents:
        return [other]  # the run's own masks for the board
    return [own, other]


def _written(config: Config, values: MaskValues) -> Config:
    """The config by which masks are read that were written with `values`."""
    plane = values.meanings()
    colors = {color: label for color, label in plane.items() if isinstance(color, tuple)}
    numbers = {value: label for value, label in plane.items() if isinstance(value, int)}
    same = all(one == values.planes[0] for one in values.planes)
    is_inverted = not same and values.planes[0][0] != 0
    update: dict[str, Any] = {"mask_values": numbers or None, "colors": None}
    if colors:  # a name for each label, as a config has them
        first = 0 if config.task == "multiclass" else 1
        names = dict(enumerate(config.classes, start=first))
        update["colors"] = {names.get(n, "background"): color for color, n in colors.items()}
    elif plane == {0: 0, 255: 1} or not same:  # 0 and one other value, whatever it is
        update["mask_values"] = None
    kept = config.data.folder.model_copy(
        update={"threshold": 0, "numbered": False, "inverted": is_inverted}
    )
    data = config.data.model_copy(
        update={**update, "folder": kept, "mask_channel": "auto", "format": "folder"}
    )
    return config.model_copy(update={"data": data, "void": None})


def _agreed(side: Side, ways: Sequence[tuple[str, Config]], name: str, size: Size) -> Planes:
    """The masks of one image of the submission. UserError: they mean nothing, or two things."""
    found, errors = {}, []
    for kind, config in ways:
        try:
            planes, held = replace(side, config=config).planes(name, *size)
            _judge_guess(config, side.path, held)
            found[kind] = planes
        except UserError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    first, *others = found.values()
    if any(not np.array_equal(first, one) for one in others):
        kinds = " or ".join(f"--values {kind}" for kind in found)
        raise UserError(
            f"{side.path}: {name!r}: what its values mean is not known: as the data's own masks "
            f"they say something else than as usual ones; say {kinds}"
        )
    return first


def _judge_guess(config: Config, path: Path, held: Sequence[Held]) -> None:
    """What the masks of one image hold has to be what the config takes it for; a mask without
    background is fine."""
    mixed = [one for one in held if len(set(one[1].counts) - {config.void}) > 1]
    judge_values(_at(config, path), mixed)


def _counted(
    config: Config, side: Side, name: str, masks: Planes, target: Planes
) -> NDArray[np.int64]:
    """Counts (C, 3) of one image. UserError: the submission has no label where the truth has."""
    if masks.shape != target.shape:
        raise UserError(f"{side.path}: {name!r}: {masks.shape} against a truth of {target.shape}")
    if ((masks == VOID) & (target != VOID)).any():
        raise UserError(f"{side.path}: {name!r} holds void pixels where the truth has a label")
    return count_masks(masks, target, config.num_outputs, config.task)


class _Sizes:
    """How large the masks of each image are: given, a mask image's own, that of the image of its
    id, or what the run knows of it."""

    def __init__(
        self, run: Run, config: Config, sides: Sequence[Side], images: Path | None,
        fixed: Size | None,
    ) -> None:  # fmt: skip
        self.config, self.sides, self.fixed, self.images = config, sides, fixed, images
        self.files = image_paths(images)
        self.known: dict[str, Size] = {}
        if fixed is None and all(isinstance(side, MaskTable) for side in sides):
            for path in (run.truth, run.data / "test.csv"):
                rows = Manifest.read(path) if path.is_file() else ()
                self.known |= {row.id: (row.height, row.width) for row in rows if row.height}

    def of(self, name: str) -> Size:
        """(height, width) of the masks of an image. UserError: it cannot be known."""
        if self.fixed:
            return self.fixed
        size = next((size for side in self.sides if (size := side.size(name))), None)
        if size is None and name in self.files:
            size = image_size(self.files[name], self.config.data.max_pixels)
        size = size or self.known.get(name)
        if size is None:
            where = f"{self.images}: has no image of {name!r}" if self.images else repr(name)
            raise UserError(
                f"{where}: an RLE does not say its image's size, and the run does not know it; "
                "give --images DIR, or --height and --width"
            )
        return size
