"""What a command has left in a folder, without the times that no two runs share."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Written along the way, for people: when, how fast, how often started. Their names are compared.
DIARIES = {".log", ".html"}
DIARY_NAMES = {"ledger.jsonl", "env.json"}
LAUNCH_LOG = "launch.log"  # lies with the member that a job began with, which a kill may change
OF_RAY = {"ray", "nodes"}  # folders: Tune's own records, and what tells a cluster's nodes apart
TIMES = ("seconds", "_s", "time", "times")
# How many states were saved, a checksum that covers times, and the source's commit
CHANCE = {"state.json": {"number", "tensors", "sha256"}, "report.json": {"hardware"}}
STATE_NUMBER = re.compile(r"(?<=/state/tensors)_\d+(?=\.safetensors$)")


def files_of(folder: Path) -> dict[str, Any]:
    """By relative path: what a file holds, to the bit; None for a diary and a folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == LAUNCH_LOG or OF_RAY.intersection(path.relative_to(folder).parts):
            continue
        name = STATE_NUMBER.sub("", str(path.relative_to(folder)))
        assert name not in found, f"{path}: two states"
        diary = path.suffix in DIARIES or path.name in DIARY_NAMES
        found[name] = None if diary or path.is_dir() else content(path)
    return found


def files_of_sweep(folder: Path) -> dict[str, Any]:
    """The same of a folder that holds a sweep, `run`: Ray draws the names of trials, so that here
    they have their row of trials.csv for a name. Without Ray's own records."""
    sweep = folder / "run"
    with (sweep / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = {row.pop("id"): str(timeless(row)) for row in csv.DictReader(file)}
    best = (sweep / "best.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = {
        "trials.csv": sorted(rows.values()),
        "best.yaml": [line for line in best.splitlines() if not line.startswith("#")],
    }
    for name, value in files_of(sweep).items():
        first, *rest = Path(name).parts
        if first == "trials" and rest:
            rest[0] = rows.get(rest[0], f"{rest[0]}, of no row")
        if Path(name).suffix != ".png":
            found.setdefault("/".join([first, *rest]), value)
    return found


def content(path: Path) -> Any:
    """A hash of the bytes of a file; of records what they say, less times; of weights the header as
    a record, whose order is by chance, and a hash of the rest."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        (size,) = struct.unpack("<Q", data[:8])
        return [json.loads(data[8 : 8 + size]), hashlib.sha256(data[8 + size :]).hexdigest()]
    if path.suffix == ".json" or path.name == "DONE":
        record = timeless(json.loads(data))
        return {k: v for k, v in record.items() if k not in CHANCE.get(path.name, ())}
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in data.splitlines()]
    return hashlib.sha256(data).hexdigest()


def timeless(record: Any) -> Any:
    """A record without what tells of time, at any depth."""
    if isinstance(record, dict):
        kept = {k: v for k, v in record.items() if not k.endswith(TIMES)}
        return {key: timeless(value) for key, value in kept.items()}
    return [timeless(one) for one in record] if isinstance(record, list) else record


def differences(expected: dict[str, Any], found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(files that differ or are missing, files that should not be there)."""
    differ = [n for n, value in expected.items() if n not in found or found[n] != value]
    return differ, _roots(found.keys() - expected.keys())


def _roots(names: Iterable[str]) -> list[str]:
    """Without what lies in a folder that is named."""
    found = set(names)
    return sorted(n for n in found if not any(str(p) in found for p in Path(n).parents))
