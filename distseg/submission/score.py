"""A submission's score: tables of RLEs or folders of masks against the truth, at native size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.data import MAX_PIXELS
from distseg.config.schema import Config
from distseg.data.formats.row import Row, SubmissionSpec, image_files
from distseg.data.image_file import image_size
from distseg.data.read_input import image_channels
from distseg.data.read_target import read_target
from distseg.functional.bootstrap import standard_error
from distseg.functional.metrics import METRICS, VOID, count_masks, summarize
from distseg.records.errors import UserError, unknown
from distseg.submission.read import MaskSource, open_masks

Mask = NDArray[np.uint8]
logger = logging.getLogger(__name__)


def score_submission(
    submission: Path,
    truth: Path,
    metric: str,
    *,
    images: Path | None = None,
    height: int | None = None,
    width: int | None = None,
    order: str = "column",
    base: int = 1,
    empty: str = "",
    num_classes: int | None = None,
    void: int | None = None,
) -> dict[str, Any]:
    """Score a submission; it and the truth are each an RLE table or a folder of masks.

    Args:
        images: folder of the images, which says how large an RLE's mask is; or else `height` and
            `width` of all of them. Neither is needed where one side is a folder.
        num_classes: the masks hold class indices; None: a pixel is 0 or not. A column of classes,
            a column `ImageId_ClassId` or a folder per class score as classes.
        void: value of the truth's pixels that count nowhere, whatever the submission holds there;
            elsewhere in the submission it is a value as any other.

    Returns:
        `metrics.summarize`, with metric and standard_error.

    Raises:
        UserError: an unknown metric, an unreadable or malformed file, ids that do not match.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, "--metric: ")
    if num_classes is not None and not 2 <= num_classes <= VOID:
        raise UserError(f"--num-classes: {num_classes}; valid: 2..{VOID}")
    options: dict[str, Any] = {"order": order, "base": base, "empty": empty}
    sources = [open_masks(Path(path), **options) for path in (submission, truth)]
    keys = _same_keys(*sources)
    sizes = _Sizes(sources, images, height, width)
    counts = []
    for key in keys:
        size = sizes.of(key)
        planes = [side.values(key, *size) for side in sources]
        # the truth says what is void: in a submission of 0 and 255 the value 255 is the object
        counted = np.ones(size, dtype=bool) if void is None else planes[1] != void
        pred, real = (
            _labels(side, key, values, counted, num_classes)
            for side, values in zip(sources, planes, strict=True)
        )
        task = "multiclass" if num_classes else "binary"
        counts.append(count_masks(pred[None], real[None], num_classes or 1, task))
    return scored(np.stack(_by_class(keys, counts, sources)), metric)


def score_rows(
    config: Config, spec: SubmissionSpec, path: Path, truth: Sequence[Row]
) -> dict[str, Any]:
    """Score the run's own submission against rows of known truth; rows without are not counted,
    nor, with a warning, those whose image or truth cannot be read."""
    source = open_own(spec, path)
    counts = []
    for row in truth:
        if row.problem or not row.target:
            continue
        try:
            size = image_size(row.image, config.data.max_pixels, image_channels(config))
            target = read_target(row.target, config, *size)
        except UserError as error:
            logger.warning("%s: not scored: %s", row.id, error)
            continue
        masks = own_masks(spec, source, config.task, row.id, size)
        counts.append(count_masks(masks, target, config.num_outputs, config.task))
    if not counts:
        raise UserError(f"{path}: none of the {len(truth)} test images has a known truth")
    return scored(np.stack(counts), config.metric)


def open_own(spec: SubmissionSpec, path: Path) -> MaskSource:
    """A run's own submission. UserError: nothing usable there."""
    return open_masks(
        path, order=spec.order, base=spec.base, empty=spec.empty, per_object=spec.per_object
    )


def own_masks(
    spec: SubmissionSpec, source: MaskSource, task: str, name: str, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The masks of an image of a run's own submission, uint8 (K, H, W). size: its height and
    width."""
    planes = [source.values(key, *size) for key in _keys(spec, task, name)]
    masks = np.stack([plane.astype(np.uint8) for plane in planes])
    if task == "multiclass" and len(masks) > 1:
        masks = masks.argmax(axis=0)[None].astype(np.uint8)
    return masks


def scored(counts_NC3: NDArray[np.int64], metric: str) -> dict[str, Any]:
    """The summary of counts (N, C, 3), with the metric's name and the standard error."""
    error = standard_error(counts_NC3, metric)
    return {"metric": metric, **summarize(counts_NC3, metric), "standard_error": error}


def _keys(spec: SubmissionSpec, task: str, name: str) -> list[str]:
    """Keys of one image in the file, as `open_masks` names them."""
    if spec.class_ids is None or (spec.kind == "masks" and task == "multiclass"):
        return [name]
    return [f"{name}_{class_id}" for class_id in spec.class_ids]


def _same_keys(submission: MaskSource, truth: MaskSource) -> list[str]:
    """All keys, in the truth's order; a key on one side only is a mistake, except that tables
    with a class column leave out pairs without an object."""
    return same_ids(
        submission.path, submission.keys, truth.path, truth.keys,
        sparse=(submission.sparse, truth.sparse),
    )  # fmt: skip


def same_ids(
    submission: Path, given: Sequence[str], truth: Path, wanted: Sequence[str],
    sparse: tuple[bool, bool] = (False, False),
) -> list[str]:  # fmt: skip
    """All ids, in the truth's order. UserError: one is on one side only. sparse: whether each side
    leaves out what has no object."""
    both = set(given) & set(wanted)
    missing = [key for key in wanted if key not in both and not sparse[0]]
    extra = [key for key in given if key not in both and not sparse[1]]
    for keys, side, other, total in (
        (missing, submission, truth, len(wanted)), (extra, truth, submission, len(given)),
    ):  # fmt: skip
        if keys:
            raise UserError(
                f"{side}: has no {keys[0]!r}, which {other} has; {len(keys)} such of {total} ids"
            )
    return list(dict.fromkeys([*wanted, *given]))


def fixed_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """The size that --height and --width give; UserError for one of them, or a wrong one."""
    if (height is None) != (width is None) or min(height or 1, width or 1) < 1:
        raise UserError(f"--height {height} --width {width}: valid: both, each 1 or more")
    if height is None or width is None:
        return None
    if height * width > MAX_PIXELS:
        raise UserError(f"--height {height} --width {width}: more than {MAX_PIXELS:,} pixels")
    return height, width


def image_paths(folder: Path | None) -> dict[str, Path]:
    """The image files of a folder, by stem and by name; none without a folder."""
    files: dict[str, Path] = {}
    for path in image_files(folder, "--images") if folder else []:
        files |= {path.stem: path, path.name: path}
    return files


class _Sizes:
    """How large each mask is: given, a mask image's own, or that of the image of its id."""

    def __init__(
        self, sources: Sequence[MaskSource], images: Path | None, height: int | None,
        width: int | None,
    ) -> None:  # fmt: skip
        self.sources, self.images = sources, images
        self.fixed, self.files = fixed_size(height, width), image_paths(images)

    def of(self, key: str) -> tuple[int, int]:
        """(height, width) of the mask of a key. UserError: it cannot be known."""
        if self.fixed:
            return self.fixed
        found = next((size for side in self.sources if (size := side.size(key))), None)
        if found:
            return found
        if self.images is None:
            raise UserError(
                "an RLE does not say its image's size; give --images DIR, or --height and --width"
            )
        path = self.files.get(key) or self.files.get(key.rpartition("_")[0])
        if path is None:
            raise UserError(f"{self.images}: has no image of {key!r}, whose size is needed")
        return image_size(path)


def _labels(
    side: MaskSource, key: str, values_HW: NDArray, counted_HW: NDArray[np.bool_],
    num_classes: int | None,
) -> Mask:  # fmt: skip
    """uint8 (H, W): 0/1 or a class index, 255 where a pixel is not counted."""
    kinds = np.unique(values_HW[counted_HW])
    if num_classes is None and np.count_nonzero(kinds) > 1:
        found = ", ".join(map(str, kinds[:8]))
        raise UserError(
            f"{side.path}: {key!r} holds the values {found}; a binary mask has 0 and one other "
            "value; for class indices give the number of classes"
        )
    if num_classes is not None and kinds.size and kinds[-1] >= num_classes:
        raise UserError(f"{side.path}: {key!r} holds {kinds[-1]}; valid: 0..{num_classes - 1}")
    labels = (values_HW if num_classes else values_HW != 0).astype(np.uint8)
    return np.where(counted_HW, labels, np.uint8(VOID))


def _by_class(
    keys: Sequence[str], counts: list[NDArray[np.int64]], sources: Sequence[MaskSource]
) -> list[NDArray[np.int64]]:
    """Counts (1, 3) of (id, class) keys as (C, 3) of ids, where each id has the same classes."""
    pairs = {key: pair for side in sources for key, pair in side.pairs.items()}
    if not all(key in pairs for key in keys):
        return counts
    table: dict[str, dict[str, NDArray[np.int64]]] = {}
    for key, count in zip(keys, counts, strict=True):
        name, class_id = pairs[key]
        table.setdefault(name, {})[class_id] = count
    classes = sorted(next(iter(table.values())))
    if len(classes) < 2 or any(sorted(own) != classes for own in table.values()):
        return counts
    return [np.concatenate([own[class_id] for class_id in classes]) for own in table.values()]
