"""Combinations that no single field can refuse. Each mistake is one UserError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distseg.config_parts import check_parts
from distseg.errors import UserError, unknown
from distseg.functional.loss_names import check_loss_spec
from distseg.functional.metrics import METRICS
from distseg.functional.rules import RANKED_BY, check_rules
from distseg.functional.tta_names import check_modes

if TYPE_CHECKING:
    from distseg.config import Config, MemberConfig, RoundConfig, StageConfig

# What the input size must be a multiple of, at the default encoder depth 5 (PITFALLS: smp).
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
# Optimizers that update each weight by itself, and so also shards of flattened weights (measured
# against whole weights: tests/test_zero.py). Those that look at layers cannot, nor those that count
# their steps per group (Adan, Lookahead): ZeRO-3 calls an optimizer once for each group.
ZERO_OPTIMIZERS = (
    "adamw", "adam", "sgd", "adabelief", "adadelta", "adamax", "adopt", "adoptw", "asgd", "laprop",
    "lion", "madgrad", "nadam", "nadamw", "radam", "rmsprop", "rprop", "sgdw",
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


def check_rounds(config: Config) -> None:
    if config.rounds[0].kind != "supervised":
        raise UserError(
            f"rounds.0.kind: {config.rounds[0].kind}: the first round is supervised: it makes the "
            "teachers"
        )
    for number, entry in enumerate(config.rounds):
        _check_round(config, entry, number)
        for name in config.members:
            _check_stages(config, name, number)


def _check_round(config: Config, entry: RoundConfig, number: int) -> None:
    where = f"rounds.{number}"
    valid = {"supervised": (), "pseudo_label": ("fold", "all")}.get(
        entry.kind, ("pair", "oof", "all")
    )
    if entry.teacher is not None and entry.teacher not in valid:
        raise UserError(
            f"{where}.teacher: {entry.teacher!r} is not valid for {entry.kind}; valid: "
            f"{', '.join(valid) or 'none'}"
        )
    for name in entry.members or []:
        if name not in config.members:
            raise unknown("member", name, config.members, f"{where}.members: ")
    try:
        check_rules(entry.checks, labeled=entry.kind == "self_distill")
    except ValueError as error:
        raise UserError(f"{where}.rules: {error}") from None
    if "min_head_certainty" in entry.checks and any(
        m.image_head is None for m in config.members.values()
    ):
        raise UserError(f"{where}.rules.min_head_certainty: every member needs an image_head")
    if entry.rank_by not in RANKED_BY:
        raise unknown("ranking", entry.rank_by, RANKED_BY, f"{where}.rank_by: ")
    if number == 0 and entry.hard_mining:
        raise UserError("rounds.0.hard_mining: there is no round before whose scores it could use")
    if number == 0 and entry.stages is not None:
        raise UserError("rounds.0.stages: write them as the config's own `stages`")
    for key, (kinds, default) in _unused(entry).items():
        if entry.kind not in kinds and getattr(entry, key) != default:
            raise UserError(
                f"{where}.{key}: {entry.kind} does not use it; {' and '.join(kinds)} do"
            )
    if entry.makes_soft and config.task == "multiclass":
        raise UserError(f"{where}: soft targets need task: binary or multilabel")
    if entry.kind == "supervised":
        return
    folds = config.data.folds
    if entry.judges_labeled and folds.kind in ("holdout", "split"):
        raise UserError(
            f"{where}: {entry.kind} judges the train rows out of fold, a hold-out has no folds; "
            "use data.folds.kind: stratified"
        )
    if entry.judge == "pair" and folds.kind != "file" and folds.num < 3:
        raise UserError(f"{where}.teacher: pair needs data.folds.num of 3 or more, not {folds.num}")
    if entry.judge in ("pair", "fold"):
        _check_blind(config, number)


def _unused(entry: RoundConfig) -> dict[str, tuple[tuple[str, ...], object]]:
    """Keys of a round by the kinds that use them, with their defaults."""
    judged, made = ("self_distill",), ("pseudo_label", "distill")
    used = {
        **dict.fromkeys(("empty", "action", "weight"), judged),
        **dict.fromkeys(("pseudo_weight", "top", "top_share", "rank_by", "match_strata"), made),
        "targets": ("self_distill", "pseudo_label"),
        "soft_weight": ("self_distill", "distill"),
        "temperature": ("self_distill", *made),
        "rules": ("self_distill", *made),
    }
    fields = type(entry).model_fields
    return {key: (kinds, fields[key].default) for key, kinds in used.items()}


def _check_blind(config: Config, number: int) -> None:
    """A teacher of fold k must not have been chosen by its score on fold k."""
    for name in config.members:
        for stage in [s for before in range(number) for s in config.stages_of(name, before)]:
            chosen = stage.keep in ("best", "top_k")
            watched = stage.schedule.kind == "plateau" and stage.schedule.metric != "loss"
            if chosen or watched:
                key = f"keep: {stage.keep}" if chosen else "schedule.kind: plateau"
                raise UserError(
                    f"rounds.{number}: {key} chooses by the validation fold, whose labels the "
                    "teachers would carry to their students. Use keep: last or cycles and a "
                    "schedule that does not watch the score; or teacher: oof or all, whose scores "
                    "say so"
                )


def _check_stages(config: Config, name: str, number: int) -> None:
    """What a round asks of a member's stages."""
    entry, where = config.rounds[number], f"rounds.{number}"
    stages = config.stages_of(name, number)
    if entry.mix == "pretrain_then_finetune" and len(stages) < 2:
        raise UserError(f"{where}.mix: pretrain_then_finetune needs two stages, there is one")
    if number and entry.stages:
        _check_stage_list(config, name, stages, f"{where}.stages")
    for place, stage in enumerate(stages):
        if entry.hard_mining and stage.positive_share:
            raise UserError(
                f"{where}.hard_mining: stage {place} of {name} draws by positive_share; use one"
            )
    batch = config.batch_size_of(name)
    if entry.mix == "ratio" and abs(entry.share * batch - round(entry.share * batch)) > 1e-6:
        raise UserError(
            f"{where}.share: {entry.share} of a batch of {batch} is {entry.share * batch:g} images"
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
    for channel_list, key in ((size.mean, "mean"), (size.std, "std")):
        if channel_list is not None and len(channel_list) != size.channels:
            raise UserError(f"input.{key}: {channel_list}: needs {size.channels} values")
    _check_stage_list(config, name, stages, "stages")
    batch, parts = config.batch_size_of(name), config.train.accumulation
    if batch % parts:
        raise UserError(f"train.accumulation: {parts} does not divide the batch size {batch}")


def _check_stage_list(
    config: Config, name: str, stages: Sequence[StageConfig], prefix: str
) -> None:
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


def check_zero(config: Config) -> None:
    """What ZeRO cannot do, before anything is started (docs/deepspeed.md says why)."""
    compute, where = config.compute, f"compute.zero: {config.compute.zero}"
    if compute.offload and compute.zero < 2:
        raise UserError(f"compute.offload: true needs compute.zero: 2 or 3, not {compute.zero}")
    if not compute.zero:
        return
    if compute.zero == 3 and config.train.ema_decay is not None:
        raise UserError(
            f"{where}: train.ema_decay: {config.train.ema_decay}: the average of every step needs "
            "whole weights, which stage 3 divides; use compute.zero: 2, or stages[].swa"
        )
    if compute.compile:
        raise UserError(f"{where}: compute.compile: true: its hooks are not compiled; write false")
    if compute.precision == "fp16":
        raise UserError(
            f"{where}: compute.precision: fp16 would make BatchNorm's statistics float16; valid: "
            "auto, bf16, fp32"
        )
    for name in config.members:
        for key in range(len(config.rounds)):
            for stage in config.stages_of(name, key):
                _check_zero_optimizer(stage.optimizer.name, where)
                if stage.freeze_encoder:
                    raise UserError(
                        f"{where}: stages[].freeze_encoder: {stage.freeze_encoder}: gradients are "
                        "divided before a part of them could be left out; write 0"
                    )


def _check_zero_optimizer(name: str, where: str) -> None:
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in ZERO_OPTIMIZERS:
        raise UserError(
            f"{where}: optimizer.name: {name!r} does not work on weights that are cut into flat "
            f"pieces. Valid: {', '.join(ZERO_OPTIMIZERS)}"
        )
