"""What training one member holds on every rank: its rows, images, model and evaluation."""

from __future__ import annotations

import hashlib
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from distseg.config.schema import Config
from distseg.data.dataset import EvalSet, TrainData, train_statistics
from distseg.data.features import Features
from distseg.data.fit import Fit
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.data.sampling import Sampling, Slide
from distseg.distributed import default_workers
from distseg.functional.tta_names import dropout_passes
from distseg.inference.evaluate import Evaluator
from distseg.inference.forward import Normalizer, dropout_layers
from distseg.models import checkpoint
from distseg.models.build import build_model
from distseg.models.encoders import check_fixed_size
from distseg.models.pyramid import ENCODER, trunk
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.finished_member import is_done
from distseg.records.manifest import FROM_TEST, Manifest
from distseg.records.paths import MemberPaths, RoundKey, Run, is_teachers, round_number
from distseg.records.progress import ProgressFile
from distseg.records.tables import read_rows
from distseg.training.averages import Ema
from distseg.training.rows import own_rows, soft_temperatures
from distseg.training.stopping import StopSignal
from distseg.training.tracking import Tracking

logger = logging.getLogger(__name__)


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a pure function of its parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Member:
    """What training one member holds; built once, on every rank."""

    def __init__(
        self, config: Config, run: Run, round: RoundKey, name: str, fold: int,
        accelerator: Accelerator, paths: MemberPaths | None = None,
    ) -> None:  # fmt: skip
        """paths: where its files go, in place of its own folder in the run."""
        self.config, self.name, self.fold, self.accelerator = config, name, fold, accelerator
        self.run, self.round, self.recipe = run, round, config.recipe(round)
        self.stages = config.stages_of(name, round)
        self.keeps_state = config.keeps_state(name, round)
        self.model_config, self.input_config = config.members[name], config.input_of(name)
        self.paths = paths or run.member(round, name, fold)
        self.main = accelerator.is_main_process
        self.tracking: Tracking | None = None  # while it trains
        self.stop: StopSignal | None = None  # likewise
        self.features: dict[int, Features | None] = {}  # of the stages that have begun
        self.progress = ProgressFile(self.paths.progress if self.main else None)
        self.manifest = Manifest.read(run.train_set(round, fold))
        self.val_rows = self.manifest.val_rows(fold)
        self.trained_on = self.manifest.seen(fold)
        self.batch_size = config.batch_size_of(name)
        self.cache = open_cache(config, run)
        self.rows, self.watched_rows = own_rows(
            config, run, round, name, fold, self.manifest, self.cache
        )
        self._check_rows_and_batch()
        again = [round] if round else []  # a student is no copy of its teacher
        self.seed = seed_of(config.seed + self.model_config.seed, name, fold, *again)
        self.workers = default_workers(config, accelerator)
        self.fit = Fit(self.input_config)
        self.data = self._train_data()
        if self.input_config.normalize == "train":
            self._measure_mean_and_std()
        channels_last = config.compute.channels_last
        self.normalizer = Normalizer(self.input_config, accelerator.device, channels_last)
        self.model = self._build_model()
        self.ddp: nn.Module = self.model
        self._frozen: list[nn.Parameter] = []  # of the encoder, while it does not learn
        self.freeze_encoder(all(stage.freeze_encoder == "always" for stage in self.stages))
        decay = self.recipe.decay_of_averages(config.train.ema_decay)
        self.ema = Ema(self.model, decay) if decay else None
        self.teacher = self._build_teacher()
        if not config.compute.zero:  # whose engine wraps a copy of the model, anew for each stage
            self.ddp = accelerator.prepare(self.model)
        self.evaluator = self.watcher = self._evaluator(self.val_rows)
        if config.train.inner_share:
            self.watcher = self._evaluator(self.watched_rows)

    def _check_rows_and_batch(self) -> None:
        """UserError: there is nothing to train on, or a batch that the ranks cannot divide."""
        if not self.rows:
            raise UserError(f"member {self.name}, fold {self.fold}: no rows to train on")
        if self.batch_size % self.micro_batches:
            raise UserError(
                f"train.batch_size: {self.batch_size} cannot be split over "
                f"{self.accelerator.num_processes} processes x {self.config.train.accumulation} "
                "micro-batches"
            )

    def _train_data(self) -> TrainData:
        tests = any(sample.origin in FROM_TEST for sample in self.manifest)
        extra = open_unlabeled_cache(self.config, self.run) if tests else None
        self.temperatures = soft_temperatures(self.config, self.manifest, self.round)
        return TrainData(
            self.manifest, self.cache, extra, self.config, self.run.folder, self.temperatures
        )

    def _measure_mean_and_std(self) -> None:
        """Put the statistics of the member's own labeled train images into its input."""
        own = [row for row in self.rows if self.manifest[row].origin == "labeled"]
        mean, std = train_statistics(self.data, own)
        self.input_config = self.input_config.model_copy(update={"mean": mean, "std": std})

    def _build_model(self) -> nn.Module:
        """The model on its device, from its seed, its pretrained encoder, or the round before."""
        config, size = self.config, self.input_config
        check_fixed_size(self.model_config, size, config.predict.tta)
        torch.manual_seed(seed_of(self.seed, "weights"))
        model = build_model(
            self.model_config,
            size.channels,
            config.num_outputs,
            (size.height, size.width),
            # not read where other weights will take their place
            pretrained=not checkpoint.has_state(self.paths.state) and not self._warm,
        )
        if dropout_passes(config.predict.tta) and not dropout_layers(model):
            logger.warning("predict.tta: dropout: %s has no dropout: nothing is gained", self.name)
        if self._warm:
            self._start_from_previous(model)
        if config.compute.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(self.accelerator.device)
        if config.compute.compile:
            model.compile()  # in place: the names of the weights stay
        return model

    def _build_teacher(self) -> nn.Module | None:
        """Whose predictions the model's shall be like, in a round of that kind."""
        if not self.recipe.has_mean_teacher:
            return None
        assert self.ema is not None
        teacher = self.ema.teacher(self.model)
        if self.config.compute.compile:  # a copy of a compiled model is not
            teacher.compile()
        return teacher

    def freeze_encoder(self, stays: bool) -> None:
        """All ranks: whether the encoder (without a pyramid, which no weights fill) learns from
        here on. Only what learns has gradients and a state of the optimizer."""
        if stays == bool(self._frozen):
            return
        if stays:
            encoder = trunk(self.model.get_submodule(ENCODER))
            self._frozen = [p for p in encoder.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(not stays)
        self._frozen = self._frozen if stays else []
        if self.ddp is not self.model:  # it waits for the gradients that there were when it began
            self.accelerator.unwrap_model(self.ddp, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
            self.ddp = self.accelerator.prepare(self.model)

    @property
    def frozen_encoder(self) -> nn.Module | None:
        """What `freeze_encoder` keeps as it is, now."""
        return trunk(self.model.get_submodule(ENCODER)) if self._frozen else None

    def _evaluator(self, rows: list[int]) -> Evaluator:
        """Scores on rows with a human label."""
        samples = [self.manifest[row] for row in rows]
        return Evaluator(
            self.accelerator,
            EvalSet(self.manifest, rows, self.cache, self.fit),
            [(sample.height, sample.width) for sample in samples],
            lambda i: self.cache.target(samples[i].id),
            self.fit,
            self.normalizer,
            self.config.task,
            self.config.predict.batch_size,
            self.workers,
            self.progress,
        )

    def close(self) -> None:
        """End the processes that load its images for evaluation; its feature maps may go."""
        for evaluator in {self.evaluator, self.watcher}:
            evaluator.close()
        for features in filter(None, self.features.values()):
            features.store.close()

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, over all ranks."""
        return self.accelerator.num_processes * self.config.train.accumulation

    @property
    def _warm(self) -> bool:
        return self.recipe.init == "previous" and not is_teachers(self.round) and self.round != 0

    def _start_from_previous(self, model: nn.Module) -> None:
        """The weights of the same model and fold in the round before: its last snapshot."""
        before = self.run.member(round_number(self.round) - 1, self.name, self.fold)
        if not is_done(before):
            raise UserError(
                f"rounds.{self.round}.init: previous: member {self.name}, fold {self.fold} of the "
                "round before has not finished"
            )
        done = read_json(before.done)
        state, _ = checkpoint.load_snapshot(before.snapshots / done["snapshots"][-1])
        model.load_state_dict(state)
        self.trained_on |= set(done["trained_on"])

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within the block, the model has its averaged weights, if it keeps any."""
        return self.ema.swap(self.model) if self.ema else nullcontext()

    def sampling(self, stage: int, first_epoch: int | None = None) -> Sampling:
        """The rows of a stage and how its steps draw from them. UserError, RuntimeError: there are
        none.

        first_epoch: see `set_up_stage`.
        """
        which = self.config.rows_of_stage(self.name, self.round, stage)
        origins = {row: self.manifest[row].origin for row in self.rows}
        pseudo, unlabeled = ([r for r in self.rows if origins[r] == one] for one in FROM_TEST)
        others = [r for r in self.rows if origins[r] not in FROM_TEST]
        mixes = which == "all" and self.recipe.mix == "ratio" and bool(pseudo)
        made = others if mixes else [r for r in self.rows if origins[r] != "unlabeled"]
        rows = {"pseudo": pseudo, "labeled": others}.get(which, made)
        mixed = pseudo if mixes else unlabeled
        if mixed and round(self.recipe.share * self.batch_size) % self.micro_batches:
            raise UserError(
                f"rounds.{self.round}.share: {self.recipe.share} of a batch of {self.batch_size} "
                f"cannot be split over {self.micro_batches} micro-batches (processes x "
                "accumulation)"
            )
        if not rows:
            said = f"stage {stage} of {self.name}, fold {self.fold}: no {which} rows"
            # That rules have left no pseudo-label to this student is no mistake that others share.
            raise RuntimeError(said) if which == "pseudo" else UserError(said)
        return Sampling(
            rows,
            self.batch_size,
            self.seed,
            draw=self.hard_draw(rows),
            **self._slide(stage, rows, first_epoch),
            bootstrap=self.config.data.folds.kind == "bootstrap",
            mixed=mixed,
            share=self.recipe.share,
            steps_per_epoch=self.config.train.steps_per_epoch,
        )

    def hard_draw(self, rows: list[int]) -> list[float]:
        """How often each row is wanted by the round's `hard_mining`, from its out-of-fold score in
        the round before; a row that was not scored there counts as solved. Empty: all alike."""
        strength = self.recipe.hard_mining
        if not strength or is_teachers(self.round):
            return []
        path = self.run.oof_table(round_number(self.round) - 1)
        if not path.is_file():
            raise UserError(f"rounds.{self.round}.hard_mining: {path} is missing: no scores to use")
        scores = {row["id"]: float(row["score"]) for row in read_rows(path)}
        return [1 + strength * (1 - scores.get(self.manifest[row].id, 1.0)) for row in rows]

    def _slide(self, stage: int, rows: list[int], first: int | None) -> dict[str, Any]:
        """Sampling's arguments for `positive_share`. UserError: all rows are of one kind."""
        wanted = self.stages[stage].positive_share
        if wanted is None:
            return {}
        positives = self.data.positives(rows)
        if not 0 < len(positives) < len(rows):
            raise UserError(
                f"stages.{stage}.positive_share: {len(positives)} of the {len(rows)} rows of "
                f"{self.name}, fold {self.fold}, hold an object: there is nothing to balance"
            )
        before = sum(s.schedule.epochs for s in self.stages[:stage])
        epochs = self.stages[stage].schedule.epochs
        slide = Slide(*wanted, before if first is None else first, epochs)
        return {"positives": positives, "slide": slide}

    def record(self) -> dict[str, Any]:
        """What rebuilds the model from a snapshot alone."""
        return {
            "member": self.model_config.model_dump(mode="json"),
            "input": self.input_config.model_dump(mode="json"),
            "num_outputs": self.config.num_outputs,
            "task": self.config.task,
            "classes": self.config.classes,
            "name": self.name,
            "fold": self.fold,
        }
