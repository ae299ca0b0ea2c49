"""Which keys may change once members of a run are trained, and what is made again then.

`RULES` is the one table: `distseg run` follows it, `distseg plan` prints it for a changed config,
docs/changes.md shows it. A key that it does not name stays as it was for the life of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distseg.config.schema import Config

Keys = tuple[str, ...]

MEMBERS = "members that are new or go on"
OUT_OF_FOLD = "out-of-fold predictions"
ENSEMBLE = "ensemble"
SUBMISSION = "submission"
REPORT = "report"
STEPS = (MEMBERS, OUT_OF_FOLD, ENSEMBLE, SUBMISSION, REPORT)  # in the order of a run


@dataclass(frozen=True)
class Rule:
    """What follows from a change of some keys.

    keys: dotted; NAME stands for any name, 0 for any place of a list, and a dot at the end for all
        keys below. again: of STEPS. The report is written at the end of every run.
    note: what more there is to say, and what the change must not be.
    """

    keys: tuple[str, ...]
    again: tuple[str, ...]
    note: str = ""


FROM_ENSEMBLE = (ENSEMBLE, SUBMISSION, REPORT)
RULES = (
    Rule(("name",), (REPORT,), "the run folder stays where it is: name it with `--out`"),
    Rule(
        ("compute.executor", "compute.gpus_per_job", "compute.processes_per_job", "compute.slots",
         "compute.members_per_job", "compute.cpu_threads", "compute.workers", "compute.retries",
         "compute.rank_timeout_s", "compute.cuda_graphs"),
        (),
        "how jobs are spread over machines; `precision`, `augment_on`, `zero`, `offload`, "
        "`channels_last` and `compile` change weights, and stay",
    ),
    Rule(
        ("data.cache_dir", "data.feature_cache_gb", "predict.batch_size", "track", "tune", "tune."),
        (),
    ),
    Rule(
        ("train.evaluate_every",),
        (),
        "not where weights or the learning rate follow the score: `keep: best`, `top_k` or "
        "`best_of_cycles`, `schedule.kind: plateau`, `early_stopping`",
    ),
    Rule(("train.keep_state",), (), "for members that finish from then on"),
    Rule(("predict.every_round",), (), "the submissions that are not there yet are made"),
    Rule(("stop",), FROM_ENSEMBLE[1:], "where another round's ensemble makes it"),
    Rule(
        ("submission.", "data.folder.submission", "data.folder.rle_order", "data.folder.rle_base",
         "data.folder.rle_empty"),
        (SUBMISSION, REPORT),
    ),
    Rule(
        ("predict.",),
        (OUT_OF_FOLD, *FROM_ENSEMBLE),
        "not once a later round has learned from predictions",
    ),
    Rule(
        ("ensemble.snapshots",),
        (OUT_OF_FOLD, *FROM_ENSEMBLE),
        "predictions only for `search`, of members that did not keep those of each snapshot",
    ),
    Rule(("postprocess.exclusive",), FROM_ENSEMBLE),
    Rule(
        ("postprocess.gate",),
        (OUT_OF_FOLD, *FROM_ENSEMBLE),
        "predictions only for `search`, which keeps what image heads say",
    ),
    Rule(
        ("ensemble.", "postprocess."),
        FROM_ENSEMBLE,
        "the submission only where the ensemble comes out different; not once a round with "
        "`hard_mining` has drawn by its scores",
    ),
    Rule(
        ("members.NAME", "members.NAME.folds", "data.folds.use", "rounds.0.members"),
        (MEMBERS, *FROM_ENSEMBLE),
        "more or fewer: those that left stay on disk, are named, and are used again when they come "
        "back; not where a later round has learned from other members",
    ),
    Rule(("rounds.0",), (MEMBERS, *FROM_ENSEMBLE), "added at the end"),
    Rule(
        ("stages.0.schedule.cycles", "members.NAME.stages.0.schedule.cycles",
         "rounds.0.stages.0.schedule.cycles"),
        (MEMBERS, *FROM_ENSEMBLE),
        "in the last stage, of the last round that is trained; members go on from their kept state "
        "(`train.keep_state`); not with `swa`, a sliding `positive_share`, or fewer than are "
        "trained",
    ),
    Rule(
        ("stages.0.schedule.epochs_per_cycle", "members.NAME.stages.0.schedule.epochs_per_cycle",
         "rounds.0.stages.0.schedule.epochs_per_cycle"),
        (MEMBERS, *FROM_ENSEMBLE),
        "the same for `kind: constant` and `noam` with `keep: last`, whose earlier epochs do not "
        "depend on it",
    ),
)  # fmt: skip
# A change of these alone always makes the submission again; else it is where its ensemble differs.
READ_BY_SUBMISSION = ("submission.", "data.folder.", "predict.", "postprocess.exclusive")


@dataclass(frozen=True)
class Change:
    """One key that differs between the config of a run and a new one. A key that one of them does
    not have is None there."""

    keys: Keys
    old: Any
    new: Any

    @property
    def key(self) -> str:
        """members.a.folds"""
        return ".".join(self.keys)

    @property
    def rule(self) -> Rule | None:
        """The rule for the key; None: it may not change."""
        if self.keys[0] == "rounds" and len(self.keys) == 2 and self.old is not None:
            return None  # a round that is taken away
        return next(
            (rule for rule in RULES if any(is_below(self.keys, k) for k in rule.keys)), None
        )

    @property
    def again(self) -> tuple[str, ...]:
        """The steps that the change makes again."""
        return self.rule.again if self.rule else ()

    def __str__(self) -> str:
        if isinstance(self.new, dict) and self.old is None:
            return f"{self.key}: added"
        if isinstance(self.old, dict) and self.new is None:
            return f"{self.key}: taken away"
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def changes(old: Any, new: Any, at: Keys = ()) -> Iterator[Change]:
    """The keys that differ between two trees of a config, as `model_dump(mode="json")` gives them.
    A list is one value, unless its items have keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from changes(old.get(key), new.get(key), (*at, str(key)))
    elif _has_keys(old) and _has_keys(new):
        for place in range(max(len(old), len(new))):
            before, after = (x[place] if place < len(x) else None for x in (old, new))
            yield from changes(before, after, (*at, str(place)))
    elif old != new:
        yield Change(at, old, new)


def config_changes(old: Config, new: Config) -> list[Change]:
    """The keys that differ between two configs."""
    return list(changes(old.model_dump(mode="json"), new.model_dump(mode="json")))


def _has_keys(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def is_below(keys: Keys, pattern: str) -> bool:
    """Whether a key is the one that a rule names, or, where that ends in a dot, one below it."""
    parts = pattern.rstrip(".").split(".")
    if len(keys) < len(parts) or (len(keys) > len(parts)) != pattern.endswith("."):
        return False
    return all(
        part == key or part == "NAME" or (part == "0" and key.isdigit())
        for part, key in zip(parts, keys, strict=False)
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def table() -> list[str]:
    """RULES in Markdown, for docs/changes.md."""
    lines = ["| key | made again | |", "|---|---|---|"]
    for rule in RULES:
        keys = ", ".join(f"`{_written(key)}`" for key in rule.keys if f"{key}." not in rule.keys)
        lines.append(f"| {keys} | {', '.join(rule.again) or 'nothing'} | {rule.note} |")
    return lines


def _written(key: str) -> str:
    return f"{key}*" if key.endswith(".") else key.replace(".0", ".N")
