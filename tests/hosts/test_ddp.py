"""One member over two hosts, by the documented launch: DDP with gloo through a cable."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distseg.records.files import read_lines
from distseg.records.paths import MemberPaths, Run
from tests.compare import weights
from tests.hosts.hosts import Cable, Host, hosts
from tests.tiny import ROOT, tiny_tree, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("can_make_hosts")]
EPOCHS = 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Host]]:
    """Two hosts that share tmp_path, with a config in it."""
    write_config(tmp_path, EPOCHS)
    with hosts(tmp_path, 2) as made:
        yield made


def write_config(folder: Path, epochs: int) -> None:
    tree = tiny_tree()
    tree["data"]["synthetic"]["num_train"] = 67
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 2, "epochs_per_cycle": epochs // 2}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))


def launch(
    host: Host, rank: int, out: str, *, machines: int = 2, timeout_s: int = 600
) -> subprocess.Popen[str]:
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
            *("--out", out, f"compute.rank_timeout_s={timeout_s}"),
        ],
        {"ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip


def end(process: subprocess.Popen[str], timeout_s: float = 300.0) -> str:
    """What a launch has printed when it has ended well."""
    printed, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, printed
    return printed


def member(folder: Path) -> MemberPaths:
    return Run(folder).member(0, "a", 0)


def test_two_hosts_train_what_two_local_ranks_train(pair: list[Host], tmp_path: Path) -> None:
    a, b = pair
    end(launch(a, 0, "local", machines=1))
    both = [launch(a, 0, "apart"), launch(b, 1, "apart")]
    for process in both:
        end(process)
    assert weights(tmp_path / "local") == weights(tmp_path / "apart")
    wait_until(lambda: not a.processes() and not b.processes(), "nothing is left")


def test_a_cable_that_is_out_for_ten_seconds(pair: list[Host], tmp_path: Path) -> None:
    """Nothing fails: what was sent is sent again."""
    a, b = pair
    end(launch(a, 0, "local", machines=1))
    both = [launch(a, 0, "apart"), launch(b, 1, "apart")]
    wait_for_epoch(tmp_path / "apart")
    b.cut()
    time.sleep(10.0)
    assert not member(tmp_path / "apart").done.is_file(), "it was over before the cable was back"
    b.mend()
    for process in both:
        end(process)
    assert weights(tmp_path / "local") == weights(tmp_path / "apart")


def test_late_and_lost_frames(tmp_path: Path) -> None:
    """40 ms from host to host and 2% lost on each cable: all is sent again, nothing fails."""
    write_config(tmp_path, 4)
    with hosts(tmp_path, 2, cable=Cable(delay_s=0.02, loss=0.02)) as (a, b):
        answered = a.run([sys.executable, "-c", ECHO.format(b.address)])
        assert float(answered) >= 4 * 0.02  # there and back, over two cables
        end(launch(a, 0, "local", machines=1))
        both = [launch(a, 0, "apart"), launch(b, 1, "apart")]
        for process in both:
            end(process, 900.0)
        assert weights(tmp_path / "local") == weights(tmp_path / "apart")
        wait_until(lambda: not a.processes() and not b.processes(), "nothing is left")


# Seconds until a host says that nobody listens at its port 9.
ECHO = """
import socket, time
began = time.monotonic()
try:
    socket.create_connection(("{}", 9), timeout=60)
except ConnectionRefusedError:
    print(time.monotonic() - began)
"""


@pytest.mark.parametrize("fault", ["cut", "vanish"])
def test_a_host_that_is_gone_for_good(pair: list[Host], tmp_path: Path, fault: str) -> None:
    """The rank that is left hears nothing. It fails when compute.rank_timeout_s is over, leaves no
    process, and what was trained goes on, on one host now, to the same weights."""
    a, b = pair
    end(launch(a, 0, "local", machines=1))
    both = [launch(host, rank, "apart", timeout_s=20) for rank, host in enumerate((a, b))]
    wait_for_epoch(tmp_path / "apart")
    getattr(b, fault)()
    since = time.monotonic()
    printed, _ = both[0].communicate(timeout=300)
    took = time.monotonic() - since
    assert both[0].returncode == 1, printed
    assert took < 20 + 60, f"{took:.0f} s"  # of which most is a slow machine's
    wait_until(lambda: not a.processes(), "nothing of it is left on the host")
    if fault == "cut":  # the other side waits as long
        both[1].communicate(timeout=300)
        assert both[1].returncode == 1
        wait_until(lambda: not b.processes(), "nothing of it is left on the other host")
    rows = read_lines(member(tmp_path / "apart").metrics)
    assert 0 < len(rows) < EPOCHS and not member(tmp_path / "apart").done.is_file()
    end(launch(a, 0, "apart", machines=1))
    assert weights(tmp_path / "local") == weights(tmp_path / "apart")


def wait_for_epoch(folder: Path) -> None:
    wait_until(lambda: read_lines(member(folder).metrics), "an epoch has ended")
