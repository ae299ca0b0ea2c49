"""Combinations that no single field can refuse. Each mistake is one UserError."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distseg.errors import UserError, unknown
from distseg.functional.loss_names import check_loss_spec
from distseg.functional.metrics import METRICS
from distseg.functional.tta_names import check_modes

if TYPE_CHECKING:
    from distseg.config import Config

# What the input size must be a multiple of, at the default encoder depth 5 (PITFALLS: smp).
STRIDES = {"PSPNet": 8, "DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}
ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus",
    "PAN", "UPerNet", "Segformer", "DPT",
)  # fmt: skip


def check_names(config: Config) -> None:
    if config.metric not in METRICS:
        raise unknown("metric", config.metric, METRICS, "metric: ")
    if config.task == "binary" and len(config.classes) != 1:
        raise UserError(f"classes: {config.classes}: task binary has one; say task: multilabel")
    if config.task == "multiclass" and len(config.classes) < 2:
        raise UserError(f"classes: {config.classes}: task multiclass needs two or more")
    check_modes(config.predict.tta)
    folds = config.data.folds
    if folds.kind in ("stratified", "group", "bootstrap") and folds.num < 2:
        raise UserError(f"data.folds.num: {folds.num}: needs 2 or more (or kind: holdout)")
    if folds.kind == "group" and not (folds.column and folds.groups):
        raise UserError("data.folds: kind group needs `column` and `groups` (a CSV with id)")
    if folds.kind == "file" and not folds.path:
        raise UserError("data.folds: kind file needs `path` (a CSV with id,fold)")
    num = 1 if folds.kind == "holdout" else folds.num
    for fold in [*(folds.use or []), *(f for m in config.members.values() for f in m.folds or [])]:
        if folds.kind != "file" and not 0 <= fold < num:
            raise UserError(f"fold {fold} does not exist; valid: 0..{num - 1}")
    if config.task == "multiclass" and "search" in (
        config.postprocess.threshold,
        config.postprocess.double,
    ):
        raise UserError("postprocess: multiclass takes the highest class; it has no threshold")


def check_member(config: Config, name: str) -> None:
    member, where = config.members[name], f"members.{name}"
    if member.arch not in ARCHITECTURES:
        raise unknown("architecture", member.arch, ARCHITECTURES, f"{where}.arch: ")
    size, stages = config.input_of(name), config.stages_of(name)
    depth = int(member.decoder.get("encoder_depth", 5))
    stride = STRIDES.get(member.arch, 2**depth)
    for key in ("height", "width"):
        value = getattr(size, key)
        if not (member.arch == "Unet" and size.fit == "pad" and value == 101):
            _check_stride(f"input.{key}", value, stride, f"{member.arch} ({where})")
    for number, stage in enumerate(stages):
        for value in stage.input_size or ():
            if size.fit == "pad":
                raise UserError(f"stages.{number}.input_size: needs input.fit: resize or crop")
            _check_stride(f"stages.{number}.input_size", value, stride, f"{member.arch} ({where})")
    for channel_list, key in ((size.mean, "mean"), (size.std, "std")):
        if channel_list is not None and len(channel_list) != size.channels:
            raise UserError(f"input.{key}: {channel_list}: needs {size.channels} values")
    for number, stage in enumerate(stages):
        label = f"stages.{number}"
        try:
            check_loss_spec(stage.loss, config.task)
        except ValueError as error:
            raise UserError(f"{label}.loss: {error}") from None
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
    batch, parts = config.batch_size_of(name), config.train.accumulation
    if batch % parts:
        raise UserError(f"train.accumulation: {parts} does not divide the batch size {batch}")


def _check_stride(key: str, value: int, stride: int, who: str) -> None:
    if value % stride or value < stride:
        near = max(stride, round(value / stride) * stride)
        raise UserError(
            f"{key}: {value} is not a multiple of {stride}, which {who} needs. Did you mean {near}?"
        )
