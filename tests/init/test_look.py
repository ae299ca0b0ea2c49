"""distseg.init.look: what a folder is like, where files differ from what the first ones show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distseg.config.load import parse_config
from distseg.data.formats.row import Row
from distseg.data.inspect import with_levels
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.init.channels import find_channels
from distseg.init.look import look, reading_config, stub
from distseg.records.errors import UserError
from tests.init.made_sets import blobs, folder, picture


def deepen(root: Path, *numbers: int) -> Path:
    """Give some images 12 bits."""
    for number in numbers:
        path = root / "images" / f"{number:03d}.png"
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 16).save(path)
    return root


@pytest.mark.parametrize("number", range(4))
def test_one_image_of_more_bits_is_no_surprise(tmp_path: Path, number: int) -> None:
    """Whether it is in the sample of 24 of 40, or not."""
    root = deepen(folder(tmp_path / "set", num=40), number)
    facts = look(root, {}, seconds=0.0)
    assert facts.sampled == 24 and facts.bad == 0
    assert facts.deep is None or facts.deep[1] > 255
    assert (facts.deep is not None) == (number in [i * 40 // 24 for i in range(24)])
    assert reading_config(root, {}).data.levels is None  # they are found by the run


def test_levels_that_are_given_stay(tmp_path: Path) -> None:
    root = deepen(folder(tmp_path / "set", num=6), *range(6))
    config = reading_config(root, {"data": {"levels": [0, 4095]}})
    assert config.data.levels == (0, 4095)


def test_levels_of_images_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    root = deepen(folder(tmp_path / "set", num=3), 0, 1, 2)
    data = {"format": "folder", "root": str(root)}
    config = stub({"data": data, "input": {"channels": 1}})
    rows = layout("folder").train(config)
    assert with_levels(config, rows).data.levels is not None
    small = stub({"data": {**data, "max_pixels": 100}, "input": {"channels": 1}})
    assert with_levels(small, rows) == small


def test_the_limit_of_pixels_is_the_config_s(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=4)
    with pytest.raises(UserError, match="no train image can be read"):
        look(root, {"data": {"max_pixels": 1000}})


def rare(mask: NDArray[np.bool_], number: int) -> NDArray:
    return (mask * 255 * (number in (7, 23, 58))).astype(np.uint8)


def test_a_sample_without_an_object_is_no_mistake(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", rare, num=60)
    facts = look(root, {}, seconds=0.0)
    assert facts.task == "binary" and facts.empty > 0.9
    assert facts.objects is not None and facts.objects[1] > 10  # those that there are
    assert facts.sampled == 24 + 3 - sum(i * 60 // 24 in (7, 23, 58) for i in range(24))


def numbers(mask: NDArray[np.bool_], number: int) -> NDArray:
    """Each object of an image has a number of its own."""
    labels = np.zeros(mask.shape, np.uint8)
    for place in range(1, 3 + number % 4):
        labels[4 : 9 + number, 9 * place : 9 * place + 6] = place
    return labels


def test_numbers_of_objects_are_asked_for_and_then_taken(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", numbers, num=8)
    with pytest.raises(UserError) as error:
        look(root, {})
    lines = str(error.value).splitlines()
    assert "data.folder.numbered=true" in lines[1] and "task=multiclass" in lines[2]
    assert look(root, {"task": "multiclass"}).task == "multiclass"
    config = reading_config(root, {"data": {"folder": {"numbered": True}}})
    assert (config.task, config.data.folder.numbered) == ("binary", True)
    for row in layout("folder").train(config):
        shown = np.asarray(Image.open(row.target.removeprefix("file:")))
        assert np.array_equal(read_target(row.target, config, 48, 64)[0], shown > 0)


# -- arrays ----------------------------------------------------------------------------------------


def arrays(root: Path, height: int, width: int, *, first: bool) -> Path:
    """Images of three channels as .npy, (3, H, W) or (H, W, 3), and masks as PNG."""
    for place in ("images", "masks"):
        (root / place).mkdir(parents=True)
    for number in range(6):
        mask = blobs(height, width, 12, 2, number)
        image = np.stack([picture(mask, number + 10 * channel) for channel in range(3)])
        np.save(root / f"images/a{number}.npy", image if first else image.transpose(1, 2, 0))
        Image.fromarray((mask * 255).astype(np.uint8)).save(root / f"masks/a{number}.png")
    return root


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", [(48, 100), (100, 48), (40, 56)])
@pytest.mark.parametrize("given", [{}, {"input": {"channels": 3}}])
def test_channels_may_come_first(
    tmp_path: Path, size: tuple[int, int], first: bool, given: dict[str, Any]
) -> None:
    facts = look(arrays(tmp_path / "set", *size, first=first), given)
    assert (facts.channels, facts.height, facts.width) == (3, *size)
    assert facts.bad == 0 and facts.one_size


def channels_of(path: Path, shape: tuple[int, ...]) -> int:
    np.save(path, np.zeros(shape, np.uint8))
    config = parse_config({"name": "any", "members": {"any": {}}}, "any")
    return find_channels([Row("a", str(path), "rle:1 3")], config)[0]


def test_an_array_that_could_be_two_things_is_refused_with_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert [channels_of(path, shape) for shape in ((48, 64, 3), (3, 48, 64), (48, 64))] == [3, 3, 1]
    with pytest.raises(UserError, match=r"input\.channels=12 or input\.channels=20"):
        channels_of(path, (12, 16, 20))


def test_the_depth_is_a_channel_more(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=4)
    lines = ["id,z", *(f"{number:03d},{100 * number}" for number in range(4))]
    (root / "depths.csv").write_text("\n".join(lines))
    facts = look(root, {"data": {"depths": "depths.csv"}})
    assert facts.channels == 2 and facts.bad == 0
