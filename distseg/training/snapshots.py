"""Which weights a member keeps, and their average."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from distseg.config.training import StageConfig
from distseg.models import checkpoint
from distseg.training.epochs import evaluate, is_over
from distseg.training.member import Member
from distseg.training.state import Progress


def sync_buffers(member: Member, model: nn.Module) -> None:
    """All ranks: take rank 0's running statistics, so that every rank evaluates one model.

    DDP copies them at each forward pass only, and the last step has moved them apart since."""
    if member.accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))


def buffers_are_finite(member: Member, model: nn.Module) -> bool:
    """All ranks: whether running statistics are still numbers.

    A forward pass with a NaN in it has written them before its step was skipped. Rank 0's count:
    they are what is kept."""
    sync_buffers(member, model)
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return all(bool(torch.isfinite(buffer).all()) for buffer in buffers)


def keep_snapshots(
    member: Member, stage: StageConfig, progress: Progress, score: float | None
) -> None:
    """After an epoch: write the snapshot that `stage.keep` asks for; only the last stage's are
    kept. One that falls out of the best goes when the next state is saved."""
    epoch, per_cycle = progress.epoch, stage.schedule.epochs_per_cycle
    last = is_over(stage, progress)
    wanted = {
        "last": last,
        "cycles": epoch % per_cycle == 0,
        "best": score is not None or last,
        "top_k": score is not None or last,
        "best_of_cycles": score is not None or epoch % per_cycle == 0,
    }[stage.keep]
    if progress.stage < len(member.stages) - 1 or not wanted:
        return
    limit = {"best": 1, "top_k": stage.top_k, "best_of_cycles": 1}.get(stage.keep)
    kept, cycle = progress.snapshots, (epoch - 1) // per_cycle
    rivals = [s for s in kept if stage.keep != "best_of_cycles" or s["cycle"] == cycle]
    if limit and len(rivals) >= limit:
        worst = min(rivals, key=lambda s: _rank(s["score"]))
        if _rank(score) <= _rank(worst["score"]):
            return
        kept = [s for s in kept if s is not worst]
    name = f"stage{progress.stage}_epoch{epoch:04d}.safetensors"
    record = {"file": name, "stage": progress.stage, "cycle": cycle}
    record |= {"epoch": progress.total_epochs, "score": score}
    _write(member, record)
    progress.snapshots = [*kept, record]


def _rank(score: float | None) -> float:
    return float("-inf") if score is None else score


def _write(member: Member, record: dict[str, Any], **more: Any) -> None:
    """The member's weights as they are now, and what rebuilds the model; on the main rank."""
    if member.main:
        checkpoint.save_snapshot(
            member.paths.snapshots / record["file"],
            checkpoint.clean_state_dict(member.model),
            {**member.record(), **record, **more},
        )


def average_snapshots(
    member: Member, progress: Progress, batches: Iterable[Tensor]
) -> list[dict[str, Any]]:
    """Stochastic weight averaging of the kept snapshots (Izmailov et al. 2018), all ranks.

    Running statistics, but for a frozen encoder's, are estimated anew on `batches`: normalized
    images (B, C, H, W) of one epoch on the device. Returns the list of snapshots that is left: the
    average alone.
    """
    member.accelerator.wait_for_everyone()  # the main rank has written the last one
    files = [member.paths.snapshots / s["file"] for s in progress.snapshots]
    averaged = checkpoint.average_states([checkpoint.load_snapshot(f)[0] for f in files])
    member.model.load_state_dict(averaged)
    if member.frozen_encoder is not None:
        batches = _kept(member.frozen_encoder, batches)
    with member.accelerator.autocast():
        update_bn(batches, member.model)
    sync_buffers(member, member.model)
    score = evaluate(member).get("score")
    record = {"file": f"stage{progress.stage}_swa.safetensors", "stage": progress.stage}
    record |= {"cycle": None, "epoch": progress.total_epochs, "score": score}
    _write(member, record, average_of=[f.name for f in files])
    return [record]


def _kept(frozen: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches. With the first, a part of the model takes back the statistics and the mode that
    torch's update_bn, which knows no exceptions, has taken from all of it before it asks."""
    kept = [buffer.clone() for buffer in frozen.buffers()]

    def shown() -> Iterator[Tensor]:
        frozen.eval()
        for buffer, own in zip(frozen.buffers(), kept, strict=True):
            buffer.copy_(own)
        yield from batches

    return shown()
