"""Test-time views: each is undone exactly, sets are closed, and no other axis moves."""

from typing import Any

import numpy as np
import pytest
import torch

from distseg.functional.tta import views
from distseg.functional.tta_names import MODES, check_modes

X = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)


def names(modes: Any) -> list[str]:
    return [view.name for view in views(modes)]


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ([], ["none"]),
        (["none"], ["none"]),
        (["hflip"], ["none", "hflip"]),
        (["hflip", "hflip", "none"], ["none", "hflip"]),
        (["hflip", "vflip"], ["none", "hflip", "vflip", "rot180"]),
        (["vflip", "rot180"], ["none", "hflip", "vflip", "rot180"]),
        (["rot90"], ["none", "rot90", "rot180", "rot270"]),
        (["rot270"], ["none", "rot90", "rot180", "rot270"]),
        (["transpose"], ["none", "transpose"]),
        (["transpose", "rot180"], ["none", "rot180", "transpose", "antitranspose"]),
    ],
)
def test_closures(modes: Any, expected: list[str]) -> None:
    assert names(modes) == expected


@pytest.mark.parametrize("modes", [["d4"], ["hflip", "rot90"], ["transpose", "vflip"]])
def test_d4_has_eight_distinct_views(modes: Any) -> None:
    images = {tuple(view.forward(X[0, 0, :4, :4]).flatten().tolist()) for view in views(modes)}
    assert len(images) == 8


def test_views_are_what_they_are_called() -> None:
    view = {v.name: v.forward(X).numpy() for v in views(["d4"])}
    x = X.numpy()
    assert np.array_equal(view["none"], x)
    assert np.array_equal(view["hflip"], x[..., ::-1])
    assert np.array_equal(view["vflip"], x[..., ::-1, :])
    assert np.array_equal(view["transpose"], x.swapaxes(-1, -2))
    for k, name in enumerate(("rot90", "rot180", "rot270"), start=1):
        assert np.array_equal(view[name], np.rot90(x, k, axes=(-2, -1)))
    assert np.array_equal(view["antitranspose"], np.rot90(x, 2, (-2, -1)).swapaxes(-1, -2))


@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (1, 4, 6), (2, 3, 7, 4)])
def test_undo_of_each_view_is_exact_on_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for name, forward, inverse in views(["d4"]):
        assert torch.equal(inverse(forward(x)), x), name
        assert torch.equal(inverse(forward(x), (shape[-2], shape[-1])), x), name


def test_scales_join_the_flips_and_round_to_the_divisor() -> None:
    found = views(["hflip", "scale:0.75", "scale:1.0", "scale:2"], divisor=4)
    expected = ["none", "hflip", "none@0.75", "hflip@0.75", "none@2", "hflip@2"]
    assert [v.name for v in found] == expected
    x = torch.randn(2, 3, 20, 12)
    sizes = [tuple(v.forward(x).shape) for v in found]
    # 20 * .75 = 15 -> 16; 12 * .75 = 9 -> 8
    assert sizes[::2] == [(2, 3, 20, 12), (2, 3, 16, 8), (2, 3, 40, 24)]
    assert tuple(views(["scale:0.125"], divisor=32)[1].forward(x).shape[-2:]) == (32, 32)


def test_scaled_views_come_back_aligned_and_unflipped() -> None:
    ramp = torch.linspace(0, 1, 24)[:, None] + 10 * torch.linspace(0, 1, 16)[None]
    for view in views(["d4", "scale:0.5", "scale:1.5"]):
        back = view.inverse(view.forward(ramp[None]), (24, 16))[0]
        assert back.shape == ramp.shape
        assert (back - ramp)[3:-3, 3:-3].abs().max() < 0.05, view.name
    constant = torch.full((1, 9, 7), 2.5)
    small = views(["scale:0.5"])[1]
    assert torch.allclose(small.inverse(small.forward(constant), (9, 7)), constant)


def test_a_scaled_view_needs_the_size() -> None:
    view = views(["scale:0.5"])[1]
    with pytest.raises(ValueError, match=r"needs the \(H, W\)"):
        view.inverse(view.forward(X))


def test_average_over_a_closed_set_commutes_with_its_views() -> None:
    weight = torch.randn(1, 1, 3, 3)
    found = views(["d4"])

    def averaged(x: torch.Tensor) -> torch.Tensor:
        outs = [v.inverse(torch.nn.functional.conv2d(v.forward(x), weight)) for v in found]
        return torch.stack(outs).mean(0)

    x = torch.randn(1, 1, 6, 6)
    for view in found:
        assert torch.allclose(averaged(view.forward(x)), view.forward(averaged(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("modes", "why"),
    [
        (["hflp"], "unknown TTA mode 'hflp'. Did you mean 'hflip'"),
        (["scale:0"], "must be written like"),
        (["scale:abc"], "must be written like"),
        (["scale:100"], "must be written like"),
        (["scale"], "must be written like"),
        ([3], "unknown TTA mode '3'"),
        ("hflip", "must be a list"),
    ],
)
def test_bad_modes(modes: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_modes(modes)
    with pytest.raises(ValueError, match=why):
        views(modes)


def test_all_names_are_accepted_and_the_divisor_is_checked() -> None:
    check_modes([*MODES, "scale:0.75", "scale:.5", "scale:2"])
    with pytest.raises(ValueError, match="at least 1"):
        views(["scale:2"], divisor=0)
