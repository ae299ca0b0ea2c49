"""What training one member holds on every rank: its data, model, position and state on disk."""

from __future__ import annotations

import csv
import hashlib
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from distseg.config.schema import Config
from distseg.data.dataset import EvalSet, TrainData, train_statistics
from distseg.data.fit import Fit
from distseg.data.prepare import open_cache, open_unlabeled_cache
from distseg.data.sampling import Plan, Slide
from distseg.distributed import default_workers
from distseg.functional.tta_names import dropout_passes
from distseg.inference.evaluate import Evaluator
from distseg.inference.forward import Normalizer, dropout_layers
from distseg.models import checkpoint
from distseg.models.build import build_model, check_fixed_size
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import (
    MemberPaths,
    RoundKey,
    Run,
    is_teachers,
    round_number,
)
from distseg.training.optim import Ema

logger = logging.getLogger("distseg.training.train")


@dataclass
class Progress:
    """Where a resumed member continues; JSON beside the tensors of the state."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    step: int = 0  # finished steps of the epoch
    total_epochs: int = 0
    total_steps: int = 0
    skipped_steps: int = 0
    rollbacks: int = 0
    lr_scale: float = 1.0  # halved by each rollback
    seconds: float = 0.0
    loss_sum: float = 0.0
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)


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
        self.round, self.recipe = round, config.recipe(round)
        self.stages = config.stages_of(name, round)
        self.entry, self.size = config.members[name], config.input_of(name)
        self.run = run
        self.paths = paths or run.member(round, name, fold)
        self.main = accelerator.is_main_process
        self.manifest = Manifest.read(run.train_set(round, fold))
        self.rows = self.manifest.train_rows(fold, leaky=config.teacher_flag(round) != "honest")
        self.val_rows = self.manifest.val_rows(fold)
        if not self.rows:
            raise UserError(f"member {name}, fold {fold}: no rows to train on")
        self.batch_size = config.batch_size_of(name)
        parts = accelerator.num_processes * config.train.accumulation
        if self.batch_size % parts:
            raise UserError(
                f"train.batch_size: {self.batch_size} cannot be split over "
                f"{accelerator.num_processes} processes x {config.train.accumulation} micro-batches"
            )
        again = [round] if round else []  # a student is no copy of its teacher
        self.seed = seed_of(config.seed + self.entry.seed, name, fold, *again)
        self.cache, self.fit = open_cache(config, run), Fit(self.size)
        pseudo = any(s.origin == "pseudo" for s in self.manifest)
        extra = open_unlabeled_cache(config, run) if pseudo else None
        self.data = TrainData(
            self.manifest, self.cache, extra, config, run.folder, self.recipe.temperature
        )
        if self.size.normalize == "train":
            own = [r for r in self.rows if self.manifest[r].origin == "labeled"]
            mean, std = train_statistics(self.data, own)
            self.size = self.size.model_copy(update={"mean": mean, "std": std})
        check_fixed_size(self.entry, self.size, config.predict.tta)
        torch.manual_seed(seed_of(self.seed, "weights"))
        self.model = build_model(
            self.entry,
            self.size.channels,
            config.num_outputs,
            (self.size.height, self.size.width),
            pretrained=not checkpoint.has_state(self.paths.state) and not self._warm,
        )
        if dropout_passes(config.predict.tta) and not dropout_layers(self.model):
            logger.warning("predict.tta: dropout: %s has no dropout: nothing is gained", name)
        self.trained_on = self.manifest.seen(fold)
        if self._warm:
            self._start_from_previous(run)
        channels_last = config.compute.channels_last
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model = self.model.to(accelerator.device)
        if config.compute.compile:
            self.model.compile()  # in place: the names of the weights stay
        self.ddp = self.model if config.compute.zero else accelerator.prepare(self.model)
        self.normalizer = Normalizer(self.size, accelerator.device, channels_last)
        self.ema = Ema(self.model, config.train.ema_decay) if config.train.ema_decay else None
        self.workers = default_workers(config, accelerator)
        self.evaluator = Evaluator(
            accelerator,
            EvalSet(self.manifest, self.val_rows, self.cache, self.fit),
            [(self.manifest[r].height, self.manifest[r].width) for r in self.val_rows],
            lambda i: self.cache.target(self.manifest[self.val_rows[i]].id),
            self.fit,
            self.normalizer,
            config.task,
            config.predict.batch_size,
            self.workers,
        )

    @property
    def _warm(self) -> bool:
        return self.recipe.init == "previous" and not is_teachers(self.round) and self.round != 0

    def _start_from_previous(self, run: Run) -> None:
        """The weights of the same model and fold in the round before: its last snapshot."""
        before = run.member(round_number(self.round) - 1, self.name, self.fold)
        if not before.done.is_file():
            raise UserError(
                f"rounds.{self.round}.init: previous: member {self.name}, fold {self.fold} of the "
                "round before has not finished"
            )
        done = read_json(before.done)
        state, _ = checkpoint.load_snapshot(before.snapshots / done["snapshots"][-1])
        self.model.load_state_dict(state)
        self.trained_on |= set(done["trained_on"])

    def plan(self, stage: int) -> Plan:
        """The rows of a stage and how a step is made of them. UserError: there are none."""
        which = self.config.rows_of_stage(self.name, self.round, stage)
        pseudo = [r for r in self.rows if self.manifest[r].origin == "pseudo"]
        others = [r for r in self.rows if self.manifest[r].origin != "pseudo"]
        mixes = which == "all" and self.recipe.mix == "ratio" and bool(pseudo)
        rows = {"pseudo": pseudo, "labeled": others}.get(which, others if mixes else self.rows)
        parts = self.accelerator.num_processes * self.config.train.accumulation
        if mixes and round(self.recipe.share * self.batch_size) % parts:
            raise UserError(
                f"rounds.{self.round}.share: {self.recipe.share} of a batch of {self.batch_size} "
                f"cannot be split over {parts} parts (processes x accumulation)"
            )
        if not rows:
            raise UserError(f"stage {stage} of {self.name}, fold {self.fold}: no {which} rows")
        return Plan(
            rows,
            self.batch_size,
            self.seed,
            draw=self.hard_draw(rows),
            **self._slide(stage, rows),
            bootstrap=self.config.data.folds.kind == "bootstrap",
            mixed=pseudo if mixes else (),
            share=self.recipe.share,
        )

    def hard_draw(self, rows: list[int]) -> list[float]:
        """How often each row is wanted by the round's `hard_mining`: by what the round before
        scored on it out of fold; a row that it did not score counts as solved."""
        strength = self.recipe.hard_mining
        if not strength or is_teachers(self.round):
            return []
        path = self.run.oof_table(round_number(self.round) - 1)
        if not path.is_file():
            raise UserError(f"rounds.{self.round}.hard_mining: {path} is missing: no scores to use")
        with path.open(newline="", encoding="utf-8") as file:
            scores = {row["id"]: float(row["score"]) for row in csv.DictReader(file)}
        return [1 + strength * (1 - scores.get(self.manifest[row].id, 1.0)) for row in rows]

    def _slide(self, stage: int, rows: list[int]) -> dict[str, Any]:
        """What a Plan needs for `positive_share`. UserError: all rows are of one kind."""
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
        slide = Slide(*wanted, before, self.stages[stage].schedule.epochs)
        return {"positives": positives, "slide": slide}

    def record(self) -> dict[str, Any]:
        """What rebuilds the model from a snapshot alone."""
        return {
            "member": self.entry.model_dump(mode="json"),
            "input": self.size.model_dump(mode="json"),
            "num_outputs": self.config.num_outputs,
            "task": self.config.task,
            "classes": self.config.classes,
            "name": self.name,
            "fold": self.fold,
        }


def round_to(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}f}")


def save(member: Member, optimizer: dict[str, Any] | None, progress: Progress) -> None:
    """All ranks: write the state, whole or not at all; then snapshots that it dropped go.

    `optimizer`: its state, or None at the border between two stages. Under ZeRO each rank has
    its own share of it, and writes that first: the state that rank 0 then puts in place names
    the shares.
    """
    shards: list[str] = []
    if member.config.compute.zero and optimizer is not None:
        shards = shard_names(member, progress)
        mine = shards[member.accelerator.process_index]
        checkpoint.save_shard(member.paths.state / mine, optimizer)
        member.accelerator.wait_for_everyone()
    if member.main:
        tree: dict[str, Any] = {
            "model": checkpoint.clean_state_dict(member.model),
            "optimizer": {} if shards else optimizer or {},
            "ema": member.ema.tensors() if member.ema else {},
        }
        tree |= {"shards": shards} if shards else {}
        checkpoint.save_state(member.paths.state, tree, asdict(progress), shards)
        kept = {s["file"] for s in progress.snapshots}
        for path in member.paths.snapshots.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
    member.accelerator.wait_for_everyone()


def shard_names(member: Member, progress: Progress) -> list[str]:
    """Files of the optimizer's state under ZeRO, one a rank; they say how it was divided."""
    at = f"stage{progress.stage}_epoch{progress.epoch:04d}_step{progress.step:06d}"
    ranks = member.accelerator.num_processes
    zero = f"zero{member.config.compute.zero}"
    return [f"shard_{at}_{zero}_{rank}of{ranks}.safetensors" for rank in range(ranks)]


def load(member: Member) -> tuple[dict[str, Any], Progress] | None:
    """All ranks: the state on disk, with this rank's share of the optimizer's; None: there is
    none. UserError: the shares were made for other ranks or another ZeRO stage."""
    found = checkpoint.load_state(member.paths.state)
    member.accelerator.wait_for_everyone()
    if found is None:
        return None
    tree, progress = found[0], Progress(**found[1])
    shards = tree.get("shards", [])
    wanted = shard_names(member, progress) if member.config.compute.zero else []
    if (shards or tree["optimizer"]) and shards != wanted:
        raise UserError(
            f"{member.paths.state}: the optimizer's state was saved as {shards or 'one file'}; "
            f"compute.zero: {member.config.compute.zero} on {member.accelerator.num_processes} "
            "processes cannot read it. Go on as it was started, or delete the folder: the member "
            "then starts anew"
        )
    if shards:
        mine = shards[member.accelerator.process_index]
        tree["optimizer"] = checkpoint.load_shard(member.paths.state / mine)
    return tree, progress


def restore(member: Member) -> tuple[Progress, dict[str, Any] | None]:
    """All ranks: the state on disk, if there is one, and the model set to it."""
    found = load(member)
    if found is None:
        return Progress(), None
    tree, progress = found
    member.model.load_state_dict(tree["model"])
    if member.ema:
        member.ema.load(tree["ema"])
    logger.info("resumes at epoch %d, step %d", progress.total_epochs, progress.step)
    return progress, tree
