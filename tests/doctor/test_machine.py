"""`distseg doctor`: a line for each check, and the exit status that a script can use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distseg import cli
from distseg.doctor import machine
from distseg.jobs.hardware import Gpu
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


@pytest.mark.slow
def test_the_machine_is_examined_although_the_config_is_wrong(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", str(tiny), "stages.0.optimizer.name=adamx", "inptu.height=3"]) == 2
    shown = capsys.readouterr()
    assert "Python 3" in shown.out and "at a time" not in shown.out
    errors = shown.err.splitlines()
    assert [line.split(": ")[3] for line in errors] == ["inptu", "stages.0.optimizer.name"]


def test_a_package_is_imported_and_not_only_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lacks a library, one takes its process with it; those after it are tried all the same."""
    broken = {
        "good_one": "print('a word of its own')",
        "no_library": "raise ImportError('libGL.so.1: cannot open\\nshared object file')",
        "falls_over": "import os; os.kill(os.getpid(), 11)",
        "after_it": "x = 1",
    }
    for name, text in broken.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    problems = machine.import_problems({f"{name}-package": name for name in broken})
    assert problems == {
        "no_library-package": "ImportError: libGL.so.1: cannot open shared object file",
        "falls_over-package": "it ends Python (exit status -11)",
    }


@pytest.mark.parametrize(("cuda", "gpus", "told"), [(1, 0, True), (0, 0, False), (1, 1, False)])
def test_a_cpu_is_told_of_the_smaller_torch(
    cuda: int, gpus: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "torch_has_cuda", lambda: bool(cuda))
    monkeypatch.setattr(machine, "query_gpus", lambda: [Gpu("0", "GPU", 0)] * gpus)
    lines = list(machine._torch_build())
    assert ["--torch-backend=cpu" in advice for _, _, advice in lines] == [True] * told
