"""What is counted over an epoch, and the row of metrics.jsonl that tells of it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from distseg.config.in_vain import out_of_reach
from distseg.config.training import LOSSES, StageConfig, epoch_weights, weight_of_last
from distseg.functional.evaluations import evaluate_every
from distseg.functional.losses import SpecLoss
from distseg.functional.metrics import summarize
from distseg.records import log
from distseg.records.files import append_line, atomic_write, read_lines
from distseg.training.member import Member
from distseg.training.patience import Patience
from distseg.training.stage import Stage, StepResult
from distseg.training.state import Progress
from distseg.training.tracking import member_tracking

logger = logging.getLogger(__name__)


class EpochTotals:
    """Sums over the steps of an epoch, on the device: to add to them makes nobody wait.

    loss: float64 (), sum of this rank's sample losses, without those of skipped steps.
    skipped: int64 (), steps that were skipped; as on every rank, since gradients are shared.
    bad_in_row: int64 (), bad steps (see `Update`) since the last good one, also over epochs.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.bad_in_row = torch.zeros_like(self.skipped)
        self.first_step = 0  # of the epoch that this process has trained; not 0 after a resume
        self.rows: list[int] = []  # of the last step
        self.started = time.perf_counter()

    def begin(self, first_step: int) -> None:
        """An epoch begins, or goes on at a step of it."""
        self.started, self.first_step = time.perf_counter(), first_step
        self.loss, self.skipped = torch.zeros_like(self.loss), torch.zeros_like(self.skipped)

    def add(self, result: StepResult) -> None:
        self.bad_in_row = (self.bad_in_row + result.bad) * result.skipped
        self.skipped = self.skipped + result.skipped
        # torch.where, not a product: 0 times NaN is NaN
        self.loss = self.loss + torch.where(result.skipped.bool(), 0.0, result.loss)
        self.rows = result.rows

    @property
    def seconds(self) -> float:
        """Time since the epoch began, or went on, in this process."""
        return time.perf_counter() - self.started


def gives_up(member: Member, progress: Progress, totals: EpochTotals) -> bool:
    """Whether `train.max_bad_steps` losses in a row were not finite; waits for the device."""
    bad = int(totals.bad_in_row)
    if bad:
        at = position(member, progress, totals)
        logger.warning("%d non-finite losses in a row up to %s", bad, at)
    return bad >= member.config.train.max_bad_steps


def position(member: Member, progress: Progress, totals: EpochTotals) -> str:
    """Epoch, step and the ids of the last step's first samples, for a message."""
    ids = ", ".join(member.manifest[row].id for row in totals.rows[:8])
    return f"epoch {progress.total_epochs}, step {progress.step}, samples {ids}"


def begin_row(
    member: Member, stage: Stage, progress: Progress, totals: EpochTotals
) -> dict[str, Any]:
    """All ranks: the epoch's place, the mean loss of its samples, and its last learning rate."""
    # what an interrupted process has added to the epoch before counts, too
    local = (totals.loss + progress.loss_sum).float().to(member.accelerator.device)
    total = member.accelerator.reduce(local, reduction="sum").item()
    factor = stage.lr_factor(progress.epoch, stage.sampling.steps - 1) * progress.lr_scale
    return {
        "stage": progress.stage,
        "epoch": progress.total_epochs,
        "loss": round_to(total / stage.sampling.images, 7),
        "lr": round_to(stage.config.optimizer.lr * factor, 10),
        "cycle": progress.epoch // stage.config.schedule.epochs_per_cycle,
    }


def speed(stage: Stage, totals: EpochTotals) -> dict[str, float]:
    """Images a second of the training steps alone, and the seconds that they took."""
    seconds, sampling = totals.seconds, stage.sampling
    steps = sampling.steps - totals.first_step
    images = min(steps * sampling.batch_size, sampling.images)
    return {"images_per_s": round_to(images / seconds), "seconds": round_to(seconds)}


def count_epoch(progress: Progress) -> None:
    """The epoch's steps are done: the next step is the first of the next epoch."""
    progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    progress.total_epochs += 1


def is_evaluated(member: Member, stage: Stage, progress: Progress) -> bool:
    """Whether the model is scored after the epoch that was just counted: at the end of a cycle,
    where snapshots are taken, and every `train.evaluate_every` epochs of the stage."""
    at_cycle_end = progress.epoch % stage.config.schedule.epochs_per_cycle == 0
    return at_cycle_end or progress.epoch % _evaluate_every(member, stage) == 0


def _evaluate_every(member: Member, stage: Stage) -> int:
    every = member.config.train.evaluate_every
    if every != "auto":
        return every
    trained = stage.sampling.images * math.prod(stage.config.input_size or member.fit.size)
    samples = [member.manifest[row] for row in member.watched_rows]
    shown = sum(member.fit.predicted_pixels(one.height, one.width) for one in samples)
    return evaluate_every(trained, shown)


def evaluate(member: Member, loss: SpecLoss | None = None) -> dict[str, Any]:
    """All ranks: scores of the member's model on the rows that watch it, if any; with `loss` also
    the mean of it over their images, at native size."""
    if not member.watched_rows:
        return {}
    counts, losses = member.watcher.run(member.model, member.config.num_outputs, loss)
    summary = summarize(counts, member.config.metric)
    scores = {key: summary[key] for key in ("score", "positives", "negatives", "iou")}
    return scores if loss is None else {**scores, "val_loss": round_to(float(losses.mean()), 7)}


def observe(member: Member, stage: Stage, progress: Progress, watched: dict[str, Any]) -> None:
    """After an evaluation, all ranks: hand the watched values to a plateau schedule and to early
    stopping. What has no value, as the score of images with an object where no row that watches
    the member holds one, has none after any epoch: nothing follows it, and the log says so once."""
    schedule, early = stage.config.schedule, stage.config.early_stopping
    every = _evaluate_every(member, stage)
    if progress.epoch == min(every, schedule.epochs_per_cycle):  # the stage's first evaluation
        _tell_what_is_in_vain(member, stage, progress, watched, every)
    if watched.get(schedule.metric) is not None:
        stage.schedule.observe(watched[schedule.metric])
    if early is None or watched.get(early.metric) is None:
        return
    patience = Patience(rises=early.metric not in LOSSES, min_gain=early.min_gain)
    patience.load(progress.waited)
    if patience.observe(watched[early.metric]) == early.patience:
        logger.info(
            "stage %d ends after %d of %d epochs: %s has gained nothing over %.4f in %s",
            progress.stage, progress.epoch, schedule.epochs, early.metric,
            math.nan if patience.best is None else patience.best,
            log.counted(early.patience, "evaluation"),
        )  # fmt: skip
    progress.waited = patience.state()


def _tell_what_is_in_vain(
    member: Member, stage: Stage, progress: Progress, watched: dict[str, Any], every: int
) -> None:
    """Warn of what follows the evaluations of a stage and will never act."""
    where = f"stage {progress.stage} of {member.name}, fold {member.fold}"
    for line in out_of_reach(stage.config, every):
        logger.warning("%s: %s", where, line)
    for one in stage.config.followers:
        if watched.get(one.metric) is None:
            logger.warning(
                "%s: %s.metric: %s has no value on the %s that watch it: nothing follows it",
                where, one.key, one.metric, log.counted(len(member.watched_rows), "row"),
            )  # fmt: skip


def is_over(stage: StageConfig, progress: Progress) -> bool:
    """Whether a stage has trained its epochs, or its `early_stopping` has ended it."""
    early = stage.early_stopping
    stalled = early is not None and progress.waited.get("bad", 0) >= early.patience
    return stalled or progress.epoch >= stage.schedule.epochs


def epochs_left_out(member: Member, progress: Progress) -> int:
    """Planned epochs that are not trained, because stages have ended early."""
    planned, stage = [stage.schedule.epochs for stage in member.stages], progress.stage
    before = sum(planned[:stage]) - (progress.total_epochs - progress.epoch)
    ended = stage < len(planned) and is_over(member.stages[stage], progress)
    return before + (planned[stage] - progress.epoch if ended else 0)


def finish_row(member: Member, row: dict[str, Any], progress: Progress, epoch_s: float) -> None:
    """Complete an epoch's row with the total, the time that is left, skipped steps and rollbacks so
    far; append it to metrics.jsonl, and log it. On the main rank only.

    epoch_s: seconds of this epoch with its evaluation; the epochs to come are taken to last as
    long, and those of a stage with more pixels longer.
    """
    if not member.main:
        return
    left_out = epochs_left_out(member, progress)
    total = sum(stage.schedule.epochs for stage in member.stages) - left_out
    weights = epoch_weights(member.stages, member.fit.size)
    own = member.stages[row["stage"]].pixel_share(member.fit.size)
    left = weight_of_last(weights, total - progress.total_epochs) * epoch_s / own
    row |= {"epochs": total, "eta_s": round_to(left, 1), "skipped_steps": progress.skipped_steps}
    row |= {"epochs_left_out": left_out} if left_out else {}
    row["epoch_seconds"] = round_to(epoch_s)
    row["rollbacks"] = sum(epoch <= row["epoch"] for epoch in progress.halved_from)
    append_line(member.paths.metrics, row)
    if member.tracking:
        member.tracking.log(row, row["epoch"])
    score = f" score {row['score']:.4f}" if row.get("score") is not None else ""
    logger.info(
        "%s fold %d epoch %d/%d loss %.4f%s lr %.2e %.1f images/s ETA %s",
        member.name, member.fold, row["epoch"] + 1, row["epochs"], row["loss"], score,
        row["lr"], row["images_per_s"], log.duration(row["eta_s"]),
    )  # fmt: skip


@contextlib.contextmanager
def tracked(member: Member) -> Iterator[None]:
    """On the main rank: what `track` names gets the rows of metrics.jsonl while the block runs."""
    try:
        yield
    finally:
        if member.tracking:
            member.tracking.close()


def begin_tracking(member: Member) -> None:
    """Within `tracked`, on the main rank, once metrics.jsonl holds what counts."""
    if member.main and member.config.track:
        member.tracking = member_tracking(
            member.config, member.run, member.round, member.name, member.fold
        )


def truncate_metrics(member: Member, progress: Progress) -> None:
    """On the main rank: drop the rows of epochs that will be trained again."""
    path = member.paths.metrics
    if member.main and path.is_file():
        rows = [row for row in read_lines(path) if row.get("epoch", 0) < progress.total_epochs]
        atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))


def round_to(value: float, digits: int = 3) -> float:
    """The number with so many decimals, also where it is infinite or NaN."""
    return float(f"{value:.{digits}f}")
