"""The config's part on members, stages and rounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distseg.config.data import Count, InputConfig, Name, Positive, Probability, Strict
from distseg.functional.rules import RANKED_BY


class MemberConfig(Strict):
    """One model entry; with a fold it is a member."""

    arch: str = Field(
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
    seed: int = Field(0, ge=0, description="added to the config's seed")


class OptimizerConfig(Strict):
    name: str = Field("adamw", description="an optimizer of torch or timm; `lookahead_NAME` wraps")
    lr: Positive = Field(1e-3, description="learning rate at its highest")
    encoder_lr: Positive | None = Field(None, description="of the encoder; null: lr")
    weight_decay: float = Field(0.01, ge=0, description="not applied to norms and biases")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the optimizer")


class ScheduleConfig(Strict):
    kind: Literal["cosine", "onecycle", "plateau", "constant", "noam"] = Field(
        "cosine",
        description="cosine: restarts at each cycle; plateau: lr falls when it stalls; noam: up "
        "over the warm-up, then down with the root of the step",
    )
    cycles: int = Field(1, ge=1, description="number of cycles; plateau and constant have one")
    epochs_per_cycle: Count = Field(10, description="epochs of one cycle")
    warmup_epochs: float = Field(0.0, ge=0, description="linear warm-up of the first cycle")
    min_lr_scale: float = Field(0.01, ge=0, lt=1, description="lowest lr, as a share of lr")
    restart_decay: float = Field(1.0, gt=0, le=1, description="factor of the peak at each restart")
    metric: str = Field("score", description="plateau: a key of metrics.jsonl to watch")
    mode: Literal["max", "min"] = Field("max", description="plateau: which way is better")
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: lr is multiplied by it")
    patience: int = Field(3, ge=0, description="plateau: evaluations without a gain")

    @property
    def epochs(self) -> int:
        return self.cycles * self.epochs_per_cycle


class StageConfig(Strict):
    """One stage of training; it starts from the previous one's weights, within the same fold."""

    loss: dict[str, float | dict[str, Any]] = Field(
        default={"bce": 1.0}, description="name: weight, or {weight, options}"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    freeze_encoder: int = Field(
        0, ge=0, description="first epochs in which the encoder (and its running statistics) stay"
    )
    positive_share: tuple[Probability, Probability] | None = Field(
        None,
        description="share of an epoch's images that hold an object, in the stage's first and last "
        "epoch; in between it slides. null: as the data has it",
    )
    augment: list[dict[str, Any]] | None = Field(None, description="instead of the common list")
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
    rules: dict[str, float | bool] | None = Field(
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
    rank_by: str = Field("decided", description="what `top` takes first: " + " ".join(RANKED_BY))
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
            return self.rules
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


class TrainConfig(Strict):
    batch_size: Count = Field(16, description="images of one optimizer update, over all ranks")
    accumulation: Count = Field(1, description="micro-batches of one update")
    clip_norm: float | None = Field(5.0, gt=0, description="gradient norm; null: no clipping")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of averaged weights, per update; null: none"
    )
    evaluate_every: Count = Field(1, description="epochs; a cycle's end is always evaluated")
    max_bad_steps: Count = Field(
        8, description="non-finite losses in a row before the last good state is taken back"
    )
    max_rollbacks: int = Field(2, ge=0, description="times that is done before training stops")


MemberConfig.model_rebuild()
RoundConfig.model_rebuild()
