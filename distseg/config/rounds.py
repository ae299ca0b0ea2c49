"""What a round cannot be with the rest of a config. Each mistake is one UserError."""

from __future__ import annotations

from distseg.config.schema import Config
from distseg.config.training import RoundConfig
from distseg.config.validate import check_stage_list
from distseg.functional.rules import RANKED_BY, check_rules
from distseg.records.errors import UserError, unknown


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
            if stage.watches_score:
                chosen = stage.keep in ("best", "top_k")
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
        check_stage_list(config, name, stages, f"{where}.stages")
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
