"""The config: strict, frozen models; one clear message for each mistake. Imports no torch.

Every field says its unit and range. `distseg config schema` prints all of it as JSON schema;
docs/config.md is generated from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from distseg.config_checks import check_member, check_names, check_rounds
from distseg.config_file import apply_overrides, load_yaml
from distseg.errors import UserError, nearest
from distseg.functional.rules import RANKED_BY
from distseg.runs import RoundKey, round_number

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class FoldsConfig(Strict):
    """How the train set is divided."""

    kind: Literal["stratified", "group", "holdout", "bootstrap", "split", "file"] = Field(
        "stratified",
        description="stratified by mask coverage and emptiness; group: rows of one group stay "
        "together; holdout: fold 0 is `fraction` of the rows, all others train only; bootstrap: "
        "stratified, and each fold trains on rows drawn with replacement; split: fold 0 is the "
        "data set's own validation part, all others train only; file: read `path`",
    )
    num: Count = Field(5, description="number of folds")
    seed: int = Field(0, ge=0, description="seed of the division")
    use: list[int] | None = Field(None, description="folds to train; null: all of them")
    fraction: float = Field(0.2, gt=0, lt=1, description="share of rows that holdout validates")
    column: str | None = Field(None, description="group: the column of `groups` to group by")
    groups: str | None = Field(None, description="group: CSV `id,<column>`, relative to data.root")
    path: str | None = Field(None, description="file: CSV `id,fold`; fold -1 trains in every fold")


class FolderConfig(Strict):
    """Layout of `data.format: folder`, relative to data.root."""

    images: str = Field("images", description="folder of the train images")
    masks: str = Field("masks", description="folder of the masks: same stem as the image")
    test_images: str | None = Field("test_images", description="folder of images to predict")
    mask_suffix: str = Field("", description="what a mask's stem has after the image's stem")
    inverted: bool = Field(False, description="binary masks: 0 is the object")
    threshold: int = Field(
        0, ge=0, le=65534, description="binary masks: values above it are the object (JPEG: 127)"
    )
    test_masks: str | None = Field(None, description="truth of the test images, when it is known")
    submission: Literal["masks", "rle"] = Field("masks", description="what `submit` writes")


class SyntheticConfig(Strict):
    """The data that `data.format: synthetic` makes."""

    num_train: Count = Field(96, description="train images")
    num_test: int = Field(48, ge=0, description="test images; their truth is kept")
    height: int = Field(64, ge=16, le=4096, description="pixels")
    width: int = Field(64, ge=16, le=4096, description="pixels")
    channels: Literal[1, 3] = Field(1, description="image channels")
    empty: Probability = Field(0.3, description="share of images without an object")
    noise: Probability = Field(0.0, description="share of train masks that are wrong on purpose")
    seed: int = Field(0, ge=0, description="seed of the images")


class DataConfig(Strict):
    """Where the data is and what it may look like."""

    format: str = Field(
        "folder",
        description="tgs | severstal | tianchi | oxford_pet | camvid | folder | synthetic: a file "
        "of data/formats/",
    )
    root: str = Field(".", description="folder of the data set, relative to where you start")
    table: str | None = Field(
        None, description="severstal, tianchi: the train table, instead of the usual name"
    )
    border: Literal["pet", "background", "ignore"] = Field(
        "pet", description="oxford_pet: what a trimap's border pixels count as"
    )
    mask_values: dict[int, int] | None = Field(
        None, description="value of a mask file: what it means; 255 counts nowhere"
    )
    strict: bool = Field(False, description="a bad row stops the run, instead of a quarantine")
    folds: FoldsConfig = FoldsConfig()
    folder: FolderConfig = FolderConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    limit: Count | None = Field(None, description="use the first N train and test rows (a trial)")
    exclude_constant: bool = Field(
        False, description="leave out train images of a single value (TGS has 80 black ones)"
    )
    cache_dir: str | None = Field(
        None, description="folder of the decode cache, shared by runs; null: inside the run"
    )

    @property
    def value_map(self) -> dict[int, int] | None:
        """What the values of mask files mean; a trimap's 1 is pet, 2 background, 3 border."""
        if self.mask_values is None and self.format == "oxford_pet":
            return {1: 1, 2: 0, 3: {"pet": 1, "background": 0, "ignore": 255}[self.border]}
        return self.mask_values


class InputConfig(Strict):
    """What the network sees."""

    height: int = Field(128, ge=8, le=8192, description="pixels")
    width: int = Field(128, ge=8, le=8192, description="pixels")
    fit: Literal["pad", "resize", "crop"] = Field(
        "pad",
        description="pad: native pixels and a border; resize: stretched; crop: random crops in "
        "training, the whole image at prediction",
    )
    scale_to: tuple[int, int] | None = Field(
        None, description="pad: stretch to this (height, width) first, as 101 -> 202 -> 256"
    )
    pad_mode: Literal["reflect", "edge", "constant"] = Field("reflect", description="border")
    random_offset: bool = Field(
        False,
        description="pad: the image lies anywhere in the canvas while training, else centered",
    )
    channels: int = Field(3, ge=1, le=64, description="image channels")
    mean: list[float] | None = Field(None, description="per channel, 0..1; null: ImageNet's")
    std: list[Positive] | None = Field(None, description="per channel, 0..1; null: ImageNet's")


class MemberConfig(Strict):
    """One model entry; with a fold it is a member."""

    arch: str = Field(
        "Unet",
        description="an architecture of segmentation-models-pytorch, or PlainUnet and "
        "ResidualUnet, small nets for any input size (decoder: filters, depth, dropout)",
    )
    encoder: str = Field(
        "resnet34",
        description="an encoder of smp, or tu-NAME of timm; none for PlainUnet and ResidualUnet",
    )
    encoder_weights: str | None = Field(
        None,
        description="null: random; imagenet (or another tag of the hub: needs the network); or "
        "the path of a local .safetensors file",
    )
    decoder: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the architecture as smp names them (decoder_channels, "
        "encoder_depth, ...); `attention: scse` is short for decoder_attention_type",
    )
    image_head: float | None = Field(
        None, ge=0, description="weight of an image-level 'not empty' head's loss; null: no head"
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
    kind: Literal["cosine", "onecycle", "plateau", "constant"] = Field(
        "cosine", description="cosine: restarts at each cycle; plateau: lr falls when it stalls"
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
        "last", description="snapshots: the end, each cycle's end, the best or k best by metric"
    )
    top_k: Count = Field(3, description="keep: top_k: how many")
    swa: bool = Field(
        False, description="replace the kept snapshots by the average of their weights"
    )


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


class PredictConfig(Strict):
    every_round: bool = Field(
        False, description="a submission of every round, beside the run's own"
    )
    tta: list[str] = Field(default_factory=lambda: ["hflip"], description="hflip vflip d4 scale:S")
    batch_size: Count = Field(32, description="images")


class EnsembleConfig(Strict):
    space: Literal["logit", "prob", "vote"] = Field("logit", description="what is averaged")
    weights: Literal["uniform", "search"] = Field(
        "uniform", description="search: greedy selection with replacement"
    )
    max_picks: Count = Field(20, description="picks of the greedy selection")


class PostprocessConfig(Strict):
    threshold: Literal["search"] | Probability = Field(0.5, description="probability, per class")
    min_area: Literal["search"] | Annotated[int, Field(ge=0)] = Field(
        0, description="masks with fewer pixels become empty"
    )
    min_component: int = Field(0, ge=0, description="connected parts with fewer pixels go")
    double: Literal["none", "search"] = Field(
        "none", description="search: empty unless `area` pixels pass `top`; then cut at `bottom`"
    )


class ComputeConfig(Strict):
    executor: Literal["local"] = Field("local", description="who starts the jobs")
    gpus_per_job: float = Field(1.0, gt=0, description="GPUs of a job; under 1: shared")
    processes_per_job: Count | None = Field(
        None, description="ranks of a job; null: one per GPU, one without a GPU"
    )
    slots: Count | None = Field(
        None, description="jobs at the same time; null: what the GPUs hold, 1 without a GPU"
    )
    members_per_job: Count = Field(1, description="members that a job trains in a row")
    cpu_threads: Count | None = Field(None, description="threads of a rank; null: an even share")
    workers: int | None = Field(None, ge=0, description="loader processes of a rank; null: auto")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 where the hardware has it, else fp32"
    )
    channels_last: bool = Field(True, description="memory format of images and weights")
    compile: bool = Field(False, description="torch.compile the model")
    retries: int = Field(2, ge=0, description="times that a failed job is started again")


class Config(Strict):
    """One experiment."""

    name: Name
    seed: int = Field(0, ge=0)
    task: Literal["binary", "multilabel", "multiclass"] = "binary"
    classes: list[Name] = Field(default_factory=lambda: ["object"], description="class names")
    void: int | None = Field(None, ge=0, le=255, description="mask value that counts nowhere")
    data: DataConfig = DataConfig()
    input: InputConfig = InputConfig()
    metric: str = Field("dice", description="tgs | mean_dice | dice | iou | miou")
    augment: list[dict[str, Any]] = Field(default_factory=list, description="see docs/augment.md")
    members: dict[Name, MemberConfig] = Field(min_length=1)
    stages: list[StageConfig] = Field(
        default_factory=lambda: [StageConfig()],
        min_length=1,
    )
    train: TrainConfig = TrainConfig()
    rounds: list[RoundConfig] = Field(
        default_factory=lambda: [RoundConfig()],
        min_length=1,
        max_length=20,
        description="the first is supervised",
    )
    stop: Literal["never", "no_gain"] = Field(
        "never",
        description="no_gain: rounds end when the score gains less than the gain's standard error",
    )
    predict: PredictConfig = PredictConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    compute: ComputeConfig = ComputeConfig()

    @property
    def num_outputs(self) -> int:
        """Channels of the logits."""
        return len(self.classes)

    def input_of(self, member: str) -> InputConfig:
        return self.members[member].input or self.input

    def recipe(self, key: RoundKey) -> RoundConfig:
        """The round that says how to train; pair teachers train as round 0 does."""
        return self.rounds[0 if "/" in str(key) else round_number(key)]

    def stages_of(self, member: str, key: RoundKey = 0) -> list[StageConfig]:
        return self.recipe(key).stages or self.members[member].stages or self.stages

    def rows_of_stage(self, member: str, key: RoundKey, number: int) -> str:
        """all | labeled | pseudo: which rows a stage trains on."""
        stage = self.stages_of(member, key)[number]
        if stage.rows is None and self.recipe(key).mix == "pretrain_then_finetune":
            return "pseudo" if number == 0 else "labeled"
        return stage.rows or "all"

    def flag(self, key: RoundKey) -> str:
        """What a round's score is: `honest`, or through the teachers of this round or one before
        it `indirect` (the student's fold reached it through a judgement) or `leaky`."""
        if "/" in str(key):
            return "honest"
        judges = {r.judge for r in self.rounds[: round_number(key) + 1] if r.kind != "supervised"}
        return "leaky" if "all" in judges else "indirect" if "oof" in judges else "honest"

    def batch_size_of(self, member: str) -> int:
        return self.members[member].batch_size or self.train.batch_size

    def planned_members(self, folds: Sequence[int], key: RoundKey = 0) -> list[tuple[str, int]]:
        """(name, fold) of every member to train, one model's folds after another."""
        use, chosen = self.data.folds.use, self.recipe(key).members
        return [
            (name, fold)
            for name, member in self.members.items()
            for fold in folds
            if (use is None or fold in use)
            and (member.folds is None or fold in member.folds)
            and (chosen is None or name in chosen)
        ]

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_names(self)
        for name in self.members:
            check_member(self, name)
        check_rounds(self)
        return self


MemberConfig.model_rebuild()
RoundConfig.model_rebuild()


def load_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read, override and check a config. UserError lists every mistake, one line each."""
    tree = apply_overrides(load_yaml(Path(path)), overrides or [])
    return parse_config(tree, str(path))


def parse_config(tree: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(item: Any) -> str:
    """One line for one pydantic error: key, value, what is valid, the nearest name."""
    location = [str(part) for part in item["loc"] if not str(part).startswith("function-")]
    key = ".".join(location)
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        valid = _keys_at(item["loc"][:-1])
        close = nearest(location[-1], valid)
        hint = f" Did you mean {close!r}?" if close else ""
        return f"{key}: unknown key (value {value!r}).{hint} Valid: {', '.join(valid)}"
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        close = nearest(value, expected)
        hint = f" Did you mean {close!r}?" if close else ""
        return f"{key}: {value!r} is not valid.{hint} Valid: {item['ctx']['expected']}"
    if kind == "missing":
        return f"{key}: this key is required"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if not location or kind == "value_error" else f" (value {value!r})"
    return f"{key}: {message}{shown}" if key else message


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys that the config has at `location`."""
    model: type[BaseModel] = Config
    for part in location:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model inside `X | None`, `list[X]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(inner) for inner in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def schema() -> dict[str, Any]:
    """JSON schema of a config, for editors and docs/config.md."""
    return Config.model_json_schema()
