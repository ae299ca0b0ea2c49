"""`distseg doctor`: a line for each check, and the exit status that a script can use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distseg import cli
from tests.tiny import tiny_tree


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree()), encoding="utf-8")
    return path


def test_a_machine_that_can_do_it(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(tiny)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok   ", "warn ")) for line in shown)
    for words in ("Python 3", "torch ", "core", "data: synthetic", "1 job at a time"):
        assert any(words in line for line in shown), words


def test_the_machine_is_examined_although_the_config_is_wrong(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", str(tiny), "stages.0.optimizer.name=adamx", "inptu.height=3"]) == 2
    shown = capsys.readouterr()
    assert "Python 3" in shown.out and "at a time" not in shown.out
    errors = shown.err.splitlines()
    assert [line.split(": ")[3] for line in errors] == ["inptu", "stages.0.optimizer.name"]
