"""Where one member stands, from its files only: nothing here talks to a process."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distseg.config.schema import Config
from distseg.records.files import read_json_or, read_lines
from distseg.records.finished_member import loss_of, why_again
from distseg.records.paths import RoundKey, Run, member_id
from distseg.records.progress import Position, read_position

EVALUATED = 0.9  # of an epoch is done while its evaluation runs, more or less


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member.

    Attributes:
        state: done | damaged | failed | running | stopped | waiting.
        epoch: epochs that are trained, of `epochs`: of those that are planned, without what early
            stopping has left out.
        score: the last; of one that is done, that of its out-of-fold prediction. best: of all.
        seconds: of all epochs so far, with their evaluations. first_seconds: what of it the first
            epoch took beyond the others: kernels are searched for, loaders start; 0 before there
            are others. eval_seconds: of one evaluation.
        oof_seconds: of the out-of-fold prediction; None before it is done.
        stages: the number of the stage of each epoch that is trained.
        eta_s: seconds that the member's own epochs still need.
        position: where its process stands within an epoch, or in its out-of-fold prediction; None
            where it has told nothing since the last epoch's end.
        message: why it failed.
    """

    name: str
    fold: int
    state: str
    epoch: int
    epochs: int
    score: float | None = None
    best: float | None = None
    loss: float | None = None
    lr: float | None = None
    images_per_s: float | None = None
    seconds: float = 0.0
    first_seconds: float = 0.0
    eval_seconds: float | None = None
    oof_seconds: float | None = None
    eta_s: float | None = None
    position: Position | None = None
    message: str = ""
    stages: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """unet_fold0"""
        return member_id(self.name, self.fold)

    @property
    def epochs_done(self) -> float:
        """Epochs that are trained, with the share of the one that runs."""
        if self.position is None:
            return self.epoch
        if self.position.phase == "train":
            return min(self.epochs, self.epoch + self.position.share)
        return min(self.epochs, self.epoch + EVALUATED * (self.position.phase == "evaluate"))

    @property
    def oof_share(self) -> float:
        """How much of the out-of-fold prediction is done, 0..1."""
        at_it = self.position is not None and self.position.phase == "out of fold"
        return self.position.share if self.position and at_it else 0.0


def member_status(config: Config, run: Run, round: RoundKey, name: str, fold: int) -> MemberStatus:
    """Read one member's DONE, failure.json, metrics.jsonl and progress.json; `running` is left to
    the caller."""
    paths, epochs = run.member(round, name, fold), config.epochs_of(name, round)
    rows = [row for row in read_lines(paths.metrics) if isinstance(row.get("epoch"), int)]
    last = rows[-1] if rows else {}
    epochs -= int(_number(last, "epochs_left_out") or 0)
    scores = [score for row in rows if (score := _number(row, "score")) is not None]
    whole = [_number(row, "epoch_seconds") or _number(row, "seconds") or 0.0 for row in rows]
    spent = [
        max(0.0, seconds - (_number(row, "seconds") or 0.0))
        for row, seconds in zip(rows, whole, strict=True)
        if _number(row, "score") is not None
    ]
    score, seconds, oof_seconds = scores[-1] if scores else None, sum(whole), None
    state, message, eta = ("stopped" if rows else "waiting"), "", _number(last, "eta_s")
    if why := why_again(read_json_or(paths.done, {})):
        state, message = "waiting", f"`distseg run` makes it again: {why}"
    elif loss := loss_of(paths):
        state, message = "damaged", f"{loss}; `distseg run` makes it again"
    elif paths.done.is_file():
        done = read_json_or(paths.done, {})
        state, score, eta = "done", _number(done, "score"), 0.0
        oof_seconds = _number(done, "oof_seconds")
    elif paths.failure.is_file():
        failure = read_json_or(paths.failure, {})
        state, message = "failed", f"{failure.get('kind')}: {failure.get('message')}"
    position = read_position(paths.progress)
    if position and paths.metrics.is_file():  # of an epoch that has ended since
        position = position if position.written > paths.metrics.stat().st_mtime else None
    return MemberStatus(
        name, fold, state, last.get("epoch", -1) + 1, epochs,
        score=score, best=max(scores, default=None), loss=_number(last, "loss"),
        lr=_number(last, "lr"), images_per_s=_number(last, "images_per_s"),
        seconds=seconds, first_seconds=_beyond(whole), eval_seconds=_mean(spent),
        oof_seconds=oof_seconds, eta_s=eta, position=position, message=message,
        stages=tuple(_number(row, "stage") or 0 for row in rows),
    )  # fmt: skip


def _beyond(epochs: Sequence[float]) -> float:
    """Seconds of the first epoch beyond the median of the others."""
    return max(0.0, epochs[0] - statistics.median(epochs[1:])) if len(epochs) > 1 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _number(record: Mapping[str, Any], key: str) -> float | None:
    """A number of a record that may be damaged; None where there is none."""
    value = record.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
