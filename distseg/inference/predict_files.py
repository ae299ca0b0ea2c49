"""`distseg predict`: the finished ensemble on files of images, its masks into files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from distseg.config.schema import Config
from distseg.data.mask_values import chosen_values
from distseg.data.read_input import image_channels, read_input, reading_of
from distseg.distributed import make_accelerator
from distseg.functional.combine import to_probabilities
from distseg.functional.drawing import encode_png, overlay
from distseg.inference.inputs import Broken, Inputs, PathLike, find_images
from distseg.inference.mask_files import mask_files, table_header, write_array
from distseg.inference.outputs import Outputs, mark, refuse_overwriting
from distseg.inference.predict import Extra, open_ensemble, predict_images
from distseg.records.errors import UserError, printable_path
from distseg.records.files import atomic_write
from distseg.records.log import counted
from distseg.records.manifest import Sample

logger = logging.getLogger(__name__)
SHOWN = 5  # names of unreadable images in the last line


@dataclass(frozen=True)
class Predicted:
    """What came of a prediction, of all ranks together.

    written: the images that have masks. broken: (id, reason) of the others. unreadable: their
    files, below the folder that was named. is_first: whether this is the rank that tells.
    """

    out: Path
    written: int
    broken: Broken
    unreadable: list[str]
    is_first: bool = True

    @property
    def line(self) -> str:
        """`wrote 48 masks to out/, 1 unreadable: broken.png`."""
        text = f"wrote {counted(self.written, 'mask')} to {printable_path(self.out)}/"
        if self.unreadable:
            more = ", ..." if len(self.unreadable) > SHOWN else ""
            names = ", ".join(map(printable_path, self.unreadable[:SHOWN]))
            text += f", {len(self.unreadable)} unreadable: {names}{more}"
        return text


def predict_files(
    run_dir: Path,
    images: PathLike | Sequence[PathLike],
    out: Path,
    table: Path | None = None,
    *,
    values: str = "data",
    probabilities: Path | None = None,
    overlays: Path | None = None,
) -> Predicted:
    """Masks of images as PNG files, and what else is asked for; see `mask_files` and `find_images`.
    All ranks: each takes its share. Files that are no images (pipes, links that leave their folder,
    names that no table can hold) get no mask; they come last in `broken`.

    Args:
        values: of the masks: data: those of the data set's own masks; 255: 0 and 255; index: 0 and
            1, or class numbers.
        probabilities: a folder of ID.npy, float16 (C, H, W), 0..1, before thresholds and rules.
        overlays: a folder of ID.png: the image with its masks in color.

    Raises:
        UserError: no images, outputs that would overwrite something, or a table of several ranks.
    """
    run, config, record = open_ensemble(Path(run_dir))
    written = chosen_values(config, run.data, values)
    inputs = find_images(images, config.data.max_pixels, image_channels(config))
    labels = config.classes if config.task == "multilabel" else []
    outputs = Outputs(
        Path(out), labels, None if table is None else Path(table), table_header(config),
        probabilities, overlays,
    )  # fmt: skip
    accelerator = make_accelerator(config)
    if table is not None and accelerator.num_processes > 1:
        raise UserError("--rle: one process writes the table; launch `distseg predict` alone")
    refuse_overwriting(inputs, Path(config.data.root), outputs)
    accelerator.wait_for_everyone()  # no rank may take another's masks for somebody else's
    share = (accelerator.process_index, accelerator.num_processes)
    with mask_files(config, run.data, outputs.masks, outputs.table, written) as sink:
        mark(outputs, inputs, run.folder, written)
        extra = _extra(config, record, outputs)
        broken = predict_images(
            config, run.folder, record, inputs.samples, sink, accelerator, share, extra=extra
        )
        for name, _ in broken:  # what an earlier prediction has left of it
            for path in outputs.files_of(name):
                path.unlink(missing_ok=True)
    broken, count = _gathered(accelerator, broken, sink.written)
    return _predicted(inputs, outputs, broken, count, accelerator.process_index == 0)


def _predicted(
    inputs: Inputs, outputs: Outputs, broken: Broken, written: int, is_first: bool
) -> Predicted:
    files = {sample.id: Path(sample.image).relative_to(inputs.root) for sample in inputs.samples}
    names = [str(files[name]) for name, _ in broken] + [name for name, _ in inputs.odd]
    return Predicted(outputs.masks, written, broken + inputs.odd, names, is_first)


def _gathered(accelerator: Accelerator, broken: Broken, written: int) -> tuple[Broken, int]:
    """All ranks: what all of them could not read, and how many images have masks."""
    if accelerator.num_processes == 1:
        return broken, written
    found = gather_object([(broken, written)])
    return [one for own, _ in found for one in own], sum(count for _, count in found)


def _extra(config: Config, record: dict[str, Any], outputs: Outputs) -> Extra | None:
    """What writes probabilities and overlays; None where neither is asked for."""
    if outputs.probabilities is None and outputs.overlays is None:
        return None
    reading = reading_of(config)

    def write(row: Sample, logits_CHW: np.ndarray, masks_KHW: np.ndarray) -> None:
        if outputs.probabilities is not None:
            found = to_probabilities(logits_CHW, record["space"], config.task)
            write_array(outputs.probabilities / f"{row.id}.npy", found.astype(np.float16))
        if outputs.overlays is not None:  # the network has seen its canvas, not the image itself
            image = read_input(row.image, reading)
            pixels = encode_png(overlay(image, masks_KHW, config.task))
            atomic_write(outputs.overlays / f"{row.id}.png", pixels)

    return write
