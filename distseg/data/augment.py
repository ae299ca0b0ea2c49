"""Augmentation: the one module that knows albumentations. Names and options: config/augment.py.

Three traps of albumentations 2.0.8 are closed here. Left alone it repeats itself in every worker
and every epoch: each call is seeded. `Compose.set_random_seed` gives all transforms the same
seed, so that with p .5 and .7 the second always comes with the first: each one gets a seed of its
own. And it goes online at import, unless told not to.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.augment import MOVES, AugmentConfig, Cutout, Named, transforms
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError, unknown

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Augment:
    """Transforms in order, each applied with its p; a call is a pure function of its arguments."""

    def __init__(self, steps: Sequence[AugmentConfig], depth: bool = False) -> None:
        """depth: the last channel is `data.depths`, the same at every pixel. No geometry changes
        it, and what changes gray values must not."""
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read by the import below
        import albumentations as A
        from albumentations.augmentations.dropout.transforms import BaseDropout

        self.depth = int(depth)
        self.steps: list[tuple[float, str, Any]] = [
            (options.p, name, _transform(A, name, options)) for name, options in transforms(steps)
        ]
        # a dropout's holes move no pixel, though albumentations could cut them into a mask, too
        gray = (A.ImageOnlyTransform, BaseDropout, A.PixelDropout)
        self.gray = [isinstance(transform, gray) for *_, transform in self.steps]
        self.moving = [number for number, (_, name, _) in enumerate(self.steps) if name in MOVES]
        self.holes = sum(o.holes for _, o in transforms(steps) if isinstance(o, Cutout))

    def __call__(
        self, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8], seed: int
    ) -> Pair:
        """Image uint8 (H, W, C) and target uint8 (K, H, W), both of unchanged shape."""
        return self._apply(image_HWC, target_KHW, seed, gray=True)

    def geometry(
        self, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8], seed: int
    ) -> Pair:
        """The same, without the steps that change gray values alone: every pixel comes to lie where
        a call with the same seed puts it."""
        return self._apply(image_HWC, target_KHW, seed, gray=False)

    def _apply(
        self, image_HWC: NDArray[np.uint8], target_KHW: NDArray[np.uint8], seed: int, *, gray: bool
    ) -> Pair:
        """gray: whether steps that change gray values alone are applied."""
        image, target = image_HWC, target_KHW.transpose(1, 2, 0)
        image, depth = np.split(image, [image.shape[2] - self.depth], axis=2)
        for number, own_seed in self._drawn(seed):
            _, name, transform = self.steps[number]
            if self.gray[number] and not gray:
                continue
            if name in _SYMMETRIES:
                image, target = (_SYMMETRIES[name](a, own_seed) for a in (image, target))
                continue
            transform.set_random_seed(own_seed)
            done = transform(image=_contiguous(image), mask=_contiguous(target))
            image, target = done["image"], done["mask"]
        assert image.shape[:2] == image_HWC.shape[:2]
        height, width, channels = image_HWC.shape
        image = image.reshape(height, width, channels - self.depth)
        image = np.concatenate([image, depth], axis=2) if self.depth else image
        target = target.reshape(height, width, -1)
        return _contiguous(image), target.transpose(2, 0, 1)

    def _drawn(self, seed: int) -> Iterator[tuple[int, int]]:
        """(its number, a seed of its own) of each step that is applied."""
        draw = random.Random(seed)
        for number, (p, *_) in enumerate(self.steps):
            # both drawn always: one transform's p does not change what the others do
            applies, own_seed = draw.random() < p, draw.getrandbits(32)
            if applies:
                yield number, own_seed

    def numbers(self, height: int, width: int, seed: int) -> dict[str, NDArray[Any]]:
        """What a call with the same seed does to an image of this size, as `functional.augment`
        takes it: the same draws, by the same transforms, for steps that
        `config.device.device_mistakes` finds nothing wrong with. Arrays of the same names and
        shapes whatever is drawn; without steps that need them, there is no "table", "holes" or
        "noise". Of noise the strength is the same, and each pixel's value another."""
        moves = np.tile(np.eye(2, 3, dtype=np.float32), (len(self.moving), 1, 1))
        table, noise, noise_seed = np.arange(256, dtype=np.uint8), 0.0, 0
        holes: list[list[float]] = []
        for number, own_seed in self._drawn(seed):
            _, name, transform = self.steps[number]
            if name in MOVES:  # a result's pixel is followed back, through the last move first
                back = _origin(name, transform, height, width, own_seed)
                moves[-1 - self.moving.index(number)] = back
            elif name == "noise":
                noise, noise_seed = _params(transform, height, width, own_seed)["std"], own_seed
            elif name == "cutout":
                params, fill = _params(transform, height, width, own_seed), float(transform.fill)
                holes += [[*map(float, hole), fill] for hole in params["holes"]]
            else:
                changed = transform.apply(_RAMP, **_params(transform, 16, 16, own_seed)).reshape(-1)
                table = changed[table]
                holes = [[*hole[:4], float(changed[int(hole[4])])] for hole in holes]
        found: dict[str, NDArray[Any]] = {"moves": moves}
        names = {name for _, name, _ in self.steps}
        if names & {"brightness_contrast", "gamma"}:
            found["table"] = table
        if self.holes:
            found["holes"] = np.zeros((self.holes, 5), np.float32)
            found["holes"][: len(holes)] = np.reshape(holes, (-1, 5))
        if "noise" in names:
            found["noise"] = np.array(noise, np.float32)
            found["noise_seed"] = np.array(noise_seed, np.int64)
        return found


def _params(transform: Any, height: int, width: int, seed: int) -> dict[str, Any]:
    """What a transform draws for an image of a size, in the order in which it does when it is
    called; of noise its standard deviation alone, as "std"."""
    image = np.broadcast_to(np.uint8(0), (height, width, 1))
    transform.set_random_seed(seed)
    transform.should_apply()
    params = transform.update_transform_params(transform.get_params(), {"image": image})
    if hasattr(transform, "std_range"):
        return {"std": transform.py_random.uniform(*transform.std_range)}
    return params | transform.get_params_dependent_on_data(params, {"image": image})


def _origin(name: str, transform: Any, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """(2, 3): from (x, y, 1) of a pixel of a move's result to (x, y) of the pixel it comes from."""
    right, bottom, square = width - 1, height - 1, height == width
    if name == "affine":
        matrix = np.asarray(_params(transform, height, width, seed)["matrix"], np.float64)
        return np.linalg.inv(matrix)[:2].astype(np.float32)
    flipped = {"hflip": [[-1, 0, right], [0, 1, 0]], "vflip": [[1, 0, 0], [0, -1, bottom]]}
    if name in flipped:
        return np.array(flipped[name], np.float32)
    if name == "transpose":
        return np.array([[0, 1, 0], [1, 0, 0]] if square else np.eye(2, 3), np.float32)
    quarters = [[[0, -1, right], [1, 0, 0]], [[-1, 0, right], [0, -1, bottom]],
                [[0, 1, 0], [-1, 0, bottom]]]  # fmt: skip
    return np.array(quarters[seed % 3 if square else 1], np.float32)


def _contiguous(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array)


def _rot90(array: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """One to three quarter turns; a half turn where the sides differ, to keep the shape."""
    square = array.shape[0] == array.shape[1]
    return np.rot90(array, 1 + seed % 3 if square else 2)


def _transpose(array: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    return array.transpose(1, 0, 2) if array.shape[0] == array.shape[1] else array


# Views, in place of albumentations' copies: 20 times faster, and nothing in them is random.
_SYMMETRIES: dict[str, Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]] = {
    "hflip": lambda array, _: array[:, ::-1],
    "vflip": lambda array, _: array[::-1],
    "rot90": _rot90,
    "transpose": _transpose,
}


_RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)  # every gray value

# Arguments by which a transform reads other images, fonts or functions than the image at hand.
_FOREIGN = {"reference_images", "read_fn", "metadata_key", "font_path", "templates", "p"}
_TRIAL_SHAPE, _TRIAL_SEEDS = (97, 131), range(8)


def mistakes(steps: Sequence[AugmentConfig], channels: int) -> Iterator[str]:
    """What is wrong with the transforms that go by albumentations' own names, one line each.

    Each is made, and tried on an image of noise with `channels` channels and its target: it must
    keep the shape and bytes, and mix no values of the target.
    """
    for number, step in enumerate(steps):
        if step.A is not None:
            try:
                _try_named(f"A.{next(iter(step.A))}", Augment([step]), channels)
            except UserError as error:
                yield f"{number}.{error}"


def _try_named(name: str, augment: Augment, channels: int) -> None:
    """UserError: the transform cannot be used here."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*_TRIAL_SHAPE, channels), dtype=np.uint8)
    target = rng.choice(np.array([0, 1, VOID], dtype=np.uint8), (*_TRIAL_SHAPE, 2))
    transform = augment.steps[0][2]
    for seed in _TRIAL_SEEDS:
        transform.set_random_seed(seed)
        try:
            done = transform(image=image.copy(), mask=target.copy())
        # whatever a transform of a library raises for these images, it would raise in training
        except Exception as error:  # noqa: BLE001
            kind = f"images of {channels} channels" if channels != 1 else "images of one channel"
            raise UserError(f"{name}: it cannot transform {kind}: {_one_line(error)}") from None
        if done["image"].shape[:2] != _TRIAL_SHAPE or done["mask"].shape[:2] != _TRIAL_SHAPE:
            raise UserError(
                f"{name}: it changes the size of an image, which `input` alone says; for crops: "
                "input.fit: crop, for quarter turns: rot90"
            )
        if done["image"].dtype != np.uint8 or done["image"].size != image.size:
            raise UserError(
                f"{name}: it makes {done['image'].dtype} of shape {done['image'].shape}; valid "
                "are transforms that leave uint8 images and their channels"
            )
        if not set(np.unique(done["mask"])) <= {0, 1, VOID}:
            raise UserError(f"{name}: it makes values that the mask does not have")


def _named(A: Any, name: str, arguments: dict[str, Any]) -> Any:
    """The transform `name` of albumentations, which is always applied. UserError: no such name or
    argument, or a value that it refuses."""
    kinds = (A.DualTransform, A.ImageOnlyTransform)
    no = (*kinds, A.Lambda, A.NoOp)  # a function cannot be written in a config
    found = {n: c for n, c in vars(A).items() if isinstance(c, type) and issubclass(c, kinds)}
    names = [n for n, c in found.items() if c not in no]
    if name not in names:
        raise unknown("transform", name, sorted(names), f"A.{name}: ")
    known = [key for key in inspect.signature(getattr(A, name)).parameters if key not in _FOREIGN]
    for key in arguments:
        if key not in known:
            raise unknown("argument", key, known, f"A.{name}: ")
    if "mask_interpolation" in known:
        import cv2

        if arguments.get("mask_interpolation", cv2.INTER_NEAREST) != cv2.INTER_NEAREST:
            raise UserError(f"A.{name}.mask_interpolation: only 0, nearest: masks are never mixed")
        arguments = arguments | {"mask_interpolation": cv2.INTER_NEAREST}
    try:
        return getattr(A, name)(**arguments, p=1.0)
    except (ValueError, TypeError) as error:
        raise UserError(f"A.{name}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    """The message of an error; of pydantic's, each argument with what is wrong with it."""
    # albumentations puts the text of pydantic's error, many lines long, into one of its own
    found: list[Any] = getattr(error.__context__, "errors", list)()
    texts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in found]
    return "; ".join(texts) or " ".join(str(error).split()) or type(error).__name__


def _transform(A: Any, name: str, o: Any) -> Any:
    """The albumentations transform of a name, with the options `o` of its model in
    config/augment.py; the probability is ours. Masks are never interpolated, and what comes in
    from outside is the picture's reflection."""
    if isinstance(o, Named):
        return _named(A, name.removeprefix("A."), o.arguments)
    import cv2

    warp = {
        "border_mode": cv2.BORDER_REFLECT_101,
        "interpolation": cv2.INTER_LINEAR,
        "mask_interpolation": cv2.INTER_NEAREST,
        "p": 1.0,
    }
    if name == "affine":
        return A.Affine(
            scale=o.scale,
            translate_percent=o.translate,
            rotate=o.rotate,
            shear=o.shear,
            keep_ratio=True,
            **warp,
        )
    if name == "elastic":
        return A.ElasticTransform(alpha=o.alpha, sigma=o.sigma, **warp)
    if name == "grid_distortion":
        return A.GridDistortion(num_steps=o.steps, distort_limit=o.distort, **warp)
    if name == "brightness_contrast":
        return A.RandomBrightnessContrast(o.brightness, o.contrast, p=1.0)
    if name == "gamma":
        return A.RandomGamma(tuple(100 * g for g in o.gamma), p=1.0)
    if name == "cutout":  # the image alone: what a hole hides must still be found
        holes, size = (1, o.holes), tuple(map(float, o.size))
        return A.CoarseDropout(holes, size, size, fill=o.fill, p=1.0)
    if name == "blur":
        return A.GaussianBlur(blur_limit=0, sigma_limit=o.sigma, p=1.0)
    if name == "noise":
        return A.GaussNoise(std_range=o.std, p=1.0)
    assert name in _SYMMETRIES, name
    return None
