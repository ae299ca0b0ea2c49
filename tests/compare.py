"""What was trained, to the bit."""

from __future__ import annotations

from pathlib import Path

from distseg.models import checkpoint
from distseg.records.files import read_json
from distseg.records.paths import MemberPaths


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of each weight of the members of a run's first round that are done, by member,
    snapshot and name. AssertionError: there is none."""
    found = {}
    for done in sorted((folder / "round_0" / "members").glob("*/DONE")):
        paths = MemberPaths(done.parent)
        for name in read_json(done)["snapshots"]:
            state, _ = checkpoint.load_snapshot(paths.snapshots / name)
            for key, value in state.items():
                found[f"{done.parent.name} {name} {key}"] = value.numpy().tobytes()
    assert found, f"{folder}: no member is done"
    return found
