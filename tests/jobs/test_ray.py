"""The Ray executor on real clusters: several raylets on this machine."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compare import weights
from tests.jobs import driver
from tests.jobs.driver import scripted, worker_command
from tests.tiny import PATIENCE_S, tiny_tree, wait_until

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from distseg.config.load import load_config  # noqa: E402
from distseg.config.schema import Config  # noqa: E402
from distseg.data.prepare import prepare  # noqa: E402
from distseg.doctor.ray import examine_cluster  # noqa: E402
from distseg.jobs import ray as ours  # noqa: E402
from distseg.jobs import ray_nodes as cluster_nodes  # noqa: E402
from distseg.jobs.failure import Failure  # noqa: E402
from distseg.jobs.hardware import Slot  # noqa: E402
from distseg.jobs.job import RUN_MARK, find_processes, train_job  # noqa: E402
from distseg.jobs.local import LocalExecutor  # noqa: E402
from distseg.jobs.ray import RayExecutor, with_own_cache  # noqa: E402
from distseg.jobs.ray_nodes import node_slots  # noqa: E402
from distseg.jobs.scheduler import Scheduler  # noqa: E402
from distseg.records.files import read_json, read_lines  # noqa: E402
from distseg.records.paths import Run  # noqa: E402
from distseg.run.folder import open_run  # noqa: E402
from distseg.run.status import status_text  # noqa: E402
from distseg.run.view import LineView  # noqa: E402


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that only coordinates and two nodes of one core each; RAY_ADDRESS names it."""
    head = {"num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def alive(run: Run) -> list[int]:
    return [p.pid for p in find_processes(RUN_MARK, str(run.folder.resolve()))]


def execute(run: Run, keys: list[tuple[str, int]]) -> list[Failure]:
    """Run members that act by a script on the cluster of RAY_ADDRESS."""
    ray.cloudpickle.register_pickle_by_value(driver)  # the nodes cannot import the tests
    config = load_config(run.config, ["compute.executor=ray"])
    executor = RayExecutor(config, run, worker_command(run, "session"))
    view = LineView(config, run, keys, 2, out=io.StringIO())
    try:
        jobs = [train_job(run, 0, [key]) for key in keys]
        return Scheduler(config, run, executor, view).execute(jobs)
    finally:
        executor.close()


def test_policy_is_that_of_one_machine(tmp_path: Path, nodes: Cluster) -> None:
    run = scripted(tmp_path, a0=["crash"], a1=["fail:out_of_memory"], a2=["fail:non_finite"] * 9)
    failures = execute(run, [("a", fold) for fold in range(4)])
    assert [f.job.label for f in failures] == ["a_fold2"]
    assert all(run.member(0, "a", fold).done.is_file() for fold in (0, 1, 3))
    events = read_lines(run.ledger)
    started = [e for e in events if e["event"] == "job_started"]
    assert len({e["node"] for e in started}) == 2  # both nodes have worked
    assert {e["message"] for e in events if e["event"] == "job_failed"} >= {
        "RuntimeError: the loss has a hole",
        "it is fail:out_of_memory",
    }
    again = [e["overrides"] for e in started if e["job"] == "a_fold1"]
    assert again == [[], ["train.accumulation=2"]]
    assert alive(run) == []


def test_a_dead_node_takes_no_attempt_and_leaves_no_process(tmp_path: Path, nodes: Cluster) -> None:
    """The job on it is deaf to SIGTERM. It goes to the node that joins, retries or not."""
    run = scripted(tmp_path, a0=["sleep"])
    tree = yaml.safe_load(run.config.read_text())
    tree["compute"]["retries"] = 0
    run.config.write_text(yaml.safe_dump(tree))
    victim, other = sorted(nodes.worker_nodes, key=lambda node: node.node_id)
    nodes.remove_node(other)  # one is left, so that we know where the job runs

    result: list[list[Failure]] = []
    thread = threading.Thread(target=lambda: result.append(execute(run, [("a", 0)])))
    thread.start()
    wait_until((run.member(0, "a", 0).folder / "ready").is_file, "the job is at work")
    pids = alive(run)
    assert pids
    nodes.remove_node(victim, allow_graceful=False)
    wait_until(lambda: not set(alive(run)) & set(pids), "nothing of the dead node is alive")
    joined = nodes.add_node(num_cpus=1)
    thread.join(PATIENCE_S)
    assert result == [[]]
    failed = [e for e in read_lines(run.ledger) if e["event"] == "job_failed"]
    assert [(e["kind"], e["node"], e["final"]) for e in failed] == [
        ("node_lost", victim.node_id, False)
    ]
    last = [e for e in read_lines(run.ledger) if e["event"] == "job_started"][-1]
    assert last["node"] == joined.node_id


def tree_of(folds: int, epochs: int) -> dict[str, Any]:
    tree = tiny_tree(compute={"cpu_threads": 1, "retries": 1})
    tree["data"]["folds"]["num"] = folds
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 1, "epochs_per_cycle": epochs}
    return tree


def start(config: Path, out: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distseg", "run", str(config), "--out", str(out), *overrides]
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log)


def scores(run: Run) -> Any:
    """What report.json says, but for where and how fast."""
    report = read_json(run.report_json)
    return {key: report[key] for key in ("score", "scores", "chosen", "prediction", "test")}


def test_a_node_dies_another_joins_and_the_driver_is_killed(tmp_path: Path, nodes: Cluster) -> None:
    """Four members: weights and report are those of a local run that nothing disturbed. They train
    for longer than a driver takes to start: the job that has moved is then there to be adopted."""
    config_path = tmp_path / "tiny.yaml"
    config_path.write_text(yaml.safe_dump(tree_of(4, 80)))
    calm, cut = Run(tmp_path / "calm"), Run(tmp_path / "cut")
    assert start(config_path, calm.folder, "compute.members_per_job=4").wait(900) == 0

    nodes.add_node(num_cpus=1)  # the third
    driver = start(config_path, cut.folder, "compute.executor=ray")

    def done() -> list[Path]:
        return list((cut.round(0) / "members").glob("*/DONE"))

    def busy() -> set[str]:
        """Nodes whose job has trained an epoch."""
        return {
            e["node"]
            for e in read_lines(cut.ledger)
            if e["event"] == "job_started"
            and (cut.member(0, "a", int(e["job"][-1])).metrics).is_file()
            and not cut.member(0, "a", int(e["job"][-1])).done.is_file()
        }

    on = wait_until(busy, "a member trains")
    victim = next(node for node in nodes.worker_nodes if node.node_id in on)
    nodes.remove_node(victim, allow_graceful=False)
    nodes.add_node(num_cpus=1)

    def moved() -> bool:
        """Whether the dead node's job has been given to another."""
        return any(e.get("kind") == "node_lost" for e in read_lines(cut.ledger))

    wait_until(lambda: moved() and done() and busy(), "the lost job has moved")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in done()}
    running = alive(cut)
    assert "not running" in status_text(cut.folder)
    assert running, "jobs outlive their driver"

    begun = len(read_lines(cut.ledger))
    assert start(config_path, cut.folder, "compute.executor=ray").wait(600) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    events = read_lines(cut.ledger)
    after = events[begun:]
    adopted = [m for e in after if e["event"] == "job_adopted" for m in e["members"]]
    started = [m for e in after if e["event"] == "job_started" for m in e["members"]]
    assert adopted and not set(adopted) & set(started)
    assert not {path.parent.name for path in finished} & set(started)
    lost = [e for e in events if e["event"] == "node_lost"]
    assert [e["node"] for e in lost] == [victim.node_id]
    assert len(done()) == 4
    assert weights(cut.folder) == weights(calm.folder)
    assert scores(cut) == scores(calm)
    assert cut.submission.read_bytes() == calm.submission.read_bytes()
    assert alive(cut) == []


def test_doctor_looks_at_every_node(
    tmp_path: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(examine_cluster(load_config_of().compute))
    text = "\n".join(f"{grade} {found}" for grade, found, _ in lines)
    assert text.count("1 job at a time") == 2
    assert text.count("coordinates only") == 1
    assert text.count(": open") == 2
    assert not any(grade == "fail" for grade, *_ in lines), text
    assert list(Path("runs").iterdir()) == []


def test_a_node_that_sees_another_folder_is_left_out(
    tmp_path: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the nodes read is not what the driver has written."""
    ours.connect()
    monkeypatch.setattr(cluster_nodes, "atomic_write", lambda *_: None)
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "driver").write_text("of another disk")
    found = cluster_nodes.Nodes(load_config_of().compute, Run(tmp_path))
    assert found.slots() == []
    assert len(found.refused) == 3
    assert all("--out must lie on a file system" in text for text in found.refused.values())
    refused = [e for e in read_lines(tmp_path / "ledger.jsonl") if e["event"] == "node_refused"]
    assert len(refused) == 3


def test_slots_of_a_node() -> None:
    compute = load_config_of(gpus_per_job=0.5).compute
    slots, whole = node_slots(compute, {"CPU": 8.0, "GPU": 2.0}, "n", "host")
    assert [(s.devices, s.threads) for s in slots] == [
        (("0",), 2), (("1",), 2), (("0",), 2), (("1",), 2)
    ]  # fmt: skip
    assert whole[0].devices == ("0", "1")
    assert {s.node for s in [*slots, *whole]} == {"n"}
    few, whole = node_slots(load_config_of(slots=4).compute, {"CPU": 2.0}, "n", "host")
    assert len(few) == 2 and whole[0].processes == 2  # more could never be placed
    assert node_slots(compute, {}, "n", "host") == ([], [])
    with pytest.raises(ours.UserError, match="gpus_per_job"):
        node_slots(load_config_of(gpus_per_job=4).compute, {"CPU": 8.0, "GPU": 2.0}, "n", "host")


def load_config_of(**compute: Any) -> Config:
    return Config.model_validate(tiny_tree(compute=compute))


def test_each_host_has_its_own_cache(tmp_path: Path) -> None:
    run = Run(tmp_path)
    job = train_job(run, 0, [("a", 0)])
    assert with_own_cache(job, tmp_path, os.uname().nodename) == job
    there = with_own_cache(job, tmp_path, "another-host")
    assert there.overrides[0].startswith("data.cache_dir=")


def test_a_job_on_another_host_prepares_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real job with a cache of its own, on data that the run has made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config, run = Config.model_validate(tree_of(2, 1)), Run(tmp_path / "run")
    open_run(config, run)
    prepare(config, run)
    shutil.rmtree(run.cache)  # the driver's; the job must neither need it nor make it
    before = (run.data / "statistics.json").stat().st_mtime_ns
    slot = Slot(0, (), 1, 1)
    job = with_own_cache(train_job(run, 0, [("a", 0)]), run.folder, "another-host")
    handle = LocalExecutor(run, [slot]).start(job, slot)
    wait_until(lambda: handle.poll() is not None, "the job has ended")
    assert handle.poll() == 0
    assert run.member(0, "a", 0).done.is_file()
    assert (run.data / "statistics.json").stat().st_mtime_ns == before
    assert list(tmp_path.glob("distseg-cache-*")) and not run.cache.exists()


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ours.UserError, match="no Ray cluster answers"):
        RayExecutor(load_config_of(executor="ray"), Run(tmp_path))
