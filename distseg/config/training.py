"""The config's part on training: optimizers, schedules, stages, batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from distseg.config.augment import AugmentConfig
from distseg.config.fields import (
    Count,
    Positive,
    Probability,
    Strict,
)
from distseg.config.losses import LossConfig

CYCLIC = ("cosine", "onecycle")  # kinds of schedules with cycles
VIEWS = 4  # draws of an image whose feature maps are kept
LOSSES = ("loss", "val_loss")  # keys of metrics.jsonl of which less is better
BY_SCORE = ("best", "top_k", "best_of_cycles")  # values of `keep` that choose by a score


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
    metric: Literal["score", "positives", "negatives", "iou", "val_loss", "loss"] = Field(
        "score",
        description="plateau: the key of metrics.jsonl to watch; val_loss and loss with mode: min",
    )
    mode: Literal["max", "min"] = Field("max", description="plateau: which way is better")
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: lr is multiplied by it")
    patience: int = Field(3, ge=0, description="plateau: evaluations without a gain")

    @property
    def epochs(self) -> int:
        return self.cycles * self.epochs_per_cycle


class EarlyStoppingConfig(Strict):
    """When a stage ends before its epochs are done."""

    patience: Count = Field(10, description="evaluations in a row without a gain that end it")
    min_gain: float = Field(0.0, ge=0, description="what is at most that much better is no gain")
    metric: Literal["score", "positives", "negatives", "iou", "val_loss", "loss"] = Field(
        "score",
        description="the key of metrics.jsonl to watch; of val_loss and loss less is better",
    )


@dataclass(frozen=True, slots=True)
class Follower:
    """What of a stage waits for evaluations without a gain.

    key: below the stage. metric: the key of metrics.jsonl that it watches. patience: its own.
    waits: how many evaluations in a row without a gain make it act.
    """

    key: str
    metric: str
    patience: int
    waits: int


class StageConfig(Strict):
    """One stage of training; it starts from the previous one's weights, within the same fold."""

    loss: LossConfig = Field(
        LossConfig.model_validate({"bce": 1.0}), description="name: weight, or {weight, options}"
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="how weights are updated")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="the learning rate over time")
    freeze_encoder: Annotated[int, Field(ge=0)] | Literal["always"] = Field(
        0,
        description="first epochs in which the encoder (and its running statistics) stay; always: "
        "in all of them, without gradients and optimizer state: a step costs what a decoder costs",
    )
    views: Count | None = Field(
        VIEWS,
        description="freeze_encoder: always: draws of the augmentation per image, of which each "
        "epoch takes one; the encoder sees each once (data.feature_cache_gb). null: a new draw in "
        "each epoch, and the encoder in each step",
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
    keep: Literal["last", "cycles", "best", "top_k", "best_of_cycles"] = Field(
        "last",
        description="snapshots: the end, each cycle's end; or the best, the k best or the best of "
        "each cycle by the score of the fold, which is then called indirect, or of "
        "`train.inner_share`",
    )
    top_k: Count = Field(3, description="keep: top_k: how many")
    swa: bool = Field(
        False, description="replace the kept snapshots by the average of their weights"
    )
    early_stopping: EarlyStoppingConfig | None = Field(
        None,
        description="end the stage where it no longer gains; the score is then called indirect, "
        "unless the train loss is watched or `train.inner_share` is. null: never; {}: the defaults",
    )

    @field_validator("freeze_encoder", mode="before")
    @classmethod
    def _is_no_flag(cls, epochs: Any) -> Any:
        """true would be read as 1: one epoch."""
        if epochs is True:
            raise ValueError("needs a number of epochs, or always, not true")
        return epochs

    def is_frozen(self, epoch: int) -> bool:
        """Whether the encoder stays as it is in an epoch of the stage."""
        return self.freeze_encoder == "always" or epoch < self.freeze_encoder

    @property
    def watches(self) -> list[str]:
        """What of these keys hangs on the evaluations' score: `keep: best`; empty: nothing."""
        early, schedule = self.early_stopping, self.schedule
        plateau = schedule.kind == "plateau" and schedule.metric != "loss"
        return [
            *([f"keep: {self.keep}"] if self.keep in BY_SCORE else []),
            *(["schedule.kind: plateau"] if plateau else []),
            *(["early_stopping"] if early is not None and early.metric != "loss" else []),
        ]

    @property
    def followers(self) -> list[Follower]:
        """A plateau and early stopping, where the stage has them."""
        schedule, early, found = self.schedule, self.early_stopping, []
        if schedule.kind == "plateau":
            waits = schedule.patience + 1
            found.append(Follower("schedule", schedule.metric, schedule.patience, waits))
        if early is not None:
            found.append(Follower("early_stopping", early.metric, early.patience, early.patience))
        return found

    @property
    def follows_evaluations(self) -> bool:
        """Whether another number of evaluations would train or keep other weights."""
        return bool(self.followers or self.watches)

    @property
    def can_go_on(self) -> bool:
        """Whether a longer stage begins as this one does, so that it can go on where this one ends:
        its rates and rows do not depend on its length, and its snapshots are still there."""
        slides = self.positive_share is not None and len(set(self.positive_share)) > 1
        cyclic = self.schedule.kind in CYCLIC
        steady = cyclic or (self.schedule.kind in ("constant", "noam") and self.keep == "last")
        return steady and not slides and not self.swa and self.early_stopping is None

    def mistakes(self, where: str) -> Iterator[str]:
        """What these keys cannot be together, a line each; `where` is this stage's key."""
        schedule = self.schedule
        cyclic = schedule.kind in CYCLIC
        if not cyclic and schedule.cycles > 1:
            yield (
                f"{where}.schedule.cycles: {schedule.cycles}: kind {schedule.kind} has no cycles. "
                "Did you mean kind: cosine?"
            )
        if self.keep in ("cycles", "best_of_cycles") and not cyclic:
            yield (
                f"{where}.keep: {self.keep}: kind {schedule.kind} has no cycles; valid: last, "
                "best, top_k, or schedule.kind: cosine"
            )
        if self.keep == "top_k" and self.top_k > schedule.epochs:
            yield f"{where}.top_k: {self.top_k} snapshots of {schedule.epochs} epochs"
        if self.freeze_encoder != "always" and self.views != VIEWS:
            views = "null" if self.views is None else self.views
            yield f"{where}.views: {views}: needs freeze_encoder: always"
        if self.freeze_encoder == "always" and self.optimizer.encoder_lr is not None:
            yield (
                f"{where}.optimizer.encoder_lr: {self.optimizer.encoder_lr:g}: the encoder never "
                "learns (freeze_encoder: always); leave it out"
            )
        if self.early_stopping is not None:
            yield from self._early_mistakes(f"{where}.early_stopping")

    def pixel_share(self, size: tuple[int, int]) -> float:
        """Pixels of an image that the stage trains at, as a share of the input's, whose (height,
        width) is `size`: about what a step takes beside one at that size."""
        return math.prod(self.input_size or size) / math.prod(size)

    def _early_mistakes(self, where: str) -> Iterator[str]:
        cycles = self.schedule.cycles
        if self.schedule.kind in CYCLIC and cycles > 1:
            yield (
                f"{where}: schedule.cycles: {cycles}: the score falls for a while after each "
                "restart, as if the stage had stalled. Use cycles: 1, or kind: plateau"
            )
        if self.keep == "cycles":
            yield (
                f"{where}: keep: cycles: a stage that ends early has no end of a cycle; valid: "
                "last, best, top_k"
            )


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
    inner_share: float = Field(
        0.0, ge=0, le=0.5,
        description="share of a member's train rows that it does not train on: their score, and "
        "not that of the fold, then chooses snapshots (`keep`) and moves plateau and "
        "early_stopping, so that the fold's score stays honest; 0: the fold's",
    )  # fmt: skip
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


def epoch_weights(stages: Sequence[StageConfig], size: tuple[int, int]) -> list[float]:
    """About what each epoch of a member takes beside one at its input's size (height, width)."""
    return [stage.pixel_share(size) for stage in stages for _ in range(stage.schedule.epochs)]


def weight_of_last(weights: Sequence[float], epochs: float) -> float:
    """What the last `epochs` of a member's epochs take together; the first of them may be a part
    of one."""
    whole = min(len(weights), int(epochs))
    part = epochs - whole if whole < len(weights) else 0.0
    return sum(weights[len(weights) - whole :]) + (part * weights[-whole - 1] if part else 0.0)
