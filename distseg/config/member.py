"""The config's part on members: the network's architecture, encoder, decoder options and heads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from distseg.config.data import InputConfig
from distseg.config.fields import Count, Strict
from distseg.config.training import StageConfig
from distseg.records.errors import unknown_line

Architecture = Literal[
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
    "DPT",
    "PlainUnet",
    "ResidualUnet",
    "SegNet",
    "FCN",
    "RefineNet",
    "ComposedUnet",
]  # fmt: skip
COMPOSED = "ComposedUnet"
OWN_ENCODER = ("PlainUnet", "ResidualUnet", "SegNet")  # nets without a zoo: `encoder: none`
# What the input size must be a multiple of, where it is not 2 ** encoder_depth.
STRIDES = {
    "PlainUnet": 1,
    "ResidualUnet": 1,
    "SegNet": 1,
    "FCN": 1,
    "RefineNet": 1,
    "ComposedUnet": 1,
    "PSPNet": 8,
    "DeepLabV3": 8,
    "DeepLabV3Plus": 16,
    "PAN": 16,
}
# Choices of ComposedUnet's decoder, the default first; see docs/models.md.
PARTS = {
    "center": ("none", "fpa", "aspp_oc", "ppm"),
    "block": ("unet", "gcn", "gau"),
    "upsample": ("bilinear", "guided"),
    "attention": ("none", "scse", "cbam"),
}
FLAGS = ("hypercolumn", "stride1_stem")
NO_WEIGHTS = ("", "none", "null", "nil", "false", "~")  # what people write instead of null
# Arguments of timm's create_model and of its builders that name a file, an address or Python
# objects: a config or a snapshot from somebody else must not open or unpickle anything.
UNSAFE_OPTIONS = frozenset(
    ("cache_dir", "custom_load", "exportable", "feature_cfg", "feature_cls", "features_only",
     "file", "hf_hub_filename", "hf_hub_id", "kwargs_filter", "model_cfg", "model_name", "no_jit",
     "scriptable", "source", "state_dict", "url", "weights")
)  # fmt: skip
# Options of timm's models that a config or a snapshot may set: they shape a network, and take
# numbers or names of timm's own layers.
TIMM_OPTIONS = frozenset(
    ("act_layer", "aa_layer", "always_partition", "attn_drop_rate", "avg_down", "base_width",
     "cardinality", "class_token", "depths", "dims", "down_kernel_size", "drop_block_rate",
     "drop_path_rate", "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_dim",
     "img_size", "init_values", "kernel_sizes", "layer_scale_init_value", "ls_init_value",
     "mlp_ratio", "no_embed_class", "norm_layer", "num_heads", "patch_drop_rate", "patch_size",
     "pos_drop_rate", "pos_embed", "pre_norm", "proj_drop_rate", "qk_norm", "qkv_bias",
     "reg_tokens", "stem_type", "stem_width", "strict_img_size", "window_size")
)  # fmt: skip
UNSAFE_NAME = re.compile(r"pretrained|checkpoint|(^|_)(path|dir|file|url|uri)$", re.IGNORECASE)
SAFE_OPTIONS = frozenset(("drop_path",))  # a rate, of timm's convnext and others
UNSAFE_TEXT = re.compile(
    r"[/\\]|://|\.(pt|pth|pkl|pickle|ckpt|bin|tar|npz|npy|safetensors)$", re.IGNORECASE
)


def unsafe_options(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of decoder options that would open a file, an address or a pickle."""
    for key, value in options.items():
        name = f"{prefix}{key}"
        if _is_unsafe(str(key)):
            yield name
        elif isinstance(value, dict):
            yield from unsafe_options(value, f"{name}.")
        elif any(isinstance(v, str) and UNSAFE_TEXT.search(v) for v in _items(value)):
            yield name


def _is_unsafe(key: str) -> bool:
    if key in SAFE_OPTIONS:
        return False
    return key.lower() in UNSAFE_OPTIONS or UNSAFE_NAME.search(key) is not None


def _items(value: Any) -> list[Any]:
    """A value as a list: its items where it is one."""
    return list(value) if isinstance(value, list | tuple) else [value]


class MemberConfig(Strict):
    """One model entry; with a fold it is a member."""

    arch: Architecture = Field(
        "Unet",
        description="an architecture of segmentation-models-pytorch; FCN, RefineNet or "
        "ComposedUnet with any encoder; or PlainUnet, ResidualUnet and SegNet, nets of their own "
        "(decoder: filters, depth, dropout). See docs/models.md",
    )
    encoder: str = Field(
        "resnet34",
        description="an encoder of smp, or tu-NAME of timm; none for PlainUnet, ResidualUnet and "
        "SegNet",
    )
    encoder_weights: str | None = Field(
        None,
        description="null: random; imagenet (or another tag of the hub: needs the network); or "
        "the path of a local .safetensors file",
    )
    decoder: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the architecture as smp names them (decoder_channels, "
        "encoder_depth, ...); `attention: scse` is short for decoder_attention_type; parts of "
        "ComposedUnet: docs/models.md",
    )
    image_head: float | None = Field(
        None, ge=0, description="weight of an image-level 'not empty' head's loss; null: no head"
    )
    deep_supervision: float | None = Field(
        None,
        ge=0,
        description="ComposedUnet: weight of the loss of logits at every scale, on images that "
        "are not empty; null: no such heads",
    )
    coordinates: bool = Field(
        False, description="two more channels: each pixel's y and x, -1..1 over the canvas"
    )
    folds: list[int] | None = Field(None, description="train on these folds only; null: all")
    stages: list[StageConfig] | None = Field(None, description="instead of the common stages")
    input: InputConfig | None = Field(None, description="instead of the common input")
    batch_size: Count | None = Field(None, description="instead of train.batch_size")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="added to the config's seed")

    @field_validator("decoder")
    @classmethod
    def _opens_nothing(cls, decoder: dict[str, Any]) -> dict[str, Any]:
        """Also a snapshot's record comes through here: it may be somebody else's."""
        if unsafe := list(unsafe_options(decoder)):
            raise ValueError(
                f"{', '.join(unsafe)}: an option that would open a file, an address or a pickle is "
                "refused; weights come from encoder_weights"
            )
        return decoder

    @field_validator("encoder_weights")
    @classmethod
    def _is_not_the_word_none(cls, weights: str | None) -> str | None:
        if weights is not None and weights.strip().lower() in NO_WEIGHTS:
            raise ValueError(f"{weights!r} is a text; write null (not None) for random weights")
        return weights

    @property
    def stride(self) -> int:
        """What the sides of the input must be multiples of, in pixels."""
        depth = self.decoder.get("encoder_depth", 5)
        return STRIDES.get(self.arch, 2**depth if isinstance(depth, int) else 1)

    def mistakes(self, where: str) -> Iterator[str]:
        """What these keys cannot be together, a line each; `where` is this section's key."""
        if (self.encoder == "none") != (self.arch in OWN_ENCODER):
            other = (
                "has no encoder zoo: write encoder: none"
                if self.arch in OWN_ENCODER
                else f"needs an encoder; encoder: none is for {', '.join(OWN_ENCODER)}"
            )
            yield f"{where}.encoder: {self.encoder!r}: {self.arch} {other}"
        if self.encoder == "none" and self.encoder_weights is not None:
            yield f"{where}.encoder_weights: {self.arch} has none; write null"
        depth = self.decoder.get("encoder_depth", 5)
        if isinstance(depth, bool) or not isinstance(depth, int):
            yield f"{where}.decoder.encoder_depth: {depth!r} is no whole number"
        yield from self._part_mistakes(where)

    def freeze_mistakes(
        self, where: str, stage: StageConfig, key: str, *, built: bool
    ) -> Iterator[str]:
        """What a stage's freeze_encoder cannot be for this member, a line each. where, key: of this
        section and of it. built: the stage takes the encoder as it is built, before it has learned
        anything."""
        frozen, epochs = stage.freeze_encoder, stage.schedule.epochs
        if frozen != "always" and frozen > epochs:
            yield f"{key}: {frozen} of {epochs} epochs"
        if frozen and self.encoder == "none":
            yield f"{key}: {self.arch} ({where}) has no encoder"
        elif frozen == "always" and built and self.encoder_weights is None:
            yield (
                f"{key}: always: the encoder would stay random; give {where}.encoder_weights: "
                "imagenet, or the path of a local .safetensors file"
            )

    def _part_mistakes(self, where: str) -> Iterator[str]:
        """Parts that do not exist, or that are asked of an architecture that has none.

        smp's own decoders would pass them on to timm's encoder, which knows them no better;
        `attention` is also smp's.
        """
        for key, value in self.decoder.items():
            if key not in PARTS and key not in FLAGS:
                continue
            if self.arch != COMPOSED:
                if key != "attention":
                    yield (
                        f"{where}.decoder.{key}: {value!r}: {self.arch} has no such part; use "
                        f"arch: {COMPOSED}"
                    )
            elif key in FLAGS and not isinstance(value, bool):
                yield f"{where}.decoder.{key}: {value!r}: valid: true, false"
            elif key in PARTS and value not in PARTS[key]:
                yield unknown_line(f"{where}.decoder.{key}", key, value, PARTS[key])
        if self.arch != COMPOSED and self.deep_supervision is not None:
            yield f"{where}.deep_supervision: {self.arch} has no deep heads; use arch: {COMPOSED}"
