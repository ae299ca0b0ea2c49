"""The config's part on rounds: how later train sets are made, and how students use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

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
from distseg.config.training import StageConfig

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

    kind: Literal["supervised", "self_distill", "pseudo_label", "distill", "mean_teacher"] = Field(
        "supervised",
        description="supervised: the human labels; self_distill: the same rows, judged by models "
        "that did not train on them; pseudo_label: adds test images with the models' masks; "
        "distill: soft targets on the train rows, and on the test images where there are any; "
        "mean_teacher: test images without any label, on which the student shall predict what the "
        "average of its own weights does",
    )
    teacher: Literal["fold", "pair", "oof", "all"] | None = Field(
        None,
        description="who judges. Unlabeled images: fold (models that validated the student's "
        "fold) or all. Train rows: pair (trained without the row's and the student's fold: "
        "strict), fold (distill alone: they have seen the row's label, but none of the student's "
        "fold), oof (indirect) or all (leaky). null: fold for pseudo_label, else pair",
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
    share: float = Field(
        0.5, gt=0, lt=1,
        description="of every batch: pseudo-labels (mix: ratio), unlabeled images (mean_teacher)",
    )  # fmt: skip
    consistency: Positive = Field(
        1.0,
        description="mean_teacher: weight of the squared difference of the student's and the "
        "teacher's probabilities, beside the loss of the labeled images",
    )
    rampup_epochs: float = Field(
        5.0, ge=0, le=100_000,
        description="mean_teacher: first epochs, in which that weight grows: "
        "exp(-5 (1 - t)^2), t from 0 to 1",
    )  # fmt: skip
    teacher_decay: float = Field(
        0.99, gt=0, lt=1,
        description="mean_teacher: decay of the teacher's weights, per update; it takes the place "
        "of train.ema_decay: the teacher is what is scored, kept and predicts",
    )  # fmt: skip
    confidence: Chance = Field(
        0.0, description="mean_teacher: pixels of which the teacher is less sure do not count"
    )
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
        if not self.has_teachers:
            return "none"
        return self.teacher or ("fold" if self.kind == "pseudo_label" else "pair")

    @property
    def checks(self) -> dict[str, float | bool]:
        """The rules, with the kind's own where none are given."""
        if self.rules is not None:
            return self.rules.given
        if self.kind == "self_distill":
            return {"min_iou": 0.4}
        return {"min_decided": 0.9, "constant": True} if self.makes_pseudo else {}

    @property
    def makes_pseudo(self) -> bool:
        return self.kind in ("pseudo_label", "distill")

    @property
    def judges_labeled(self) -> bool:
        return self.kind in ("self_distill", "distill")

    @property
    def has_teachers(self) -> bool:
        """Whether models of the rounds before, or pair teachers, say something of images."""
        return self.makes_pseudo or self.judges_labeled

    @property
    def has_mean_teacher(self) -> bool:
        return self.kind == "mean_teacher"

    @property
    def mixes(self) -> bool:
        """Whether `share` of every batch is drawn for itself."""
        return self.mix == "ratio" or self.has_mean_teacher

    @property
    def needs_tests(self) -> bool:
        """Whether the round cannot be without test images."""
        return self.kind in ("pseudo_label", "mean_teacher")

    def decay_of_averages(self, ema_decay: float | None) -> float | None:
        """The decay of averaged weights; ema_decay: that of the config."""
        return self.teacher_decay if self.has_mean_teacher else ema_decay

    @property
    def makes_soft(self) -> bool:
        """Whether the round makes soft targets."""
        blends = self.kind == "self_distill" and self.action == "blend"
        return self.kind == "distill" or self.targets == "soft" or blends

    def mistakes(self, where: str) -> Iterator[str]:
        """Keys that this kind of round does not use, and so must keep their defaults."""
        kind = self.kind
        teachers: tuple[str, ...] = ("pair", "oof", "all")
        if kind in ("supervised", "mean_teacher", "pseudo_label"):
            teachers = ("fold", "all") if kind == "pseudo_label" else ()
        if kind == "distill":
            teachers = ("pair", "fold", "oof", "all")
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
            **dict.fromkeys(
                ("consistency", "rampup_epochs", "teacher_decay", "confidence"), ("mean_teacher",)
            ),
        }
        for key, kinds in used.items():
            default = type(self).model_fields[key].default
            if kind not in kinds and getattr(self, key) != default:
                does = f"{' and '.join(kinds)} do{'es' if len(kinds) == 1 else ''}"
                yield f"{where}.{key}: {kind} does not use it; {does}"
        if self.has_mean_teacher and self.mix != "concat":
            yield (
                f"{where}.mix: {self.mix}: mean_teacher takes `share` of every batch from the "
                "unlabeled images; write concat"
            )
