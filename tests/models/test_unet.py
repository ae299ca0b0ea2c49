"""The project's own nets: sizes of the source, odd sizes, gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from distseg.config.load import parse_config
from distseg.config.member import MemberConfig
from distseg.models.build import build_model, count_parameters
from distseg.models.unet import PlainUnet, ResidualUnet
from distseg.records.errors import UserError


def test_the_residual_unet_halves_101_as_its_source_does() -> None:
    net, sizes = ResidualUnet(1, 1).eval(), []
    for level in [*net.down, *net.merge]:
        level.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        assert net(torch.zeros(1, 1, 101, 101)).shape == (1, 1, 101, 101)
    down = [(16, 101, 101), (32, 50, 50), (64, 25, 25), (128, 12, 12), (256, 6, 6)]
    assert sizes == [*down, *reversed(down[:-1])]


@pytest.mark.parametrize(
    ("arch", "parameters"), [("PlainUnet", 8_630_000), ("ResidualUnet", 5_110_000)]
)
def test_parameter_counts(arch: str, parameters: int) -> None:
    member = MemberConfig(arch=arch, encoder="none")
    assert count_parameters(build_model(member, 1, 1, (101, 101))) == pytest.approx(
        parameters, rel=0.02
    )


@pytest.mark.parametrize("net", [PlainUnet, ResidualUnet])
@pytest.mark.parametrize("size", [(101, 101), (33, 47), (64, 96)])
@pytest.mark.parametrize("head", [False, True])
def test_odd_sizes_and_gradients(net: type, size: tuple[int, int], head: bool) -> None:
    torch.manual_seed(0)
    model = net(3, 2, filters=4, depth=3, image_head=head)
    output = model(torch.randn(2, 3, *size))
    logits = output[0] if head else output
    assert logits.shape == (2, 2, *size)
    total = logits.square().sum() + (output[1].square().sum() if head else 0)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if head:
        assert output[1].shape == (2, 2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"arch": "PlainUnet"}, "encoder: none"),
        ({"arch": "Unet", "encoder": "none"}, "PlainUnet"),
        ({"arch": "PlainUnet", "encoder": "none", "encoder_weights": "imagenet"}, "null"),
    ],
)
def test_an_encoder_where_there_is_none_is_refused(entry: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config({"name": "t", "members": {"a": entry}}, "t")


def test_unknown_options_are_named() -> None:
    member = MemberConfig(arch="ResidualUnet", encoder="none", decoder={"filter": 8})
    with pytest.raises(UserError, match="filters"):
        build_model(member, 1, 1, (64, 64))
    small = MemberConfig(arch="ResidualUnet", encoder="none")
    with pytest.raises(UserError, match="8x8"):
        build_model(small, 1, 1, (8, 8))
