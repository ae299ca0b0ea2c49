"""distseg.init.labels: what mask values mean, and which need a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.init.labels import Values, decide, mask_values
from distseg.init.objects import may_number_objects, one_part_each
from distseg.records.errors import UserError


def values(*files: dict[int, int], lossy: bool = False) -> Values:
    """Of files with these pixels by value."""
    return Values.joined(
        Values(Counter(f), Counter(list(f)), plain=1, most=len(f), lossy=lossy, num=1)
        for f in files
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([{0: 9, 255: 1}, {0: 10}], {"task": "binary", "classes": ["object"]}),
        ([{0: 9, 1: 1}], {"task": "binary", "classes": ["object"]}),
        ([{0: 5, 1: 3, 2: 2}],
         {"task": "multiclass", "classes": ["background", "class_1", "class_2"]}),
        # a class a file: two values each, and three together
        ([{0: 9, 1: 1}, {0: 9, 2: 1}],
         {"task": "multiclass", "classes": ["background", "class_1", "class_2"]}),
        ([{0: 9, 1: 1, 5: 3}],
         {"task": "multiclass", "classes": ["background", "class_1", "class_5"],
          "data": {"mask_values": {0: 0, 1: 1, 5: 2}}}),
    ],
)  # fmt: skip
def test_values_that_are_surely_understood(
    files: list[dict[int, int]], expected: dict[str, Any]
) -> None:
    found = decide(values(*files), {}, "set").keys
    assert {key: value for key, value in found.items() if value != {}} == expected


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([{0: 5, 128: 3, 255: 2}], "task=multiclass where each value is a class"),
        # soft edges: which of the readings it is, only a person knows
        ([{0: 900, 60: 4, 120: 5, 190: 4, 255: 300}], "data.folder.threshold=127 where values"),
        ([{0: 900, 1: 500, 2: 1}], "data.mask_values={0: 0, 1: 1, 2: 2}"),  # a stray pixel
        ([{0: 5, 1: 3, 2: 2, 255: 2}], "void=255 where 255 counts nowhere"),
        ([{1: 5, 2: 3, 3: 4}], "data.mask_values={1: 0, 2: 1, 3: 2}"),
        ([dict.fromkeys(range(0, 200), 5)], "data.folder.threshold=N"),
    ],
)
def test_values_that_need_a_person_are_refused_with_the_key(
    files: list[dict[int, int]], told: str
) -> None:
    with pytest.raises(UserError) as error:
        decide(values(*files), {}, "set")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        ([{0: 5, 128: 3, 255: 2}], {"task": "multiclass"},
         {"task": "multiclass", "classes": ["background", "class_128", "class_255"],
          "data": {"mask_values": {0: 0, 128: 1, 255: 2}}}),
        ([{0: 5, 1: 3, 2: 2, 255: 2}], {"void": 255},
         {"task": "multiclass", "classes": ["background", "class_1", "class_2"]}),
        ([{0: 5, 1: 3, 2: 2}], {"task": "multilabel"},
         {"task": "multilabel", "classes": ["class_1", "class_2"]}),
        ([{1: 5, 2: 3}], {"data": {"mask_values": {1: 0, 2: 1}}},
         {"task": "binary", "classes": ["object"]}),
        ([{0: 5, 1: 3, 2: 1}], {"task": "multiclass", "classes": ["a", "b", "c"]},
         {"task": "multiclass"}),
    ],
)  # fmt: skip
def test_what_a_person_says_is_taken(
    files: list[dict[int, int]], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert decide(values(*files), given, "set").keys == expected


def test_noise_of_a_lossy_file_gets_a_threshold_unless_it_lies_in_between() -> None:
    noisy = {0: 500, 3: 20, 7: 2, 250: 30, 255: 400}
    found = decide(values(noisy, lossy=True), {}, "set").keys
    assert found["data"] == {"folder": {"threshold": 127}} and found["task"] == "binary"
    with pytest.raises(UserError, match="not only near 0 and 255"):
        decide(values({**noisy, 120: 100}, lossy=True), {}, "set")


def save(path: Path, array: Any, mode: str | None = None) -> str:
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return str(path)


def test_colors_of_files(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:2] = (255, 0, 0)
    odd = red.copy()
    odd[0, 0] = (10, 20, 30)
    empty = mask_values(save(tmp_path / "empty.png", np.zeros((4, 4, 3))))
    found = [mask_values(save(tmp_path / f"{n}.png", a)) for n, a in enumerate((red, odd))]
    two = decide(Values.joined([empty, found[0]]), {}, "set").keys
    assert two["task"] == "binary"  # an empty mask of the same kind says nothing else
    assert two["data"]["colors"] == {"background": [0, 0, 0], "object": [255, 0, 0]}
    three = decide(Values.joined([empty, *found]), {}, "set").keys
    assert three["task"] == "multiclass"
    assert three["classes"] == ["background", "red", "color_10_20_30"]
    assert three["data"]["colors"]["color_10_20_30"] == [10, 20, 30]
    gray = mask_values(save(tmp_path / "gray.png", np.eye(4) * 255))
    with pytest.raises(UserError, match=r"1 others hold gray values.*data.colors"):
        decide(Values.joined([gray, *found]), {}, "set")


def test_a_gray_picture_of_three_channels_is_gray(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.eye(4) * 255, "RGB")
    assert decide(mask_values(path), {}, "set").keys["task"] == "binary"
    jpeg = tmp_path / "a.jpg"
    Image.fromarray(np.repeat((np.kron(np.eye(4), np.ones((16, 16))) * 255).astype(np.uint8)[
        ..., None], 3, axis=2)).save(jpeg)  # fmt: skip
    found = decide(mask_values(str(jpeg)), {}, "set").keys
    assert found["data"] == {"folder": {"threshold": 127}}


# -- noise, numbers of objects, and classes --------------------------------------------------------


def numbered(
    numbers: Any, *, pitch: int = 12, width: int = 4, side: int = 240, dtype: Any = np.uint8
) -> Any:
    """Squares in a raster, each with a number of its own."""
    mask = np.zeros((side, side), dtype)
    places = [(y, x) for y in range(0, side - width, pitch) for x in range(0, side - width, pitch)]
    for number, (y, x) in zip(numbers, places, strict=False):
        mask[y : y + width, x : x + width] = number
    return mask


SHUFFLED = np.random.default_rng(0).permutation(np.arange(1, 256))


@pytest.mark.parametrize(
    "mask",
    [
        numbered(range(1, 151)),
        numbered(range(1, 256), width=2),
        numbered(SHUFFLED, width=2),
        numbered(SHUFFLED, pitch=4, width=1, side=64),
        numbered(range(1, 401), dtype=np.uint16),
        numbered(range(1, 101), width=2, dtype=np.uint16),
        numbered(range(1, 40_000, 100), dtype=np.uint16),
    ],
)
def test_numbers_of_objects_are_no_noise(tmp_path: Path, mask: Any) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(mask).save(path)
    values = mask_values(str(path))
    with pytest.raises(UserError, match=r"data\.folder\.numbered=true where each object"):
        decide(values, {}, "set")
    said = {"data": {"folder": {"numbered": True}}}
    assert decide(values, said, "set").keys["task"] == "binary"


def test_class_numbers_in_a_file_with_loss_are_no_noise(tmp_path: Path) -> None:
    """Class numbers, and 255 where they do not count: no threshold tells them apart."""
    mask = np.zeros((96, 96), np.uint8)
    for void in (255, 0):
        mask[:30], mask[40:60, :50], mask[90:] = 2, 1, void
        path = tmp_path / "a.jpg"
        Image.fromarray(mask).save(path, quality=95)
        with pytest.raises(UserError, match=r"data\.folder\.threshold=N"):
            decide(mask_values(str(path)), {}, "set")
    with pytest.raises(UserError, match="saved with loss"):
        decide(mask_values(str(path)), {"task": "multiclass"}, "set")
    path = tmp_path / "a.webp"
    Image.fromarray(mask).save(path, lossless=True)  # which keeps them
    assert decide(mask_values(str(path)), {}, "set").keys["task"] == "multiclass"


@pytest.mark.parametrize("quality", [20, 30, 60, 75, 95])
@pytest.mark.parametrize("as_png", [False, True])
def test_noise_of_thin_and_of_large_objects_is_noise(
    tmp_path: Path, quality: int, as_png: bool
) -> None:
    """Also where all of the black has become another value, and where the JPEG was saved again."""
    mask = np.zeros((200, 200), np.uint8)
    mask[20:90, 13:77] = 255
    for i in range(60, 190):
        mask[i, i : i + 2] = 255
    path = tmp_path / "a.jpg"
    Image.fromarray(mask).save(path, quality=quality)
    if as_png:
        again = np.asarray(Image.open(path))
        path = tmp_path / "a.png"
        Image.fromarray(np.maximum(again, 1) if quality == 20 else again).save(path)
    values = mask_values(str(path))
    if values.lossy or len(values.pixels) > 64:
        assert decide(values, {}, "set").keys["data"] == {"folder": {"threshold": 127}}
    else:
        with pytest.raises(UserError, match=r"data\.folder\.threshold=127"):
            decide(values, {}, "set")


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([(1, 2, 3), (1, 2, 3, 4, 5), (1,), ()], True),
        ([tuple(range(1, 1 + n)) for n in (12, 30, 7, 0, 41)], True),
        ([(1, 2, 3, 5, 6, 7, 8, 9, 10), tuple(range(1, 9)), tuple(range(1, 16))], True),  # one hid
        ([(3, 17, 21), (4, 5, 6), (9, 11, 30, 31), (40, 41, 42)], True),  # over all images
        ([(1, 2), (1,), (1, 2), ()], False),  # an organ and its tumor
        ([(1, 2, 3)] * 9, False),
        ([(1,), (2,), (3,), (1, 2), (2, 3)], False),
        ([(n,) for n in range(1, 38)], False),  # a class an image
        ([tuple(v for v in range(1, 12) if v != n) for n in range(1, 12)], False),  # of a street
        ([()], False),
    ],
)
def test_which_values_may_number_objects(held: list[tuple[int, ...]], expected: bool) -> None:
    assert may_number_objects(Counter(held)) is expected
    with_void = Counter([(*one, 255) for one in held])
    assert may_number_objects(with_void, void=255) is expected


def test_numbers_of_objects_are_one_part_each(tmp_path: Path) -> None:
    whole = numbered(range(1, 9))
    two = np.maximum(whole, np.flipud(whole))
    paths = [save(tmp_path / f"{n}.png", array) for n, array in enumerate((whole, two))]
    assert one_part_each([paths[0], str(tmp_path / "absent.png")], "auto", 10**6)
    assert not one_part_each([paths[1]], "auto", 10**6)
    border = np.where(whole, whole, np.where(np.flipud(whole), 255, 0).astype(np.uint8))
    bordered = save(tmp_path / "border.png", border[:, :60])
    assert not one_part_each([bordered], "auto", 10**6)
    assert one_part_each([bordered], "auto", 10**6, void=255)
    found = Values.joined([mask_values(save(tmp_path / f"v{n}.png", numbered(range(1, n))))
                           for n in (4, 6, 9)])  # fmt: skip
    with pytest.raises(
        UserError, match=r"numbers of objects are.*\n.*numbered=true.*\n.*=multiclass"
    ):
        decide(found, {}, "set", lambda: True)
    for one_part, given in ((False, {}), (True, {"task": "multiclass"})):
        keys = decide(found, given, "set", lambda one_part=one_part: one_part).keys  # type: ignore[misc]
        assert keys["task"] == "multiclass" and len(keys["classes"]) == 9


# -- colors that are no classes --------------------------------------------------------------------


def soft(color: tuple[int, int, int], other: tuple[int, int, int] = (0, 0, 0)) -> Any:
    """A disc whose edge is smoothed by eight steps."""
    far = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    share = np.clip(np.round((22 - far) * 4) / 8 + 0.5, 0, 1)[..., None]
    return np.round(share * color + (1 - share) * np.array(other)).astype(np.uint8)


def test_colors_of_soft_edges_are_no_classes(tmp_path: Path) -> None:
    for number, array in enumerate((soft((255, 0, 0)), soft((200, 30, 90), (10, 90, 20)))):
        values = mask_values(save(tmp_path / f"{number}.png", array))
        with pytest.raises(UserError, match=r"are soft edges or stray pixels.*data\.colors="):
            decide(values, {}, "set")
    with pytest.raises(UserError, match=r"background: \[0, 0, 0\], object: \[255, 0, 0\]"):
        decide(mask_values(str(tmp_path / "0.png")), {}, "set")


def test_a_stray_color_is_no_class(tmp_path: Path) -> None:
    mask = np.kron(np.eye(4), np.ones((16, 16)))[..., None] * np.full(3, 255)
    stray = mask.copy()
    stray[5, 5] = (255, 0, 0)
    found = [mask_values(save(tmp_path / f"{n}.png", a)) for n, a in enumerate((mask, stray))]
    with pytest.raises(UserError, match=r"\[255, 0, 0\] \(0.01%\).*object: \[255, 255, 255\]"):
        decide(Values.joined(found), {}, "set")


def test_dark_and_bright_colors_of_classes_are_classes(tmp_path: Path) -> None:
    """Those of Pascal VOC lie on lines through black; a rare class fills an area somewhere."""
    mask = np.zeros((200, 200, 3), np.uint8)
    for number, color in enumerate([(128, 0, 0), (64, 0, 0), (192, 0, 0), (64, 128, 0)]):
        mask[40 * number : 40 * number + 5, 10:90] = color
    mask[190:193, 5:9] = (128, 64, 128)
    keys = decide(mask_values(save(tmp_path / "a.png", mask)), {}, "set").keys
    assert keys["task"] == "multiclass" and len(keys["classes"]) == 6
