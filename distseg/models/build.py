"""Any smp architecture with any smp or timm encoder, behind one forward.

Options are smp's own; each mistake is one UserError. A model is tried once on tensors without
data (device "meta": shapes only), which finds an input size that it cannot take before any
training starts, and the parameters that no output depends on.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distseg.config.member import COMPOSED, OWN_ENCODER, TIMM_OPTIONS, MemberConfig
from distseg.models.composed import ComposedUnet
from distseg.models.encoders import check_encoder, has_fixed_size
from distseg.models.fcn import FCN
from distseg.models.pyramid import known_to_smp, needs_pyramid
from distseg.models.refinenet import RefineNet
from distseg.models.segnet import SegNet
from distseg.models.unet import PlainUnet, ResidualUnet
from distseg.models.unused import put_back, take_out, unused_modules
from distseg.models.weights import encoder_tensors, hub_name, is_timm_format, load_encoder
from distseg.records.errors import UserError, unknown

# What MemberConfig or the caller decides, and so no decoder option.
RESERVED = frozenset(
    ("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes", "activation",
     "aux_params", "image_head", "deep_supervision")
)  # fmt: skip
OWN_RESERVED = frozenset(("channels",))
OWN_NETS = {"PlainUnet": PlainUnet, "ResidualUnet": ResidualUnet, "SegNet": SegNet}
ENCODER_NETS = {"FCN": FCN, "RefineNet": RefineNet, "ComposedUnet": ComposedUnet}  # called as smp's
SUFFIX = ".safetensors"
VIT_ARCH = "DPT"  # takes the tokens of a plain vision transformer itself
OVERLAY = "pretrained_cfg_overlay"  # timm's argument that names a local file
BUILD_ERRORS = (ValueError, KeyError, TypeError, RuntimeError, AssertionError, IndexError)
# What a pass on the meta device raises where code reads values.
META_ERRORS = (RuntimeError, TypeError, ValueError)

Outputs = tuple[Tensor, Tensor | None, *tuple[Tensor, ...]]


class SegmentationNet(nn.Module):
    """A model (`net`) whose forward always returns two values, and deep logits after them."""

    def __init__(self, net: nn.Module, coordinates: bool = False) -> None:
        """coordinates: `net` takes the two channels of `add_coordinates` too."""
        super().__init__()
        self.net, self.coordinates = net, coordinates

    def forward(self, images_BCHW: Tensor) -> Outputs:
        """Normalized float images -> (logits (B, num_outputs, H, W), image logits
        (B, num_outputs): "this class is in this image", or None without that head). While it
        trains with deep supervision, logits (B, num_outputs, h, w) of each scale follow."""
        output = self.net(add_coordinates(images_BCHW) if self.coordinates else images_BCHW)
        return output if isinstance(output, tuple) else (output, None)


def add_coordinates(images_BCHW: Tensor) -> Tensor:
    """(B, C + 2, H, W): y and x of each pixel's center, -1..1 (CoordConv, Liu et al. 2018, arXiv
    1807.03247). Made inside the network, so that a flipped view has coordinates that are not."""
    batch, _, height, width = images_BCHW.shape
    y, x = (
        (torch.arange(n, device=images_BCHW.device, dtype=images_BCHW.dtype) * 2 + 1) / n - 1
        for n in (height, width)
    )
    planes = torch.stack([y[:, None].expand(height, width), x.expand(height, width)])
    return torch.cat([images_BCHW, planes.expand(batch, -1, -1, -1)], dim=1)


def build_model(
    member: MemberConfig,
    channels: int,
    num_outputs: int,
    size: tuple[int, int],
    *,
    pretrained: bool = True,
) -> SegmentationNet:
    """The network of `member` in CPU memory, in training mode.

    Random weights come from torch's global generator: seed it before. `size` is the canvas,
    (height, width) in pixels. `pretrained=False` takes no weights from hub or file: a snapshot
    will be loaded. Parts that no output depends on are taken out (`models/unused.py`), and single
    parameters frozen: DistributedDataParallel stops at such a parameter.

    Raises UserError: unknown encoder, tag or option; a size that the network
    cannot take; weights that cannot be had or do not fit.
    """
    inputs, given = channels + 2 * member.coordinates, None
    if member.arch in OWN_ENCODER:
        model = SegmentationNet(_own(member, inputs, num_outputs), member.coordinates)
    else:
        check_encoder(member.encoder)
        options = _options(member)
        options |= {"in_channels": inputs, "classes": num_outputs}
        if member.arch in ENCODER_NETS:
            options |= _heads(member)
        elif member.image_head is not None:
            options["aux_params"] = {"classes": num_outputs, "pooling": "avg", "dropout": None}
        weights = member.encoder_weights if pretrained else None
        net, given = _with_weights(member, options, size, weights)
        model = SegmentationNet(net, member.coordinates)
    shape = (2, channels, *size)
    unused = _unused_parameters(model, member, shape, num_outputs)
    if taken := take_out(model, unused_modules(model, unused)):
        try:
            unused = _unused_parameters(model, member, shape, num_outputs)
        except UserError:  # its forward pass calls them, though nothing comes of it
            put_back(model, taken)
    if given is not None:  # only now: a snapshot's file does not hold what was taken out
        encoder = model.net.get_submodule("encoder")
        load_encoder(encoder, given, f"encoder_weights: {member.encoder_weights}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in unused)
    return model.train()


def _heads(member: MemberConfig) -> dict[str, bool]:
    """The heads beside the logits that a net of ENCODER_NETS has. A weight of 0 is a head too."""
    heads = {"image_head": member.image_head is not None}
    if member.arch == COMPOSED:
        heads["deep_supervision"] = member.deep_supervision is not None
    return heads


def _architecture(name: str) -> Callable[..., nn.Module]:
    """The class of an architecture with an encoder: it takes the encoder's name and, by keyword,
    what smp's architectures take."""
    return ENCODER_NETS[name] if name in ENCODER_NETS else getattr(smp, name)


def _own(member: MemberConfig, channels: int, num_outputs: int) -> nn.Module:
    """A net of OWN_NETS."""
    make = OWN_NETS[member.arch]
    valid = [n for n in inspect.signature(make).parameters if n not in RESERVED | OWN_RESERVED]
    for key in member.decoder:
        if key not in valid:
            raise unknown(f"option of {member.arch}", key, valid, f"decoder.{key}: ")
    try:
        head = member.image_head is not None
        return make(channels, num_outputs, image_head=head, **member.decoder)
    except BUILD_ERRORS as error:
        given = ", ".join(f"{key}={value}" for key, value in member.decoder.items())
        raise UserError(f"{member.arch} with {given}: {one_line(error)}") from error


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _options(member: MemberConfig) -> dict[str, Any]:
    """member.decoder by smp's names. What the architecture does not take is left to timm's
    model where the encoder is one and the option is one of TIMM_OPTIONS: timm hands all else on,
    also to what opens files."""
    options = dict(member.decoder)
    parameters = inspect.signature(_architecture(member.arch)).parameters
    if "attention" in options and "attention" not in parameters:
        options["decoder_attention_type"] = options.pop("attention")
    for key in options:
        to_timm = member.encoder.startswith("tu-") and key in TIMM_OPTIONS
        if key in RESERVED or (key not in parameters and not to_timm):
            raise _unknown_option(member, key)
    return options


def _unknown_option(member: MemberConfig, key: str) -> UserError:
    if key not in member.decoder:
        key = "attention"  # the only short form
    parameters = inspect.signature(_architecture(member.arch)).parameters
    valid = [n for n, p in parameters.items() if n not in RESERVED and p.kind != p.VAR_KEYWORD]
    if "decoder_attention_type" in valid:
        valid.append("attention")
    valid += sorted(TIMM_OPTIONS) if member.encoder.startswith("tu-") else []
    where = f"decoder.{key} (value {member.decoder[key]!r}): "
    return unknown(f"option of {member.arch}", key, valid, where)


def _with_weights(
    member: MemberConfig, options: dict[str, Any], size: tuple[int, int], weights: str | None
) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """The smp model with its encoder random (None), from a file, or from the hub; and weights of
    a file that its encoder is still to take, by name."""
    if weights is None:
        return _construct(member, options, size, member.encoder, None), None
    if weights.endswith(SUFFIX):
        return _from_file(member, options, size, Path(weights))
    encoder, tag = hub_name(member.encoder, weights)
    try:
        return _construct(member, options, size, encoder, tag), None
    except OSError as error:  # all that huggingface_hub, urllib and sockets raise
        raise UserError(
            f"encoder_weights: {weights!r} of {member.encoder} could not be fetched: there is no "
            f"network, or the hub does not answer ({type(error).__name__}). Download the "
            f"weights where there is one, and give their path here (a local {SUFFIX} file), or "
            "null for random weights"
        ) from error


def _construct(
    member: MemberConfig,
    options: dict[str, Any],
    size: tuple[int, int],
    encoder: str,
    weights: str | None,
) -> nn.Module:
    """Call smp; OSErrors (the network) pass, everything else is the user's mistake."""
    options = dict(options)
    pyramid = member.arch != VIT_ARCH and needs_pyramid(member.encoder)
    if encoder.startswith("tu-") and not pyramid and has_fixed_size(encoder):
        options.setdefault("img_size", size)
    try:
        with warnings.catch_warnings():  # smp: a weights tag of a tu- encoder is part of its name
            warnings.filterwarnings("ignore", message=".*encoder_weights.*")
            warnings.filterwarnings("ignore", message=".*zero-element")  # refused below, in words
            make = _architecture(member.arch)
            if not pyramid:
                return _with_all_layers(make(encoder, encoder_weights=weights, **options))
            own = inspect.signature(make).parameters
            of_timm = {key: options.pop(key) for key in [*options] if key not in own}
            inputs = options["in_channels"]
            with known_to_smp(
                encoder, member.arch, inputs, size, of_timm, weights is not None
            ) as name:
                return _with_all_layers(make(name, encoder_weights=None, **options))
    except BUILD_ERRORS as error:
        if isinstance(error, OSError):
            raise
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found and found[1] == "img_size" and "img_size" not in member.decoder:
            raise UserError(f"encoder: {encoder} takes images of its own size only") from error
        if found and found[1] in member.decoder:
            raise _unknown_option(member, found[1]) from None
        raise UserError(f"{member.arch} with encoder {encoder}: {one_line(error)}") from error


def _with_all_layers(net: nn.Module) -> nn.Module:
    """The network. ValueError: a layer of it has no weights."""
    bare = next((name for name, own in net.named_parameters() if own.numel() == 0), None)
    if bare is not None:
        raise ValueError(
            f"{bare} would have no weights: some of decoder_channels are too few (smp's scse "
            "attention divides each by 16)"
        )
    return net


def _from_file(
    member: MemberConfig, options: dict[str, Any], size: tuple[int, int], path: Path
) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """`_with_weights` of a local file: timm's as on the hub, an smp encoder's, or that of a whole
    smp model or snapshot."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"encoder_weights: {path}: cannot be read: {one_line(error)}") from None
    given = encoder_tensors(tensors)
    if given is tensors and is_timm_format(member.encoder, tensors):
        options = {**options, OVERLAY: {"file": str(path), "source": "timm"}}
        try:
            return _construct(member, options, size, member.encoder, "imagenet"), None
        except UserError as error:
            raise UserError(f"encoder_weights: {path}: {error}") from None
    return _construct(member, options, size, member.encoder, None), given


def _unused_parameters(
    model: SegmentationNet, member: MemberConfig, shape: tuple[int, ...], num_outputs: int
) -> set[str]:
    """Names of the parameters that no output depends on, from one pass in evaluation mode.
    UserError when the network cannot take images of `shape` (B, C, H, W)."""
    model.eval()
    if member.deep_supervision is not None:
        model.net.training = True  # this flag alone: deep heads speak, running statistics stay
    try:
        try:
            outputs, parameters = pass_on_meta(model, shape)
        except META_ERRORS:  # code that needs real numbers: the same pass again, with numbers
            parameters = dict(model.named_parameters())
            outputs = model(torch.zeros(shape))
    except BUILD_ERRORS as error:
        raise UserError(
            f"{member.arch} with encoder {member.encoder} cannot take images of "
            f"{shape[2]}x{shape[3]} pixels: {one_line(error)}"
        ) from error
    logits, image_logits, *deep = outputs
    expected = (shape[0], num_outputs, *shape[2:])
    if logits.shape != expected:
        raise UserError(
            f"{member.arch} with encoder {member.encoder} returns logits of "
            f"{logits.shape[2]}x{logits.shape[3]} pixels for images of {shape[2]}x{shape[3]}: "
            "check input.height, input.width and decoder.upsampling"
        )
    sums = [out.sum() for out in (logits, image_logits, *deep) if out is not None]
    gradients = torch.autograd.grad(
        torch.stack(sums).sum(), list(parameters.values()), allow_unused=True
    )
    return {name for name, grad in zip(parameters, gradients, strict=True) if grad is None}


def pass_on_meta(
    model: SegmentationNet, shape: tuple[int, ...]
) -> tuple[Outputs, dict[str, Tensor]]:
    """(outputs, the parameters that were used), without data: nothing is computed."""
    parameters = {
        name: torch.empty_like(p, device="meta").requires_grad_(p.requires_grad)
        for name, p in model.named_parameters()
    }
    buffers = {name: torch.empty_like(b, device="meta") for name, b in model.named_buffers()}
    images = torch.empty(shape, device="meta")
    outputs = torch.func.functional_call(model, {**parameters, **buffers}, (images,))
    return outputs, {name: p for name, p in parameters.items() if p.requires_grad}


def one_line(error: BaseException) -> str:
    """The message of an error of another package, on one line of a decent length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
