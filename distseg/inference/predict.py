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

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.dataset import ImageFiles, ImagePixels
from distseg.data.fit import Fit
from distseg.data.loader import canvas_batches
from distseg.data.read_input import reading_of
from distseg.distributed import OneProcess, default_workers, make_accelerator
from distseg.functional.combine import from_space, highest_only, mean_presence, to_space
from distseg.functional.postprocess import to_masks
from distseg.inference.forward import Predictor
from distseg.inference.inputs import Broken
from distseg.inference.load import decode_batches, load_predictor
from distseg.inference.mask_files import MaskSink
from distseg.records.ensemble_record import read_ensemble
from distseg.records.errors import Damaged, UserError
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import Run, final_ensemble, find_run
from distseg.records.progress import ProgressFile

logger = logging.getLogger(__name__)

NOTHING = -1e4  # the logit of a broken image's every class, under every threshold
WAITING = 4  # batches between the device and the thread that writes: what bounds the memory
# what `logit_batches` yields
Predicted = tuple[list[int], list[np.ndarray], list[np.ndarray | None], list[str]]
Extra = Callable[[Sample, np.ndarray, np.ndarray], None]  # see `predict_images`


@dataclass(frozen=True)
class LoadedEnsemble:
    """The members of an ensemble.json as models on a device, and how they are combined.

    weighted: (weight, member) of those that weigh something. heads: whether each of them is asked
    by its image head, too; none where the rule has no gate.
    """

    weighted: Sequence[tuple[float, Predictor]]
    space: str
    task: str
    tta: Sequence[str]
    heads: Sequence[bool] = ()

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
        members = [member for member in record["members"] if member["weight"] > 0]
        names = [re.split("[@#]", str(member["name"]))[0] for member in members]
        weighted = [
            (
                member["weight"],
                load_predictor(
                    [run_dir / path for path in member["snapshots"]],
                    accelerator.device, channels_last, accelerator.autocast,
                    member=(name, member["fold"]),
                ),
            )
            for name, member in zip(names, members, strict=True)
        ]  # fmt: skip
        gated = any(record["rule"].get("gate") or [])
        heads = [gated and config.members[name].image_head is not None for name in names]
        return cls(weighted, record["space"], config.task, record["tta"], heads)

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

    def presence(self, canvases: dict[str, Tensor], number: int) -> list[np.ndarray | None]:
        """The probability that each class is in each of `number` images, (C,), as the image heads
        say; None where the rule asks for none, or no member has one."""
        if not any(self.heads):
            return [None] * number
        said: list[np.ndarray | None] = [
            p.image_logits(canvases[p.canvas]).mean(0).cpu().numpy() if asked else None
            for (_, p), asked in zip(self.weighted, self.heads, strict=True)
        ]
        weights = [weight for weight, _ in self.weighted]
        return [
            mean_presence([None if one is None else one[place] for one in said], weights)
            for place in range(number)
        ]


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
    extra: Extra | None = None,
) -> Broken:
    """Share number share[0] of share[1] of `rows` through an ensemble into `sink`.

    record: of ensemble.json. An image that cannot be read is left to the sink, with a warning, and
    has a place in what is returned. extra: gets each other row, its logits (C, H, W) and its masks.
    """
    ensemble = LoadedEnsemble.load(config, run_dir, record, accelerator)
    rows = list(rows)[share[0] :: share[1]]

    def finish(item: Predicted) -> None:
        for index, logits, presence, reason in zip(*item, strict=True):
            row, masks = rows[index], finished_masks(config, record, logits, presence)
            if reason:
                outcome = sink.leave_out(row.id, masks, is_sized=row.height > 0)
                logger.warning("%s: %s", reason, outcome)
                continue
            sink.add(row.id, masks)
            if extra is not None:
                extra(row, logits, masks)

    broken: Broken = []
    done, progress = 0, progress or ProgressFile(None)
    background = Background(finish)
    progress.at("predict", 0, len(rows))
    for batch in logit_batches(ensemble, config, rows, accelerator):
        background.put(batch)
        indices, _, _, reasons = batch
        found = zip(indices, reasons, strict=True)
        broken += [(rows[index].id, reason) for index, reason in found if reason]
        done += len(indices)
        progress.at("predict", done, len(rows))
    background.close()
    return broken


def logit_batches(
    ensemble: LoadedEnsemble,
    config: Config,
    rows: Sequence[Sample | ImagePixels],
    accelerator: Accelerator | OneProcess,
) -> Iterator[Predicted]:
    """The ensemble's logits of images, in batches of one canvas size each.

    Yields:
        (indices of `rows`, logits float32 (C, h, w) of each at its native size, what
        `LoadedEnsemble.presence` says of each, why each image is broken or ""). The logits of a
        broken one are NOTHING, of the size that its file claims.
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
        presence: list[np.ndarray | None] = [None] * len(indices)
        if not all(facts["error"]):
            presence = ensemble.presence(canvases, len(indices))
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
        yield indices, arrays, presence, facts["error"]


def finished_masks(
    config: Config, record: Mapping[str, Any], logits_CHW: np.ndarray, presence_C: np.ndarray | None
) -> np.ndarray:
    """The masks that an ensemble's logits become, uint8 (K, H, W); see `postprocess.to_masks`.

    record: of ensemble.json.
    """
    logits = highest_only(logits_CHW) if config.postprocess.exclusive else logits_CHW
    return to_masks(logits, record["rule"], config.task, presence_C)


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


def open_ensemble(folder: Path) -> tuple[Run, Config, dict[str, Any]]:
    """The run that a folder holds, its config and the record of its final ensemble; an ensemble
    that was exported is such a folder too. UserError: there is none."""
    run = find_run(folder)
    config = load_config(run.config)
    if run.exported.is_file():  # what belongs to it lies inside it, wherever it was moved
        data = config.data.model_copy(update={"root": str(folder)})
        config = config.model_copy(update={"data": data})
    return run, config, final_ensemble(run)
