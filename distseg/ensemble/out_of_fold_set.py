"""A round's finished members: what they say about the images that they did not train on.

Reads records and the data cache; imports no torch.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.prepare import open_cache
from distseg.functional.combine import (
    combine,
    from_space,
    highest_only,
    mean_presence,
    to_space,
)
from distseg.functional.metrics import summarize
from distseg.functional.weights import Weights
from distseg.records.errors import UserError
from distseg.records.finished_member import FinishedMember, UnusableMember
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import ALL_ROUNDS, RoundKey, Run, member_id, rounds_on_disk, snapshot_id
from distseg.records.predictions import Predictions

log = logging.getLogger(__name__)

BLOCK_VALUES = 1 << 20  # logits of a block of rows


@dataclass(frozen=True)
class Source:
    """Out-of-fold logits of one fold, and the snapshots of which they are the mean. heads: by id,
    logits (C,) of the image head, where there are any."""

    predictions: Predictions
    snapshots: list[str]
    heads: Mapping[str, NDArray[np.float32]]


class OutOfFold:
    """Rows of a round that at least one finished member validates, with their logits and truth.

    Logits stay on disk, memory-mapped: each call reads the one image that it is about.

    Attributes:
        models: models of the config that have a finished member, in its order; of all rounds
            together as NAME@ROUND.
        names: what weights are of: the models, each of which is the mean of its snapshots, and
            then the snapshots by themselves, as NAME#1, NAME#2, ... by their place in DONE's list.
        members: the finished members by (name, fold).
        left_out: {"name", "fold", "reason"} of members that the config asks for and are not there.
        folds: those that have a finished member.
        rows: rows of `manifest`, fold by fold.
    """

    def __init__(self, config: Config, run: Run, round: RoundKey) -> None:
        """Open the members of a round, or with ALL_ROUNDS of every round that has an ensemble.

        Raises:
            UserError: no member can be used.
        """
        self.config = config
        self.manifest = Manifest.read(run.truth)
        self.members: dict[tuple[str, int], FinishedMember] = {}
        self.left_out: list[dict[str, Any]] = []
        for number in _numbers(run) if round == ALL_ROUNDS else [round]:
            for model, fold in config.planned_members(self.manifest.folds, number):
                name = f"{model}@{number}" if round == ALL_ROUNDS else model
                self._open(run, number, model, fold, name)
        self.models = list(dict.fromkeys(name for name, _ in self.members))
        self.sources = {
            key: Source(m.predictions, m.snapshots, _by_id(m, m.heads))
            for key, m in self.members.items()
        }
        for (name, fold), member in self.members.items():
            apart = member.by_snapshot if config.ensemble.snapshots == "search" else []
            for place, one in enumerate(apart):
                own = [member.snapshots[place]]
                said = _by_id(member, member.heads[place : place + 1])
                self.sources[snapshot_id(name, place), fold] = Source(one, own, said)
        found = dict.fromkeys(name for name, _ in self.sources)
        self.names = [*self.models, *(name for name in found if name not in self.models)]
        self.folds = [f for f in self.manifest.folds if any(f == fold for _, fold in self.members)]
        self.rows = [row for fold in self.folds for row in self.manifest.val_rows(fold)]
        if not self.rows:
            first = self.left_out[0]["reason"] if self.left_out else "none was asked for"
            raise UserError(f"{run.round(round)}: no ensemble, as no member is usable: {first}")
        self.cache = open_cache(config, run)

    def _open(self, run: Run, round: RoundKey, model: str, fold: int, name: str) -> None:
        """Take one member, under `name`, or note why it is left out: the rest goes on."""
        rows = [self.manifest[row] for row in self.manifest.val_rows(fold)]
        try:
            member = FinishedMember.read(
                run, round, model, fold, rows=rows, num_outputs=self.config.num_outputs
            )
            self.members[name, fold] = member.opened()
        except UnusableMember as error:
            self.left_out.append({"name": name, "fold": fold, "reason": str(error)})
            log.warning("left out of the ensemble: %s: %s", member_id(name, fold), error)

    def logits(self, row: int, classes: slice = slice(None)) -> dict[str, NDArray[np.float16]]:
        """Logits of one row by `names`, float16 (C, H, W): those of its fold's members."""
        sample = self.manifest[row]
        return {
            name: self.sources[name, sample.fold].predictions.of(sample.id)[classes]
            for name in self.names
            if (name, sample.fold) in self.sources
        }

    def combined(
        self, row: int, weights: Weights, space: str, classes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The ensemble's logits of one row, float32 (C, H, W).

        weights: one per entry of `names`. Where all that its fold has weigh 0, its models count
        alike.
        """
        exclusive = self.config.postprocess.exclusive
        found = self.logits(row, slice(None) if exclusive else classes)
        chosen = self._some(weights, list(found))
        logits = combine(list(found.values()), chosen, space, self.config.task)
        return highest_only(logits)[classes] if exclusive else logits

    @property
    def has_heads(self) -> bool:
        """Whether any member has kept what its image head says."""
        return any(source.heads for source in self.sources.values())

    def presence(self, row: int, weights: Weights) -> NDArray[np.float32] | None:
        """The probability that each class is in a row's image, (C,), as the image heads of its
        fold's members say, by the same weights. None: none of those that weigh has a head."""
        sample = self.manifest[row]
        here = [name for name in self.names if (name, sample.fold) in self.sources]
        heads = [self.sources[name, sample.fold].heads.get(sample.id) for name in here]
        return mean_presence(heads, self._some(weights, here))

    def mixtures(
        self, rows: Sequence[int], trials: Sequence[Weights], space: str
    ) -> NDArray[np.float32]:
        """`combined` of a block of `blocks` for several weightings, (T, N, C, H, W)."""
        return self.mixed(*self.values(rows, space), trials, space)

    def values(self, rows: Sequence[int], space: str) -> tuple[list[str], NDArray[np.float32]]:
        """The names that a block of `blocks` has, and what they say in a space, (M, N, C, H, W)."""
        found = [self.logits(row) for row in rows]
        here = list(found[0])
        logits = np.stack([[one[name] for one in found] for name in here])
        return here, to_space(logits, space, self.config.task)

    def mixed(
        self, here: list[str], values_MNCHW: NDArray[np.float32], trials: Sequence[Weights],
        space: str,
    ) -> NDArray[np.float32]:  # fmt: skip
        """What `values` gave, combined by several weightings: logits (T, N, C, H, W)."""
        weights = np.array([self._some(trial, here) for trial in trials], dtype=np.float32)
        mean = weights @ values_MNCHW.reshape(len(here), -1) / weights.sum(axis=1, keepdims=True)
        mixed = from_space(mean.reshape(-1, *values_MNCHW.shape[1:]), space)
        return highest_only(mixed) if self.config.postprocess.exclusive else mixed

    def blocks(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """The rows in blocks of one fold and one size, each small enough to hold."""

        def kind(row: int) -> tuple[int, int, int]:
            sample = self.manifest[row]
            return sample.fold, sample.height, sample.width

        for (_, height, width), own in groupby(sorted(rows, key=kind), key=kind):
            same = list(own)
            values = height * width * self.config.num_outputs * len(self.names)
            step = max(1, BLOCK_VALUES // values)
            yield from (same[start : start + step] for start in range(0, len(same), step))

    def target(self, row: int) -> NDArray[np.uint8]:
        """uint8 (K, H, W), 255 where a pixel counts nowhere."""
        return self.cache.target(self.manifest[row].id)

    def member_scores(self, name: str) -> dict[str, Any]:
        """Scores at logit 0 (multiclass: the highest class) over the rows of all its folds.

        Snapshots are matched between folds by their place in DONE's list.
        """
        members = {fold: m for (other, fold), m in self.members.items() if other == name}
        depth = max(len(m.snapshots) for m in members.values())
        return {
            **self._variants([(m, "mean") for m in members.values()]),
            "folds": {
                str(fold): self._score([m.variants["mean_tta"]]) for fold, m in members.items()
            },
            "snapshots": [self._snapshot(list(members.values()), place) for place in range(depth)],
        }

    @property
    def uniform(self) -> Weights:
        """All models alike, each as the mean of its snapshots."""
        return (1,) * len(self.models) + (0,) * (len(self.names) - len(self.models))

    def shown(self, weights: Weights) -> dict[str, int]:
        """The weights by name, as records have them: those of all models, and of the snapshots that
        weigh something."""
        pairs = zip(self.names, weights, strict=True)
        return {name: weight for name, weight in pairs if weight or name in self.models}

    def alone(self) -> dict[str, tuple[list[str], NDArray[np.int64]]]:
        """Of each model, and of each of several snapshots, the ids of the rows of all its folds and
        their counts (N, C, 3) at logit 0 (multiclass: the highest class), with TTA."""
        found: dict[str, list[tuple[FinishedMember, str]]] = {}
        for (name, _), member in self.members.items():
            stems = [Path(file).stem for file in member.snapshots]
            places = {snapshot_id(name, place): stem for place, stem in enumerate(stems)}
            own = {name: "mean"} | (places if len(stems) > 1 else {})
            for key, stem in own.items():
                found.setdefault(key, []).append((member, f"{stem}_tta"))
        return {
            key: (
                [sample.id for member, _ in own for sample in member.rows],
                np.concatenate([member.variants[variant] for member, variant in own]),
            )
            for key, own in found.items()
        }

    def weighted(self, weights: Weights) -> list[dict[str, Any]]:
        """The members that predict, as ensemble.json lists them; those that weigh nothing are not
        run."""
        by_name = dict(zip(self.names, weights, strict=True))
        return [
            {"name": name, "fold": fold, "weight": by_name[name], "snapshots": source.snapshots}
            for (name, fold), source in self.sources.items()
            if by_name[name] > 0
        ]

    def _some(self, weights: Weights, here: Sequence[str]) -> list[int]:
        """The weights of the names that a fold has, or equal ones of its models where all are 0: it
        may lack what weighs."""
        by_name = dict(zip(self.names, weights, strict=True))
        own = [by_name[name] for name in here]
        return own if any(own) else [int(name in self.models) for name in here]

    def _snapshot(self, members: Sequence[FinishedMember], place: int) -> dict[str, Any]:
        found = [(m, Path(m.snapshots[place]).stem) for m in members if place < len(m.snapshots)]
        stems = {stem for _, stem in found}
        name = stems.pop() if len(stems) == 1 else f"snapshot_{place}"
        return {"name": name, **self._variants(found)}

    def _variants(self, found: Sequence[tuple[FinishedMember, str]]) -> dict[str, float]:
        return {
            key: self._score([member.variants[f"{stem}_{key}"] for member, stem in found])
            for key in ("tta", "plain")
        }

    def _score(self, counts: Sequence[NDArray[np.int64]]) -> float:
        return float(summarize(np.concatenate(counts), self.config.metric)["score"])


def _by_id(
    member: FinishedMember, heads: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Mean logits over snapshots of the image heads, by id."""
    if not heads:
        return {}
    mean = np.mean(heads, axis=0)
    return {sample.id: own for sample, own in zip(member.rows, mean, strict=True)}


def hash_key(sample: Sample) -> tuple[int, str]:
    """An order that has nothing to do with the data's own."""
    return zlib.crc32(sample.id.encode()), sample.id


def _numbers(run: Run) -> list[int]:
    """The rounds that have an ensemble."""
    return [number for number in rounds_on_disk(run) if run.ensemble(number).is_file()]
