"""The run that is attacked, made once. Of each kind of attack the first and every tenth case run
with the suite; the others are slow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from distseg.records.paths import Run
from tests.attack.victim import copy_victim, make_victim, move_victim


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("slow"):
            kind = item.nodeid.partition("[")[0]
            if seen[kind] % 10:
                item.add_marker(pytest.mark.slow)
            seen[kind] += 1


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
