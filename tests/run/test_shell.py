"""What the shell has set for other programs changes no weights of a whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distseg.records.paths import Run
from tests.tiny import ROOT, tiny_tree
from tests.training.tiny_training import assert_same_bits, weights

# What launchers, MPI and Slurm leave in a shell, and what accelerate reads.
SHELL = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_SPLIT_BATCHES": "true",
    "ACCELERATE_USE_FSDP": "true",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
}


@pytest.mark.slow
def test_variables_of_the_shell_do_not_change_the_weights(tmp_path: Path) -> None:
    tree = tiny_tree()
    tree["data"]["synthetic"] |= {"num_train": 24, "num_test": 0}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    clean = {k: v for k, v in os.environ.items() if k not in SHELL} | {"PYTHONPATH": str(ROOT)}
    for name, environment in (("clean", clean), ("dirty", clean | SHELL)):
        command = [sys.executable, "-m", "distseg", "run", str(tmp_path / "c.yaml")]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    for fold in (0, 1):
        left, right = (Run(tmp_path / name).member(0, "a", fold) for name in ("clean", "dirty"))
        assert len(weights(left)) > 10
        assert_same_bits(left, right)
