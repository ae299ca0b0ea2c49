"""distseg.models.pyramid: plain vision transformers under decoders that take stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distseg.config.data import InputConfig
from distseg.config.member import OWN_ENCODER, Architecture, MemberConfig
from distseg.config.training import OptimizerConfig
from distseg.distributed import make_accelerator
from distseg.export.graph import MemberGraph, write_graph
from distseg.inference.load import load_snapshot_model
from distseg.models.build import SegmentationNet, build_model
from distseg.models.encoders import check_fixed_size
from distseg.models.pyramid import (
    WIDTH,
    PyramidEncoder,
    known_to_smp,
    needs_pyramid,
    shown_size,
    strides,
    takes_any_size,
    trunk,
)
from distseg.records.errors import UserError
from distseg.training.member import Member
from distseg.training.optim import parameter_groups
from distseg.training.stage import begin_epoch, set_up_stage
from distseg.training.train import train_member
from tests.training.tiny_training import set_up

SMALL = {"embed_dim": 48, "num_heads": 3}  # of 12 blocks
VIT = "tu-vit_tiny_patch16_224"
DINO2 = "tu-vit_small_patch14_dinov2"
ARCHS = [a for a in get_args(Architecture) if a not in (*OWN_ENCODER, "DPT")]


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def make(
    encoder: str = VIT, size: tuple[int, int] = (64, 64), channels: int = 1, **member: Any
) -> SegmentationNet:
    torch.manual_seed(0)
    options = {**SMALL, **member.pop("decoder", {})}
    config = MemberConfig(encoder=encoder, decoder=options, **member)
    return build_model(config, channels, 2, size)


def encoder_of(model: nn.Module) -> PyramidEncoder:
    found = model.get_submodule("net.encoder")
    assert isinstance(found, PyramidEncoder)
    return found


@pytest.mark.parametrize("arch", ARCHS)
def test_every_decoder_takes_a_plain_encoder(arch: str) -> None:
    size = (128, 128) if arch == "PAN" else (64, 96)
    model = make(arch=arch, size=size, channels=2, image_head=0.1)
    logits, image_logits, *_ = model(torch.randn(2, 2, *size))
    assert logits.shape == (2, 2, *size)
    assert image_logits is not None
    assert image_logits.shape == (2, 2)
    (logits.sum() + image_logits.sum()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained), "DDP stops at a parameter without a gradient"
    held = {id(p) for p in model.parameters()}
    assert held - {id(p) for p in trained} == {
        id(p) for p in model.parameters() if not p.requires_grad
    }
    assert not any(name.startswith("pyramid-") for name in smp.encoders.encoders)


@pytest.mark.parametrize(
    ("name", "given", "pyramid", "any_size"),
    [
        ("vit_small_patch16_dinov3", {16}, True, True),
        ("vit_small_patch14_dinov2", {14}, True, True),
        ("eva02_tiny_patch14_224", {14}, True, True),
        ("vit_base_patch32_clip_224", {32}, True, True),
        ("samvit_base_patch16", {16}, True, False),
        ("beit_base_patch16_224", {16}, True, False),
        ("levit_128s", {16, 32, 64}, True, False),
        ("swin_tiny_patch4_window7_224", {4, 8, 16, 32}, False, None),
        ("resnet18", {2, 4, 8, 16, 32}, False, None),
        ("convmixer_768_32", {7}, True, True),
    ],
)
def test_families(name: str, given: set[int], pyramid: bool, any_size: bool | None) -> None:
    assert set(strides(f"tu-{name}")) >= given
    assert needs_pyramid(f"tu-{name}") is pyramid
    if any_size is not None:
        assert takes_any_size(f"tu-{name}") is any_size
    assert strides("resnet34") == ()


def test_the_maps_have_the_strides_that_a_decoder_expects() -> None:
    for name, side in (("vit_tiny_patch16_224", 96), ("vit_small_patch14_dinov2", 64)):
        encoder = PyramidEncoder(name, 3, (side, side), SMALL).eval()
        maps = encoder(torch.randn(1, 3, side, side))
        assert [x.shape[-1] for x in maps] == [side // 2**i for i in range(6)]
        assert [x.shape[1] for x in maps] == encoder.out_channels == [3, 0, *[WIDTH] * 4]
        assert all(bool(x.std() > 0.1) for x in maps[2:])
    dilated = PyramidEncoder("vit_tiny_patch16_224", 3, (64, 64), SMALL, output_stride=8)
    assert [x.shape[-1] for x in dilated(torch.randn(1, 3, 64, 64))] == [64, 32, 16, 8, 8, 8]
    shallow = PyramidEncoder("vit_tiny_patch16_224", 3, (64, 64), SMALL, depth=3, half=True)
    assert [x.shape[-1] for x in shallow(torch.randn(1, 3, 64, 64))] == [64, 32, 16, 8]
    with pytest.raises(ValueError, match=r"encoder_depth: 1; valid .* 2\.\.5"):
        PyramidEncoder("vit_tiny_patch16_224", 3, (64, 64), SMALL, depth=1)


def test_a_patch_of_14_sees_the_nearest_multiple() -> None:
    assert shown_size((256, 518), 14) == (252, 518)
    assert shown_size((5, 32), 14) == (14, 28)
    encoder = encoder_of(make(DINO2, (64, 64)))
    assert encoder.model.model.pos_embed.shape[1] - 1 == 5 * 5, "64 pixels: 5 patches, 70 pixels"
    seen: list[tuple[int, ...]] = []
    encoder.model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    encoder(torch.randn(1, 1, 64, 64))
    encoder(torch.randn(1, 1, 96, 64))  # another size: a scaled view, or a stage's
    assert seen == [(1, 1, 70, 70), (1, 1, 98, 70)]


def test_sizes_that_an_encoder_was_not_made_for() -> None:
    crop = InputConfig(height=64, width=64, fit="crop")
    check_fixed_size(MemberConfig(encoder=VIT), crop, ["scale:1.5"])
    model = make().eval()
    assert model(torch.randn(1, 1, 96, 128))[0].shape == (1, 2, 96, 128)
    beit = "tu-beit_base_patch16_224"
    with pytest.raises(UserError, match=r"takes images of 64x64 pixels only"):
        check_fixed_size(MemberConfig(encoder=beit), crop, ["hflip"])
    fixed = make(beit)
    assert fixed(torch.randn(2, 1, 64, 64))[0].shape == (2, 2, 64, 64)
    with pytest.raises(ValueError, match="takes images of 64x64 only"):
        fixed(torch.randn(2, 1, 96, 96))


def test_the_pyramid_learns_as_the_decoder_does() -> None:
    model = make()
    encoder = encoder_of(model)
    groups = parameter_groups(OptimizerConfig(lr=1e-3, encoder_lr=1e-5), model)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    inside = [p for p in trunk(encoder).parameters() if p.requires_grad]
    assert inside
    assert {rate[id(p)] for p in inside} == {1e-5}
    assert {rate[id(p)] for p in encoder.pyramid.parameters()} == {1e-3}
    resnet = build_model(MemberConfig(encoder="resnet18"), 1, 1, (64, 64))
    whole = resnet.get_submodule("net.encoder")
    assert trunk(whole) is whole


def test_levels_that_no_decoder_reads_are_left_out() -> None:
    whole, part = encoder_of(make()), encoder_of(make(arch="DeepLabV3"))

    def of(encoder: PyramidEncoder) -> list[bool]:
        return [any(True for _ in level.parameters()) for level in encoder.pyramid]

    assert of(whole) == [True] * 4
    assert of(part) == [False, False, False, True]


def test_weights_of_a_file_fill_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, **SMALL).eval()
    path = tmp_path / "vit.safetensors"
    save_file(source.state_dict(), path)
    member: dict[str, Any] = {"encoder_weights": str(path)}
    encoder = encoder_of(make(channels=3, **member)).eval()
    images = torch.randn(1, 3, 64, 64)
    wanted = source.forward_intermediates(images, intermediates_only=True, norm=False)[-1]
    torch.testing.assert_close(encoder.model(images)[-1], wanted)
    # another canvas: the position embeddings are resized
    assert len(encoder.model.model.blocks) == 12, "the last block's map"
    larger = encoder_of(make(size=(96, 96), channels=3, **member))
    assert larger.model.model.pos_embed.shape[1] - 1 == 36


def test_a_snapshot_gives_the_same_logits() -> None:
    model = make().eval()
    saved: dict[str, Tensor] = model.state_dict()
    again = make()
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(saved)
    images = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(again.eval()(images)[0], model(images)[0], rtol=0, atol=0)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UserError, match=r"stride1_stem: an encoder with one stride"):
        make(arch="ComposedUnet", decoder={"stride1_stem": True})
    with pytest.raises(UserError, match=r"option of Unet.*'drop_path_ratee'"):
        make(decoder={"drop_path_ratee": 0.1})
    with (
        pytest.raises(KeyError, match="gone"),
        known_to_smp(VIT, "Unet", 3, (64, 64), {}, False) as name,
    ):
        assert name in smp.encoders.encoders
        raise KeyError("gone")
    assert name not in smp.encoders.encoders


@pytest.mark.slow
def test_a_member_trains_with_it_and_its_graph_gives_the_same_logits(tmp_path: Path) -> None:
    """The first epoch with a frozen transformer, EMA, a snapshot; what a snapshot's record says
    makes the same network again."""
    stage = {
        "freeze_encoder": 1,
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
        "schedule": {"cycles": 2, "epochs_per_cycle": 1},
        "keep": "cycles",
    }
    member: dict[str, Any] = {
        "encoder": VIT,
        "decoder": {**SMALL, "decoder_channels": [16, 8, 8, 8, 8]},
    }
    config, run = set_up(
        tmp_path, members={"a": member}, stages=[stage],
        train={"batch_size": 8, "ema_decay": 0.5},
    )  # fmt: skip
    stage_of = set_up_stage(Member(config, run, 0, "a", 0, make_accelerator(config, cpu=True)), 0)
    frozen, module = begin_epoch(stage_of, 0), stage_of.engine.module
    assert frozen is encoder_of(module).model
    assert not frozen.training and encoder_of(module).pyramid.training
    assert begin_epoch(stage_of, 1) is None
    train_member(config, run.folder, 0, "a", 0)
    first, last = sorted(run.member(0, "a", 0).snapshots.glob("*.safetensors"))
    torch.manual_seed(0)
    states = [load_file(path) for path in (first, last)]
    of_trunk = [name for name in states[0] if name.startswith("net.encoder.model.")]
    of_pyramid = [name for name in states[0] if name.startswith("net.encoder.pyramid.")]
    assert of_trunk and of_pyramid
    assert any(not torch.equal(states[0][name], states[1][name]) for name in of_trunk)
    model, size = load_snapshot_model(last, torch.device("cpu"), False)
    assert isinstance(encoder_of(model), PyramidEncoder)
    images = [np.full((32, 32, 1), 50 * n, np.uint8) for n in range(2)]
    graph = MemberGraph([model.eval()], size, "binary").eval()
    checked = write_graph(graph, size, images, {}, tmp_path / "m.pt2", "torch")
    assert checked["largest_difference"] <= 1e-4
