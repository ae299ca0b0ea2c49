"""Where a member's training is, on disk: save it, read it, go back to it.

The ends of epochs (see `Saving`), and every signal, leave a whole state: weights, averages, the
optimizer, the loss scale of fp16, and the position as JSON. Nothing else is needed to go on bit for
bit, because order and augmentation are computed from the position alone. So it makes no difference
to what comes out how long ago the last state was saved: what came after it is trained again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from distseg.models import checkpoint
from distseg.records.errors import UserError
from distseg.records.paces import SAVING_SHARE
from distseg.training.member import Member
from distseg.training.stage import Stage
from distseg.training.stopping import NonFiniteLoss

logger = logging.getLogger(__name__)
FORM = 2  # of a state's record; another trains other rows, or at other temperatures, in some rounds


@dataclass
class Progress:
    """Where a resumed member goes on; JSON beside the tensors of the state."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    step: int = 0  # finished steps of the epoch
    total_epochs: int = 0
    total_steps: int = 0
    skipped_steps: int = 0
    halved_from: list[int] = field(default_factory=list)  # each rollback: an epoch of all stages
    seconds: float = 0.0
    loss_sum: float = 0.0  # of the epoch's finished steps, where it was interrupted
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)
    waited: dict[str, Any] = field(default_factory=dict)  # early stopping: a Patience's state

    def next_stage(self) -> Progress:
        """The start of the stage after this one."""
        return replace(self, stage=self.stage + 1, epoch=0, step=0, schedule={}, waited={})

    @property
    def rollbacks(self) -> int:
        return len(self.halved_from)

    @property
    def lr_scale(self) -> float:
        """Factor of the learning rate in the epoch that comes or goes on."""
        return float(0.5 ** sum(self.total_epochs >= epoch for epoch in self.halved_from))


class Saving:
    """How often the state is saved: as often as it may be for SAVING_SHARE of the time.

    An epoch of a small set on a fast GPU takes a second, and a state of 300 MB as long or longer.
    Where an epoch takes minutes, each one is saved.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.took_s, self.ended = 0.0, time.perf_counter()

    def save(self, member: Member, progress: Progress, optimizer: dict[str, Any] | None) -> None:
        """As the function `save`; and remember how long it took."""
        began = time.perf_counter()
        save(member, progress, optimizer)
        self.ended = time.perf_counter()
        self.took_s = self.ended - began

    def is_due(self) -> bool:
        """All ranks: whether the last one is long enough ago, by the clock of rank 0."""
        due = SAVING_SHARE * (time.perf_counter() - self.ended) >= self.took_s
        if self.accelerator.num_processes == 1:
            return due
        return bool(broadcast(torch.tensor(due, device=self.accelerator.device), from_process=0))


def save(member: Member, progress: Progress, optimizer: dict[str, Any] | None) -> None:
    """All ranks: write the state, whole or not at all; then snapshots that it dropped go.

    optimizer: its state, or None at the border between two stages. Under ZeRO each rank has its own
    share of it, and writes that first: the state that rank 0 then puts in place names the shares.
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
        scaler = member.accelerator.scaler  # fp16 only
        tree |= {"scaler": scaler.state_dict()} if scaler is not None else {}
        record = {**asdict(progress), "form": FORM}
        checkpoint.save_state(member.paths.state, tree, record, shards)
        # Only now: a state that a kill leaves behind must find the snapshots that it names.
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


def load(member: Member) -> tuple[Progress, dict[str, Any]] | None:
    """All ranks: set the model and its averages to the state on disk.

    Returns its position and its tensors, with this rank's share of the optimizer's state; None
    where there is no state. UserError: the shares were made for other ranks or another ZeRO stage,
    or another version has saved it.
    """
    found = checkpoint.load_state(member.paths.state)
    member.accelerator.wait_for_everyone()
    if found is None:
        return None
    known = {k: v for k, v in found[1].items() if k in Progress.__dataclass_fields__}
    tree, progress = found[0], Progress(**known)
    if progress.total_steps and found[1].get("form") != FORM:
        raise UserError(
            f"{member.paths.state}: saved by another version of distseg; to go on would mix both. "
            f"Delete the folder {member.paths.folder}: the member then starts anew"
        )
    _drop_ends(member, progress)
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
    member.model.load_state_dict(tree["model"])
    if member.ema:
        member.ema.load(tree["ema"])
    if member.accelerator.scaler is not None and "scaler" in tree:
        member.accelerator.scaler.load_state_dict(tree["scaler"])
    return progress, tree


def _drop_ends(member: Member, progress: Progress) -> None:
    """In place: where a stage has more epochs than when this was its end, the snapshot that was
    kept only because it was the end goes, as if there had been more from the start."""
    if progress.stage == len(member.stages):  # trained to its end
        return
    stage = member.stages[progress.stage]
    if progress.epoch < stage.schedule.epochs and "cycles" not in stage.keep:
        scored = [s for s in progress.snapshots if s["score"] is not None]
        progress.snapshots = [] if stage.keep == "last" else scored


def restore(member: Member) -> tuple[Progress, dict[str, Any] | None]:
    """All ranks: the position and tensors to go on from, or those of a start."""
    found = load(member)
    if found is None:
        return Progress(), None
    logger.info("resumes at epoch %d, step %d", found[0].total_epochs, found[0].step)
    return found


def put_back(stage: Stage, progress: Progress, tree: dict[str, Any]) -> None:
    """All ranks: the stage's optimizer and schedule take back a state that load() has read. One
    from a stage's border holds no optimizer: the stage begins with its own."""
    stage.engine.load(tree)
    if progress.schedule:
        stage.schedule.load(progress.schedule)


def roll_back(
    member: Member, progress: Progress, sound: int, where: str
) -> tuple[Progress, dict[str, Any]]:
    """All ranks: the last state on disk, as `load` gives it, with half the learning rate from the
    epoch `sound` (of all stages) on. The epochs before it are trained again as they were, so that
    it does not matter when the state was saved.

    where: epoch, step and samples, for the message. NonFiniteLoss: `train.max_rollbacks` are used
    up. They are counted over the whole training, also when what failed was trained again.
    """
    if progress.rollbacks >= member.config.train.max_rollbacks:
        raise NonFiniteLoss(
            f"the loss is not finite at {where} after {progress.rollbacks} rollbacks; "
            "lower the learning rate, or set compute.precision: fp32"
        )
    found = load(member)
    assert found is not None, "a state is saved before the first step"
    saved, tree = found
    logger.warning(
        "rolled back to epoch %d, learning rate halved from epoch %d on", saved.total_epochs, sound
    )
    return replace(saved, halved_from=[*progress.halved_from, sound]), tree
