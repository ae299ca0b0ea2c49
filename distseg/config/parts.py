"""Options of this project's own decoders, without torch: what the config checks against."""

from __future__ import annotations

from distseg.config.training import MemberConfig
from distseg.records.errors import UserError, unknown

COMPOSED = "ComposedUnet"
# Choices of ComposedUnet's decoder, the default first; see docs/models.md.
PARTS = {
    "center": ("none", "fpa", "aspp_oc", "ppm"),
    "block": ("unet", "gcn", "gau"),
    "upsample": ("bilinear", "guided"),
    "attention": ("none", "scse", "cbam"),
}
FLAGS = ("hypercolumn", "stride1_stem")


def check_parts(member: MemberConfig, where: str) -> None:
    """UserError for parts that do not exist, or asked of an architecture that has none."""
    if member.arch != COMPOSED:
        if member.deep_supervision is not None:
            raise UserError(
                f"{where}.deep_supervision: {member.arch} has no deep heads; use arch: {COMPOSED}"
            )
        _refuse_parts(member, where)
        return
    for key, choices in PARTS.items():
        value = member.decoder.get(key, choices[0])
        if value not in choices:
            raise unknown(key, value, choices, f"{where}.decoder.{key}: ")
    for key in FLAGS:
        if not isinstance(member.decoder.get(key, False), bool):
            value = member.decoder[key]
            raise UserError(f"{where}.decoder.{key}: {value!r}: valid: true, false")


def _refuse_parts(member: MemberConfig, where: str) -> None:
    """A part asked of smp's own decoders would be sent to timm's encoder, which knows it no better.
    `attention` is also smp's."""
    for key in member.decoder:
        if key in (*PARTS, *FLAGS) and key != "attention":
            raise UserError(
                f"{where}.decoder.{key}: {member.decoder[key]!r}: {member.arch} has no such "
                f"part; use arch: {COMPOSED}"
            )
