"""Ray over several hosts: each has its own network, name, processes and disk."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from distseg.jobs.job import JOB_MARK
from distseg.records.files import read_json, read_lines
from distseg.records.paths import Run
from tests.compare import weights
from tests.hosts.hosts import LOCAL, SHARED, Host, hosts
from tests.tiny import ROOT, tiny_tree, wait_until

pytest.importorskip("ray")
pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("can_make_hosts")]
RAY = str(Path(sys.executable).with_name("ray"))
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
QUIET = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# How long a node that is gone may go unnoticed: what docs/cluster.md says, and a slow machine's
NOTICED_S = 60.0 + 60.0


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(tmp_path, 3) as made:
        yield made


def config(folder: Path, folds: int, epochs: int, **compute: Any) -> None:
    tree = tiny_tree(compute={"precision": "fp32", "cpu_threads": 1, "retries": 1, **compute})
    tree["data"]["folds"]["num"] = folds
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 1, "epochs_per_cycle": epochs}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))


def start_ray(host: Host, head: Host, cores: int = 1, **environment: str) -> None:
    """`ray start`, as docs/cluster.md has it. AssertionError, with what it says, where it fails."""
    where = ["--head", "--port=6379"] if host is head else [f"--address={head.address}:6379"]
    alone = ["--include-dashboard=false"] if host is head else []
    host.run(
        [RAY, "start", *where, *alone, f"--node-ip-address={host.address}", f"--num-cpus={cores}",
         "--object-store-memory=80000000"],
        {**QUIET, **TOKEN, **environment},
    )  # fmt: skip


def drive(host: Host, folder: Path, out: str, *overrides: str) -> subprocess.Popen[str]:
    """`distseg run` on a host."""
    command = [sys.executable, "-m", "distseg", "run", "tiny.yaml", "--out", out, *overrides]
    address = {"RAY_ADDRESS": f"{host.address}:6379"}
    return host.start(command, {**QUIET, **TOKEN, **address}, folder / f"{out}.log")


def local(host: Host, folder: Path, folds: int) -> Run:
    """The same run on one host, without Ray."""
    process = drive(host, folder, "local", f"compute.members_per_job={folds}")
    assert process.wait(600) == 0, (folder / "local.log").read_text()
    return Run(folder / "local")


def same(one: Run, other: Run) -> None:
    """Two runs have come to the same: weights, submission, scores."""
    assert weights(one.folder) == weights(other.folder)
    assert one.submission.read_bytes() == other.submission.read_bytes()
    first, second = read_json(one.report_json), read_json(other.report_json)
    for key in ("score", "scores", "chosen", "prediction", "test"):
        assert first[key] == second[key]
    for metrics in sorted((one.folder / "round_0/members").glob("*/metrics.jsonl")):
        epochs = [row["epoch"] for row in read_lines(metrics)]
        assert epochs == list(range(len(epochs))), f"{metrics}: trained twice at the same time"


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run.ledger) if event["event"] == kind]


def trains_on(run: Run, host: str) -> bool:
    """Whether the last job that was given to a host has trained an epoch, and is not done."""
    jobs = [event for event in events(run, "job_started") if event["host"] == host]
    for member in jobs[-1]["members"] if jobs else []:
        folder = run.folder / "round_0/members" / member
        if read_lines(folder / "metrics.jsonl") and not (folder / "DONE").is_file():
            return True
    return False


def jobs_on(host: Host) -> list[psutil.Process]:
    """Processes of a host that belong to a job of a run."""
    found = []
    for process in host.processes():
        with contextlib.suppress(psutil.Error):
            if JOB_MARK in process.environ():
                found.append(process)
    return found


def test_members_on_all_hosts(tmp_path: Path) -> None:
    """One without the token does not get in; one with another distseg, and one without the data,
    get no job; the clock of one is an hour ahead, and its cable is out for ten seconds."""
    config(tmp_path, folds=3, epochs=12)
    other = tmp_path / "other"
    shutil.copytree(ROOT / "distseg", other)
    version = other / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    with hosts(tmp_path, 4) as made:
        a, b, c, d = made
        if FAKETIME:
            b.environment = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": "+1h"}
            assert int(b.run(["date", "+%s"])) - time.time() > 3500
        for host in (a, b, c):
            host.share_data()
        start_ray(a, a)
        start_ray(b, a)
        c.run(["mount", "--bind", f"{SHARED}/other", str(ROOT / "distseg")])
        start_ray(c, a)
        with pytest.raises(AssertionError, match=r"(?i)token|unauthenticated"):
            start_ray(d, a, RAY_AUTH_TOKEN="0" * 64)
        with pytest.raises(AssertionError):  # nor does one without any
            start_ray(d, a, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
        start_ray(d, a)
        driver, run = drive(a, tmp_path, "spread", "compute.executor=ray"), Run(tmp_path / "spread")
        wait_until(lambda: trains_on(run, "b"), "a member trains on b")
        b.cut()
        time.sleep(10.0)
        b.mend()
        assert driver.wait(600) == 0, (tmp_path / "spread.log").read_text()
        same(run, local(a, tmp_path, 3))
    assert {event["host"] for event in events(run, "job_started")} == {"a", "b"}
    refused = sorted(event["reason"] for event in events(run, "node_refused"))
    assert len(refused) == 2 and "c has distseg 9." in refused[0]
    assert refused[1].startswith("d does not see") and "train_00000.png" in refused[1]
    assert not events(run, "node_lost") and not events(run, "job_failed")


def test_a_cable_cut_for_good_and_a_host_that_vanishes(three: list[Host], tmp_path: Path) -> None:
    """The host that is cut off runs on, and its disk is still the shared one: the worst case. Its
    member goes elsewhere when Ray has noticed, and waits there until the other has left it. The
    rank is stopped, so that it holds its member all that time, whatever the machine's speed."""
    config(tmp_path, folds=3, epochs=25)
    a, b, c = three
    for host in three:
        host.share_data()
        start_ray(host, a)
    driver, run = drive(a, tmp_path, "spread", "compute.executor=ray"), Run(tmp_path / "spread")
    wait_until(lambda: trains_on(run, "b") and trains_on(run, "c"), "members train on b and c")
    since = time.monotonic()
    b.cut()
    pids = {process.pid for process in jobs_on(b)}
    for process in jobs_on(b):
        if process.ppid() not in pids:  # not its guard, which ends what is stopped
            process.suspend()
    c.vanish()
    wait_until(lambda: len(events(run, "node_lost")) == 2, "Ray has noticed")
    assert time.monotonic() - since < NOTICED_S
    wait_until(lambda: not jobs_on(b), "the job that was cut off has left")
    b.mend()
    assert driver.wait(900) == 0, (tmp_path / "spread.log").read_text()
    same(run, local(a, tmp_path, 3))
    assert {event["host"] for event in events(run, "node_lost")} == {"b", "c"}
    lost = [event for event in events(run, "job_failed") if event["kind"] == "node_lost"]
    assert {event["host"] for event in lost} == {"b", "c"}
    assert len(lost) == len(events(run, "job_failed"))  # it costs no attempt


def test_a_full_disk_a_read_only_share_and_a_lost_one(three: list[Host], tmp_path: Path) -> None:
    """b has no room for a cache, and takes the shared one. The share of c becomes read-only while
    it trains, and that of b is gone a little later: another, empty disk is in its place. Both get
    no more jobs, no member loses its only attempt, and a does the rest."""
    config(tmp_path, folds=3, epochs=25, retries=0)
    a, b, c = three
    size = "$(($(stat -f -c '%a * %S' /tmp) - 50000000))"
    b.run(["sh", "-c", f"fallocate -l {size} /tmp/full"])
    for host in three:
        host.share_data()
        start_ray(host, a)
    driver, run = drive(a, tmp_path, "spread", "compute.executor=ray"), Run(tmp_path / "spread")
    wait_until(lambda: trains_on(run, "c"), "a member trains on c")
    shared = str(SHARED)
    c.run(["sh", "-c", f"mount --bind {shared} {shared} && mount -o remount,ro,bind {shared}"])
    wait_until(lambda: trains_on(run, "b"), "a member trains on b")
    assert "distseg-cache" not in b.run(["ls", str(LOCAL)])
    b.run(["mount", "-t", "tmpfs", "tmpfs", shared])
    assert driver.wait(900) == 0, (tmp_path / "spread.log").read_text()
    same(run, local(a, tmp_path, 3))
    first, second = sorted(event["reason"] for event in events(run, "node_refused"))
    assert first.startswith("b does not see the run folder")
    assert second.startswith("c cannot use") and "Read-only file system" in second
    failed = {(e["kind"], e["host"], e["final"]) for e in events(run, "job_failed")}
    assert failed == {("node_unfit", "b", False), ("node_unfit", "c", False)}
