"""The torch datasets of training and prediction: pure functions from an index to uint8 tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from distseg.config.schema import Config
from distseg.data.cache import Cache
from distseg.data.features import FeatureStore
from distseg.data.fit import Fit
from distseg.data.read_input import Pixels, Reading, pixels_input, read_input
from distseg.data.read_target import read_target
from distseg.functional.combine import softmax
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError
from distseg.records.manifest import FROM_TEST, Manifest, Sample, image_id
from distseg.records.predictions import Predictions

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Transform = Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Pair]
Numbers = Callable[[int, int, int], dict[str, NDArray[Any]]]  # of (height, width, seed)
STATISTICS_ROWS = 4096  # images that mean and std are measured on
SOFT_SCALE = 254  # probability 1 of a soft target; 255 is VOID


def worker_init(worker: int = 0) -> None:
    """Make a loader process use one thread: several processes are what runs in parallel."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def sample_seed(seed: int, epoch: int, name: str, nth: int = 0) -> int:
    """A 64-bit seed, the same on every rank, worker and machine: a hash of the member's seed, the
    epoch, the sample's id, and how often the sample came before in the epoch (nth)."""
    again = f"/{nth}" if nth else ""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}{again}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class TrainData:
    """Image, target and soft target of each row of a Manifest, uint8, at native size.

    A human label comes from the decode cache; a label that a model made is the RLE in its row, and
    a soft one is a row of Predictions. Pseudo-labeled and unlabeled images come from `extra`, the
    cache of the test images; an unlabeled one is VOID all over. Soft logits are divided by the
    temperature of their folder, `temperatures[sample.soft]` (1 without one), before they become
    probabilities.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: Cache,
        extra: Cache | None,
        config: Config,
        folder: Path,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self.manifest, self.cache, self.extra = manifest, cache, extra
        self.config, self.temperatures = config, dict(temperatures or {})
        paths = sorted({sample.soft for sample in manifest if sample.soft})
        self.predictions = {path: Predictions(folder / path) for path in paths}

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def has_soft(self) -> bool:
        """Whether any row has a soft target."""
        return bool(self.predictions)

    def image(self, row: int) -> NDArray[np.uint8]:
        """The image of a row, (H, W, C): a read-only view."""
        sample = self.manifest[row]
        if sample.origin not in FROM_TEST:
            return self.cache.image(sample.id)
        assert self.extra is not None, "a train set with test images has their cache"
        return self.extra.image(image_id(sample))

    def target(self, row: int) -> NDArray[np.uint8]:
        """The target of a row, (K, H, W); 255 where a pixel counts nowhere."""
        sample = self.manifest[row]
        if sample.origin == "labeled":
            return self.cache.target(sample.id)
        return read_target(sample.target, self.config, sample.height, sample.width)

    def positives(self, rows: Sequence[int]) -> list[int]:
        """The rows, of `rows`, whose target holds an object."""
        targets = ((row, self.target(row)) for row in rows)
        return [row for row, target in targets if ((target > 0) & (target != VOID)).any()]

    def soft(self, row: int) -> NDArray[np.uint8]:
        """The soft target of a row, (C, H, W): probabilities times SOFT_SCALE; zeros for a row
        without one."""
        sample = self.manifest[row]
        if not sample.soft:
            return np.zeros((self.config.num_outputs, sample.height, sample.width), np.uint8)
        logits = self.predictions[sample.soft].of(image_id(sample))
        temperature = self.temperatures.get(sample.soft, 1.0)
        scaled = np.clip(logits.astype(np.float32) / temperature, -30, 30)
        if self.config.task == "multiclass":
            return np.round(SOFT_SCALE * softmax(scaled)).astype(np.uint8)
        return np.round(SOFT_SCALE / (1 + np.exp(-scaled))).astype(np.uint8)


def train_statistics(data: TrainData, rows: Sequence[int]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, on the scale 0..1, over all pixels.

    At most STATISTICS_ROWS images are measured, evenly spaced among the rows: the result is a pure
    function of the rows. A channel of a single value gets the standard deviation 1/255.
    """
    step = -(-len(rows) // STATISTICS_ROWS)
    totals, pixels = np.zeros((2, data.config.input.channels)), 0
    for row in rows[::step]:
        flat = data.image(row).reshape(-1, totals.shape[1]).astype(np.float64) / 255
        totals += np.stack([flat.sum(0), (flat**2).sum(0)])
        pixels += len(flat)
    mean, squares = totals / pixels
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    return mean.round(6).tolist(), np.maximum(std, 1 / 255).round(6).tolist()


@dataclass(frozen=True)
class Draws:
    """A few draws of the augmentation per image, the same in every member, in place of a new one
    each time."""

    views: int
    seed: int

    def seed_of(self, name: str, view: int) -> int:
        """Of a draw of the image `name`."""
        return sample_seed(self.seed, view, name)


class TrainSet(Dataset[dict[str, Any]]):
    """Augmented samples; the index is (row, epoch, how often the row came before in the epoch).

    A sample holds, on the canvas: "image" uint8 (C, H, W), "target" uint8 (K, H, W), "row" int,
    where the train set has soft targets "soft" uint8 (C, H, W), see `TrainData.soft`, and for a
    mean teacher "view" uint8 (C, H, W): the image by `geometry`, pixel by pixel beside "image".
    With a store of feature maps it holds "features", float16 (values,), in place of the image.
    Where the device augments, nothing is augmented, and what it is to do stands beside it: "place"
    float32 (4,), and what `Augment.numbers` gives; a mean teacher's view is made there, too.
    """

    def __init__(
        self,
        data: TrainData,
        fit: Fit,
        augment: Transform | None,
        seed: int,
        geometry: Transform | None = None,
        draws: Draws | None = None,
        store: FeatureStore | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """geometry: that part of `augment` that moves pixels; None: no "view" is made. draws: of
        which the seed takes one each time. store: of all of them. numbers: in place of `augment`
        and `geometry`, what the device is to do."""
        self.names = [sample.id for sample in data.manifest]
        self.data, self.fit, self.augment, self.seed = data, fit, augment, seed
        self.geometry, self.draws, self.store, self.numbers = geometry, draws, store, numbers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: tuple[int, int, int]) -> dict[str, Any]:
        row, epoch, nth = item
        name, view = self.names[row], 0
        seed = sample_seed(self.seed, epoch, name, nth)
        if self.draws is not None:
            view = seed % self.draws.views
            seed = self.draws.seed_of(name, view)
        image, target = self.data.image(row), self.data.target(row)
        num = len(target)
        if self.data.has_soft:  # goes through the same geometry
            target = np.concatenate([target, self.data.soft(row)])
        sample: dict[str, Any] = {}
        if self.numbers is None:
            made, labels = self.draw(image, target, seed, num, self.augment)
        else:
            rng = np.random.default_rng(seed)
            made, labels, place = self.fit.placed(image, target, rng, num_hard=num)
            sample = {"place": np.array(place, np.float32), **self.numbers(*place[2:], seed)}
        sample["target"] = _tensor(labels[:num])
        if self.store is None:
            sample["image"] = _chw(made)
        else:
            sample["features"] = torch.from_numpy(self.store.maps(name, view).copy())
        sample |= {"soft": _tensor(labels[num:])} if self.data.has_soft else {}
        if self.geometry:
            plain, _ = self.draw(image, target, seed, num, self.geometry)
            sample["view"] = _chw(plain)
        return {**sample, "row": row}

    def draw(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8], seed: int, num_hard: int,
        augment: Transform | None,
    ) -> Pair:  # fmt: skip
        """Image (H, W, C) and target (K, H, W), transformed and on the canvas: the same pixels by
        the same seed. num_hard: planes of the target that are labels; soft ones follow them."""
        rng = np.random.default_rng(seed)
        # pad: the border reflects the augmented picture, as at prediction; else the canvas is
        # what the network sees, and is often smaller
        first = self.fit.config.fit == "pad"
        if augment and first:
            image, target = augment(image, target, seed)
        image, target = self.fit.train(image, target, rng, num_hard=num_hard)
        if augment and not first:
            image, target = augment(image, target, seed)
        return image, target


class DrawnImages(Dataset[dict[str, Any]]):
    """The images that a train set draws, without targets: all draws of one of `ids`, ids of the
    decode cache, then those of the next. "image" uint8 (C, H, W)."""

    def __init__(self, train: TrainSet, ids: Sequence[str]) -> None:
        assert train.draws is not None
        self.train, self.ids, self.draws = train, list(ids), train.draws

    def __len__(self) -> int:
        return len(self.ids) * self.draws.views

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, view = divmod(index, self.draws.views)
        name, train = self.ids[place], self.train
        image, target = train.data.cache.image(name), train.data.cache.target(name)
        seed = self.draws.seed_of(name, view)
        return {"image": _chw(train.draw(image, target, seed, len(target), train.augment)[0])}


class EvalSet(Dataset[dict[str, Any]]):
    """Cached samples for prediction: "image" uint8 (C, h, w) on its canvas, and "row", the row of
    the Manifest.

    `sizes[i]` is the native (height, width) of sample i.
    """

    def __init__(self, manifest: Manifest, rows: Sequence[int], cache: Cache, fit: Fit) -> None:
        self.rows, self.cache, self.fit = list(rows), cache, fit
        self.names = [manifest[row].id for row in self.rows]
        self.sizes = [cache.size(name) for name in self.names]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.fit.forward(self.cache.image(self.names[index]))
        return {"image": _chw(image), "row": self.rows[index]}


@dataclass(frozen=True)
class ImagePixels:
    """An image in memory that is to be predicted.

    pixels: as `read_input.pixels_input` takes them. height, width: in pixels; 0 while unknown.
    """

    id: str
    pixels: Pixels
    height: int = 0
    width: int = 0


class ImageFiles(Dataset[dict[str, Any]]):
    """Images that are decoded when they are asked for: "image" uint8 (C, h, w) on its canvas,
    native "height" and "width", "index" and "error".

    A broken file never raises: "error" says what is wrong ("" for a good file), and the image is
    black, of the size that the sample or the config says. In a batch of broken ones alone, the
    canvas is one pixel: a header that lies must not cost the memory that it claims.
    """

    def __init__(
        self,
        images: Sequence[Sample | ImagePixels | str],
        reading: Reading,
        fit: Fit,
    ) -> None:
        self.images, self.reading, self.fit = list(images), reading, fit

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch, as torch's loaders ask for them."""
        found = [self._sample(index) for index in indices]
        if all(sample["error"] for sample in found):
            pixel = torch.zeros((self.reading.channels, 1, 1), dtype=torch.uint8)
            return [{**sample, "image": pixel} for sample in found]
        for sample in found:
            if sample["error"]:
                size = sample["height"], sample["width"], self.reading.channels
                sample["image"] = _chw(self.fit.forward(np.zeros(size, np.uint8)))
        return found

    def _sample(self, index: int) -> dict[str, Any]:
        """A sample; of a broken file without "image"."""
        source = self.images[index]
        try:
            image = self._read(source)
        except (UserError, OSError, MemoryError) as failure:
            height, width = self._size_of(source)
            error = str(failure) or type(failure).__name__
            return {"height": height, "width": width, "index": index, "error": error}
        height, width = image.shape[:2]
        canvas = _chw(self.fit.forward(image))
        return {"image": canvas, "height": height, "width": width, "index": index, "error": ""}

    def _read(self, source: Sample | ImagePixels | str) -> NDArray[np.uint8]:
        if isinstance(source, ImagePixels):
            return pixels_input(source.pixels, source.id, self.reading)
        path = source if isinstance(source, str) else source.image
        return read_input(path, self.reading)

    def _size_of(self, source: Sample | ImagePixels | str) -> tuple[int, int]:
        known = (0, 0) if isinstance(source, str) else (source.height, source.width)
        return known if min(known) > 0 else self.fit.stretch or self.fit.size


def _tensor(array: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor of an array; a copy where the array is read-only, as views of the cache are."""
    writable = array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(array if writable else array.copy(order="C"))


def _chw(image_HWC: NDArray[np.uint8]) -> torch.Tensor:
    return _tensor(image_HWC.transpose(2, 0, 1))
