"""The parts of networks: against references, odd sizes, two ranks, parameter counts, mistakes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import fcn  # type: ignore[import-untyped]  # has no types

from distseg.config.data import InputConfig
from distseg.config.load import parse_config
from distseg.config.member import MemberConfig
from distseg.inference.load import load_snapshot_model
from distseg.models import checkpoint
from distseg.models.build import SegmentationNet, build_model, count_parameters
from distseg.models.fcn import FCNHead
from distseg.models.parts.cbam import BlockAttention
from distseg.models.parts.feature_pyramid_attention import FeaturePyramidAttention
from distseg.models.parts.global_convolution import GlobalConvolution
from distseg.models.parts.guided_upsampling import GuidedUpsampling
from distseg.models.parts.object_context import ObjectContext
from distseg.models.parts.pyramid_pooling import PyramidPooling
from distseg.models.parts.scse import SpatialChannelSE
from distseg.records.errors import UserError
from tests.models.parts import MEMBERS, composed
from tests.tiny import PATIENCE_S, tiny_tree


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(entry: dict[str, Any], size: tuple[int, int] = (37, 45)) -> SegmentationNet:
    torch.manual_seed(0)
    return build_model(MemberConfig(**entry), 1, 1, size)


def test_the_fcn_head_is_torchvisions() -> None:
    reference, own = fcn.FCNHead(64, 3), FCNHead(64, 3)
    own.load_state_dict(reference.state_dict())
    x = torch.randn(2, 64, 9, 7)
    for mode in (True, False):
        torch.manual_seed(1)
        expected = reference.train(mode)(x)
        torch.manual_seed(1)  # the same dropout
        assert torch.equal(own.train(mode)(x), expected)


@pytest.mark.parametrize("width", [4, 8, 64])
def test_scse_by_its_formula_at_any_width(width: int) -> None:
    part, x = SpatialChannelSE(width), torch.randn(2, width, 13, 11)
    squeeze, _, excite = (part.cSE[i] for i in (1, 2, 3))
    mean = x.mean((2, 3), keepdim=True)
    channels = torch.sigmoid(excite(torch.relu(squeeze(mean))))
    assert squeeze.out_channels == max(1, width // 16)
    assert torch.allclose(part(x), x * channels + x * torch.sigmoid(part.sSE[0](x)), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (13, 11)])
def test_pyramid_pooling_sees_the_whole_map(size: tuple[int, int]) -> None:
    """Of a map that is the same everywhere, each pool is the same everywhere; also of one image
    in training, whose 1 x 1 map batch norm would refuse."""
    part = PyramidPooling(8, 4)
    pools = part.pools.train()(torch.ones(1, 8, *size))
    assert pools.shape == (1, 8 + 8, *size)
    assert torch.allclose(pools, pools[:, :, :1, :1].expand_as(pools), atol=1e-5)


def test_weights_with_the_parts_old_names_are_taken() -> None:
    """As runs have saved them that were made before these parts became smp's."""
    model = build(composed(decoder={"center": "ppm", "attention": "scse"}))
    state = model.state_dict()
    old = {
        re.sub(r"blocks\.(\d)\.pool\.1\.", r"convs.\1.", name)
        .replace(".cSE.", ".channel.")
        .replace(".sSE.", ".pixel."): tensor + 1
        for name, tensor in state.items()
    }
    assert len(old.keys() - state.keys()) == 20 + 4 * 6  # pools, and scSE of 4 blocks
    model.load_state_dict(old)
    assert all(
        torch.equal(tensor, new)
        for tensor, new in zip(old.values(), model.state_dict().values(), strict=True)
    )


def test_cbam_by_hand() -> None:
    """One channel gate of weight 0 halves the map; a pixel gate of weight 0 halves it again."""
    part, x = BlockAttention(8), torch.randn(2, 8, 5, 6)
    for parameter in part.parameters():
        nn.init.zeros_(parameter)
    assert torch.allclose(part(x), x / 4)


def test_object_context_is_a_mean_of_all_pixels_where_keys_are_alike() -> None:
    part, x = ObjectContext(8).eval(), torch.randn(2, 8, 5, 6)
    nn.init.zeros_(part.get_parameter("key.0.weight"))
    expected = part.out(part.value(x).mean((2, 3), keepdim=True)).expand(-1, -1, 5, 6)
    assert torch.allclose(part(x), expected, atol=1e-5)


def test_global_convolution_sees_a_square_of_its_kernel() -> None:
    part, x = GlobalConvolution(1, 1, 7), torch.zeros(1, 1, 15, 15, requires_grad=True)
    part(x)[0, 0, 7, 7].backward()
    seen = x.grad[0, 0].nonzero()  # type: ignore[index]
    assert seen.min() == 4 and seen.max() == 10 and len(seen) == 49


@pytest.mark.parametrize("size", [(13, 10), (5, 6), (3, 4)])
def test_guided_upsampling_begins_bilinear_and_follows_its_offsets(size: tuple[int, int]) -> None:
    part, x = GuidedUpsampling(3), torch.randn(2, 3, 5, 6)
    part.start()
    plain = F.interpolate(x, size=size, mode="bilinear")
    assert torch.allclose(part(x, size), plain, atol=1e-5)
    nn.init.constant_(part.get_parameter("offset.bias"), 1.0)  # a pixel right and a pixel down
    moved = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")[:, :, 1:, 1:]
    assert torch.allclose(part(x, (5, 6)), moved, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 13)])
def test_feature_pyramid_attention_takes_any_map(size: tuple[int, int]) -> None:
    assert FeaturePyramidAttention(16, 8)(torch.randn(2, 16, *size)).shape == (2, 8, *size)


@pytest.mark.parametrize("name", MEMBERS)
def test_odd_sizes_in_training_and_evaluation(name: str) -> None:
    model = build(MEMBERS[name])
    images = torch.randn(2, 1, 37, 45)
    logits, image_logits, *deep = model(images)
    assert logits.shape == (2, 1, 37, 45)
    assert (image_logits is not None) == ("image_head" in MEMBERS[name])
    assert len(deep) == (4 if "deep_supervision" in MEMBERS[name] else 0)
    with torch.inference_mode():
        logits, _ = model.eval()(torch.randn(1, 1, 101, 101))  # two values: the final logits alone
    assert logits.shape == (1, 1, 101, 101)


@pytest.mark.slow
def test_gradients_everywhere_under_two_ranks(launch: Callable[..., Any]) -> None:
    """All members in one start of two processes; see two_ranks.py."""
    root = str(Path(__file__).resolve().parents[2])
    process: subprocess.Popen[str] = launch(
        2, script="tests/models/two_ranks.py", env={"PYTHONPATH": root}
    )
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("trained")] == [
        *MEMBERS
    ]


def test_any_encoder_and_pretrained_weights_fit_any_part(tmp_path: Path) -> None:
    """Encoders of smp and timm, with and without a map at half the size; a file of weights."""
    everything = {
        "center": "ppm", "block": "gau", "upsample": "guided", "attention": "cbam",
        "hypercolumn": True, "stride1_stem": True,
    }  # fmt: skip
    for encoder in ("tu-convnext_atto", "vgg11", "mobilenet_v2"):
        entry = {"arch": "ComposedUnet", "encoder": encoder, "decoder": everything}
        logits, _ = build({**entry, "deep_supervision": 0.1}).eval()(torch.randn(1, 1, 37, 45))
        assert logits.shape == (1, 1, 37, 45)
    first = build(composed())
    path = tmp_path / "whole.safetensors"
    checkpoint.save_snapshot(path, first.state_dict(), {})
    again = build_model(
        MemberConfig(**composed(decoder={"center": "fpa"}, encoder_weights=str(path))), 1, 1,
        (37, 45),
    )  # fmt: skip
    own, given = again.net.encoder.state_dict(), first.net.encoder.state_dict()  # type: ignore
    assert all(torch.equal(own[key], given[key]) for key in given)


@pytest.mark.parametrize("name", ["all_at_once", "segnet", "fcn8s", "refinenet"])
def test_a_snapshot_is_rebuilt_from_its_record(name: str, tmp_path: Path) -> None:
    model = build(MEMBERS[name]).eval()
    record = {
        "member": MemberConfig(**MEMBERS[name]).model_dump(mode="json"),
        "input": InputConfig(height=37, width=45, channels=1).model_dump(mode="json"),
        "num_outputs": 1,
    }
    checkpoint.save_snapshot(tmp_path / "s.safetensors", model.state_dict(), record)
    again, _ = load_snapshot_model(tmp_path / "s.safetensors", torch.device("cpu"), False)
    images = torch.randn(2, 1, 37, 45)
    assert torch.equal(again(images)[0], model(images)[0])


RESNET18 = {
    "none": 14_321_937, "center_fpa": 14_926_481, "center_aspp_oc": 16_347_473,
    "center_ppm": 16_354_961, "block_gcn": 17_724_977, "block_gau": 12_320_497,
    "upsample_guided": 14_339_803, "attention_scse": 14_333_877, "attention_cbam": 14_333_871,
}  # fmt: skip


@pytest.mark.parametrize("name", RESNET18)
def test_parameter_counts_of_the_parts(name: str) -> None:
    """With resnet18, one channel, one class, as docs/models.md has them."""
    key, _, choice = name.partition("_")
    entry: dict[str, Any] = {"arch": "ComposedUnet", "encoder": "resnet18"}
    entry |= {"decoder": {key: choice} if choice else {}}
    assert count_parameters(build(entry)) == RESNET18[name]


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ({"arch": "FCN", "encoder": "resnet18"}, 11_760_449),
        ({"arch": "RefineNet", "encoder": "resnet18"}, 43_474_625),
        ({"arch": "SegNet", "encoder": "none"}, 29_471_489),
        ({"arch": "ComposedUnet", "encoder": "resnet18", "decoder": {"hypercolumn": True}},
         14_341_505),
        ({"arch": "ComposedUnet", "encoder": "resnet18", "deep_supervision": 0.1}, 14_326_406),
        ({"arch": "ComposedUnet", "encoder": "resnet18", "image_head": 0.1}, 14_322_450),
        ({"arch": "ComposedUnet", "encoder": "resnet18", "image_head": 0.1,
          "deep_supervision": 0.1}, 14_360_327),
        ({"arch": "ComposedUnet", "encoder": "resnet18", "decoder": {"stride1_stem": True}},
         14_321_937),
    ],
)  # fmt: skip
def test_parameter_counts(entry: dict[str, Any], count: int) -> None:
    assert count_parameters(build(entry)) == count


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (composed(decoder={"center": "fpaa"}), "decoder.center: .*Did you mean 'fpa'"),
        (composed(decoder={"block": "gcnn"}), "Did you mean 'gcn'"),
        (composed(decoder={"attention": "scce"}), "Did you mean 'scse'"),
        (composed(decoder={"hypercolumn": 1}), "hypercolumn: 1: valid: true, false"),
        ({"arch": "Unet", "deep_supervision": 0.1}, "deep_supervision: Unet .*ComposedUnet"),
        ({"arch": "FPN", "decoder": {"center": "fpa"}}, "center: 'fpa': FPN .*ComposedUnet"),
        ({"arch": "SegNet"}, "encoder: none"),
    ],
)
def test_mistakes_are_named_when_the_config_is_read(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config(tiny_tree(members={"a": entry}), "t")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (composed(decoder={"decoder_channels": [8]}), "decoder_channels"),
        (composed(decoder={"hypercolum": True}), "Did you mean 'hypercolumn'"),
        (composed(decoder={"dropout": 2.0}), "dropout"),
        (composed(encoder="tu-efficientnet_b0", decoder={"kwargs": 1}), "kwargs"),
        ({"arch": "FCN", "encoder": "resnet18", "decoder": {"skips": 9}}, "skips: 9"),
        ({"arch": "FCN", "encoder": "tu-swin_tiny_patch4_window7_224"}, "output_stride"),
        ({"arch": "SegNet", "encoder": "none", "decoder": {"depth": 6}}, "depth: 6"),
    ],
)
def test_mistakes_are_named_when_the_model_is_built(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(entry, (64, 64))


def test_the_stem_keeps_the_size_of_the_first_maps() -> None:
    maps: list[Tensor] = build(composed(decoder={"stride1_stem": True})).net.encoder(  # type: ignore
        torch.randn(1, 1, 40, 40)
    )
    assert [m.shape[-1] for m in maps] == [40, 40, 40, 20, 10]
