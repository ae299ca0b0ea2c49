"""Keys that the chosen kind needs, and those that it does not read: a wish that nothing would
fulfil is a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.data import FoldsConfig
from distseg.config.fields import changed_keys
from distseg.config.schema import Config

_DEALT = ("num", "seed", "strata", "strata_column")
# What each kind of folds reads beside `kind` and `use`.
FOLD_KEYS: dict[str, tuple[str, ...]] = {
    "stratified": _DEALT,
    "group": (*_DEALT, "column", "groups"),
    "holdout": ("fraction", "seed", "strata", "strata_column"),
    "bootstrap": _DEALT,
    "split": (),
    "file": ("path",),
}


def kind_mistakes(config: Config) -> Iterator[str]:
    """A line for each key that is needed and not set, or set and not read; the latter names the
    kinds that read it."""
    folds = config.data.folds
    if "num" in FOLD_KEYS[folds.kind] and folds.num < 2:
        yield f"data.folds.num: {folds.num}: needs 2 or more (or kind: holdout)"
    if folds.kind == "group" and not (folds.column and folds.groups):
        yield "data.folds: kind group needs `column` and `groups` (a CSV with id)"
    if folds.kind == "file" and not folds.path:
        yield "data.folds: kind file needs `path` (a CSV with id,fold)"
    yield from _unread(folds)
    if config.data.overlap != "refuse" and config.task != "multiclass":
        yield f"data.overlap: {config.data.overlap}: is for task: multiclass, not {config.task}"


def _unread(folds: FoldsConfig) -> Iterator[str]:
    for key in sorted(changed_keys(folds) - {"kind", "use", *FOLD_KEYS[folds.kind]}):
        kinds = ", ".join(kind for kind, keys in FOLD_KEYS.items() if key in keys)
        yield (
            f"data.folds.{key}: {getattr(folds, key)}: kind: {folds.kind} does not read it; it is "
            f"for kind: {kinds}"
        )
    if "strata_column" in changed_keys(folds) and folds.strata is None:
        yield (
            f"data.folds.strata_column: {folds.strata_column}: is a column of data.folds.strata, "
            "which is not set"
        )
