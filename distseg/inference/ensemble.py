"""A finished ensemble in Python: images in, masks, probabilities and areas out.

What `distseg predict` writes to files comes from the same lines: `predict.logit_batches` and
`predict.finished_masks`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.schema import Config
from distseg.data.dataset import ImagePixels
from distseg.data.image_file import is_channels_first
from distseg.data.read_input import Pixels, image_channels
from distseg.distributed import one_process
from distseg.functional.combine import to_probabilities
from distseg.inference.inputs import find_images, image_sample
from distseg.inference.predict import (
    LoadedEnsemble,
    finished_masks,
    logit_batches,
    open_ensemble,
)
from distseg.records.errors import UserError
from distseg.records.manifest import Sample
from distseg.records.paths import Run

OneImage = Pixels | str | os.PathLike[str]  # an array, a Pillow image or a path
Images = OneImage | Iterable[OneImage] | Mapping[str, OneImage]


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says about one image.

    Attributes:
        id: the file's stem; of an array its number in the order given, or its key.
        mask: uint8 at the image's size: (H, W) of 0 and 1; multiclass: (H, W) of class numbers;
            multilabel: (C, H, W) of 0 and 1. All rules of the run are applied.
        probabilities: float32 (C, H, W), 0..1, before thresholds and rules.
        areas: pixels of the mask by class.
        error: why the image could not be read; its mask is then empty. "" where all is well.
    """

    id: str
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    areas: dict[str, int]
    error: str = ""


class Ensemble:
    """The members of a run's final ensemble, or of an exported one, on this machine's device.

    Attributes:
        config: of the run. record: its ensemble.json: members, weights, rule, scores.
        classes: their names, in the order of `Prediction.probabilities`.
        score, flag: the nested out-of-fold score, and whether it is honest, indirect or leaky.
    """

    def __init__(self, run: Run, config: Config, record: dict[str, Any]) -> None:
        self.config, self.record, self._process = config, record, one_process(config)
        self._loaded = LoadedEnsemble.load(config, run.folder, record, self._process)
        self.classes = list(config.classes)
        self.score, self.flag = float(record["scores"]["final"]["score"]), str(record["flag"])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Ensemble:
        """Of a run folder, or of a folder that `distseg export` made. UserError: it holds no
        ensemble, or a snapshot is missing or damaged."""
        run, config, record = open_ensemble(Path(folder))
        return cls(run, config, record)

    def predict(self, images: Images) -> list[Prediction]:
        """The predictions of images, in their order.

        Args:
            images: a folder with all below it, an image file, a glob, an array (H, W) or
                (H, W, C), a Pillow image; or several of them: a list, an array (N, H, W, C), or a
                mapping from ids.

        All predictions are in memory at once: for thousands of images take `stream`.

        Raises:
            UserError: there is no such folder, or it holds no images.
        """
        found = dict(self._numbered(images))
        return [found[index] for index in range(len(found))]

    def stream(self, images: Images) -> Iterator[Prediction]:
        """The same one by one, in memory that does not grow with their number. Images whose sizes
        lead to other canvases come in the order of their canvases."""
        return (prediction for _, prediction in self._numbered(images))

    def _numbered(self, images: Images) -> Iterator[tuple[int, Prediction]]:
        rows = _rows(images, self.config)
        for batch in logit_batches(self._loaded, self.config, rows, self._process):
            for index, logits, presence, reason in zip(*batch, strict=True):
                yield index, self._prediction(rows[index].id, logits, presence, reason)

    def _prediction(
        self,
        name: str,
        logits_CHW: NDArray[np.float32],
        presence_C: NDArray[np.float32] | None,
        error: str,
    ) -> Prediction:
        masks = finished_masks(self.config, self.record, logits_CHW, presence_C)
        task = self.config.task
        if task == "multiclass":
            counts = np.bincount(masks[0].ravel(), minlength=len(self.classes))
        else:
            counts = masks.sum(axis=(1, 2), dtype=np.int64)
        return Prediction(
            id=name,
            mask=masks if task == "multilabel" else masks[0],
            probabilities=np.zeros_like(logits_CHW)
            if error
            else to_probabilities(logits_CHW, self.record["space"], task),
            areas=dict(zip(self.classes, counts.tolist(), strict=True)),
            error=error,
        )


def _rows(images: Images, config: Config) -> list[Sample | ImagePixels]:
    """Each image as a row to predict."""
    if isinstance(images, str | os.PathLike):
        found = find_images(images, config.data.max_pixels, image_channels(config))
        return list(found.samples)
    if isinstance(images, Mapping):
        return [_row(str(name), image, config) for name, image in images.items()]
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    return [_row(None, image, config, number) for number, image in enumerate(images)]


def _row(name: str | None, image: Any, config: Config, number: int = 0) -> Sample | ImagePixels:
    """One image. UserError: it is neither a path nor pixels."""
    channels = image_channels(config)
    if isinstance(image, str | os.PathLike):
        sample = image_sample(Path(image), config.data.max_pixels, channels)
        return sample if name is None else Sample(
            name, sample.image, height=sample.height, width=sample.width
        )  # fmt: skip
    own = str(number) if name is None else name
    if isinstance(image, Image.Image):
        return ImagePixels(own, image, image.height, image.width)
    if isinstance(image, np.ndarray):
        sides = image.shape[1:] if is_channels_first(image.shape, channels) else image.shape[:2]
        height, width = sides if image.ndim in (2, 3) else (0, 0)
        return ImagePixels(own, image, height, width)
    raise UserError(
        f"image {own}: {type(image).__name__} is no image; valid: a NumPy array (H, W) or "
        "(H, W, C), a Pillow image, or a path"
    )
