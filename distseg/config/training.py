"""The config's part on training: optimizers, schedules, stages, rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from distseg.config.augment import AugmentConfig
from distseg.config.fields import (
    NO_BOOL,
    Chance,
    Count,
    Name,
    Positive,
    Probability,
    Sparse,
    Strict,
)
from distseg.config.losses import LossConfig

CYCLIC = ("cosine", "onecycle")  # kinds of schedules with cycles


class OptimizerConfig(Strict):
    """How weights are updated."""

    name: str = Field("adamw", description="an optimizer of torch or timm; `lookahead_NAME` wraps")
    lr: Positive = Field(1e-3, description="learning rate at its highest")
    encoder_lr: Positive | None = Field(None, description="of the encoder; null: lr")
    weight_decay: float = Field(0.01, ge=0, description="not applied to norms and biases")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the optimizer")


class ScheduleConfig(Strict):
    """The learning rate over the steps of a stage."""

    kind: Literal["cosine", "onecycle", "plateau", "constant", "noam"] = Field(
        "cosine",
        description="cosine: restarts at each cycle; plateau: lr falls when it stalls; noam: up "
        "over the warm-up, then down with the root of the step",
    )
    cycles: int = Field(
        1, ge=1, le=10_000, description="number of cycles; plateau and constant have one"
    )
    epochs_per_cycle: Count = Field(10, description="epochs of one cycle")
    warmup_epochs: float = Field(0.0, ge=0, description="linear warm-up of the first cycle")
    min_lr_scale: float = Field(0.01, ge=0, lt=1, description="lowest lr, as a share of lr")
    restart_decay: float = Field(1.0, gt=0, le=1, description="factor of the peak at each restart")
    metric: Literal["score", "positives", "negatives", "iou", "loss"] = Field(
        "score", description="plateau: the key of metrics.jsonl to watch"
    )
    mode: Literal["max", "min"] = Field("max", description="plateau: which way is better")
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: lr is multiplied by it")
    patience: int = Field(3, ge=0, description="plateau: evaluations without a gain")

    @property
    def epochs(self) -> int:
        return self.cycles * self.epochs_per_cycle


class StageConfig(Strict):
    """One stage of training; it starts from the previous one's weights, within the same fold."""

    loss: LossConfig = Field(
        LossConfig.model_validate({"bce": 1.0}), description="name: weight, or {weight, options}"
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="how weights are updated")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="the learning rate over time")
    freeze_encoder: int = Field(
        0, ge=0, description="first epochs in which the encoder (and its running statistics) stay"
    )
    positive_share: tuple[Probability, Probability] | None = Field(
        None,
        description="share of an epoch's images that hold an object, in the stage's first and last "
        "epoch; in between it slides. null: as the data has it",
    )
    augment: list[AugmentConfig] | None = Field(None, description="instead of the common list")
    input_size: tuple[int, int] | None = Field(
        None,
        description="fit resize or crop: train this stage at (height, width), as in progressive "
        "resizing; evaluation and prediction stay at the member's input",
    )
    rows: Literal["all", "labeled", "pseudo"] | None = Field(
        None, description="rows that this stage trains on; null: as the round's `mix` says"
    )
    keep: Literal["last", "cycles", "best", "top_k"] = Field(
        "last",
        description="snapshots: the end, each cycle's end; or the best or k best by the score of "
        "the fold, which is then called indirect",
    )
    top_k: Count = Field(3, description="keep: top_k: how many")
    swa: bool = Field(
        False, description="replace the kept snapshots by the average of their weights"
    )

    @property
    def watches_score(self) -> bool:
        """Whether the weights are chosen by, or the learning rate follows, the validation score."""
        watched = self.schedule.kind == "plateau" and self.schedule.metric != "loss"
        return watched or self.keep in ("best", "top_k")

    @property
    def can_go_on(self) -> bool:
        """Whether a longer stage begins as this one does, so that it can go on where this one ends:
        its rates and rows do not depend on its length, and its snapshots are still there."""
        slides = self.positive_share is not None and len(set(self.positive_share)) > 1
        cyclic = self.schedule.kind in CYCLIC
        steady = cyclic or (self.schedule.kind in ("constant", "noam") and self.keep == "last")
        return steady and not slides and not self.swa

    def mistakes(self, where: str) -> Iterator[str]:
        """What these keys cannot be together, a line each; `where` is this stage's key."""
        schedule = self.schedule
        cyclic = schedule.kind in CYCLIC
        if not cyclic and schedule.cycles > 1:
            yield (
                f"{where}.schedule.cycles: {schedule.cycles}: kind {schedule.kind} has no cycles. "
                "Did you mean kind: cosine?"
            )
        if self.keep == "cycles" and not cyclic:
            yield (
                f"{where}.keep: cycles: kind {schedule.kind} has no cycles; valid: last, best, "
                "top_k, or schedule.kind: cosine"
            )
        if self.keep == "top_k" and self.top_k > schedule.epochs:
            yield f"{where}.top_k: {self.top_k} snapshots of {schedule.epochs} epochs"


Flag = Annotated[bool, Field(strict=True)]


class RulesConfig(Sparse):
    """Rules that find suspicious rows: rule: value. What they compute: functional/rules.py."""

    min_iou: Chance | None = Field(None, description="IoU of prediction and mask is at most this")
    min_dice: Chance | None = Field(None, description="Dice of prediction and mask is at most this")
    min_boundary: Chance | None = Field(None, description="boundary IoU is at most this")
    min_confidence: Chance | None = Field(None, description="mean confidence is lower")
    min_decided: Chance | None = Field(
        None, description="share of pixels with p < .2 or p > .8 is lower"
    )
    max_entropy: Annotated[float, Field(ge=0, le=8), NO_BOOL] | None = Field(
        None, description="mean entropy (bits) is higher"
    )
    min_agreement: Chance | None = Field(
        None, description="mean IoU of the members' masks with the ensemble's is lower"
    )
    min_head_certainty: Chance | None = Field(
        None,
        description="unlabeled images: the image-level head gives the mask's class (an object, or "
        "none) a lower probability",
    )
    worst: Chance | None = Field(
        None, description="among this share of the rows with the lowest IoU"
    )
    worst_per_stratum: Chance | None = Field(
        None,
        description="the same among rows of like area (empty, 5 %, 20 %, 50 %, larger)",
    )
    max_false_area: Chance | None = Field(
        None, description="the mask is empty, and more than this share is predicted"
    )
    rectangle: Flag | None = Field(None, description="the mask is one filled rectangle")
    thin: Flag | None = Field(None, description="the mask is nowhere wider than 2 pixels")
    full: Flag | None = Field(None, description="the mask covers the whole image")
    constant: Flag | None = Field(None, description="the image has a single value")

    @property
    def given(self) -> dict[str, float | bool]:
        """{rule: value} of the rules that are given."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in found.items() if value is not None}


class RoundConfig(Strict):
    """One round: how its train sets are made from the round before, and how students use them."""

    kind: Literal["supervised", "self_distill", "pseudo_label", "distill"] = Field(
        "supervised",
        description="supervised: the human labels; self_distill: the same rows, judged by models "
        "that did not train on them; pseudo_label: adds test images with the models' masks; "
        "distill: soft targets on the train rows and on the test images",
    )
    teacher: Literal["fold", "pair", "oof", "all"] | None = Field(
        None,
        description="who judges. Unlabeled images: fold (models that validated the student's "
        "fold) or all. Train rows: pair (trained without the row's and the student's fold: "
        "strict), oof (indirect) or all (leaky). null: fold for pseudo_label, else pair",
    )
    rules: RulesConfig | None = Field(
        None,
        description="rule: value, see docs/rounds.md; null: min_iou .4 for self_distill, "
        "min_decided .9 and constant for pseudo_label and distill",
    )
    empty: Literal["keep", "drop", "judge"] = Field(
        "keep", description="self_distill: rows with an empty mask: kept, dropped, or judged alike"
    )
    action: Literal["drop", "weight", "replace", "blend"] = Field(
        "drop",
        description="self_distill: suspicious rows go, weigh `weight`, get the teachers' mask, or "
        "a blend of theirs and the human one",
    )
    weight: float = Field(0.5, ge=0, description="of suspicious rows (action: weight)")
    pseudo_weight: float = Field(1.0, gt=0, description="of rows with a pseudo-label")
    targets: Literal["hard", "soft"] = Field(
        "hard", description="made labels: masks at probability .5, or the teachers' probabilities"
    )
    soft_weight: Probability = Field(
        0.5, description="share of the soft target in the loss (blend, distill)"
    )
    temperature: Positive = Field(1.0, description="soft targets: logits are divided by it")
    top: Count | None = Field(None, description="pseudo-labels at most, the surest first")
    top_share: float | None = Field(
        None, gt=0, le=1, description="pseudo-labels at most, as a share of the test images"
    )
    rank_by: Literal["decided", "confidence", "agreement", "entropy"] = Field(
        "decided", description="what `top` takes first"
    )
    match_strata: bool = Field(
        True, description="pseudo-labels keep the train set's shares of empty and large masks"
    )
    mix: Literal["concat", "ratio", "pretrain_then_finetune"] = Field(
        "concat",
        description="concat: all rows alike; ratio: `share` of every batch is pseudo-labels; "
        "pretrain_then_finetune: the first stage sees pseudo-labels alone, the others the rest",
    )
    share: float = Field(0.5, gt=0, lt=1, description="mix: ratio: pseudo-labels of a batch")
    init: Literal["scratch", "previous"] = Field(
        "scratch",
        description="previous: the students start from the weights of the round before, same fold",
    )
    hard_mining: float = Field(
        0.0,
        ge=0,
        description="rows are drawn by 1 + hard_mining x (1 - their out-of-fold score in the round "
        "before); the score is then called indirect",
    )
    stages: list[StageConfig] | None = Field(None, description="instead of the config's stages")
    members: list[Name] | None = Field(None, description="these models only; null: all")

    @property
    def judge(self) -> str:
        """The teacher of the train rows, or of the unlabeled images for pseudo_label."""
        return self.teacher or ("fold" if self.kind == "pseudo_label" else "pair")

    @property
    def checks(self) -> dict[str, float | bool]:
        """The rules, with the kind's own where none are given."""
        if self.rules is not None:
            return self.rules.given
        if self.kind == "self_distill":
            return {"min_iou": 0.4}
        return {"min_decided": 0.9, "constant": True} if self.uses_unlabeled else {}

    @property
    def uses_unlabeled(self) -> bool:
        return self.kind in ("pseudo_label", "distill")

    @property
    def judges_labeled(self) -> bool:
        return self.kind in ("self_distill", "distill")

    @property
    def makes_soft(self) -> bool:
        """Whether the round makes soft targets."""
        blends = self.kind == "self_distill" and self.action == "blend"
        return self.kind == "distill" or self.targets == "soft" or blends

    def mistakes(self, where: str) -> Iterator[str]:
        """Keys that this kind of round does not use, and so must keep their defaults."""
        kind = self.kind
        teachers: tuple[str, ...] = ("pair", "oof", "all")
        if kind in ("supervised", "pseudo_label"):
            teachers = () if kind == "supervised" else ("fold", "all")
        if self.teacher is not None and self.teacher not in teachers:
            yield (
                f"{where}.teacher: {self.teacher!r} is not valid for {kind}; valid: "
                f"{', '.join(teachers) or 'none'}"
            )
        judged, made = ("self_distill",), ("pseudo_label", "distill")
        used: dict[str, tuple[str, ...]] = {
            **dict.fromkeys(("empty", "action", "weight"), judged),
            **dict.fromkeys(("pseudo_weight", "top", "top_share", "rank_by", "match_strata"), made),
            "targets": ("self_distill", "pseudo_label"),
            "soft_weight": ("self_distill", "distill"),
            "temperature": ("self_distill", *made),
            "rules": ("self_distill", *made),
        }
        for key, kinds in used.items():
            default = type(self).model_fields[key].default
            if kind not in kinds and getattr(self, key) != default:
                yield f"{where}.{key}: {kind} does not use it; {' and '.join(kinds)} do"


class TrainConfig(Strict):
    """Batches, averaging, and what happens to bad steps."""

    batch_size: Count = Field(16, description="images of one optimizer update, over all ranks")
    steps_per_epoch: Count | None = Field(
        None,
        description="updates of an epoch, however many images there are (nnU-Net: 250): an epoch "
        "goes on where the one before has ended; null: one pass over the train rows",
    )
    accumulation: Count = Field(1, description="micro-batches of one update")
    clip_norm: float | None = Field(5.0, gt=0, description="gradient norm; null: no clipping")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of averaged weights, per update; null: none"
    )
    evaluate_every: Count | Literal["auto"] = Field(
        1,
        description="epochs; auto: as often as the network is shown at most a quarter as many "
        "pixels in evaluations as in training. A cycle's end is always evaluated",
    )
    keep_state: bool = Field(
        True,
        description="finished members keep the optimizer's state, with the weights three to four "
        "times a snapshot, so that more cycles can go on from there; see docs/changes.md",
    )
    max_bad_steps: Count = Field(
        8, description="non-finite losses in a row before the last good state is taken back"
    )
    max_rollbacks: int = Field(2, ge=0, description="times that is done before training stops")
