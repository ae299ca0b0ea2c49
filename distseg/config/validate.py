"""Combinations that no single field can refuse. Each mistake is one UserError."""

from __future__ import annotations

from collections.abc import Sequence

from distseg.config.parts import check_parts
from distseg.config.schema import Config
from distseg.config.training import MemberConfig, StageConfig
from distseg.functional.loss_names import check_loss_spec
from distseg.functional.metrics import METRICS
from distseg.functional.tta_names import check_modes
from distseg.records.errors import UserError, unknown

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
ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus",
    "PAN", "UPerNet", "Segformer", "DPT", "PlainUnet", "ResidualUnet", "SegNet", "FCN",
    "RefineNet", "ComposedUnet",
)  # fmt: skip
OWN_ENCODER = ("PlainUnet", "ResidualUnet", "SegNet")  # nets without a zoo: `encoder: none`


def check_names(config: Config) -> None:
    if config.metric not in METRICS:
        raise unknown("metric", config.metric, METRICS, "metric: ")
    if config.data.depths is not None and config.input.channels < 2:
        raise UserError(
            "data.depths: the depth is a channel of its own: input.channels of 2 or more"
        )
    if config.task == "binary" and len(config.classes) != 1:
        raise UserError(f"classes: {config.classes}: task binary has one; say task: multilabel")
    if config.task == "multiclass" and len(config.classes) < 2:
        raise UserError(f"classes: {config.classes}: task multiclass needs two or more")
    if len(config.classes) > 255:
        raise UserError(f"classes: {len(config.classes)}: at most 255; 255 is the void pixel")
    check_modes(config.predict.tta)
    folds = config.data.folds
    if folds.kind in ("stratified", "group", "bootstrap") and folds.num < 2:
        raise UserError(f"data.folds.num: {folds.num}: needs 2 or more (or kind: holdout)")
    if folds.kind == "group" and not (folds.column and folds.groups):
        raise UserError("data.folds: kind group needs `column` and `groups` (a CSV with id)")
    if folds.kind == "file" and not folds.path:
        raise UserError("data.folds: kind file needs `path` (a CSV with id,fold)")
    num = 1 if folds.kind in ("holdout", "split") else folds.num
    used = [*(folds.use or []), *(f for m in config.members.values() for f in m.folds or [])]
    for fold in [*used, *(config.tune.folds if config.tune else [])]:
        if folds.kind != "file" and not 0 <= fold < num:
            raise UserError(f"fold {fold} does not exist; valid: 0..{num - 1}")
    if config.task == "multiclass" and "search" in (
        config.postprocess.threshold,
        config.postprocess.double,
    ):
        raise UserError("postprocess: multiclass takes the highest class; it has no threshold")
    rules = config.postprocess
    for key in ("min_area", "min_component", "fill_holes", "full_mask"):
        if config.task == "multiclass" and getattr(rules, key) != 0:
            raise UserError(
                f"postprocess.{key}: min_area and the like are not for task: multiclass"
            )

    if rules.exclusive and config.task != "multilabel":
        raise UserError(
            f"postprocess.exclusive: for task: multilabel; {config.task} masks never overlap"
        )


def check_member(config: Config, name: str) -> None:
    member, where = config.members[name], f"members.{name}"
    if member.arch not in ARCHITECTURES:
        raise unknown("architecture", member.arch, ARCHITECTURES, f"{where}.arch: ")
    if (member.encoder == "none") != (member.arch in OWN_ENCODER):
        other = (
            "has no encoder zoo: write encoder: none"
            if member.arch in OWN_ENCODER
            else (f"needs an encoder; encoder: none is for {', '.join(OWN_ENCODER)}")
        )
        raise UserError(f"{where}.encoder: {member.encoder!r}: {member.arch} {other}")
    if member.encoder == "none" and member.encoder_weights is not None:
        raise UserError(f"{where}.encoder_weights: {member.arch} has none; write null")
    check_parts(member, where)
    size, stages = config.input_of(name), config.stages_of(name)
    stride = _stride(member)
    for key in ("height", "width"):
        value = getattr(size, key)
        if not (member.arch == "Unet" and size.fit == "pad" and value == 101):
            _check_stride(f"input.{key}", value, stride, f"{member.arch} ({where})")
    for key, value in (("foreground", size.foreground or None), ("overlap", size.overlap)):
        if value is not None and size.fit != "crop":
            raise UserError(f"input.{key}: {value}: needs input.fit: crop, not {size.fit}")
    if member.coordinates and size.fit == "crop":
        raise UserError(
            f"{where}.coordinates: a crop does not know its place in the image, which would be "
            "predicted with coordinates of another scale; use input.fit: resize or pad"
        )
    if size.overlap is not None and (size.height % 32 or size.width % 32):
        raise UserError(
            f"input.overlap: tiles of {size.height} x {size.width} pixels: they begin at multiples "
            "of 32, and so height and width must be multiples of 32"
        )
    if size.normalize == "train" and (size.mean or size.std):
        raise UserError(
            "input.normalize: train measures mean and std; leave input.mean and .std out"
        )
    if size.pad_mode == "biharmonic" and size.random_offset:
        raise UserError(
            "input.random_offset: pad_mode: biharmonic solves for one place of the image; use "
            "reflect or edge"
        )
    if size.normalize == "median" and size.mean:
        raise UserError("input.normalize: median takes each image's own; leave input.mean out")
    moved = size.fit == "crop" or (size.fit == "pad" and size.pad_mode == "constant")
    if size.normalize == "median" and moved:
        raise UserError(
            "input.normalize: median is that of the canvas: a crop's is not its image's, and "
            "pad_mode: constant moves it; use input.fit: resize, or pad with another pad_mode"
        )
    if size.normalize == "median" and config.data.depths is not None:
        raise UserError(
            "input.normalize: median would make every depth 0 (data.depths is a constant channel)"
        )
    for channel_list, key in ((size.mean, "mean"), (size.std, "std")):
        if channel_list is not None and len(channel_list) != size.channels:
            raise UserError(f"input.{key}: {channel_list}: needs {size.channels} values")
    check_stage_list(config, name, stages, "stages")
    batch, parts = config.batch_size_of(name), config.train.accumulation
    if batch % parts:
        raise UserError(f"train.accumulation: {parts} does not divide the batch size {batch}")


def check_stage_list(config: Config, name: str, stages: Sequence[StageConfig], prefix: str) -> None:
    member, size = config.members[name], config.input_of(name)
    stride = _stride(member)
    for number, stage in enumerate(stages):
        label = f"{prefix}.{number}"
        for value in stage.input_size or ():
            if size.fit == "pad":
                raise UserError(f"{label}.input_size: needs input.fit: resize or crop")
            _check_stride(f"{label}.input_size", value, stride, f"{member.arch} (members.{name})")
        try:
            check_loss_spec(stage.loss, config.task)
        except ValueError as error:
            raise UserError(f"{label}.loss: {error}") from None
        if stage.freeze_encoder > stage.schedule.epochs:
            raise UserError(
                f"{label}.freeze_encoder: {stage.freeze_encoder} of {stage.schedule.epochs} epochs"
            )
        if stage.freeze_encoder and member.encoder == "none":
            raise UserError(
                f"{label}.freeze_encoder: {member.arch} (members.{name}) has no encoder"
            )
        cyclic = stage.schedule.kind in ("cosine", "onecycle")
        if not cyclic and stage.schedule.cycles > 1:
            raise UserError(
                f"{label}.schedule.cycles: {stage.schedule.cycles}: kind "
                f"{stage.schedule.kind} has no cycles. Did you mean kind: cosine?"
            )
        if stage.keep == "cycles" and not cyclic:
            raise UserError(
                f"{label}.keep: cycles: kind {stage.schedule.kind} has no cycles; valid: last, "
                "best, top_k, or schedule.kind: cosine"
            )
        if stage.keep == "top_k" and stage.top_k > stage.schedule.epochs:
            raise UserError(
                f"{label}.top_k: {stage.top_k} snapshots of {stage.schedule.epochs} epochs"
            )


def check_tune(config: Config) -> None:
    """What can be said of a sweep without trying its values: orchestration/space.py does that."""
    if config.tune is None:
        return
    space = config.tune.space
    for name in config.tune.members or []:
        if name not in config.members:
            raise unknown("member", name, config.members, "tune.members: ")
    for number, (path, entry) in enumerate(space.items()):
        above = list(space)[:number]
        for key, value in entry.when.items():
            where = f"tune.space.{path}.when: "
            if key not in above:
                raise unknown("key above it", key, above, where)
            known = space[key].values()
            if known is not None and value not in known:
                raise unknown("value", value, known, f"{where}{key}: ")
        if config.tune.search == "grid" and entry.values() is None:
            raise UserError(
                f"tune.space.{path}: {entry.kind} has no end of values; a grid takes choice, "
                "randint or quniform"
            )


def _stride(member: MemberConfig) -> int:
    return STRIDES.get(member.arch, 2 ** int(member.decoder.get("encoder_depth", 5)))


def _check_stride(key: str, value: int, stride: int, who: str) -> None:
    if value % stride or value < stride:
        near = max(stride, round(value / stride) * stride)
        raise UserError(
            f"{key}: {value} is not a multiple of {stride}, which {who} needs. Did you mean {near}?"
        )
