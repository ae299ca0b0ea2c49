"""One member over two hosts, by the documented launch: DDP with gloo through a cable."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distseg.models import checkpoint
from distseg.records.files import read_json, read_lines
from distseg.records.paths import MemberPaths, Run
from tests.hosts.hosts import SHARED, Host, hosts
from tests.tiny import ROOT, tiny_tree, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("can_make_hosts")]
EPOCHS = 6


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Host]]:
    """Two hosts that share tmp_path, with a config in it."""
    tree = tiny_tree()
    tree["data"]["synthetic"]["num_train"] = 67
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 2, "epochs_per_cycle": EPOCHS // 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    with hosts(tmp_path, 2) as made:
        yield made


def launch(host: Host, rank: int, out: str, *, machines: int = 2) -> subprocess.Popen[str]:
    """What docs/multi-gpu.md says to start on each machine, for ranks without a GPU."""
    one = ["--config_file", str(ROOT / "launch/accelerate/cpu_2ranks.yaml")]
    several = [
        *("--config_file", str(ROOT / "launch/accelerate/multi_node.yaml"), "--num_processes", "2"),
        *("--machine_rank", str(rank), "--main_process_ip", "a"),
    ]
    return host.start(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *(several if machines > 1 else one),
            *(str(ROOT / "launch/train.py"), "tiny.yaml", "--member", "a", "--fold", "0"),
            *("--out", out),
        ],
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip


def end(process: subprocess.Popen[str], timeout_s: float = 300.0) -> str:
    """What a launch has printed when it has ended well."""
    printed, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, printed
    return printed


def member(folder: Path) -> MemberPaths:
    return Run(folder).member(0, "a", 0)


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of each weight, by snapshot and name, of a member that is done."""
    paths = member(folder)
    assert paths.done.is_file()
    found = {}
    for name in read_json(paths.done)["snapshots"]:
        state, _ = checkpoint.load_snapshot(paths.snapshots / name)
        found |= {f"{name} {key}": value.numpy().tobytes() for key, value in state.items()}
    return found


def test_two_hosts_train_what_two_local_ranks_train(pair: list[Host], tmp_path: Path) -> None:
    a, b = pair
    end(launch(a, 0, "local", machines=1))
    both = [launch(a, 0, "apart"), launch(b, 1, "apart")]
    for process in both:
        end(process)
    assert weights(tmp_path / "local") == weights(tmp_path / "apart")
    assert not a.processes() and not b.processes()
