"""Which weights a member keeps, and their average."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from distseg.config.training import StageConfig
from distseg.functional.metrics import summarize
from distseg.models import checkpoint
from distseg.training.member import Member, Progress


def sync_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """All ranks: take rank 0's running statistics, so that every rank evaluates one model."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))


def keep_snapshots(
    member: Member,
    stage: StageConfig,
    progress: Progress,
    cycle: int,
    at_cycle_end: bool,
    score: float | None,
) -> None:
    """Write the snapshots that `stage.keep` asks for; only the last stage's are kept."""
    last = progress.epoch == stage.schedule.epochs
    wanted = {
        "last": last,
        "cycles": at_cycle_end,
        "best": score is not None or last,
        "top_k": score is not None or last,
    }[stage.keep]
    if progress.stage < len(member.stages) - 1 or not wanted:
        return
    limit = {"best": 1, "top_k": stage.top_k}.get(stage.keep)
    kept = progress.snapshots
    if limit and len(kept) >= limit:
        worst = min(kept, key=lambda s: _rank(s["score"]))
        if _rank(score) <= _rank(worst["score"]):
            return
        kept = [s for s in kept if s is not worst]
    name = f"stage{progress.stage}_epoch{progress.epoch:04d}.safetensors"
    entry = {"file": name, "stage": progress.stage, "cycle": cycle}
    entry |= {"epoch": progress.total_epochs, "score": score}
    if member.main:
        checkpoint.save_snapshot(
            member.paths.snapshots / name,
            checkpoint.clean_state_dict(member.model),
            {**member.record(), **entry},
        )
    progress.snapshots = [*kept, entry]


def _rank(score: float | None) -> float:
    return float("-inf") if score is None else score


def average_snapshots(
    member: Member, progress: Progress, batches: Iterable[dict[str, Tensor]]
) -> None:
    """Stochastic weight averaging of the kept snapshots (Izmailov et al. 2018), all ranks.

    Running statistics are estimated anew on `batches`: one epoch of training images.
    """
    member.accelerator.wait_for_everyone()
    files = [member.paths.snapshots / s["file"] for s in progress.snapshots]
    averaged = checkpoint.average_states([checkpoint.load_snapshot(f)[0] for f in files])
    member.model.load_state_dict(averaged)
    norms = [m for m in member.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    member.model.train()
    with torch.no_grad(), member.accelerator.autocast():
        for batch in batches:
            images = batch["image"].to(member.accelerator.device)
            member.model(member.normalizer(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    sync_buffers(member.model, member.accelerator)
    counts = member.evaluator.run(member.model, member.config.num_outputs)
    score = summarize(counts, member.config.metric)["score"] if member.val_rows else None
    entry = {"file": f"stage{progress.stage}_swa.safetensors", "stage": progress.stage}
    entry |= {"cycle": None, "epoch": progress.total_epochs, "score": score}
    if member.main:
        checkpoint.save_snapshot(
            member.paths.snapshots / str(entry["file"]),
            checkpoint.clean_state_dict(member.model),
            {**member.record(), **entry, "average_of": [f.name for f in files]},
        )
    progress.snapshots = [entry]
