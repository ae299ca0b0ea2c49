"""An encoder's weights: their name on the hub, and those of a file into a model's encoder."""

from __future__ import annotations

import re

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from distseg.records.errors import UserError, unknown


def hub_name(encoder: str, tag: str) -> tuple[str, str]:
    """(encoder, tag) as smp takes them; timm's tag is part of the encoder's name.
    UserError: there are no such weights."""
    if not encoder.startswith("tu-"):
        settings = smp.encoders.encoders[encoder]["pretrained_settings"]
        if tag not in settings:
            raise unknown(f"weights of {encoder}", tag, settings, "encoder_weights: ")
        return encoder, tag
    name = encoder.removeprefix("tu-")
    if tag != "imagenet" and "." not in name:
        name = f"{name}.{tag}"
    if not timm.is_model_pretrained(name):
        arch = name.partition(".")[0]
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{arch}.*")]
        raise unknown(f"weights of tu-{arch}", tag, ["imagenet", *tags], "encoder_weights: ")
    return f"tu-{name}", "imagenet"


def encoder_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the encoder, by its own names, where a file is that of a whole smp model or a
    snapshot; else `tensors` itself."""
    whole = re.compile(r"^(net\.)?encoder\.")
    found = {whole.sub("", name): t for name, t in tensors.items() if whole.match(name)}
    return found or tensors


def is_timm_format(encoder: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a file of an encoder holds a timm model as it is on the hub. timm reads that best:
    it renames, resizes position tables, adapts channels."""
    return encoder.startswith("tu-") and not any(n.startswith("model.") for n in tensors)


def load_encoder(encoder: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy weights by name. UserError as `fitting`."""
    encoder.load_state_dict({**encoder.state_dict(), **fitting(encoder, tensors, where)})


def fitting(encoder: nn.Module, tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors that the encoder takes, by name; entries that it lacks (a classifier) are left
    out. They may lie on the device "meta". UserError says how many fit, when it is not all."""
    own = encoder.state_dict()
    fitted: dict[str, Tensor] = {}
    for name, tensor in own.items():
        given = tensors.get(name)
        if given is not None and given.shape != tensor.shape:
            given = _adapt_channels(given, tensor.shape)
        if given is not None:
            fitted[name] = given
    lacking = [n for n in own if n not in fitted and not n.endswith("num_batches_tracked")]
    if lacking:
        misshapen = sum(name in tensors for name in lacking)
        raise UserError(
            f"{where}: the file does not fit the encoder: {len(fitted)} of {len(own)} entries "
            f"match, {len(lacking) - misshapen} are missing, {misshapen} have another shape "
            f"(first: {lacking[0]}); the file has {len(tensors)} entries"
        )
    return fitted


def _adapt_channels(weight: Tensor, shape: torch.Size) -> Tensor | None:
    """A first convolution's weight (O, 3, h, w) for another number of input channels, as smp
    and timm do it: summed for one channel, else repeated and scaled. None if that is not it."""
    if weight.ndim != 4 or weight.shape[1] != 3 or (*weight.shape[:1], *weight.shape[2:]) != (
        *shape[:1], *shape[2:]
    ):  # fmt: skip
        return None
    if shape[1] == 1:
        return weight.sum(1, keepdim=True)
    index = torch.arange(shape[1]) % 3
    return weight[:, index] * (3 / shape[1])
