"""What `init` writes, where what it measures is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.init.make import Written, make, write
from distseg.records.paces import Pace
from tests.init.made_sets import PACE, Make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """What `init` writes on a machine whose pace is known, read again from the file."""
    known: dict[str, Pace] = {"m0": PACE, "m1": PACE}
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: known)
    monkeypatch.setattr("distseg.init.make.visible_gpus", list)

    def call(root: Path, *overrides: str, **options: Any) -> tuple[Config, Written]:
        path, groups = tmp_path / "my.yaml", tmp_path / "my_groups.csv"
        options = {"budget": 600.0, "target": str(path), **options}
        found = make(root, overrides, groups=groups, **options)
        write(found, path, groups)
        config = load_config(path)
        assert config == found.config
        return config, found

    return call
