"""distseg.init.sizes: inputs that fit the images, the test images too, and what the user says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.fit import Fit
from distseg.init.encoders import Encoder
from distseg.init.headers import apart
from distseg.init.sizes import Size, sizes, smaller
from distseg.records.errors import UserError
from tests.init.made_sets import Make, folder


def test_sizes_are_multiples_of_32_and_keep_the_shape() -> None:
    found = sizes(360, 480, True, gpu=False)
    assert all(s.height % 32 == 0 == s.width % 32 for s in found)
    assert any((s.height, s.width) == (192, 256) or s.scale > 0.9 for s in found)
    assert max(s.width for s in found) <= 512 and {"resize", "crop"} == {s.fit for s in found}
    small = sizes(101, 101, True, gpu=False)
    assert (small[0].height, small[0].fit) == (128, "pad")
    assert sizes(40, 40, False, gpu=False)  # something, for any size
    assert sizes(3000, 200, False, gpu=True)


def test_a_first_stage_may_see_images_of_about_half_the_sides() -> None:
    def first(height: int, width: int, fit: str, stride: int) -> tuple[int, int] | None:
        return smaller(Size(height, width, fit, 1.0, height * width), stride)

    assert first(64, 64, "resize", 16) == (32, 32) and first(96, 128, "resize", 16) == (48, 64)
    assert first(128, 128, "resize", 32) == (64, 64)  # a network of stride 32
    assert first(96, 160, "resize", 32) is None, "64 x 64 would have another shape"
    assert first(512, 384, "resize", 32) == (256, 192)
    assert first(64, 64, "resize", 32) is None  # nothing is left of so few
    assert first(128, 128, "pad", 32) is None is first(128, 128, "crop", 32)
    fixed = Encoder("tu-swin_tiny_patch4_window7_224", 1.0, begins_smaller=False)
    assert fixed.smaller(Size(224, 224, "resize", 1.0, 224 * 224)) is None


def test_test_images_of_another_size_are_told_from_some_odd_ones() -> None:
    train = [(256, 256)] * 100
    assert apart(train, [(256, 256)] * 9) == 0 and apart(train, []) == 0
    assert apart(train, [(2048, 2048)] * 9) == 1 and apart(train, [(64, 64)] * 9) == 1
    assert apart(train, [(300, 350)] * 9) == 0  # nearly as large
    assert apart(train, [(2048, 256)]) == 1  # a long strip
    assert apart(train, [(256, 256)] * 99 + [(2048, 2048)]) == 0  # one of a hundred
    assert apart(train, [(256, 256)] * 3 + [(2048, 2048)]) == 0.25
    standing = [(480, 640)] * 50
    assert apart(standing, [(640, 480)] * 9) == 0  # turned
    mixed = [(200 + 20 * i, 300 + 20 * i) for i in range(90)]
    assert apart(mixed, [(1500, 1600)] * 9) == 0  # such were in the train set


def with_tests(root: Path, size: tuple[int, int], tests: tuple[int, int]) -> Path:
    """A set whose test images have a size of their own."""
    folder(root, size=size)
    (root / "test_images").mkdir()
    for number in range(3):
        image = Image.fromarray(np.full(tests, 40 * number, np.uint8))
        image.save(root / f"test_images/t{number}.png")
    return root


@pytest.mark.parametrize("size", [(48, 64), (256, 256)])
def test_large_test_images_keep_the_scale_of_training(
    made: Make, tmp_path: Path, size: tuple[int, int]
) -> None:
    root = with_tests(tmp_path / "set", size, (1024, 1024))
    config, written = made(root)
    shown = config.input
    assert shown.fit == "crop" and shown.overlap is not None and shown.height <= max(64, *size)
    assert Fit(shown).canvas(1024, 1024) == (1024, 1024)  # as it is
    text = written.text.replace("\n#  ", "")
    assert "TEST IMAGES OF ANOTHER SIZE: 100% are larger or smaller" in text
    assert "and test images 1024 x 1024: stretched to one size" in text.replace("\n# ", " ")
    assert config.predict.batch_size == 1
    (tmp_path / "my.yaml").unlink()
    config, written = made(root, "input.fit=resize")
    assert config.input.fit == "resize"
    assert "another scale than in training, which costs score" in written.text.replace("\n#  ", "")


@pytest.mark.parametrize(
    ("size", "overrides", "fit", "shape"),
    [
        ((300, 420), ["fit=pad"], "pad", (320, 448)),
        ((96, 96), ["fit=crop"], "crop", (96, 96)),
        ((96, 96), ["fit=crop", "foreground=0.9"], "crop", (96, 96)),
        ((96, 96), ["overlap=0.5"], "crop", (96, 96)),
        ((48, 64), ["fit=resize"], "resize", None),
        ((100, 200), ["height=64"], "resize", (64, 128)),
        ((100, 200), ["width=64"], "resize", (32, 64)),
        ((300, 420), ["height=128", "fit=crop"], "crop", (128, 128)),
        ((100, 200), ["height=160", "fit=pad"], "pad", (160, 224)),
        ((101, 101), ["scale_to=[202, 202]"], "pad", (224, 224)),
        ((48, 64), ["pad_mode=edge"], None, None),
    ],
)
def test_what_is_said_of_the_input_is_kept_whole(
    made: Make, tmp_path: Path, size: tuple[int, int], overrides: list[str], fit: str | None,
    shape: tuple[int, int] | None,
) -> None:  # fmt: skip
    config, written = made(
        folder(tmp_path / "set", size=size), *(f"input.{one}" for one in overrides)
    )
    assert fit in (None, config.input.fit) and config.input.fit == written.spent.candidate.size.fit
    assert shape in (None, (config.input.height, config.input.width))
    assert (config.input.height, config.input.width) == (
        written.spent.candidate.size.height, written.spent.candidate.size.width,
    )  # fmt: skip
    told = config.input.model_dump(mode="json")
    for one in overrides:
        key, _, value = one.partition("=")
        assert str(told[key]) == value


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["fit=pad", "height=64", "width=64"], "a canvas of 64 x 64 pixels does not hold images"),
        (["fit=resize", "foreground=0.5"], "input.foreground: 0.5: needs input.fit: crop"),
        (["height=100", "width=100"], "input.height: 100 is not a multiple of "),
        (["normalize=train", "mean=[0.5]"], "train measures mean and std"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], line: str
) -> None:
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=line):
        made(folder(tmp_path / "set", size=(120, 200)), *(f"input.{one}" for one in overrides))


def test_a_canvas_that_this_machine_cannot_train_is_refused(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=4, size=(1100, 1100), objects=(200, 2))
    with pytest.raises(UserError, match=r"fit: pad: the largest image has 1100 x 1100 .*resize"):
        made(root, "input.fit=pad")
