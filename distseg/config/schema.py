"""The config: strict, frozen models; one clear message for each mistake. Imports no torch.

Every field says its unit and range. `distseg config schema` prints all of it as JSON schema;
docs/config.md is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distseg.config.augment import AugmentConfig
from distseg.config.data import DataConfig, InputConfig
from distseg.config.fields import Count, Name, Probability, Strict
from distseg.config.member import MemberConfig
from distseg.config.rounds import RoundConfig
from distseg.config.training import StageConfig, TrainConfig
from distseg.config.tune import TuneConfig
from distseg.functional.tta_names import check_modes
from distseg.records.paths import RoundKey, is_teachers, round_number


def _is_view(mode: str) -> str:
    check_modes([mode])
    return mode


Tracker = Literal[
    "tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio"
]


class PredictConfig(Strict):
    """How images are predicted."""

    every_round: bool = Field(
        False, description="a submission of every round, beside the run's own"
    )
    tta: list[Annotated[str, AfterValidator(_is_view)]] = Field(
        default_factory=lambda: ["hflip"],
        description="hflip vflip rot90 rot180 rot270 transpose antitranspose d4 scale:S dropout:N",
    )
    batch_size: Count = Field(32, description="images")


class EnsembleConfig(Strict):
    """How members are combined."""

    space: Literal["logit", "prob", "vote"] = Field("logit", description="what is averaged")
    weights: Literal["uniform", "search"] = Field(
        "uniform", description="search: greedy selection with replacement"
    )
    max_picks: Count = Field(20, description="picks of the greedy selection")
    simpler: Literal["search", "never"] = Field(
        "search",
        description="search: a model or a snapshot alone takes the ensemble's place where it is "
        "better; never: it does not, and the end of a run says where it is better",
    )
    rounds: Literal["search", "last"] = Field(
        "search",
        description="search: the members of all rounds together make the submission where that "
        "scores higher; last: those of the last round do",
    )
    snapshots: Literal["search", "all"] = Field(
        "search",
        description="search: a snapshot may weigh by itself, for which the out-of-fold logits of "
        "each are kept on disk; all: a model is always the mean of its snapshots",
    )


class SubmissionConfig(Strict):
    """The submission's form, beside what the layout of the data says."""

    per_object: bool = Field(
        False,
        description="a table of RLEs has a row for each connected object (8 neighbors) of an image "
        "and class, and one row where there is none",
    )


class PostprocessConfig(Strict):
    """From probabilities to masks; `search` tunes a rule on out-of-fold predictions."""

    threshold: Literal["search"] | Probability = Field(0.5, description="probability, per class")
    min_area: Literal["search"] | Annotated[int, Field(ge=0)] = Field(
        0, description="masks with fewer pixels become empty"
    )
    min_component: Literal["search"] | Annotated[int, Field(ge=0)] = Field(
        0, description="connected parts with fewer pixels go"
    )
    fill_holes: Literal["search"] | Annotated[int, Field(ge=0)] = Field(
        0, description="holes of at most so many pixels are filled"
    )
    full_mask: Literal["search"] | Probability = Field(
        0.0, description="a mask of at least this share of the image becomes full; 0: never"
    )
    exclusive: bool = Field(
        False, description="multilabel: a pixel can only be of the class with its highest logit"
    )
    double: Literal["none", "search"] = Field(
        "none", description="search: empty unless `area` pixels pass `top`; then cut at `bottom`"
    )
    gate: Literal["none", "search"] = Field(
        "none",
        description="search: empty where the members' image heads (`members.NAME.image_head`) give "
        "the class a lower probability, searched with threshold and min_area",
    )


Processes = Annotated[int, Field(ge=1, le=4096)]


class ComputeConfig(Strict):
    """How jobs use the machine."""

    executor: Literal["local", "ray"] = Field(
        "local", description="who starts the jobs: this machine, or a Ray cluster"
    )
    gpus_per_job: float = Field(1.0, gt=0, le=1024, description="GPUs of a job; under 1: shared")
    processes_per_job: Processes | None = Field(
        None, description="ranks of a job; null: one per GPU, one without a GPU"
    )
    slots: Processes | None = Field(
        None, description="jobs at the same time; null: what the GPUs hold, 1 without a GPU"
    )
    members_per_job: Count = Field(1, description="members that a job trains in a row")
    cpu_threads: Processes | None = Field(
        None, description="threads of a rank; null: an even share"
    )
    workers: int | None = Field(
        None, ge=0, le=1024, description="loader processes of a rank; null: auto"
    )
    augment_on: Literal["host", "device"] = Field(
        "host",
        description="device: the GPU augments, for machines with few CPU cores a GPU; flips, "
        "affine, gray values, cutout and noise alone. See docs/augment.md",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 where the hardware has it, else fp32"
    )
    zero: Literal[0, 1, 2, 3] = Field(
        0,
        description="DeepSpeed ZeRO stage, what the ranks of a job share out: 1 optimizer state, "
        "2 gradients too, 3 weights too; 0: plain DDP. See docs/deepspeed.md",
    )
    offload: bool = Field(
        False, description="zero 2 and 3: optimizer state (3: weights too) in the CPU's memory"
    )
    channels_last: bool = Field(True, description="memory format of images and weights")
    compile: bool = Field(False, description="torch.compile the model")
    cuda_graphs: bool = Field(
        True,
        description="jobs on one GPU: launch a training pass by one call where it can be captured; "
        "small images and batches gain most",
    )
    retries: int = Field(2, ge=0, le=1000, description="times that a failed job is started again")
    rank_timeout_s: int = Field(
        600, ge=10, le=86_400,
        description="seconds that ranks wait for each other; then the job fails, as when a machine "
        "of several is gone",
    )  # fmt: skip


class Config(Strict):
    """One experiment."""

    name: Name = Field(description="of the experiment; its run folder is runs/<name>")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of weights, order and augmentation")
    task: Literal["binary", "multilabel", "multiclass"] = Field(
        "binary",
        description="binary: one class; multilabel: a mask per class, they may overlap; "
        "multiclass: one class per pixel, the first is the background",
    )
    classes: list[Name] = Field(default_factory=lambda: ["object"], description="class names")
    void: int | None = Field(None, ge=0, le=255, description="mask value that counts nowhere")
    data: DataConfig = Field(DataConfig(), description="where the data lies and how it is divided")
    input: InputConfig = Field(InputConfig(), description="what the network sees")
    metric: Literal["tgs", "mean_dice", "dice", "iou", "miou"] = Field(
        "dice", description="what a score is; see docs/scores.md"
    )
    augment: list[AugmentConfig] = Field(
        default_factory=list, description="in this order; see docs/augment.md"
    )
    members: dict[Name, MemberConfig] = Field(
        min_length=1, description="the models by name; with a fold each is a member"
    )
    stages: list[StageConfig] = Field(
        default_factory=lambda: [StageConfig()],
        min_length=1,
        description="stages of training; each starts from the weights of the one before",
    )
    train: TrainConfig = Field(
        TrainConfig(), description="batches, averaging, and what happens to bad steps"
    )
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
    predict: PredictConfig = Field(PredictConfig(), description="how images are predicted")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="how members are combined")
    postprocess: PostprocessConfig = Field(
        PostprocessConfig(), description="from probabilities to masks"
    )
    submission: SubmissionConfig = Field(SubmissionConfig(), description="what is handed in")
    compute: ComputeConfig = Field(ComputeConfig(), description="how jobs use the machine")
    track: list[Tracker] = Field(
        default_factory=list,
        max_length=9,
        description="where curves and the nested score are copied to, by accelerate's trackers; "
        "metrics.jsonl always has them. See docs/results.md",
    )
    tune: TuneConfig | None = Field(
        None, description="what `distseg tune` searches; no other command reads it"
    )

    @property
    def num_outputs(self) -> int:
        """Channels of the logits."""
        return len(self.classes)

    def written_stages(self) -> Iterator[tuple[str, StageConfig]]:
        """(key, stage) of every stage that is written down, also those that no round uses."""
        lists = {"stages": self.stages}
        lists |= {f"members.{n}.stages": m.stages for n, m in self.members.items() if m.stages}
        lists |= {f"rounds.{n}.stages": r.stages for n, r in enumerate(self.rounds) if r.stages}
        for prefix, own in lists.items():
            yield from ((f"{prefix}.{number}", stage) for number, stage in enumerate(own))

    def augment_lists(self) -> Iterator[tuple[str, list[AugmentConfig]]]:
        """(key, list) of every list of transforms that is written down."""
        yield "augment", self.augment
        for key, stage in self.written_stages():
            if stage.augment is not None:
                yield f"{key}.augment", stage.augment

    def input_of(self, member: str) -> InputConfig:
        return self.members[member].input or self.input

    def recipe(self, key: RoundKey) -> RoundConfig:
        """The round that says how to train; pair teachers train as round 0 does."""
        return self.rounds[0 if is_teachers(key) else round_number(key)]

    def stages_of(self, member: str, key: RoundKey = 0) -> list[StageConfig]:
        return self.recipe(key).stages or self.members[member].stages or self.stages

    def epochs_of(self, member: str, key: RoundKey = 0) -> int:
        """Epochs of all stages."""
        return sum(stage.schedule.epochs for stage in self.stages_of(member, key))

    def keeps_state(self, member: str, key: RoundKey = 0) -> bool:
        """Whether a finished member keeps the state from which more epochs could go on."""
        return self.train.keep_state and self.stages_of(member, key)[-1].can_go_on

    def takes_heads(self, member: str) -> bool:
        """Whether out-of-fold prediction keeps what the member's image head says, for the gate."""
        head = self.members[member].image_head is not None
        return head and self.postprocess.gate == "search"

    def rows_of_stage(self, member: str, key: RoundKey, number: int) -> str:
        """all | labeled | pseudo: which rows a stage trains on."""
        stage = self.stages_of(member, key)[number]
        if stage.rows is None and self.recipe(key).mix == "pretrain_then_finetune":
            return "pseudo" if number == 0 else "labeled"
        return stage.rows or "all"

    def has_pseudo(self, number: int) -> bool:
        """Whether a round's train sets hold pseudo-labels: its own, or those it inherits from the
        rounds before it, back to the last supervised one."""
        for round_config in reversed(self.rounds[: number + 1]):
            if round_config.makes_pseudo:
                return True
            if round_config.kind == "supervised":
                return False
        return False

    def teacher_flag(self, key: RoundKey) -> str:
        """What the teachers of a round, or of one before it, make of its score: `honest`,
        `indirect` (the student's fold reached it through a judgement) or `leaky`."""
        if is_teachers(key):
            return "honest"
        rounds = self.rounds[: round_number(key) + 1]
        judges = {r.judge for r in rounds}
        judges |= {"oof" for r in rounds if r.hard_mining}  # its scores are a judgement too
        return "leaky" if "all" in judges else "indirect" if "oof" in judges else "honest"

    def watches_fold(self, stage: StageConfig) -> list[str]:
        """The keys of a stage that hang on the score of the fold; empty: none."""
        return [] if self.train.inner_share else stage.watches

    def flag(self, key: RoundKey) -> str:
        """What a round's score is: `teacher_flag`, or `indirect` where weights were chosen by the
        score of the fold that they are scored on."""
        flag = self.teacher_flag(key)
        watched = any(
            self.watches_fold(stage)
            for name in self.members
            for number in range(round_number(key) + 1)
            for stage in self.stages_of(name, number)
        )
        return "indirect" if watched and flag == "honest" else flag

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
