"""The run that is attacked, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.records.paths import Run
from tests.attack.victim import copy_victim, make_victim, move_victim


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; tests take a copy."""
    return make_victim(tmp_path_factory.mktemp("victim"))


@pytest.fixture(scope="session")
def original_config(original: Run) -> Path:
    """The config that it was made with."""
    return original.folder.parent / "config.yaml"


@pytest.fixture
def victim(original: Run, tmp_path: Path) -> Run:
    """A copy of the run that the test may damage: config.yaml and run/ of `tmp_path`/v."""
    return copy_victim(original, tmp_path / "v")


@pytest.fixture
def moved(original: Run, tmp_path: Path) -> Run:
    """A copy with data of its own, `tmp_path`/v/data, that the test may change."""
    return move_victim(original, tmp_path / "v")
