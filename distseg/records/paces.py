"""How fast this machine has been: what measurements have found, by what was measured.

One small JSON file in the user's cache folder, `~/.cache/distseg/paces.json` (XDG_CACHE_HOME,
DISTSEG_PACES=off for none). It is a help and never needed: one that cannot be read or written is as
good as none, and what it says goes through checks, since anything may stand in a file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distseg.records.files import atomic_write

MAX_BYTES = 1 << 20
MAX_ENTRIES = 500
MAX_AGE_S = 90 * 86400.0
SAVING_SHARE = 0.05  # of the time of training, at most, that may go into saved states


@dataclass(frozen=True, slots=True)
class Pace:
    """What one model takes on one rank of this machine.

    step_s: seconds of an update of `batch_size` images with the loss of the last stage; spread:
        their standard deviation, as a share. first_step_s: with that of the first.
    evaluate_s: seconds to evaluate an image; predict_s: to predict one with all views,
        one snapshot.
    save_s: seconds to save a state, once an epoch.
    start_s: seconds from the start of a process to its first update, imports and model.
    prepare_s: seconds to open, check and decode a train image, with all threads of the machine.
    memory: bytes at the highest: of the process, or on its GPU.
    saved: bytes of a snapshot.
    """

    batch_size: int
    step_s: float
    spread: float
    evaluate_s: float
    predict_s: float
    save_s: float
    start_s: float
    prepare_s: float
    memory: int
    saved: int
    first_step_s: float


def mean_pace(paces: Sequence[Pace]) -> Pace:
    """What one of several jobs side by side takes; of counts of bytes the highest."""
    shown = [asdict(pace) for pace in paces]
    found = {key: sum(one[key] for one in shown) / len(shown) for key in shown[0]}
    whole = {key: max(one[key] for one in shown) for key in ("batch_size", "memory", "saved")}
    return Pace(**{**found, **whole})


def paces_path() -> Path | None:
    """Where they lie; None where they are switched off or there is no home."""
    if os.environ.get("DISTSEG_PACES", "").lower() in ("off", "0", "no"):
        return None
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "distseg" / "paces.json"
    except RuntimeError:  # no home
        return None


def read_paces(path: Path | None = None) -> dict[str, Pace]:
    """Every pace that is known, by its key; none of a file that is damaged or too large."""
    entries = _entries(path or paces_path())
    return {key: pace for key, entry in entries.items() if (pace := parse_pace(entry)) is not None}


def _entries(path: Path | None) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path is not None and path.is_file() and path.stat().st_size <= MAX_BYTES:
            tree = json.loads(path.read_bytes())
            if isinstance(tree, dict):
                return {key: value for key, value in tree.items() if isinstance(value, dict)}
    return {}


def parse_pace(entry: Mapping[str, Any]) -> Pace | None:
    """A pace of a JSON object; None where a number is missing, negative or no number."""
    values = {}
    for field in fields(Pace):
        value = entry.get(field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not math.isfinite(value) or value < 0 or value > 1e15:
            return None
        values[field.name] = int(value) if field.type == "int" else float(value)
    if values["batch_size"] < 1 or min(values["step_s"], values["first_step_s"]) <= 0:
        return None
    return Pace(**values)  # type: ignore[arg-type]


def write_paces(found: Mapping[str, Pace], path: Path | None = None) -> None:
    """Add paces to the file, where it can be written; the oldest of too many go."""
    path = path or paces_path()
    if path is None or not found:
        return
    now = time.time()
    entries = {**_entries(path), **{key: {**asdict(p), "time": now} for key, p in found.items()}}
    young = {k: e for k, e in entries.items() if now - _time(e) < MAX_AGE_S and parse_pace(e)}
    newest = sorted(young, key=lambda key: _time(young[key]))[-MAX_ENTRIES:]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(path, json.dumps({key: young[key] for key in newest}))


def _time(entry: Mapping[str, Any]) -> float:
    value = entry.get("time")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
