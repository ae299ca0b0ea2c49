"""What no single field of a config can refuse: every check that crosses fields.

Each check yields one line for each mistake, which begins with the key. Nothing here opens a file:
`run/check.py` looks at data, models and this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distseg.config.data import FoldsConfig
from distseg.config.device import device_mistakes
from distseg.config.in_vain import vain_mistakes
from distseg.config.kinds import kind_mistakes
from distseg.config.labels import label_mistakes
from distseg.config.member import MemberConfig
from distseg.config.rounds import RoundConfig
from distseg.config.schema import Config
from distseg.config.training import StageConfig
from distseg.config.zero import zero_mistakes
from distseg.functional.loss_names import LOSS_TASKS, losses_for
from distseg.functional.rules import rules_for
from distseg.records.errors import unknown_line


def mistakes(config: Config) -> list[str]:
    """Every mistake that crosses fields, one line each, without repetitions."""
    found = [
        *_classes(config),
        *label_mistakes(config),
        *kind_mistakes(config),
        *_folds(config),
        *_postprocess(config),
        *_members(config),
        *_rounds(config),
        *_tune(config),
        *filter(None, [share_problem(config.compute.gpus_per_job)]),
        *zero_mistakes(config),
        *device_mistakes(config),
        *vain_mistakes(config),
    ]
    return list(dict.fromkeys(found))


# -- data and classes -----------------------------------------------------------------------------


def _classes(config: Config) -> Iterator[str]:
    num, names = len(config.classes), ", ".join(config.classes)
    if config.data.depths is not None and config.input.channels < 2:
        yield "data.depths: the depth is a channel of its own: input.channels of 2 or more"
    if config.task == "binary" and num != 1:
        yield f"classes: {names}: task binary has one; say task: multilabel"
    if config.task == "multiclass" and num < 2:
        yield f"classes: {names}: task multiclass needs two or more"
    if num > 255:
        yield f"classes: {num}: at most 255; 255 is the void pixel"
    for name in config.members:
        channels = config.input_of(name).channels
        if channels != config.input.channels:
            yield (
                f"members.{name}.input.channels: {channels}: all members read one cache of "
                f"input.channels {config.input.channels}"
            )


def _folds(config: Config) -> Iterator[str]:
    folds = config.data.folds
    num = num_folds(folds)
    if num is None:
        return
    wrong = [(where, fold) for where, fold in named_folds(config) if not 0 <= fold < num]
    for where, fold in wrong:
        yield f"{where}: fold {fold} does not exist; valid: 0..{num - 1}"
    if not wrong and not config.planned_members(range(num)):
        yield "data.folds.use: together with members.NAME.folds it leaves no fold to train"


def num_folds(folds: FoldsConfig) -> int | None:
    """Folds that are validated; None where a file says it."""
    if folds.kind == "file":
        return None
    return 1 if folds.kind in ("holdout", "split") else folds.num


def named_folds(config: Config, *, sweep: bool = False) -> Iterator[tuple[str, int]]:
    """(key, fold) of every fold that the config names; sweep: in its `tune` section too."""
    yield from (("data.folds.use", fold) for fold in config.data.folds.use or [])
    for name, member in config.members.items():
        yield from ((f"members.{name}.folds", fold) for fold in member.folds or [])
    if sweep and config.tune is not None:
        yield from (("tune.folds", fold) for fold in config.tune.folds)


def _postprocess(config: Config) -> Iterator[str]:
    rules = config.postprocess
    if config.task == "multiclass" and "search" in (rules.threshold, rules.double):
        yield "postprocess: multiclass takes the highest class; it has no threshold"
    for key in ("min_area", "min_component", "fill_holes", "full_mask"):
        if config.task == "multiclass" and getattr(rules, key) != 0:
            yield f"postprocess.{key}: min_area and the like are not for task: multiclass"
    if rules.gate == "search" and config.task == "multiclass":
        yield "postprocess.gate: multiclass takes the highest class; no class can be emptied"
    if rules.exclusive and config.task != "multilabel":
        yield f"postprocess.exclusive: for task: multilabel; {config.task} masks never overlap"


# -- members and stages ---------------------------------------------------------------------------


def _members(config: Config) -> Iterator[str]:
    for name, member in config.members.items():
        where, size = f"members.{name}", config.input_of(name)
        input_key = "input" if member.input is None else f"{where}.input"
        yield from member.mistakes(where)
        yield from size.mistakes(input_key)
        for key in ("height", "width"):
            value = getattr(size, key)
            if not (member.arch == "Unet" and size.fit == "pad" and value == 101):
                yield from _multiple(f"{input_key}.{key}", value, member, where)
        if member.coordinates and size.fit == "crop":
            yield (
                f"{where}.coordinates: a crop does not know its place in the image, which would be "
                "predicted with coordinates of another scale; use input.fit: resize or pad"
            )
        if size.normalize == "median" and config.data.depths is not None:
            yield (
                f"{input_key}.normalize: median would make every depth 0 (data.depths is a "
                "constant channel)"
            )
        prefix = "stages" if member.stages is None else f"{where}.stages"
        starts = any(r.stages is None and r.init != "previous" for r in config.rounds)
        yield from _stages(config, name, member.stages or config.stages, prefix, starts=starts)
        batch, micro_batches = config.batch_size_of(name), config.train.accumulation
        if batch % micro_batches:
            yield f"train.accumulation: {micro_batches} does not divide the batch size {batch}"


def _multiple(key: str, value: int, member: MemberConfig, where: str) -> Iterator[str]:
    stride = member.stride
    if value % stride or value < stride:
        near = max(stride, round(value / stride) * stride)
        yield (
            f"{key}: {value} is not a multiple of {stride}, which {member.arch} ({where}) needs. "
            f"Did you mean {near}?"
        )


def _stages(
    config: Config, name: str, stages: Sequence[StageConfig], prefix: str, *, starts: bool = True
) -> Iterator[str]:
    """starts: the first stage takes the encoder as it is built, not one that has learned."""
    member, size = config.members[name], config.input_of(name)
    for number, stage in enumerate(stages):
        label = f"{prefix}.{number}"
        for value in stage.input_size or ():
            if size.fit == "pad":
                yield f"{label}.input_size: needs input.fit: resize or crop"
            yield from _multiple(f"{label}.input_size", value, member, f"members.{name}")
        yield from _loss(config, stage, f"{label}.loss")
        yield from stage.mistakes(label)
        key, built = f"{label}.freeze_encoder", starts and number == 0
        yield from member.freeze_mistakes(f"members.{name}", stage, key, built=built)


def _loss(config: Config, stage: StageConfig, label: str) -> Iterator[str]:
    for term in stage.loss.terms:
        if config.task not in LOSS_TASKS[term]:
            valid = ", ".join(losses_for(config.task))
            yield f"{label}.{term}: is not for task: {config.task}; valid: {valid}"
    for term, key in (
        ("bce", "pos_weight"),
        ("focal", "alpha"),
        ("cross_entropy", "class_weights"),
    ):
        values = getattr(stage.loss.terms.get(term), key, None)
        if isinstance(values, list) and len(values) != config.num_outputs:
            yield (
                f"{label}.{term}.{key}: {values}: needs one number for each of "
                f"{config.num_outputs} classes"
            )
    focal = stage.loss.focal
    if focal is not None and config.task == "multiclass" and isinstance(focal.alpha, float):
        yield f"{label}.focal.alpha: {focal.alpha:g}: must be a list for task: multiclass"


# -- rounds ---------------------------------------------------------------------------------------


def _rounds(config: Config) -> Iterator[str]:
    first = config.rounds[0]
    if first.kind != "supervised":
        yield (f"rounds.0.kind: {first.kind}: the first round is supervised: it makes the teachers")
    if first.hard_mining:
        yield "rounds.0.hard_mining: there is no round before whose scores it could use"
    if first.stages is not None:
        yield "rounds.0.stages: write them as the config's own `stages`"
    for number, round_config in enumerate(config.rounds):
        where = f"rounds.{number}"
        yield from round_config.mistakes(where)
        yield from _round_rules(config, round_config, where)
        for name in round_config.members or []:
            if name not in config.members:
                yield unknown_line(f"{where}.members", "member", name, list(config.members))
        if round_config.has_teachers:
            yield from _teachers(config, round_config, number)
        for name in config.members:
            yield from _round_stages(config, name, number)


def _round_rules(config: Config, round_config: RoundConfig, where: str) -> Iterator[str]:
    valid = rules_for(labeled=round_config.kind == "self_distill")
    for rule in round_config.checks:
        if rule not in valid:
            yield (
                f"{where}.rules.{rule}: {round_config.kind} cannot use it; valid: "
                f"{', '.join(valid)}"
            )
    heads = all(member.image_head is not None for member in config.members.values())
    if "min_head_certainty" in round_config.checks and not heads:
        yield f"{where}.rules.min_head_certainty: every member needs an image_head"


def _teachers(config: Config, round_config: RoundConfig, number: int) -> Iterator[str]:
    where, folds = f"rounds.{number}", config.data.folds
    out_of_fold = round_config.judges_labeled and round_config.judge != "fold"
    if out_of_fold and folds.kind in ("holdout", "split"):
        yield (
            f"{where}: {round_config.kind} judges the train rows out of fold, a hold-out has no "
            "folds; use data.folds.kind: stratified"
        )
    elif round_config.judge == "pair" and folds.kind != "file" and folds.num < 3:
        yield f"{where}.teacher: pair needs data.folds.num of 3 or more, not {folds.num}"
    if round_config.judge in ("pair", "fold"):
        yield from _blind(config, number)


def _blind(config: Config, number: int) -> Iterator[str]:
    """A teacher of fold k must not have been chosen by its score on fold k."""
    for name in config.members:
        for stage in [s for before in range(number) for s in config.stages_of(name, before)]:
            if keys := config.watches_fold(stage):
                yield (
                    f"rounds.{number}: {keys[0]} chooses by the validation fold, whose labels the "
                    "teachers would carry to their students. Use train.inner_share: .1, whose rows "
                    "choose instead; or keep: last or cycles, and neither a schedule nor "
                    "early_stopping that watches the score; or teacher: oof or all, whose scores "
                    "say so"
                )


def _round_stages(config: Config, name: str, number: int) -> Iterator[str]:
    """What a round asks of a member's stages."""
    round_config, where = config.rounds[number], f"rounds.{number}"
    stages = config.stages_of(name, number)
    if round_config.mix == "pretrain_then_finetune" and len(stages) < 2:
        yield f"{where}.mix: pretrain_then_finetune needs two stages, there is one"
    if round_config.stages:
        starts = round_config.init != "previous"
        yield from _stages(config, name, stages, f"{where}.stages", starts=starts)
    for place, stage in enumerate(stages):
        if round_config.hard_mining and stage.positive_share:
            yield f"{where}.hard_mining: stage {place} of {name} draws by positive_share; use one"
        if config.rows_of_stage(name, number, place) == "pseudo" and not config.has_pseudo(number):
            key = "stages" if round_config.mix == "concat" or stage.rows else f"{where}.mix"
            yield (
                f"{key}{f'.{place}.rows' if key == 'stages' else ''}: pseudo: {name} in round "
                f"{number}, {round_config.kind}, has no pseudo-labels to train on"
            )
    wanted = round_config.share * config.batch_size_of(name)
    if round_config.mixes and abs(wanted - round(wanted)) > 1e-6:
        yield (
            f"{where}.share: {round_config.share} of a batch of {config.batch_size_of(name)} is "
            f"{wanted:g} images"
        )


# -- sweeps ---------------------------------------------------------------------------------------


def _tune(config: Config) -> Iterator[str]:
    """What can be said of a sweep without trying its values: tune/space.py does that."""
    if config.tune is None:
        return
    space = config.tune.space
    for name in config.tune.members or []:
        if name not in config.members:
            yield unknown_line("tune.members", "member", name, list(config.members))
    for number, (path, distribution) in enumerate(space.items()):
        above = list(space)[:number]
        for key, value in distribution.when.items():
            where = f"tune.space.{path}.when"
            if key not in above:
                yield unknown_line(where, "key above it", key, above)
                continue
            known = space[key].values()
            if known is not None and value not in known:
                yield unknown_line(f"{where}: {key}", "value", value, known)
        if config.tune.search == "grid" and distribution.values() is None:
            yield (
                f"tune.space.{path}: {distribution.kind} has no end of values; a grid takes "
                "choice, randint or quniform"
            )


def share_problem(gpus: float) -> str:
    """What is wrong with the GPUs of a job; "" where nothing is."""
    if gpus > 1 and gpus != int(gpus):
        return f"compute.gpus_per_job: {gpus}: valid: a whole number, or less than 1 to share a GPU"
    return ""
