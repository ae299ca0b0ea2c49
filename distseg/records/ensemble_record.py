"""ensemble.json: read, and refused where it cannot be what distseg has written.

It may be another's, or damaged: it decides which files are opened and what each weighs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from distseg.functional.combine import SPACES
from distseg.functional.tta_names import check_modes
from distseg.records.errors import Damaged, shown
from distseg.records.files import parsing, read_json

KEYS = ("round", "flag", "space", "tta", "task", "members", "weights", "rule", "scores", "left_out")


def read_ensemble(path: Path) -> dict[str, Any]:
    """The record of an ensemble. Damaged: it cannot be used as it is."""
    record: dict[str, Any] = read_json(path, *KEYS)
    with parsing(path):
        for problem in _problems(record):
            raise Damaged(path, problem)
        return record


def is_whole(path: Path) -> bool:
    """Whether `read_ensemble` can read a file."""
    try:
        read_ensemble(path)
    except (Damaged, FileNotFoundError):
        return False
    return True


def _problems(record: dict[str, Any]) -> Iterator[str]:
    if record["space"] not in SPACES:
        yield f"space {shown(record['space'])} is unknown"
    check_modes(record["tta"])
    float(record["scores"]["final"]["score"]), record["scores"]["nested"]["default"]
    if not record["members"] or not any(member["weight"] > 0 for member in record["members"]):
        yield "no member weighs anything"
    for member in record["members"]:
        weight, name = member["weight"], f"member {shown(member['name'])}, fold {member['fold']}"
        if not _is_number(weight) or weight < 0:
            yield f"{name} has the weight {shown(weight)}"
        if not member["snapshots"]:
            yield f"{name} has no snapshot"
        for snapshot in member["snapshots"]:
            parts = PurePosixPath(snapshot).parts
            if ".." in parts or PurePosixPath(snapshot).is_absolute() or "\\" in snapshot:
                yield f"{name} has the snapshot {shown(snapshot)}, which leaves the run folder"
    for key, value in record["rule"].items():
        if any(isinstance(one, bool) or math.isnan(one) for one in _flat(value)):
            yield f"rule {shown(key)} is {shown(value)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(value: Any) -> Iterator[Any]:
    """The numbers of a value that may be nested; None and texts are left out."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif value is not None and not isinstance(value, str):
        yield value
