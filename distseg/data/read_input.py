"""Images and label masks from files, with Pillow, which keeps palette indices and 16 bits.

cv2 turns a palette PNG into colors and a 1-bit PNG into 0/255. The EXIF orientation is not
applied, to images or to masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.schema import Config
from distseg.functional import rle
from distseg.functional.metrics import VOID
from distseg.records.errors import UserError

_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class BadFile(UserError):
    """A file that cannot be used, and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason


def open_image(path: str | Path) -> Image.Image:
    """A decoded Pillow image; BadFile for whatever a broken file makes Pillow raise."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy() if getattr(image, "is_animated", False) else image
    except FileNotFoundError:
        raise BadFile(path, "there is no such file") from None
    except Exception as error:  # noqa: BLE001 (decoders raise OSError, SyntaxError, struct.error..)
        raise BadFile(path, f"cannot be read as an image: {_short(error)}") from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the file's header, without decoding; BadFile when it has none."""
    if str(path).endswith(".npy"):
        shape = _load_array(path).shape
        return shape[0], shape[1]
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # noqa: BLE001 (as above)
        raise BadFile(path, f"cannot be read as an image: {_short(error)}") from None


def read_image(path: str | Path, channels: int) -> NDArray[np.uint8]:
    """Any image file as uint8 (H, W, channels), C-contiguous.

    16-bit values are scaled by 255 / 65535; gray becomes color by repetition, and color gray by
    the luma of ITU-R 601; alpha is dropped, except with 4 channels. A .npy file holds (H, W) or
    (H, W, channels) of uint8 or uint16; it is the only file for other numbers of channels.
    """
    if str(path).endswith(".npy"):
        array = _to_8_bit(_load_array(path), path)
        array = array[:, :, None] if array.ndim == 2 else array
    else:
        array = _decode(open_image(path), path, channels)
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise BadFile(path, f"has {array.shape[2]} channels; input.channels is {channels}")
    return np.ascontiguousarray(array)


def _decode(image: Image.Image, path: str | Path, channels: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 1, 3 or 4)."""
    if image.mode in _GRAY_16 or image.mode == "F":
        return _to_8_bit(np.asarray(image), path)[:, :, None]
    mode = {1: "L", 4: "RGBA"}.get(channels, "RGB")
    try:
        array = np.asarray(image.convert(mode))
    except ValueError as error:  # a color space that Pillow cannot convert, such as LAB
        raise BadFile(path, f"mode {image.mode} cannot become {mode}: {error}") from None
    return array[:, :, None] if array.ndim == 2 else array


def _to_8_bit(array: NDArray, path: str | Path) -> NDArray[np.uint8]:
    """uint8 as it is, 16-bit scaled, floats in 0..1 times 255; anything else is refused."""
    if array.dtype == np.uint8:
        return array
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array * 255).astype(np.uint8)
    if array.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    raise BadFile(path, f"values {low}..{high} of type {array.dtype} are no image")


def _load_array(path: str | Path) -> NDArray:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise BadFile(path, f"cannot be read as an array: {_short(error)}") from None
    if array.ndim not in (2, 3) or not array.size:
        raise BadFile(path, f"an array of shape {array.shape} is no image")
    return array


def read_labels(path: str | Path) -> NDArray:
    """The raw values of a mask file, (H, W): palette indices, 1-bit as 0/1, 16-bit unscaled."""
    if str(path).endswith(".npy"):
        array = np.asarray(_load_array(path))
    else:
        image = open_image(path)
        if image.mode in ("LA", "PA"):  # alpha says nothing about the label
            image = image.getchannel(0)
        array = np.asarray(image.convert("RGB") if image.mode == "CMYK" else image)
    if array.ndim == 3:
        if (array[:, :, :3] != array[:, :, :1]).any():
            raise BadFile(path, "is a color picture; a mask holds one value per pixel")
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        raise BadFile(path, "holds real numbers; a mask holds whole ones")
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def read_target(target: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """A row's target as uint8 (K, H, W), VOID (255) in every K where a pixel counts nowhere.

    K is 1 for binary (0/1) and multiclass (class index), the number of classes for multilabel
    (0/1). A row without a target is VOID all over.

    Raises:
        UserError: unreadable, of another size, a value that is no class, or a bad RLE.
    """
    kind, _, value = target.partition(":")
    num = len(config.classes) if config.task == "multilabel" else 1
    if not target:
        return np.full((num, height, width), VOID, dtype=np.uint8)
    if kind == "rle":
        return _from_rle(value, config, height, width)
    assert kind == "file", target
    if "|" in value:
        return _from_files(value.split("|"), config, height, width)
    labels = _mapped(_sized_labels(value, height, width), config, value)
    if config.task == "binary":
        return _binary(labels, config, value)[None]
    return _indexed(labels, config, value)


def _sized_labels(path: str, height: int, width: int) -> NDArray:
    labels = read_labels(path)
    if labels.shape != (height, width):
        found = f"{labels.shape[0]}x{labels.shape[1]}"
        raise BadFile(path, f"the mask is {found}, its image is {height}x{width}")
    return labels


def _mapped(labels: NDArray, config: Config, path: str) -> NDArray:
    """Values as `data.mask_values` translates them; a value that it does not name is a mistake."""
    meaning = config.data.value_map
    if meaning is None:
        return labels
    values, places = np.unique(labels, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in meaning]
    if unknown:
        raise BadFile(path, f"value {unknown[0]} has no meaning; known: {sorted(meaning)}")
    return np.array([meaning[int(v)] for v in values], np.uint8)[places].reshape(labels.shape)


def _binary(labels: NDArray, config: Config, path: str) -> NDArray[np.uint8]:
    """0/1/VOID. Values above `threshold` are the object (below, where inverted). Without a
    threshold of the user's, three values are a mistake: a JPEG, or an index mask."""
    options = config.data.folder
    void = _void(labels, config)
    known = labels[~void]
    if options.threshold == 0 and known.size:
        low, high = known.min(), known.max()
        odd = known[(known != low) & (known != high)]
        if odd.size:
            raise BadFile(
                path,
                f"a binary mask has two values, this has {low}, {high} and {odd[0]}: set "
                "data.folder.threshold (JPEG masks: 127), void, or task: multiclass",
            )
    mask = (labels > options.threshold) != options.inverted
    return np.where(void, VOID, mask).astype(np.uint8)


def _void(labels: NDArray, config: Config) -> NDArray[np.bool_]:
    """Pixels that count nowhere: the config's void value, or 255 where values are translated."""
    value = VOID if config.data.value_map is not None else config.void
    return labels == value if value is not None else np.zeros(labels.shape, np.bool_)


def _indexed(labels: NDArray, config: Config, path: str) -> NDArray[np.uint8]:
    """Multiclass: (1, H, W) of class indices. Multilabel: value v is class v - 1, 0 is none."""
    num = len(config.classes)
    highest = num if config.task == "multilabel" else num - 1
    void = _void(labels, config)
    wrong = labels[((labels > highest) | (labels < 0)) & ~void]
    if wrong.size:
        told = "no void value is set" if config.void is None else f"void is {config.void}"
        raise BadFile(path, f"value {wrong[0]} is no class of 0..{highest}, and {told}")
    if config.task == "multiclass":
        return np.where(void, VOID, labels).astype(np.uint8)[None]
    planes = labels[None] == np.arange(1, num + 1).reshape(-1, 1, 1)
    return np.where(void[None], VOID, planes).astype(np.uint8)


def _from_files(paths: list[str], config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """Multilabel with a binary mask file per class; an empty path is a class that is absent."""
    assert len(paths) == len(config.classes)
    planes = [
        _binary(_sized_labels(path, height, width), config, path)
        if path
        else np.zeros((height, width), dtype=np.uint8)
        for path in paths
    ]
    stacked = np.stack(planes)
    stacked[:, (stacked == VOID).any(axis=0)] = VOID
    return stacked


def _from_rle(text: str, config: Config, height: int, width: int) -> NDArray[np.uint8]:
    """One RLE per class (column-major, from 1); multiclass: what none covers is class 0."""
    parts = text.split("|")
    if len(parts) != len(config.classes):
        raise UserError(f"{len(parts)} RLEs for {len(config.classes)} classes")
    try:
        planes = np.stack([rle.decode(part, height, width) for part in parts])
    except ValueError as error:
        raise UserError(f"bad RLE: {error}") from None
    if config.task != "multiclass":
        return planes
    index = np.zeros((1, height, width), dtype=np.uint8)
    for number, plane in enumerate(planes):
        index[0][plane > 0] = number
    return index


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
