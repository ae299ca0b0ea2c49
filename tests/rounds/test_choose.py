"""Which ensemble makes the submission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distseg.records.files import read_json, write_json
from distseg.records.paths import ALL_ROUNDS, Run
from distseg.rounds.choose import choose_final


@pytest.mark.parametrize(("last", "together", "chosen"), [
    (0.62, 0.68, ALL_ROUNDS), (0.68, 0.62, 1), (0.65, 0.65, 1),
])  # fmt: skip
def test_the_higher_ensemble_submits(
    tmp_path: Path, last: float, together: float, chosen: int | str
) -> None:
    run = Run(tmp_path / "run")
    for number, score in ((1, last), (ALL_ROUNDS, together)):
        run.ensemble(number).parent.mkdir(parents=True)
        scores: dict[str, Any] = {"final": {"score": score}, "nested": {"default": score}}
        member = {"name": "a", "fold": 0, "weight": 1, "snapshots": ["a.safetensors"]}
        record: dict[str, Any] = {}
        record |= {"round": number, "flag": "honest", "space": "logit", "tta": [], "task": "binary"}
        record |= {"members": [member], "weights": {"a": 1}, "scores": scores, "left_out": []}
        record["rule"] = {"threshold": [0.0], "min_area": [0], "gate": [None]}
        write_json(run.ensemble(number), record)
    assert choose_final(run, 1)["round"] == chosen
    assert read_json(run.final)["round"] == chosen
