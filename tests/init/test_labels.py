"""distseg.init.labels: what mask values mean, and which need a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.init.labels import Values, decide, mask_values
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
