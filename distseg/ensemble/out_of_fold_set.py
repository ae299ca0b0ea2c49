"""A round's finished members: what they say about the images that they did not train on.

Reads records and the data cache; imports no torch.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.data.prepare import open_cache
from distseg.functional.combine import combine, from_space, highest_only, to_space
from distseg.functional.metrics import summarize
from distseg.functional.postprocess import to_masks
from distseg.records.errors import UserError
from distseg.records.finished_member import FinishedMember, UnusableMember
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import (
    ALL_ROUNDS,
    RoundKey,
    Run,
    member_id,
    rounds_on_disk,
)

log = logging.getLogger(__name__)

Weights = tuple[int, ...]
BLOCK_VALUES = 1 << 20  # logits of a block of rows
HOLDOUT_PARTS = 2


class OutOfFold:
    """Rows of a round that at least one finished member validates, with their logits and truth.

    Logits stay on disk, memory-mapped: each call reads the one image that it is about.

    Attributes:
        names: model entries that have a finished member, in the config's order; of all rounds
            together as NAME@ROUND.
        members: the finished members by (name, fold).
        left_out: {"name", "fold", "reason"} of members that the config asks for and are not there.
        rows: rows of `manifest`, fold by fold.
    """

    def __init__(self, config: Config, run: Run, round: RoundKey) -> None:
        """round: a number, or ALL_ROUNDS for the members of every round that has an ensemble."""
        self.config = config
        self.manifest = Manifest.read(run.truth)
        self.members: dict[tuple[str, int], FinishedMember] = {}
        self.left_out: list[dict[str, Any]] = []
        together = round == ALL_ROUNDS
        numbers = [n for n in rounds_on_disk(run) if run.ensemble(n).is_file()]
        planned = [
            (number, name, fold)
            for number in (numbers if together else [round])
            for name, fold in config.planned_members(self.manifest.folds, number)
        ]
        for number, own, fold in planned:
            name = f"{own}@{number}" if together else own
            try:
                validated = [self.manifest[row] for row in self.manifest.val_rows(fold)]
                self.members[name, fold] = FinishedMember.read(
                    run, number, own, fold, rows=validated, num_outputs=config.num_outputs
                )
            except UnusableMember as error:  # the rest goes on without it
                reason = str(error)
                self.left_out.append({"name": name, "fold": fold, "reason": reason})
                log.warning("left out of the ensemble: %s: %s", member_id(name, fold), reason)
        self.names = list(dict.fromkeys(name for name, _ in self.members))
        self.folds = [f for f in self.manifest.folds if any(f == fold for _, fold in self.members)]
        self.rows = [row for fold in self.folds for row in self.manifest.val_rows(fold)]
        if not self.rows:
            first = self.left_out[0]["reason"] if self.left_out else "none was asked for"
            raise UserError(f"{run.round(round)}: no ensemble, as no member is usable: {first}")
        self.cache = open_cache(config, run)

    def logits(self, row: int, classes: slice = slice(None)) -> dict[str, NDArray[np.float16]]:
        """Logits of one row by model entry, float16 (C, H, W): those of its fold's members."""
        sample = self.manifest[row]
        return {
            name: self.members[name, sample.fold].predictions.of(sample.id)[classes]
            for name in self.names
            if (name, sample.fold) in self.members
        }

    def combined(
        self, row: int, weights: Weights, space: str, classes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The ensemble's logits of one row, float32 (C, H, W).

        weights: one per entry of `names`. Where all that is there weighs 0, it counts alike.
        """
        exclusive = self.config.postprocess.exclusive
        found = self.logits(row, slice(None) if exclusive else classes)
        chosen = [w for name, w in zip(self.names, weights, strict=True) if name in found]
        logits = combine(list(found.values()), _some(chosen), space, self.config.task)
        return highest_only(logits)[classes] if exclusive else logits

    def mixtures(
        self, rows: Sequence[int], trials: Sequence[Weights], space: str
    ) -> NDArray[np.float32]:
        """`combined` of a block of `blocks` for several weightings, (T, N, C, H, W)."""
        found = [self.logits(row) for row in rows]
        here = [i for i, name in enumerate(self.names) if name in found[0]]
        weights = np.array([_some([t[i] for i in here]) for t in trials], dtype=np.float32)
        logits = np.stack([[one[self.names[i]] for one in found] for i in here])
        values = to_space(logits, space, self.config.task)
        mean = weights @ values.reshape(len(here), -1) / weights.sum(axis=1, keepdims=True)
        mixed = from_space(mean.reshape(-1, *values.shape[1:]), space)
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

    def weighted(self, weights: Weights) -> list[dict[str, Any]]:
        """The members that predict, as ensemble.json lists them; those that weigh nothing are not
        run."""
        by_name = dict(zip(self.names, weights, strict=True))
        return [
            {"name": name, "fold": fold, "weight": by_name[name], "snapshots": member.snapshots}
            for (name, fold), member in self.members.items()
            if by_name[name] > 0
        ]

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


def scored_masks(
    config: Config, run: Run, record: Mapping[str, Any]
) -> Callable[[Mapping[str, str]], NDArray[np.uint8]]:
    """A function from a row of oof.csv to the masks uint8 (K, H, W) that its score is of: those of
    its split's nested choice.

    Args:
        record: of ensemble.json.

    The members are opened at the first call, which raises UserError where they are gone.
    """

    @cache
    def opened() -> tuple[OutOfFold, dict[str, int]]:
        oof = OutOfFold(config, run, record["round"])
        return oof, {oof.manifest[place].id: place for place in oof.rows}

    def masks_of(row: Mapping[str, str]) -> NDArray[np.uint8]:
        oof, places = opened()
        choice = record["scores"]["nested"]["folds"][row["part"]]
        weights = tuple(choice["weights"].get(name, 0) for name in oof.names)
        space = choice.get("space", record["space"])
        logits = oof.combined(places[row["id"]], weights, space)
        return to_masks(logits, choice["rule"], config.task)

    return masks_of


def split(oof: OutOfFold) -> dict[str, list[int]]:
    """Rows by the label of their part: the fold, or for a single fold `part0`.. by id's hash."""
    if len(oof.folds) > 1:
        return {str(fold): oof.manifest.val_rows(fold) for fold in oof.folds}
    ordered = sorted(oof.rows, key=lambda row: hash_key(oof.manifest[row]))
    number = min(HOLDOUT_PARTS, len(ordered))
    return {f"part{i}": sorted(ordered[i::number]) for i in range(number)}


def hash_key(sample: Sample) -> tuple[int, str]:
    """An order that has nothing to do with the data's own."""
    return zlib.crc32(sample.id.encode()), sample.id


def _some(weights: list[int]) -> list[int]:
    return weights if any(weights) else [1] * len(weights)
