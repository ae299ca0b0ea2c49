"""Which encoders there are, by name, and which sizes of images they take."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import timm

from distseg.config.data import InputConfig
from distseg.config.member import MemberConfig
from distseg.functional.naming import nearest
from distseg.models.pyramid import needs_pyramid, takes_any_size
from distseg.records.errors import UserError


def encoder_names() -> list[str]:
    """All encoders: smp's, and timm's with tu- before their names."""
    ours = smp.encoders.get_encoder_names()
    return [*ours, *(f"tu-{model}" for model in timm.list_models())]


def check_encoder(name: str) -> None:
    """UserError, with the nearest name, unless smp or (as tu-NAME) timm has this encoder."""
    known = smp.encoders.get_encoder_names()
    timm_name = name.removeprefix("tu-")
    if name in known or (name.startswith("tu-") and timm.is_model(timm_name)):
        return
    if timm.is_model(name):
        raise UserError(f"encoder: {name!r} is timm's. Did you mean 'tu-{name}'?")
    every = encoder_names()
    close = nearest(name, every)
    hint = f" Did you mean {close!r}?" if close else ""
    raise UserError(
        f"encoder: unknown encoder {name!r}.{hint} Valid: an encoder of smp "
        f"({', '.join(known[:4])}, ...) or tu-NAME with a model of timm ({len(every)} in all)"
    )


def has_fixed_size(encoder: str) -> bool:
    """Whether a timm model (swin, vit, maxvit, ...) is made for one image size."""
    cfg = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
    return bool(cfg is not None and cfg.fixed_input_size)


def fits_any_size(member: MemberConfig) -> bool:
    """Whether an encoder can be shown images of other sizes than its input's."""
    encoder = member.encoder
    if not encoder.startswith("tu-") or not has_fixed_size(encoder):
        return True
    return bool(member.decoder.get("dynamic_img_size")) or (
        needs_pyramid(encoder) and takes_any_size(encoder)
    )


def check_fixed_size(member: MemberConfig, size: InputConfig, tta: Sequence[str]) -> None:
    """UserError where an encoder for images of one size would be shown others at prediction."""
    if fits_any_size(member):
        return
    where = f"encoder: {member.encoder} takes images of {size.height}x{size.width} pixels only"
    if size.fit == "crop" and size.overlap is None:
        raise UserError(f"{where}; with input.fit: crop, set input.overlap to predict in tiles")
    if scaled := [mode for mode in tta if mode.startswith("scale:")]:
        raise UserError(f"{where}; predict.tta: {scaled[0]} shows it another size")
