"""distseg.models.build: every architecture, kinds of encoders, channels, heads, weights, errors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distseg.config.data import InputConfig
from distseg.config.load import load_config
from distseg.config.member import OWN_ENCODER, Architecture, MemberConfig
from distseg.data.fit import Fit
from distseg.models.build import SegmentationNet, build_model, count_parameters
from distseg.models.encoders import check_fixed_size, fits_any_size
from distseg.records.errors import UserError
from tests.tiny import ROOT

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalization
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def make(
    channels: int = 1, num: int = 1, size: tuple[int, int] = (64, 64), **member: Any
) -> SegmentationNet:
    torch.manual_seed(0)
    return build_model(MemberConfig(**{"encoder": "resnet18", **member}), channels, num, size)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("arch", [a for a in get_args(Architecture) if a not in OWN_ENCODER])
def test_every_architecture_gives_logits_of_the_images_size_and_an_image_head(arch: str) -> None:
    encoder = "tu-vit_tiny_patch16_224" if arch == "DPT" else "resnet18"
    side = 128 if arch == "PAN" else 64
    model = make(3, 2, (side, side), arch=arch, encoder=encoder, image_head=0.1).eval()
    with torch.inference_mode():
        logits, image_logits = model(torch.randn(1, 3, side, side))
    assert logits.shape == (1, 2, side, side) and logits.dtype == torch.float32
    assert image_logits is not None and image_logits.shape == (1, 2)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_member_is_built_at_its_size(path: Path) -> None:
    config = load_config(path)
    for name, member in config.members.items():
        size = config.input_of(name)
        random = member.model_copy(update={"encoder_weights": None, "seed": 0})
        canvas = (size.height, size.width)
        assert parameters(random.model_dump_json(), size.channels, config.num_outputs, canvas) > 0


@cache
def parameters(member: str, channels: int, num: int, size: tuple[int, int]) -> int:
    """Those of a MemberConfig as JSON; configs share some members, which are built once."""
    return count_parameters(
        build_model(MemberConfig.model_validate_json(member), channels, num, size)
    )


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [
        ("mobilenet_v2", 4),
        ("mit_b0", 3),
        ("tu-mobilenetv3_small_050", 1),
        ("tu-swin_tiny_patch4_window7_224", 1),  # made for one size: gets img_size
        ("tu-maxvit_pico_rw_256", 5),
    ],
)
def test_encoders_of_smp_and_timm(encoder: str, channels: int) -> None:
    model = make(channels, 1, (64, 96), encoder=encoder).eval()
    with torch.inference_mode():
        logits, image_logits = model(torch.randn(1, channels, 64, 96))
    assert logits.shape == (1, 1, 64, 96) and image_logits is None
    assert count_parameters(model) > 100_000


@pytest.mark.parametrize(
    ("arch", "encoder", "part"),
    [
        ("Unet", "efficientnet-b0", "net.encoder._conv_head"),
        ("PSPNet", "resnet18", "net.encoder.layer4"),
        ("Unet", "resnet18", ""),
    ],
)
def test_parts_that_no_output_depends_on_are_taken_out(arch: str, encoder: str, part: str) -> None:
    """DistributedDataParallel stops at a trainable parameter without a gradient; and what nobody
    uses was saved with each snapshot, 8.4 of 11.2 million parameters of a short resnet18."""
    model = make(arch=arch, encoder=encoder, size=(32, 32))
    logits, _ = model(torch.randn(2, 1, 32, 32))
    logits.sum().backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in model.named_parameters() if p.grad is not None}
    saved = {name for name in model.state_dict() if not name.endswith(BUFFERS)}
    assert saved == trainable
    if part:
        assert not list(model.get_submodule(part).parameters())


def test_taking_out_changes_no_logit_and_takes_snapshots_that_have_more() -> None:
    torch.manual_seed(0)
    decoder = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    model = make(encoder="resnet18", decoder=decoder).eval()
    whole = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1, **decoder).eval()
    before = {f"net.{name}": tensor for name, tensor in whole.state_dict().items()}
    assert len(before) > len(model.state_dict())
    model.load_state_dict(before)  # an earlier version's snapshot
    images = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images)[0], whole(images))
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict({**before, "net.encoder.layer9.weight": torch.ones(1)})


def test_the_seed_decides_the_weights_and_the_trial_pass_changes_nothing() -> None:
    first, second = make(), make()
    assert same(first.state_dict(), second.state_dict()) and first.training
    norms = [m for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 0 for norm in norms)
    assert all(p.grad is None and p.device.type == "cpu" for p in first.parameters())
    torch.manual_seed(1)
    other = build_model(MemberConfig(encoder="resnet18"), 1, 1, (64, 64))
    assert not same(first.state_dict(), other.state_dict())


def test_decoder_options_reach_smp_and_timm() -> None:
    decoder = {"attention": "scse", "decoder_channels": [64, 32, 16], "encoder_depth": 3}
    model = make(decoder=decoder)
    assert any("cSE" in name for name, _ in model.named_modules())
    assert model.net.segmentation_head[0].in_channels == 16  # type: ignore[index,union-attr]
    dropping = make(encoder="tu-resnet18", decoder={"drop_path_rate": 0.1})
    assert any(type(part).__name__ == "DropPath" for part in dropping.modules())


def test_unet_takes_the_native_size_of_tgs() -> None:
    assert make(size=(101, 101))(torch.randn(1, 1, 101, 101))[0].shape == (1, 1, 101, 101)


@pytest.mark.parametrize(
    ("member", "size", "said"),
    [
        ({"encoder": "resnt18"}, 64, "Did you mean 'resnet18'"),
        ({"encoder": "resnet50d"}, 64, "Did you mean 'tu-resnet50d'"),
        ({"encoder": "tu-regnety_16"}, 64, "Did you mean 'tu-regnety_160'"),
        ({"decoder": {"decoder_chanels": [1]}}, 64, "Did you mean 'decoder_channels'"),
        ({"decoder": {"activation": "sigmoid"}}, 64, "decoder.activation"),
        ({"decoder": {"drop_path_rate": 0.1}}, 64, "drop_path_rate"),
        ({"encoder": "tu-resnet18", "decoder": {"dop_path": 0.1}}, 64, "dop_path"),
        ({"arch": "FPN", "decoder": {"attention": "scse"}}, 64, "decoder.attention"),
        ({"decoder": {"decoder_channels": [8, 8]}}, 64, "decoder_channels"),
        ({"decoder": {"decoder_channels": 3}}, 64, "Unet with encoder resnet18"),
        (
            {"decoder": {"attention": "scse", "decoder_channels": [64, 32, 16, 16, 8]}},
            64,
            "would have no weights: some of decoder_channels are too few",
        ),
        ({"arch": "FPN", "decoder": {"upsampling": 2}}, 64, "32x32"),
        ({"arch": "FPN"}, 101, "101x101"),
        ({"arch": "PAN"}, 64, "64x64"),
        ({"arch": "DPT"}, 64, "tu-"),
        ({"encoder_weights": "imagnet"}, 64, "Did you mean 'imagenet'"),
        ({"encoder": "tu-resnet18", "encoder_weights": "a1_in"}, 64, "Did you mean 'a1_in1k'"),
        ({"encoder_weights": "none/here.safetensors"}, 64, "none/here.safetensors"),
    ],
)
def test_a_mistake_is_one_message(member: dict[str, Any], size: int, said: str) -> None:
    member = {"encoder": "resnet18", **member}
    config = MemberConfig.model_construct(**{**MemberConfig().model_dump(), **member})
    with pytest.raises(UserError) as caught:
        build_model(config, 1, 1, (size, size))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_without_a_network_the_message_names_the_local_file(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no network.*local .safetensors file"):
        make(encoder=encoder, encoder_weights="imagenet")
    config = MemberConfig(encoder=encoder, encoder_weights="imagenet")
    build_model(config, 1, 1, (64, 64), pretrained=False)  # a snapshot will be loaded


@pytest.mark.parametrize(
    ("encoder", "prefix"),
    [("resnet18", ""), ("resnet18", "encoder."), ("tu-resnet18", "net.encoder.")],
)
def test_a_local_file_with_the_encoder_of_an_smp_model(
    encoder: str, prefix: str, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    source = build_model(MemberConfig(encoder=encoder), 3, 1, (64, 64)).net.get_submodule("encoder")
    path = tmp_path / "weights.safetensors"
    save_file({f"{prefix}{k}": v for k, v in source.state_dict().items()}, path)
    for channels in (1, 4) if prefix else (3,):
        loaded = make(channels, encoder=encoder, encoder_weights=str(path)).net.get_submodule(
            "encoder"
        )
        own, given = loaded.state_dict(), source.state_dict()
        first = next(iter(own))
        assert all(torch.equal(own[k], given[k]) for k in own if k != first)
        gray = given[first].sum(1)
        if channels == 3:
            assert torch.equal(own[first], given[first])
        elif channels == 1:
            torch.testing.assert_close(own[first][:, 0], gray)
        else:
            torch.testing.assert_close(own[first][:, 3], given[first][:, 0] * 3 / 4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_a_local_file_as_timm_has_it_on_the_hub(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = timm.create_model(name).eval()
    path = tmp_path / "model.safetensors"
    save_file(source.state_dict(), path)
    net = make(3, encoder=f"tu-{name}", encoder_weights=str(path)).net
    encoder = net.get_submodule("encoder").eval()
    images = torch.randn(1, 3, 64, 64)
    wanted = source.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(encoder(images)[-1], wanted)
    make(1, encoder=f"tu-{name}", encoder_weights=str(path))


def test_a_local_file_that_does_not_fit_says_how_much_does(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    whole = make(3).net.get_submodule("encoder").state_dict()
    del whole["layer1.0.conv1.weight"]
    whole["bn1.weight"] = torch.zeros(3)
    save_file(whole, path)
    with pytest.raises(UserError, match="120 entries match, 1 are missing, 1 have another shape"):
        make(3, encoder_weights=str(path))
    for encoder in ("mobilenet_v2", "tu-resnet34"):
        with pytest.raises(UserError, match=r"weights\.safetensors"):
            make(3, encoder=encoder, encoder_weights=str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        make(3, encoder_weights=str(path))


def test_an_encoder_of_one_size_is_shown_no_other() -> None:
    swin = MemberConfig(arch="Unet", encoder="tu-swin_tiny_patch4_window7_224")
    crop = InputConfig(height=224, width=224, fit="crop")
    with pytest.raises(UserError, match=r"set input\.overlap to predict in tiles"):
        check_fixed_size(swin, crop, ["hflip"])
    tiles = crop.model_copy(update={"overlap": 0.25})
    assert Fit(tiles).canvas(100, 300) == (224, 320), "a tile is whole on a small image too"
    check_fixed_size(swin, tiles, ["hflip"])
    with pytest.raises(UserError, match=r"scale:1\.5 shows it another size"):
        check_fixed_size(swin, tiles, ["hflip", "scale:1.5"])
    any_size = MemberConfig(arch="Unet", encoder="resnet18")
    check_fixed_size(any_size, crop, ["scale:1.5"])
    assert fits_any_size(any_size) and not fits_any_size(swin)
