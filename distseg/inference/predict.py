"""The finished ensemble on new images: streaming, in memory that does not grow with their number.

Each batch goes through all members, snapshots and views while the next one is being decoded and
the one before it is cleaned and encoded.
"""

from __future__ import annotations

import csv
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.dataset import ImageFiles
from distseg.data.depths import load_depths
from distseg.data.fit import Fit
from distseg.data.formats.row import image_files
from distseg.data.read_input import image_size
from distseg.distributed import default_workers, make_accelerator
from distseg.functional.combine import PROB_LIMIT, highest_only
from distseg.functional.postprocess import to_masks
from distseg.functional.rle import encode
from distseg.inference.evaluate import canvas_batches
from distseg.inference.load import TrainedMember, decode_batches
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_json
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run, final_ensemble

logger = logging.getLogger("distseg.inference.predict")


class Sink(Protocol):
    """Takes finished masks in any order."""

    def add(self, name: str, mask_CHW: np.ndarray) -> None: ...


def load_members(
    folder: Path, record: dict[str, Any], device: torch.device, channels_last: bool
) -> list[tuple[float, TrainedMember]]:
    """The members of an ensemble.json that count, with their weights, as models on `device`."""
    return [
        (
            member["weight"],
            TrainedMember.load([folder / p for p in member["snapshots"]], device, channels_last),
        )
        for member in record["members"]
        if member["weight"] > 0
    ]


def combine_batch(
    members: Sequence[tuple[float, TrainedMember]],
    canvases: dict[str, Tensor],
    sizes: Sequence[tuple[int, int]],
    tta: Sequence[str],
    space: str,
    task: str,
    autocast: Callable[[], Any],
) -> list[Tensor]:
    """Ensemble logits of each image at its native size, float32 (C, h, w).

    The formulas are those of functional/combine.py: a weighted mean over members of logits,
    probabilities or votes, and back to a logit.
    """
    sums: list[Tensor] | None = None
    total = sum(weight for weight, _ in members)
    for weight, member in members:
        parts = [
            to_space(logits, space, task) * weight
            for logits in member.native_logits(canvases[member.canvas], sizes, tta, autocast)
        ]
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
    assert sums is not None, "an ensemble has members"
    means = [s / total for s in sums]  # last: votes of whole weights tie exactly
    return means if space == "logit" else [torch.logit(m, eps=PROB_LIMIT) for m in means]


def to_space(logits_CHW: Tensor, space: str, task: str) -> Tensor:
    """What is averaged: logits, probabilities (sigmoid or softmax), or 0/1 votes."""
    if space == "logit":
        return logits_CHW
    if space == "prob":
        return logits_CHW.softmax(0) if task == "multiclass" else logits_CHW.sigmoid()
    if task == "multiclass":
        votes = torch.zeros_like(logits_CHW)
        return votes.scatter_(0, logits_CHW.argmax(0, keepdim=True), 1.0)
    return (logits_CHW > 0).float()


class Background:
    """One thread that cleans and encodes masks while the device computes; at most 4 batches
    wait, so that memory stays bounded. An error in it is raised by the next call."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self.work = work
        self.error: Exception | None = None
        self.queue: queue.Queue[Any] = queue.Queue(maxsize=4)
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
        self.queue.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error


@torch.inference_mode()
def predict_images(
    config: Config,
    run_dir: Path,
    ensemble: dict[str, Any],
    rows: Sequence[Sample],
    sink: Sink,
    accelerator: Accelerator,
    workers: int,
    share: tuple[int, int],
) -> list[tuple[str, str]]:
    """Share number share[0] of share[1] of `rows` through the ensemble into `sink`.

    A broken image gets an empty mask of the size its file claims (the config's input size if
    unknown), a warning, and a place in the returned list of (id, reason).
    """
    device = accelerator.device
    weighted = load_members(run_dir, ensemble, device, config.compute.channels_last)
    members = [member for _, member in weighted]
    height, width = config.input.height, config.input.width
    mine = [
        row if row.height else replace(row, height=height, width=width)
        for row in list(rows)[share[0] :: share[1]]
    ]
    sizes = [(row.height, row.width) for row in mine]
    order = canvas_batches(sizes, [member.fit for member in members], config.predict.batch_size)
    channels, depths = members[0].fit.config.channels, load_depths(config)

    def files(fit: Fit) -> ImageFiles:
        return ImageFiles(mine, channels, fit, depths)

    broken: list[tuple[str, str]] = []
    task, classes = config.task, config.num_outputs

    def finish(item: tuple[list[int], list[np.ndarray]]) -> None:
        for index, logits in zip(*item, strict=True):
            if config.postprocess.exclusive:
                logits = highest_only(logits)
            sink.add(mine[index].id, to_masks(logits, ensemble["rule"], task))

    background = Background(finish)
    for indices, canvases, words in decode_batches(members, order, files, workers, device):
        native = list(zip(words["height"].tolist(), words["width"].tolist(), strict=True))
        logits = combine_batch(
            weighted, canvases, native, ensemble["tta"], ensemble["space"], task,
            accelerator.autocast,
        )  # fmt: skip
        arrays = [one.cpu().numpy() for one in logits]
        for place, (index, reason) in enumerate(zip(indices, words["error"], strict=True)):
            if reason:
                broken.append((mine[index].id, reason))
                logger.warning("%s: %s: gets an empty mask", mine[index].image, reason)
                arrays[place] = np.full((classes, *native[place]), -1e4, np.float32)
        background.put((indices, arrays))
    background.close()
    return broken


def predict_test(
    run_dir: Path, sink: Sink, round: int | None, share: tuple[int, int]
) -> list[tuple[str, str]]:
    """A share of the run's test images into `sink`, by the final ensemble or that of a round; see
    `predict_images`."""
    run = Run(Path(run_dir))
    config = load_config(run.config)
    ensemble = final_ensemble(run) if round is None else read_json(run.ensemble(round))
    accelerator = make_accelerator(config)
    workers = default_workers(config, accelerator)
    samples = list(Manifest.read(run.data / "test.csv"))
    broken = predict_images(
        config, run.folder, ensemble, samples, sink, accelerator, workers, share
    )
    for name, reason in broken:
        run.log_event("broken_image", id=name, reason=reason)
    return broken


def predict_folder(
    run_dir: Path, images_dir: Path, out_dir: Path, rle_path: Path | None = None
) -> list[tuple[str, str]]:
    """Masks of all images of a folder as PNG (0/255; one folder per class when there are several;
    class numbers for multiclass), and an RLE table `id,rle` (`id,class,rle`) when asked."""
    run = Run(Path(run_dir))
    config, ensemble = load_config(run.config), final_ensemble(run)
    samples = image_samples(Path(images_dir))
    accelerator = make_accelerator(config)
    if rle_path is not None and accelerator.num_processes > 1:
        raise UserError("--rle: one process writes the table; launch `distseg predict` alone")
    workers = default_workers(config, accelerator)
    share = (accelerator.process_index, accelerator.num_processes)
    with FolderSink(config, Path(out_dir), rle_path) as sink:
        return predict_images(
            config, run.folder, ensemble, samples, sink, accelerator, workers, share
        )


def image_samples(folder: Path) -> list[Sample]:
    """The images of a folder, by name; id: the file's stem. UserError for none, or a stem twice."""
    samples = []
    for path in image_files(folder, "--images"):
        try:
            height, width = image_size(path)
        except UserError:
            height, width = 0, 0  # decoding will say what is wrong with it
        samples.append(Sample(path.stem, str(path), height=height, width=width))
    return list(Manifest(samples))


class FolderSink:
    """Masks as files, and rows of an RLE table that is put in place when all is done."""

    def __init__(self, config: Config, folder: Path, rle_path: Path | None) -> None:
        self.config, self.folder, self.rle_path = config, folder, rle_path
        folder.mkdir(parents=True, exist_ok=True)
        self.several = config.task == "multilabel"
        self.table: TextIO | None = None
        if rle_path is not None:
            self.temporary = Path(rle_path).with_name(f".{Path(rle_path).name}.tmp")
            self.table = self.temporary.open("w", newline="", encoding="utf-8")
            self.writer = csv.writer(self.table, lineterminator="\n")
            self.writer.writerow(("id", "class", "rle") if self.several else ("id", "rle"))

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.table is None or self.rle_path is None:
            return
        self.table.close()
        if kind is None:
            self.temporary.replace(self.rle_path)
        else:
            self.temporary.unlink()

    def add(self, name: str, mask_CHW: np.ndarray) -> None:
        labels = self.config.classes if self.several else [""]
        for label, plane in zip(labels, mask_CHW, strict=True):
            path = self.folder / label / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            scale = 1 if self.config.task == "multiclass" else 255
            ok, png = cv2.imencode(".png", plane * np.uint8(scale))
            assert ok, "cv2 encodes any uint8 array"
            atomic_write(path, png.tobytes())
            if self.table is not None:
                names = (name, label) if self.several else (name,)
                self.writer.writerow((*names, encode(plane)))
