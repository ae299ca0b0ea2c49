"""Fixtures: where real data lies when it is there, a finished run, and a launch of real ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distseg.config.schema import Config
from distseg.records.paths import Run
from tests.tiny import ROOT, tiny_tree

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ["DISTSEG_PACES"] = "off"  # what this machine has shown changes no test, nor is changed


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where they are absent."""
    path = Path(os.environ.get("DISTSEG_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("the real data sets are not beside the project, nor in DISTSEG_DATA")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, made once through the Python API: two folds of an smp network
    with two snapshots, and of one that is no smp network. Tests read it, and change nothing."""
    import distseg

    tree = tiny_tree()
    tree["members"]["plain"] = {
        "arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2},
    }  # fmt: skip
    tree["compute"]["members_per_job"] = 4
    tree["postprocess"] = {"threshold": "search", "min_area": "search"}
    tree["ensemble"] = {**tree.get("ensemble", {}), "simpler": "never"}  # both models predict
    out = tmp_path_factory.mktemp("trained") / "run"
    assert distseg.run(tree, ["name=trained"], out=out).folder == out
    return out


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Config, Run]:
    """A config and its run of three folds with an ensemble, in which a search finds much."""
    from tests.made_run import ensembled_run  # only here: most tests need none of what it imports

    return ensembled_run(tmp_path)


@pytest.fixture
def few_weightings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joint search tries fewer mixtures, and is as fast as a test should be."""
    monkeypatch.setattr("distseg.ensemble.joint.MAX_WEIGHTINGS", 8)


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen[str]]:
    """Start the documented `accelerate launch ... launch/train.py` with N gloo ranks."""

    def start(
        ranks: int,
        *arguments: str,
        env: dict[str, str] | None = None,
        script: str = "launch/train.py",
    ) -> Any:
        flags = ["--multi_gpu", "--num_processes", str(ranks)] if ranks > 1 else ["--cpu"]
        if ranks == 1:
            flags += ["--num_processes", "1"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *flags]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", "0", str(ROOT / script), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start
