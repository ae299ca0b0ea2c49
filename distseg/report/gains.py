"""What each part of a run brought: rounds, test-time augmentation, snapshots and models, each as a
paired difference on the same out-of-fold images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.functional.bootstrap import paired_difference
from distseg.records.ensemble_record import is_whole
from distseg.records.errors import UserError
from distseg.records.files import read_json_or
from distseg.records.oof_table import read_counts
from distseg.records.paths import ALL_ROUNDS, MemberPaths, RoundKey, Run

Counts = Mapping[str, NDArray[np.int64]]  # (C, 3) of each image, by id


def gain_records(
    config: Config, run: Run, ensemble: Mapping[str, Any], folds: Sequence[int]
) -> list[dict[str, Any]]:
    """What each part brought, in the order of a run's life.

    Args:
        ensemble: the record of the run's final ensemble.

    Returns:
        Of each part `kind` (tta, snapshots, models or rounds), `name`, `difference` (with it, less
        without), `standard_error`, `low`, `high` (95 %) and `num_images`. What cannot be known
        any more, such as that of a member whose tables are lost, is not there.
    """
    found = []
    for label in ensemble["scores"]["members"]:
        name, _, number = str(label).partition("@")
        key = int(number) if number else ensemble["round"]
        members = [run.member(key, name, fold) for fold in folds]
        found += list(_of_model(str(label), members, config))
    found += [
        {"kind": "models", "name": name, **one}
        for name, one in ensemble["scores"].get("without", {}).items()
    ]
    found += list(_of_rounds(config, run))
    order = ("tta", "snapshots", "models", "rounds")
    return sorted(found, key=lambda one: order.index(one["kind"]))


def _of_model(
    label: str, members: Sequence[MemberPaths], config: Config
) -> Iterator[dict[str, Any]]:
    """TTA against none; each snapshot against the one before; the mean of all against the last."""
    tables = [(paths, _variants(paths)) for paths in members]
    tables = [(paths, own) for paths, own in tables if own]
    if not tables:
        return

    def counts(key: str, places: Sequence[str]) -> Counts:
        """Of all folds; the snapshot of a fold by its name there."""
        return {
            name: value
            for place, (_, own) in zip(places, tables, strict=True)
            for name, value in own.get(f"{place}_{key}", {}).items()
        }

    mean = ["mean"] * len(tables)
    if config.predict.tta:
        yield from _paired("tta", label, counts("tta", mean), counts("plain", mean), config)
    stems = [_stems(paths) for paths, _ in tables]
    each = [list(column) for column in zip(*stems, strict=False)]
    for number, (before, now) in enumerate(pairwise(each), start=2):
        name = f"{label}: snapshot {number} over {number - 1}"
        yield from _paired("snapshots", name, counts("tta", now), counts("tta", before), config)
    if len(each) > 1:
        name = f"{label}: mean of {len(each)} over the last"
        yield from _paired("snapshots", name, counts("tta", mean), counts("tta", each[-1]), config)


def _of_rounds(config: Config, run: Run) -> Iterator[dict[str, Any]]:
    """Each round's ensemble against the one of the round before, all rounds' against the last."""
    keys: list[RoundKey] = [*range(len(config.rounds)), ALL_ROUNDS]
    found: list[tuple[RoundKey, Counts]] = []
    for key in keys:
        if is_whole(run.ensemble(key)):
            try:
                found.append((key, read_counts(run.oof_table(key))))
            except UserError:  # the report does without it
                continue
    for (old, before), (new, now) in pairwise(found):
        words = "all rounds" if new == ALL_ROUNDS else f"round {new}"
        kind = "" if new == ALL_ROUNDS else f" ({config.rounds[int(new)].kind})"
        yield from _paired("rounds", f"{words}{kind} over round {old}", now, before, config)


def _variants(paths: MemberPaths) -> dict[str, Counts]:
    """A member's tables of counts by snapshot and kind; none where they are lost or damaged."""
    record = read_json_or(paths.oof_scores, {})
    try:
        ids = record["ids"]
        return {
            key: dict(zip(ids, np.asarray(rows, np.int64).reshape(len(ids), -1, 3), strict=True))
            for key, rows in record["variants"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _stems(paths: MemberPaths) -> list[str]:
    """The snapshots of a member, the earliest first, as its tables name them."""
    kept = read_json_or(paths.done, {}).get("snapshots", [])
    return [str(name).removesuffix(".safetensors") for name in kept]


def _paired(
    kind: str, name: str, now: Counts, before: Counts, config: Config
) -> Iterator[dict[str, Any]]:
    """The difference on the images of both with the same truth; nothing where there is none."""
    both = [
        key for key in now if key in before and np.array_equal(now[key][:, 2], before[key][:, 2])
    ]
    if both:
        ours, theirs = (np.stack([table[key] for key in both]) for table in (now, before))
        found = paired_difference(ours, theirs, config.metric, seed=config.seed)
        yield {"kind": kind, "name": name, "num_images": len(both), **found}
