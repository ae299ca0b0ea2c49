"""Members that between them use every part, small enough for two ranks on two cores."""

from __future__ import annotations

from typing import Any

from distseg.config.member import PARTS

SMALL: dict[str, Any] = {"encoder_depth": 4, "decoder_channels": [32, 16, 16, 8]}


def composed(**entry: Any) -> dict[str, Any]:
    decoder = {**SMALL, **entry.pop("decoder", {})}
    return {"arch": "ComposedUnet", "encoder": "resnet18", "decoder": decoder, **entry}


MEMBERS: dict[str, dict[str, Any]] = {
    "fcn": {"arch": "FCN", "encoder": "resnet18", "image_head": 0.0},
    "fcn8s": {"arch": "FCN", "encoder": "resnet18", "decoder": {"output_stride": 32, "skips": 2}},
    "refinenet": {
        "arch": "RefineNet", "encoder": "resnet18", "decoder": {"width": 16}, "image_head": 0.0
    },
    "segnet": {
        "arch": "SegNet", "encoder": "none", "decoder": {"filters": 4}, "image_head": 0.0
    },
    "plain_unet": {
        "arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "dropout": 0.1},
        "image_head": 0.0,
    },
    "residual_unet": {
        "arch": "ResidualUnet", "encoder": "none", "decoder": {"filters": 4}, "image_head": 0.0
    },
    **{
        f"{key}_{choice}": composed(decoder={key: choice})
        for key, choices in PARTS.items()
        for choice in choices[1:]
    },
    "all_at_once": composed(
        decoder={
            "center": "fpa", "block": "gcn", "upsample": "guided", "attention": "scse",
            "hypercolumn": True, "stride1_stem": True, "dropout": 0.1,
        },
        image_head=0.0,
        deep_supervision=0.0,
    ),
    "deep_without_head": composed(deep_supervision=0.1, decoder={"hypercolumn": True}),
}  # fmt: skip
