"""The finished ensemble on new images: streaming, in memory that does not grow with their number.

Each batch goes through all members, snapshots and views while the next one is being decoded and
the one before it is cleaned and encoded.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from distseg.config.data import MAX_PIXELS
from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.dataset import ImageFiles, ImagePixels
from distseg.data.fit import Fit
from distseg.data.formats.row import image_files, locate
from distseg.data.image_file import image_size
from distseg.data.loader import canvas_batches
from distseg.data.passed_over import left_out
from distseg.data.read_input import reading_of
from distseg.distributed import OneProcess, default_workers, make_accelerator
from distseg.functional.combine import from_space, highest_only, to_space
from distseg.functional.postprocess import to_masks
from distseg.inference.forward import Predictor
from distseg.inference.load import decode_batches, load_predictor
from distseg.inference.mask_files import MaskSink, mask_files, table_header
from distseg.inference.outputs import mark, refuse_overwriting
from distseg.records.ensemble_record import read_ensemble
from distseg.records.errors import Damaged, UserError, printable, printable_path
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run, final_ensemble, find_run
from distseg.records.progress import ProgressFile

logger = logging.getLogger(__name__)

NOTHING = -1e4  # the logit of a broken image's every class, under every threshold
WAITING = 4  # batches between the device and the thread that writes: what bounds the memory

Broken = list[tuple[str, str]]  # (id, reason) of images that could not be read


@dataclass(frozen=True)
class LoadedEnsemble:
    """The members of an ensemble.json as models on a device, and how they are combined.

    weighted: (weight, member) of those that weigh something.
    """

    weighted: Sequence[tuple[float, Predictor]]
    space: str
    task: str
    tta: Sequence[str]

    @classmethod
    def load(
        cls,
        config: Config,
        run_dir: Path,
        record: dict[str, Any],
        accelerator: Accelerator | OneProcess,
    ) -> LoadedEnsemble:
        """record: of ensemble.json, whose snapshots lie below `run_dir`. UserError: a snapshot is
        damaged, or that of another member."""
        if len(record["rule"]["threshold"]) != config.num_outputs:
            raise Damaged(
                run_dir / "ensemble.json", f"its rule is not of {config.num_outputs} classes"
            )
        channels_last = config.compute.channels_last
        weighted = [
            (
                member["weight"],
                load_predictor(
                    [run_dir / path for path in member["snapshots"]],
                    accelerator.device, channels_last, accelerator.autocast,
                    member=(re.split("[@#]", str(member["name"]))[0], member["fold"]),
                ),
            )
            for member in record["members"]
            if member["weight"] > 0
        ]  # fmt: skip
        return cls(weighted, record["space"], config.task, record["tta"])

    @property
    def predictors(self) -> list[Predictor]:
        return [predictor for _, predictor in self.weighted]

    @torch.inference_mode()
    def logits(self, canvases: dict[str, Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The ensemble's logits of each image at its native (height, width), float32 (C, h, w).

        canvases: uint8 (B, C, H, W) by `Predictor.canvas`. The formula is that of
        `functional.combine`, as a running sum over the members.
        """
        sums: list[Tensor] = []
        for weight, predictor in self.weighted:
            natives = predictor.native_logits(canvases[predictor.canvas], sizes, self.tta)
            terms = [to_space(logits, self.space, self.task) * weight for logits in natives]
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
        assert sums, "an ensemble has members, and a batch images"
        total = sum(weight for weight, _ in self.weighted)
        # divided last: votes of whole weights tie exactly
        return [from_space(one / total, self.space) for one in sums]


class Background:
    """One thread that cleans and encodes masks while the device computes. At most WAITING batches
    wait for it, so that memory stays bounded. An error in it is raised by the next call."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self.work = work
        self.error: Exception | None = None
        self.queue: queue.Queue[Any] = queue.Queue(maxsize=WAITING)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (item := self.queue.get()) is not None:
            if self.error is None:
                try:
                    self.work(item)
                except Exception as error:  # noqa: BLE001  raised again in the main thread
                    self.error = error

    def put(self, item: Any) -> None:
        if self.error is not None:
            raise self.error
        self.queue.put(item)

    def close(self) -> None:
        """Wait for what has been put."""
        self.queue.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error


def predict_images(
    config: Config,
    run_dir: Path,
    record: dict[str, Any],
    rows: Sequence[Sample],
    sink: MaskSink,
    accelerator: Accelerator,
    share: tuple[int, int],
    progress: ProgressFile | None = None,
) -> Broken:
    """Share number share[0] of share[1] of `rows` through an ensemble into `sink`.

    record: of ensemble.json. A broken image gets an empty mask of the size its file claims (the
    config's input size if unknown), a warning, and a place in what is returned.
    """
    ensemble = LoadedEnsemble.load(config, run_dir, record, accelerator)
    rows = list(rows)[share[0] :: share[1]]

    def finish(item: tuple[Sequence[int], Sequence[np.ndarray]]) -> None:
        for index, logits in zip(*item, strict=True):
            sink.add(rows[index].id, finished_masks(config, record, logits))

    broken: Broken = []
    done, progress = 0, progress or ProgressFile(None)
    background = Background(finish)
    progress.at("predict", 0, len(rows))
    for indices, arrays, reasons in logit_batches(ensemble, config, rows, accelerator):
        background.put((indices, arrays))
        for index, reason in zip(indices, reasons, strict=True):
            if reason:
                broken.append((rows[index].id, reason))
                logger.warning("%s: gets an empty mask", reason)
        done += len(indices)
        progress.at("predict", done, len(rows))
    background.close()
    return broken


def logit_batches(
    ensemble: LoadedEnsemble,
    config: Config,
    rows: Sequence[Sample | ImagePixels],
    accelerator: Accelerator | OneProcess,
) -> Iterator[tuple[list[int], list[np.ndarray], list[str]]]:
    """The ensemble's logits of images, in batches of one canvas size each.

    Yields:
        (indices of `rows`, logits float32 (C, h, w) of each at its native size, why each image is
        broken or ""). The logits of a broken one are NOTHING, of the size that its file claims.
    """
    rows = [_with_size(config, row) for row in rows]
    fits = [predictor.fit for predictor in ensemble.predictors]
    batches = canvas_batches(
        [(row.height, row.width) for row in rows], fits, config.predict.batch_size
    )
    reading = reading_of(config)

    def images(fit: Fit) -> ImageFiles:
        return ImageFiles(rows, reading, fit)

    workers = default_workers(config, accelerator)
    for indices, canvases, facts in decode_batches(
        ensemble.predictors, batches, images, workers, accelerator.device
    ):
        sizes = list(zip(facts["height"].tolist(), facts["width"].tolist(), strict=True))
        arrays = [np.zeros(0, np.float32)] * len(indices)
        if not all(facts["error"]):
            arrays = [logits.cpu().numpy() for logits in ensemble.logits(canvases, sizes)]
        for place, reason in enumerate(facts["error"]):
            if reason:  # a view: a header that lies must not cost the memory that it claims
                size = (config.num_outputs, *sizes[place])
                arrays[place] = np.broadcast_to(np.float32(NOTHING), size)
            elif np.isnan(arrays[place]).any():
                raise UserError(
                    f"{rows[indices[place]].id}: the ensemble gives logits that are no numbers "
                    "(NaN): its training went astray, or a snapshot is damaged"
                )
        yield indices, arrays, facts["error"]


def finished_masks(config: Config, record: Mapping[str, Any], logits_CHW: np.ndarray) -> np.ndarray:
    """The masks that an ensemble's logits become, uint8 (K, H, W); see `postprocess.to_masks`.

    record: of ensemble.json.
    """
    logits = highest_only(logits_CHW) if config.postprocess.exclusive else logits_CHW
    return to_masks(logits, record["rule"], config.task)


def _with_size(config: Config, row: Sample | ImagePixels) -> Sample | ImagePixels:
    """A row whose size is not known as if it had the input's."""
    if row.height:
        return row
    return replace(row, height=config.input.height, width=config.input.width)


def predict_test(
    run_dir: Path, sink: MaskSink, round: int | None, share: tuple[int, int],
    progress: ProgressFile | None = None,
) -> Broken:  # fmt: skip
    """A share of the run's test images into `sink`, by the final ensemble or that of a round; see
    `predict_images`."""
    run = Run(Path(run_dir))
    config = load_config(run.config)
    record = final_ensemble(run) if round is None else read_ensemble(run.ensemble(round))
    accelerator = make_accelerator(config)
    samples = list(Manifest.read(run.data / "test.csv"))
    broken = predict_images(config, run.folder, record, samples, sink, accelerator, share, progress)
    for name, reason in broken:
        run.log_event("broken_image", id=name, reason=reason)
    return broken


def predict_folder(
    run_dir: Path, images_dir: Path, out_dir: Path, rle_path: Path | None = None
) -> Broken:
    """Masks of all images of a folder as PNG files, and an RLE table when asked; see
    `mask_files`. All ranks: each takes its share. Files that are no images of the folder (pipes,
    links that leave it, names that no table can hold) get no mask; they come last in what is
    returned.

    UserError: no images, outputs that would overwrite something, or a table of several ranks."""
    run, config, record = open_ensemble(Path(run_dir))
    images_dir, out_dir = Path(images_dir), Path(out_dir)
    samples, odd = image_samples(images_dir, config.data.max_pixels)
    for line in left_out(images_dir.absolute(), {sample.image for sample in samples}):
        logger.warning("%s", printable(line))
    accelerator = make_accelerator(config)
    if rle_path is not None and accelerator.num_processes > 1:
        raise UserError("--rle: one process writes the table; launch `distseg predict` alone")
    share = (accelerator.process_index, accelerator.num_processes)
    table = None if rle_path is None else Path(rle_path)
    labels = config.classes if config.task == "multilabel" else []
    names = [sample.id for sample in samples]
    root = Path(config.data.root)
    header = table_header(config)
    refuse_overwriting(images_dir, root, names, out_dir, labels, table, header)
    accelerator.wait_for_everyone()  # no rank may take another's masks for somebody else's
    with mask_files(config, out_dir, table) as sink:
        mark(out_dir, images_dir, run.folder)
        broken = predict_images(config, run.folder, record, samples, sink, accelerator, share)
    return broken + odd


def open_ensemble(folder: Path) -> tuple[Run, Config, dict[str, Any]]:
    """The run that a folder holds, its config and the record of its final ensemble; an ensemble
    that was exported is such a folder too. UserError: there is none."""
    run = find_run(folder)
    config = load_config(run.config)
    if run.exported.is_file():  # what belongs to it lies inside it, wherever it was moved
        data = config.data.model_copy(update={"root": str(folder)})
        config = config.model_copy(update={"data": data})
    return run, config, final_ensemble(run)


def image_samples(folder: Path, max_pixels: int = MAX_PIXELS) -> tuple[list[Sample], Broken]:
    """(The images of a folder, by name. What looks like one and is none, and why; it is logged.)
    UserError for none, or a stem twice."""
    samples: list[Sample] = []
    odd: Broken = []
    for path in image_files(folder, "--images"):
        problem = locate(path.parent, path.name)[1]
        if not problem and not path.is_file():
            problem = "is no file"
        if problem:
            odd.append((printable_path(path.name), printable(problem)))
            logger.warning("%s: %s: gets no mask", *odd[-1])
        else:
            samples.append(image_sample(path, max_pixels))
    if not samples:
        name, problem = odd[0]
        raise UserError(f"{folder}: no image here can be used (--images): {name}: {problem}")
    return list(Manifest(samples)), odd


def image_sample(path: Path, max_pixels: int = MAX_PIXELS) -> Sample:
    """An image file as a row without a label: its id is the file's stem."""
    try:
        height, width = image_size(path, max_pixels)
    except UserError:
        height, width = 0, 0  # decoding will say what is wrong with it
    return Sample(path.stem, str(path), height=height, width=width)
