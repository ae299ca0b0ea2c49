"""Any data that people have: read right, or refused with the reason; never silently wrong.

A table, one row a case, over the ten kinds of fault that were seen (issue: any data people really
have). Each case writes a data set with planted truth, and goes through what a run goes through:
listing, checking, the decode cache. What the cache then holds is what training is given.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.cli import main
from distseg.config.load import dump_config
from distseg.data.check import mistakes
from distseg.data.detect import detect
from distseg.data.image_file import BadFile
from distseg.data.passed_over import left_out, passed_over
from distseg.data.prepare import open_cache, prepare
from distseg.data.read_input import read_input, reading_of
from distseg.records.errors import UserError
from distseg.records.files import append_line
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.data import made_data as made
from tests.data.data_helpers import config, gray, save
from tests.data.made_data import NUM, SIZE, Array, Truth, binary, indexed, palette, png, shape

BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 128, 0)
RED_BLACK = palette(RED, BLACK, order=(1, 0))
MULTI: dict[str, Any] = {
    "task": "multiclass", "classes": ["background", "a", "b"], "stages": made.CE
}  # fmt: skip
LABELS: dict[str, Any] = {"task": "multilabel", "classes": ["one", "two"]}
STEEL: dict[str, Any] = {"data__format": "severstal", "input__fit": "resize", **LABELS}


@dataclass(frozen=True)
class Case:
    """make: writes the data, returns the truth. says: what the refusal says; "" where the data is
    read right, as the truth has it."""

    kind: int
    make: Callable[[Path], Truth]
    says: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, kind: int, make: Callable[[Path], Truth], says: str = "", **settings: Any):  # type: ignore[no-untyped-def]
    assert name not in CASES
    CASES[name] = Case(kind, make, says, settings)


def by(write: made.Writer) -> Callable[[Path], Truth]:
    return lambda root: binary(root, write)


def index(write: made.Writer, highest: int = 2) -> Callable[[Path], Truth]:
    return lambda root: indexed(root, write, highest)


# -- 1: values that mean something else ------------------------------------------------------------

ONE_BIT = made.either(png(), png(0, 1, np.bool_), lambda i: i % 2 > 0)
NOISE_OF_EMPTY = made.either(
    png(), lambda path, mask, i: save(path.with_suffix(".png"), gray(i) % 2), lambda i: i == 6
)
TENTHS = made.npy(0, 0.5, np.float32)
case("0 and 255", 1, by(png()))
case("0 and 1", 1, by(png(0, 1)))
case("one bit", 1, by(png(0, 1, np.bool_)))
case("one bit beside 0 and 255", 1, by(ONE_BIT))
case("white of 8 bits and of 16", 1,
     by(made.either(png(), png(0, 65535, np.uint16), lambda i: i % 2 > 0)))  # fmt: skip
case("whole real numbers", 1, by(made.npy(0.0, 1.0, np.float32)))
case("gray stored as color", 1, by(made.colored(BLACK, WHITE)))
case("1 and 2", 1, by(png(1, 2)), r"no mask of object holds the value 0.*1 in 12 files.*2 in 8 "
     r"files.*data\.mask_values: \{1: 0, 2: 1\}")  # fmt: skip
case("1 and 2, said", 1, by(png(1, 2)), data__mask_values={1: 0, 2: 1})
case("1 and 2, by threshold", 1, by(png(1, 2)), data__folder={"threshold": 1})
case(
    "noise of JPEG in an empty mask",
    1,
    by(NOISE_OF_EMPTY),
    r"not hold the same two values.*a6\.png.*threshold: 127.*mask_values: \{0: 0, 1: 1, 255: 1\}",
)
case("noise of JPEG, said", 1, by(NOISE_OF_EMPTY), data__folder={"threshold": 127})
case("two sources", 1, by(made.either(png(), png(0, 1), lambda i: i % 2 > 0)), "same two values")
case("two sources, said", 1, by(made.either(png(), png(0, 1), lambda i: i % 2 > 0)),
     data__mask_values={0: 0, 1: 1, 255: 1})  # fmt: skip
case(
    "two sources of 16 bits",
    1,
    by(made.either(png(), png(0, 1, np.uint16), lambda i: i % 2 > 0)),
    "same two values",
)
case("254 beside 255", 1, by(made.either(png(), png(0, 254), lambda i: i == 4)), "same two values")
case("0 is the object", 1, by(png(255, 0)), data__folder={"inverted": True})
case("nothing but the object", 1, by(png(255, 255)), "no mask of object holds the value 0")
case("-1 and 1", 1, by(made.npy(-1, 1, np.int16)), "no mask of object holds the value 0")
case("halves", 1, by(TENTHS), "holds real numbers")
case("JPEG", 1, by(made.jpeg(60)), r"a binary mask has two values.*threshold.*127")
case("JPEG, said", 1, by(made.jpeg(90)), data__folder={"threshold": 127})
case("a threshold above all", 1, by(png(0, 1)), "holds an object", data__folder={"threshold": 127})
case("numbers of objects, said", 1,
     lambda root: Truth({n: (t > 0).astype(np.uint8) for n, t in
                         indexed(root, made.numbers(), 9).targets.items()}),
     data__folder={"numbered": True})  # fmt: skip
case("numbers taken for two values", 1, index(made.numbers(), 3), "a binary mask has two values")


def class_folders(
    root: Path, second: made.Writer, names: tuple[str, str] = ("one", "two")
) -> Truth:
    made.images(root)
    targets = {}
    for name in names:
        (root / "masks" / name).mkdir(parents=True)
    for i in range(NUM):
        png(0, 1)(root / "masks" / names[0] / f"a{i}", shape(i), i)
        second(root / "masks" / names[1] / f"a{i}", shape(i + 1), i)
        targets[f"a{i}"] = np.stack([shape(i), shape(i + 1)])
    return Truth(targets)


case("each class in its own values", 1, lambda root: class_folders(root, png()), **LABELS)
case("noise in one class", 1,
     lambda root: class_folders(root, NOISE_OF_EMPTY),
     "masks of two do not hold the same two values", **LABELS)  # fmt: skip

# -- 2: palettes -----------------------------------------------------------------------------------

SWAPPED = made.either(palette(BLACK, RED), RED_BLACK, lambda i: i % 2 > 0)
VOC = palette(BLACK, (128, 0, 0), GREEN)
OTHER_VOC = made.either(
    VOC, palette(BLACK, GREEN, (128, 0, 0), order=(0, 2, 1)), lambda i: i in (3, 7)
)
case("gray palette, white first", 2, by(palette(WHITE, BLACK, order=(1, 0))))
case(
    "gray palettes in two orders",
    2,
    by(made.either(palette(BLACK, WHITE), palette(WHITE, BLACK, order=(1, 0)), lambda i: i > 5)),
)
case("GIF", 2, by(palette(BLACK, WHITE, suffix=".gif")))
case("palette of black and red", 2, by(palette(BLACK, RED)))
case("palette of red and black", 2, by(RED_BLACK), r"its palette.*data\.colors")
case("palette of green and red", 2, by(palette(GREEN, RED)), r"its palette.*data\.colors")
case("palettes in two orders", 2, by(SWAPPED), r"palette.*data\.colors")
case("palettes in two orders, said", 2, by(SWAPPED),
     data__colors={"object": RED, "background": BLACK})  # fmt: skip
OWN_COLORS = made.either(palette(BLACK, RED), palette(BLACK, GREEN), lambda i: i % 2 > 0)
case("a palette of its own in each file", 2, by(OWN_COLORS), "palettes differ from file to file")
case("a palette of its own in each file, objects are numbered", 2, by(OWN_COLORS),
     data__folder={"numbered": True})  # fmt: skip
case("palette of classes", 2, index(VOC), **MULTI)
case("palettes of classes in two orders", 2, index(OTHER_VOC), "palettes differ from file to file",
     **MULTI)  # fmt: skip
case("palettes of classes in two orders, said", 2, index(OTHER_VOC), **MULTI,
     data__colors={"background": BLACK, "a": (128, 0, 0), "b": GREEN})  # fmt: skip
case("gray palette that is no number", 2, index(palette(BLACK, (127,) * 3, WHITE)),
     r"127 is no class.*0 in 12 files.*127 in 12 files", **MULTI)  # fmt: skip
case("colors", 2, by(made.colored(BLACK, RED)), r"is a color picture.*data\.colors")
case("colors, said", 2, by(made.colored(BLACK, RED)),
     data__colors={"object": RED, "background": BLACK})  # fmt: skip
case("colors of classes, one counts nowhere", 2,
     lambda root: Truth({n: np.where(t == 2, 255, t) for n, t in
                         indexed(root, made.colored(BLACK, RED, GREEN)).targets.items()}),
     task="multiclass", classes=["ground", "a"], stages=made.CE,
     data__colors={"ground": BLACK, "a": RED, "void": GREEN})  # fmt: skip
case("a color without a name", 2, index(made.colored(BLACK, RED, GREEN)),
     r"color \[0, 128, 0\] \(\d+ pixels\) is not in data\.colors", task="multiclass",
     classes=["ground", "a"], stages=made.CE, data__colors={"ground": BLACK, "a": RED})  # fmt: skip

# -- 3: labels in the alpha channel ----------------------------------------------------------------


def constant(value: int) -> Callable[[Array], Array]:
    return lambda mask: np.full_like(mask, value)


def white(mask: Array) -> Array:
    return mask * 255


IN_ALPHA = made.alpha(constant(0), white, "RGBA")
case("labels in alpha, black", 3, by(IN_ALPHA), r"alpha channel.*data\.mask_channel")
case("labels in alpha, white", 3, by(made.alpha(constant(255), white, "RGBA")), "mask_channel")
case("labels in alpha, said", 3, by(IN_ALPHA), data__mask_channel="alpha")
case("labels in alpha of gray", 3, by(made.alpha(constant(7), white, "LA")), "mask_channel")
case("labels of 0 and 1 in alpha", 3, by(made.alpha(constant(0), lambda m: m, "RGBA")),
     "mask_channel")  # fmt: skip
case("opaque", 3, by(made.alpha(white, constant(255), "RGBA")))
case("transparent where nothing is", 3, by(made.alpha(white, white, "RGBA")))
case("black strokes on white that is transparent", 3,
     by(made.alpha(lambda mask: (1 - mask) * 255, white, "RGBA")), "mask_channel")  # fmt: skip
case("alpha of a palette", 3, by(palette(BLACK, BLACK, transparency=b"\0\xff")), "mask_channel")
case("no alpha where it is asked for", 3, by(png()), "has no alpha channel",
     data__mask_channel="alpha")  # fmt: skip

# -- 4: the labels are gone ------------------------------------------------------------------------


def empty(root: Path) -> Truth:
    binary(root, png(0, 0))
    return Truth({name: np.zeros((1, SIZE, SIZE), np.uint8) for name in made.ids()})


def broken(*rows: int) -> Callable[[Path], Truth]:
    def make(root: Path) -> Truth:
        truth = binary(root, png())
        for row in rows:
            (root / "masks" / f"a{row}.png").write_bytes(b"no image")
        return Truth(truth.targets, left_out=tuple(f"a{row}" for row in rows))

    return make


def wrong_size(path: Path, mask: Array, i: int) -> None:
    png()(path, mask if i % 4 else mask[:-1], i)


def token(text: str) -> Callable[[Array, int], list[str]]:
    """A line a mask; one that is empty is written as `text`."""
    return lambda mask, i: [made.runs(mask) or text]


def objects(mask: Array, i: int) -> list[str]:
    """A line for each object; a mask without one has a line without an RLE."""
    return made.pieces(mask) or [""]


def overlapping(mask: Array, i: int) -> list[str]:
    return [made.runs(mask), *made.pieces(mask)]


TGS = {"data__format": "tgs"}
case("void is the object", 4, by(png()), r"no image of 12 holds an object.*void is 255", void=255)
case("all masks are empty", 4, empty, "no image of 12 holds an object")
case("all masks are empty, allowed", 4, empty, data__allow_bad=True)
case("0 and 100 as class numbers", 4, by(png(0, 100)),
     r"8 of 12 rows.*value 100 is no class.*\(ids a1, a10, a11, \.\.\.\).*0 in 8 files.*allow_bad",
     task="multiclass", classes=["ground", "a"], stages=made.CE)  # fmt: skip
case("0 and 100, said", 4, by(png(0, 100)), task="multiclass", classes=["ground", "a"],
     stages=made.CE, data__mask_values={0: 0, 100: 1})  # fmt: skip
case("one broken mask", 4, broken(4))
case("two broken masks of twelve", 4, broken(4, 7), r"2 of 12 rows are bad for one reason.*a4, a7")
case("two broken masks, allowed", 4, broken(4, 7), data__allow_bad=True)
case("masks of another size", 4, by(wrong_size), r"the mask is 15x16, its image is 16x16.*a0, a4")
case("a class that is nowhere", 4, index(made.numbers()), "class c is in no image of 12",
     **{**MULTI, "classes": ["background", "a", "b", "c"]})  # fmt: skip
case("a class that is nowhere, allowed", 4, index(made.numbers()), data__allow_bad=True,
     **{**MULTI, "classes": ["background", "a", "b", "c"]})  # fmt: skip
for text in ("-1", "nan", "NaN", "[]", "-", ""):
    case(f"an empty mask as {text!r}", 4, lambda root, text=text: made.tgs_table(root, token(text)),  # type: ignore[misc]
         **TGS)  # fmt: skip
case("an empty mask as EMPTY", 4, lambda root: made.tgs_table(root, token("EMPTY")),
     r"4 of 12 rows.*whole numbers only", **TGS)  # fmt: skip
case("a line an object", 4, lambda root: made.tgs_table(root, objects), **TGS)
case("objects that overlap", 4, lambda root: made.tgs_table(root, overlapping), **TGS)
case("two codes in one cell", 4,
     lambda root: made.tgs_table(root, lambda mask, i: [";".join(objects(mask, i))]),
     "is no RLE", **TGS)  # fmt: skip
case("a line an object, Tianchi", 4, lambda root: made.tianchi_table(root, objects),
     data__format="tianchi", input__fit="resize")  # fmt: skip
case("an empty mask as -1, Tianchi", 4, lambda root: made.tianchi_table(root, token("-1")),
     data__format="tianchi", input__fit="resize")  # fmt: skip
case("a line an object of a class", 4, lambda root: made.severstal_table(root, objects), **STEEL)
case("an empty class as -1", 4, lambda root: made.severstal_table(root, token("-1")), **STEEL)

# -- 6: content lost on reading --------------------------------------------------------------------

LEVELS = np.linspace(1000, 2780, 90).round().astype(np.uint16)  # 90 gray levels of a 12-bit camera


def camera(i: int) -> Array:
    return LEVELS[(np.arange(SIZE * SIZE) + 7 * i) % 90].reshape(SIZE, SIZE)


def scaled(values: Array, low: float, high: float) -> Array:
    """What is to be read: low as 0 and high as 255, rounded; (H, W, C)."""
    found = np.round((values.astype(np.float64) - low) * 255 / (high - low)).astype(np.uint8)
    return found.reshape(*values.shape[:2], -1)


def of_camera(root: Path) -> Truth:
    return made.deep(
        root,
        lambda path, i: scaled(
            np.asarray(Image.open(save(path.with_suffix(".png"), camera(i)))), 1000, 2780
        ),
    )


def color_of_16_bits(path: Path, i: int) -> Array:
    values = np.dstack([camera(i), camera(i + 1), camera(i + 2)])
    made.png_16_color(path, values)
    return scaled(values, 1000, 2780)


def numbers_of(low: float, high: float, dtype: Any, first: float, last: float) -> Any:
    """.npy of values low..high, which are to be read from first..last."""

    def write(path: Path, i: int) -> Array:
        values = np.roll(np.linspace(low, high, SIZE * SIZE), i).reshape(SIZE, SIZE).astype(dtype)
        np.save(path.with_suffix(".npy"), values)
        return scaled(values, first, last)

    return lambda root: made.deep(root, write)


def picture(mode: str, suffix: str, **options: Any) -> Callable[[Path], Truth]:
    """Random pixels of a mode, which are to be read as they are."""

    def write(path: Path, i: int) -> Array:
        channels = len(Image.new(mode, (1, 1)).getbands())
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, channels), np.uint8)
        Image.frombytes(mode, (SIZE, SIZE), pixels.tobytes()).save(
            path.with_suffix(suffix), **options
        )
        return pixels

    return lambda root: made.deep(root, write)


def opaque(path: Path, i: int) -> Array:
    pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    pixels[..., 3] = 255
    save(path.with_suffix(".png"), pixels)
    return pixels[..., :3]


def without_alpha(path: Path, i: int) -> Array:
    pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    save(path.with_suffix(".png"), pixels)
    return pixels[..., :3]


def pages(path: Path, i: int) -> Array:
    page = Image.fromarray(gray(i))
    page.save(path.with_suffix(".tif"), save_all=True, append_images=[Image.fromarray(gray(99))])
    return gray(i)[..., None]


def exif(orientation: int, in_mask: bool = False, height: int = SIZE) -> Callable[[Path], Truth]:
    """Images that are stored turned, of `height` rows as they are seen; masks of what is seen."""

    def make(root: Path) -> Truth:
        targets, seen = {}, {}
        for i in range(NUM):
            image, mask = gray(i, height, SIZE), shape(i)[:height]
            made.with_exif(
                root / "images" / f"a{i}.png", made.turned(image, orientation), orientation
            )
            own = orientation if in_mask else 1
            made.with_exif(root / "masks" / f"a{i}.png", made.turned(mask * 255, own), own)
            targets[f"a{i}"], seen[f"a{i}"] = mask[None], image[..., None]
        return Truth(targets, seen)

    return make


def raw_masks(root: Path) -> Truth:
    """Masks of what is stored, beside images that are seen turned."""
    truth = exif(6, height=12)(root)
    for i in range(NUM):
        save(root / "masks" / f"a{i}.png", np.rot90(shape(i)[:12] * 255))
    return truth


case("12 bits in files of 16", 6, of_camera)
case("16 bits, levels said", 6,
     lambda root: made.deep(root, lambda path, i: scaled(
         np.asarray(Image.open(save(path.with_suffix(".tif"), camera(i)))), 0, 4095)),
     data__levels=[0, 4095])  # fmt: skip
case("color of 16 bits", 6, lambda root: made.deep(root, color_of_16_bits), input__channels=3)
case("real numbers of 0..1", 6, numbers_of(0.2, 0.6, np.float32, 0, 1))
case("real numbers", 6, numbers_of(-3.0, 900.0, np.float32, -3.0, 900.0))
case("numbers below 0, as of CT", 6, numbers_of(-1000, 2000, np.int16, -1000, 2000))
case("8 bits in files of 16", 6, numbers_of(0, 255, np.uint16, 0, 255))
case("four channels", 6, picture("RGBA", ".png"), input__channels=4)
case("a fourth channel without a name", 6, picture("RGBX", ".tif"), input__channels=4)
case("a fourth channel that is not asked for", 6, picture("RGBX", ".tif"), "has 4 channels",
     input__channels=3)  # fmt: skip
case("a fourth channel that is not there", 6, picture("RGB", ".png"), "has 3 channels",
     input__channels=4)  # fmt: skip
case("CMYK as four", 6, picture("CMYK", ".tif"), "has 3 channels", input__channels=4)
case("alpha that varies", 6, picture("RGBA", ".png"), r"alpha channel varies.*data\.drop_alpha",
     input__channels=3)  # fmt: skip
case("alpha that varies, dropped", 6, lambda root: made.deep(root, without_alpha),
     input__channels=3, data__drop_alpha=True)  # fmt: skip
case("alpha that is opaque", 6, lambda root: made.deep(root, opaque), input__channels=3)
case("several pages", 6, lambda root: made.deep(root, pages), "has 2 pages")
case("EXIF, masks as seen", 6, exif(6))
case("EXIF, upside down", 6, exif(3))
case("EXIF in both", 6, exif(8, in_mask=True))
case("EXIF, not square", 6, exif(6, height=12))
case("EXIF, masks as stored", 6, raw_masks, r"mask is 16x12, its image is 12x16: an EXIF")

# -- 7: files passed over --------------------------------------------------------------------------


def objects_of(root: Path) -> Truth:
    """a0_mask.png and a0_mask_1.png: the left and the right half of each object."""
    truth = binary(root, lambda path, mask, i: None)
    for i in range(NUM):
        left, right = shape(i), shape(i)
        left[:, 10:], right[:, :10] = 0, 0
        save(root / "masks" / f"a{i}_mask.png", left * 255)
        if right.any():
            save(root / "masks" / f"a{i}_mask_1.png", right * 255)
    return truth


def nfd(root: Path) -> Truth:
    truth = binary(root, png())
    for i in range(NUM):
        image, mask = root / "images" / f"a{i}.png", root / "masks" / f"a{i}.png"
        image.rename(image.with_name(unicodedata.normalize("NFC", f"bäume_{i}.png")))
        mask.rename(mask.with_name(unicodedata.normalize("NFD", f"bäume_{i}.png")))
    return Truth({
        unicodedata.normalize("NFC", f"bäume_{i}"): truth.targets[f"a{i}"] for i in range(NUM)
    })  # fmt: skip


def one_folder(root: Path) -> Truth:
    """Masks beside the images, with a suffix."""
    truth = binary(root, lambda path, mask, i: None)
    for i in range(NUM):
        save(root / "images" / f"a{i}_mask.png", shape(i) * 255)
    return truth


def two_of_a_stem(root: Path) -> Truth:
    truth = binary(root, png())
    save(root / "images" / "a4.bmp", gray(77))
    return Truth(truth.targets, left_out=("a4",))


SUFFIX = {"mask_suffix": "_mask"}
case("a mask for each object", 7, objects_of, r"two masks: a10_mask\.png and a10_mask_1.*union",
     data__folder=SUFFIX)  # fmt: skip
case("a mask for each object, said", 7, objects_of, data__folder={**SUFFIX, "several": "union"})
case("class folder in another case", 7, lambda root: class_folders(root, png(), ("one", "Two")),
     r"masks/Two.*Did you mean 'two'", **LABELS)  # fmt: skip
case("names in two forms of Unicode", 7, nfd)
case("masks beside the images", 7, one_folder, data__folder={**SUFFIX, "masks": "images"})
case("two images of one stem", 7, two_of_a_stem)

# -- 10: the background ----------------------------------------------------------------------------

NAMES = {**MULTI, "classes": ["inclusion", "patch", "scratch"]}
case("three names for four values", 10, index(made.numbers(), 3),
     r"hold the value 3, and 0 is the first of 3 classes, 'inclusion': 0 in 12 files .*3 in 12 "
     r"files.*classes: \[background, inclusion, patch, scratch\]", **NAMES)  # fmt: skip
case("four names for four values", 10, index(made.numbers(), 3),
     **{**MULTI, "classes": ["background", "inclusion", "patch", "scratch"]})  # fmt: skip
case("values from 1", 10, index(lambda path, mask, i: made.numbers()(path, mask + 1, i)),
     "hold the value 3, and 0 is the first of 3 classes", **NAMES)  # fmt: skip
case("values from 1, one name more", 10,
     index(lambda path, mask, i: made.numbers()(path, mask + 1, i)),
     "class background is in no image of 12",
     **{**MULTI, "classes": ["background", "inclusion", "patch", "scratch"]})  # fmt: skip
case("values from 1, said", 10, index(lambda path, mask, i: made.numbers()(path, mask + 1, i)),
     data__mask_values={1: 0, 2: 1, 3: 2}, **MULTI)  # fmt: skip
case("labels that may overlap, one value more", 10, index(made.numbers(), 3),
     "hold the value 3, and 2 is the last of 2 classes, 'two'", **LABELS)  # fmt: skip


def prepared(tmp_path: Path, one: Case) -> tuple[Truth, Callable[[], Any]]:
    root = tmp_path / "data"
    root.mkdir()
    truth, run = one.make(root), Run(tmp_path / "run")

    def go() -> Any:
        return open_cache(prepare(config(root, **one.settings), run), run)

    return truth, go


@pytest.mark.parametrize("name", CASES)
def test_what_training_is_given(tmp_path: Path, name: str) -> None:
    one = CASES[name]
    truth, go = prepared(tmp_path, one)
    if one.says:
        with pytest.raises(UserError, match=one.says) as refused:
            go()
        assert len(str(refused.value).splitlines()) == 1
        return
    cache = go()
    assert set(cache.index) == set(truth.targets) - set(truth.left_out)
    for key in cache.index:
        assert np.array_equal(cache.target(key), truth.targets[key]), key
        if truth.images:
            assert np.array_equal(cache.image(key), truth.images[key]), key


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 100 and {one.kind for one in CASES.values()} == {1, 2, 3, 4, 6, 7, 10}


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("0 and 255", 0),
        ("1 and 2", 2),
        ("three names for four values", 2),
        ("void is the object", 2),
    ],
)
def test_the_command_line_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, status: int
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    CASES[name].make(root)
    path = tmp_path / "c.yaml"
    settings = {**CASES[name].settings, "members": {"a": {"encoder": "resnet18"}}}
    path.write_text(dump_config(config(root, **settings)))
    assert main(["inspect", str(path), "members.a.encoder_weights=null"]) == status
    out, errors = capsys.readouterr()
    if status:
        assert len(errors.splitlines()) == 1 and re.search(CASES[name].says, errors)
    else:
        assert "values of the mask files: 0 in 12 files" in out


# -- 5: data that changed under a run --------------------------------------------------------------


def touch(path: Path) -> None:
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def rewrite(path: Path, array: Array) -> None:
    save(path, array)
    touch(path)  # a write within the clock's grain


def add(root: Path) -> None:
    save(root / "images" / "b0.png", gray(90))
    save(root / "masks" / "b0.png", shape(1) * 255)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "masks": (lambda root: rewrite(root / "masks/a1.png", shape(2) * 255), r"1 changed \(a1\)"),
    "an image": (lambda root: rewrite(root / "images/a3.png", gray(70)), r"1 changed \(a3\)"),
    "added": (add, r"1 added \(b0\)"),
    "removed": (lambda root: (root / "images/a5.png").unlink(), r"1 removed \(a5\)"),
    "broken": (lambda root: (root / "masks/a2.png").write_bytes(b""), r"1 removed \(a2\)"),
    "only copied": (lambda root: list(map(touch, root.rglob("*.png"))), ""),
}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_train_data_that_changed(tmp_path: Path, name: str, trained: bool) -> None:
    root, run = tmp_path / "data", Run(tmp_path / "run")
    binary(root, png())
    c = config(root)
    prepare(c, run)
    before = {s.id for s in Manifest.read(run.truth)}
    if trained:
        append_line(run.member(0, "a", 0).metrics, {"epoch": 0})
    change, says = CHANGES[name]
    change(root)
    if trained and says:
        with pytest.raises(UserError, match=f"changed after members were trained on it: {says}"):
            prepare(c, run)
        return
    if name == "added":
        with pytest.raises(UserError, match=r"folds\.csv: no fold for id 'b0'"):
            prepare(c, run)
        return
    cache = open_cache(prepare(c, run), run)
    left = before - ({"a5"} if name == "removed" else {"a2"} if name == "broken" else set())
    assert set(cache.index) == left
    expected = shape(2) if name == "masks" else shape(1)
    assert np.array_equal(cache.target("a1")[0], expected)


@pytest.mark.parametrize("name", ["replaced", "added", "removed", "same"])
@pytest.mark.parametrize("learned", [True, False])
def test_test_images_that_changed(tmp_path: Path, name: str, learned: bool) -> None:
    """Their list is written anew, so that a submission, which is older, is made again."""
    root, run = tmp_path / "data", Run(tmp_path / "run")
    binary(root, png())
    for i in range(3):
        save(root / "test_images" / f"t{i}.png", gray(40 + i))
    c = config(root)
    prepare(c, run)
    before = (run.data / "test.csv").stat().st_mtime_ns
    if learned:
        run.select(1).mkdir(parents=True)
    if name == "replaced":
        rewrite(root / "test_images/t1.png", gray(60))
    elif name == "added":
        save(root / "test_images/t3.png", gray(61))
    elif name == "removed":
        (root / "test_images/t0.png").unlink()
    if learned and name != "same":
        with pytest.raises(UserError, match="after a round has learned from them"):
            prepare(c, run)
        return
    prepare(c, run)
    assert ((run.data / "test.csv").stat().st_mtime_ns > before) == (name != "same")
    listed = {row.id for row in Manifest.read(run.data / "test.csv")}
    assert listed == {path.stem for path in (root / "test_images").iterdir()}


def test_a_table_that_changed(tmp_path: Path) -> None:
    root, run = tmp_path / "data", Run(tmp_path / "run")
    made.tgs_table(root, token(""))
    c = config(root, **TGS)
    prepare(c, run)
    append_line(run.member(0, "a", 0).metrics, {"epoch": 0})
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("a0,\n", "a0,1 5\n"))
    with pytest.raises(UserError, match=r"1 changed \(a0\)"):
        prepare(c, run)


# -- 6: train and test by the same levels ----------------------------------------------------------


def test_test_images_have_the_levels_of_the_train_images(tmp_path: Path) -> None:
    root, run = tmp_path / "data", Run(tmp_path / "run")
    of_camera(root)
    c = config(root)
    run.folder.mkdir()
    run.config.write_text(dump_config(c))
    resolved = prepare(c, run)
    assert resolved.data.levels == (1000, 2780) and "1000.0" in run.config.read_text()
    assert prepare(c, run) == resolved  # the second start knows them
    path = save(tmp_path / "t.png", np.array([[0, 1000, 1356, 2780, 4095]], np.uint16))
    assert read_input(path, reading_of(resolved)).ravel().tolist() == [0, 0, 51, 255, 255]


def test_deep_test_images_of_a_set_of_8_bits_are_refused(tmp_path: Path) -> None:
    root, run = tmp_path / "data", Run(tmp_path / "run")
    binary(root, png())
    resolved = prepare(config(root), run)
    path = save(tmp_path / "t.png", camera(0))
    with pytest.raises(BadFile, match=r"the train images have 8 bits: data\.levels"):
        read_input(path, reading_of(resolved))


def test_real_and_whole_numbers_in_one_set_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    numbers_of(0, 1, np.float32, 0, 1)(root)
    np.save(root / "images" / "a3.npy", camera(3))
    with pytest.raises(UserError, match="some images hold real numbers, others whole ones"):
        prepare(config(root), Run(tmp_path / "run"))


# -- 7: what is not read is said -------------------------------------------------------------------


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    root = tmp_path / "data"
    binary(root, png())
    save(root / "images" / "old" / "x1.png", gray(1))
    save(root / "images" / "old" / "x2.png", gray(2))
    (root / "images" / "scan.dcm").write_bytes(b"")
    save(root / "masks" / "notes" / "n.png", gray(3))
    for i in range(3):
        save(root / "test_imgs" / f"t{i}.png", gray(40 + i))
    (root / "images" / "readme.txt").write_text("no data")
    assert passed_over(config(root)) == [
        f"{root}/images: 1 file (scan.dcm) is not read",
        f"{root}/images/old: 2 files (x1.png, x2.png) are not read",
        f"{root}/masks/notes: 1 file (n.png) is not read",
        f"{root}/test_imgs: a folder of images that is not read; data.folder.test_images: "
        "test_imgs would predict them",
    ]
    said = list(left_out(root / "images", {str(root / "images" / f"a{i}.png") for i in range(NUM)}))
    assert len(said) == 2


def test_folders_beside_are_said_however_deep(tmp_path: Path) -> None:
    root = tmp_path / "data"
    binary(root, png())
    (root / "part").mkdir()
    (root / "images").rename(root / "part" / "images")
    (root / "masks").rename(root / "part" / "masks")
    save(root / "part" / "edges" / "a0.png", gray(1))
    save(root / "other" / "val" / "images" / "b0.png", gray(2))
    for i in range(3):
        save(root / "scans" / f"s{i}" / "b0.png", gray(2))
    folder = {"images": "part/images", "masks": "part/masks"}
    assert passed_over(config(root, data__folder=folder)) == [
        f"{root}/other/val/images: a folder of images that is not read; "
        "data.folder.val_images (and val_masks): other/val/images would validate with them",
        f"{root}/scans/s0: a folder of images that is not read, and 2 more in {root}/scans; "
        "data.folder.test_images: scans/s0 would predict them",
        f"{root}/part/edges: a folder of images that is not read; data.folder.test_images: "
        "part/edges would predict them",
    ]


def test_a_folder_that_may_not_be_looked_into_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lost+found of a disk: who tests as root may look into it, too."""
    root = tmp_path / "data"
    binary(root, png())
    closed = [root / "lost+found", root / "images" / "private"]
    for folder in closed:
        folder.mkdir()
    scandir, listdir = os.scandir, os.listdir

    def refusing(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def refuse(place: Any = ".") -> Any:
            if Path(place) in closed:
                raise PermissionError(13, "Permission denied", str(place))
            return look(place)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    said = [f"{folder}: cannot be looked into: Permission denied" for folder in closed]
    assert passed_over(config(root)) == said[::-1]
    assert detect(root).keys["data"]["format"] == "folder"
    for name in ("more", "inner"):  # one that can be looked into, and one in it that cannot
        (root / "beside" / name).mkdir(parents=True)
    (root / "beside" / "more" / "a.png").write_bytes(b"")
    closed.append(root / "beside" / "inner")
    inside = [line for line in passed_over(config(root)) if "beside" in line]
    assert inside[0] == f"{closed[-1]}: cannot be looked into: Permission denied"
    assert inside[1].startswith(f"{root / 'beside' / 'more'}: a folder of images that is not read")
    (root / "images").rename(root / "n0")  # a folder for each image is looked for
    (root / "masks").rename(root / "other")
    with pytest.raises(UserError, match="no layout is recognized"):
        detect(root)


def test_masks_without_the_suffix_are_said(tmp_path: Path) -> None:
    root = tmp_path / "data"
    objects_of(root)
    save(root / "masks" / "a0_color.png", gray(1))
    folder = {**SUFFIX, "several": "union"}
    assert passed_over(config(root, data__folder=folder)) == [
        f"{root}/masks: 1 file (a0_color.png) is not read"
    ]


# -- 8: keys that would not be read ----------------------------------------------------------------

KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "table of a folder": ({"data__table": "t.csv"}, "data.table: format: folder does not read it"),
    "colors of tables": (
        {**STEEL, "data__colors": {"one": RED, "two": GREEN}}, "data.colors: format: severstal",
    ),
    "alpha of tables": ({**STEEL, "data__mask_channel": "alpha"}, "data.mask_channel: format"),
    "void of tables": ({**STEEL, "void": 255}, "void: "),
    "threshold of class numbers": (
        {**MULTI, "data__folder": {"threshold": 1}}, "data.folder.threshold: is for masks of two",
    ),
    "inverted class numbers": (
        {**MULTI, "data__folder": {"inverted": True}}, "data.folder.inverted: is for masks of two",
    ),
    "numbers of objects beside a threshold": (
        {"data__folder": {"numbered": True, "threshold": 1}},
        "data.folder.threshold: data.folder.numbered says already",
    ),
    "numbers of objects and of classes": (
        {**MULTI, "data__folder": {"numbered": True}}, "data.folder.numbered: is for masks of two",
    ),
    "threshold beside values": (
        {"data__mask_values": {0: 0, 9: 1}, "data__folder": {"threshold": 1}},
        "data.folder.threshold: data.mask_values says already",
    ),
    "void beside values": (
        {"data__mask_values": {0: 0, 9: 1}, "void": 9}, "void: data.mask_values",
    ),
    "void beside colors": (
        {"data__colors": {"object": RED, "background": BLACK}, "void": 9}, "void: data.colors says",
    ),
    "values beside colors": (
        {"data__colors": {"object": RED}, "data__mask_values": {0: 0}}, "write one of them",
    ),
    "a value that is no class": ({"data__mask_values": {0: 0, 9: 7}}, "data.mask_values.9: 7"),
    "a color of no class": (
        {"data__colors": {"object": RED, "sky": BLACK}}, "data.colors: unknown class 'sky'",
    ),
    "a class without a color": (
        {**LABELS, "data__colors": {"one": RED}}, "data.colors: class two has no color",
    ),
    "two names of a color": (
        {"data__colors": {"object": RED, "background": RED}}, "is that of object",
    ),
    "strict and allowed": ({"data__strict": True, "data__allow_bad": True}, "data.strict stops"),
    "levels the wrong way": ({"data__levels": [9, 1]}, "data.levels: [9.0, 1.0]"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_would_not_be_read_is_refused(tmp_path: Path, name: str) -> None:
    settings, says = KEYS[name]
    (tmp_path / "train_images").mkdir()
    try:
        lines = mistakes(config(tmp_path, **settings))
    except UserError as error:  # found when the config is read
        lines = str(error).splitlines()
    assert any(says in line for line in lines), lines
