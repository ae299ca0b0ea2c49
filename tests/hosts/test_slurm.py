"""Slurm for real, on two hosts: the batch files of launch/slurm, preempted, timed out, resumed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distseg.records.files import read_json, read_lines
from distseg.records.paths import Run
from tests.compare import weights
from tests.hosts.hosts import hosts
from tests.hosts.slurm import Slurm, why_no_slurm
from tests.tiny import ROOT, tiny_tree, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("can_make_hosts")]
FILES = ROOT / "launch" / "slurm"
EPOCHS = 80
# The files name launch/... and `accelerate` as a user has them: in the folder, and on the path.
SETTING = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "CONFIG": "tiny.yaml",
    "ACCELERATE_USE_CPU": "true",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """A cluster that shares tmp_path, in which a checkout and a config lie."""
    if reason := why_no_slurm():
        pytest.skip(reason)
    tree = tiny_tree()
    tree["data"]["synthetic"]["num_train"] = 67
    tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 1, "epochs_per_cycle": EPOCHS}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    with hosts(tmp_path, 2) as made:
        for host in made:
            host.share_data()
        yield Slurm(made, tmp_path)


def distseg(slurm: Slurm, *arguments: str) -> str:
    return slurm.ask(sys.executable, "-m", "distseg", *arguments, **SETTING)


def test_an_array_that_was_preempted_and_timed_out_ends_as_a_local_run(
    slurm: Slurm, tmp_path: Path
) -> None:
    """Both members are preempted, requeued by Slurm, run into their time limit, and are queued
    once more; the last job ensembles and predicts."""
    setting = {**SETTING, "RUN": "spread", "NAMES": "a", "FOLDS": "2"}
    spread, local = Run(tmp_path / "spread"), Run(tmp_path / "local")
    array = ["--array=0-1", "--cpus-per-task=1", str(FILES / "members_array.sbatch")]

    def trained(fold: int) -> int:
        return len(read_lines(spread.member(0, "a", fold).metrics))

    first = slurm.submit(*array, **setting)
    wait_until(lambda: all(trained(fold) for fold in (0, 1)), "both members train")
    slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 1")
    wait_until(lambda: "PENDING" in slurm.state(first), "Slurm has taken their nodes")
    before = [trained(fold) for fold in (0, 1)]
    assert all(count < EPOCHS for count in before)
    logs = [spread.member(0, "a", fold).log(0) for fold in (0, 1)]
    assert all("signal 15: saved at step" in log.read_text() for log in logs)
    wait_until(lambda: all(trained(fold) > before[fold] for fold in (0, 1)), "they go on")
    assert slurm.field(first, "Restarts") == ["1", "1"]
    slurm.ask("scontrol", "update", f"JobId={first}", "TimeLimit=1")  # over, but for the signal
    slurm.wait(first, "TIMEOUT", "FAILED")

    again = slurm.submit(*array, **setting)
    last = slurm.submit(
        f"--dependency=afterany:{again}", "--gpus-per-node=1",
        "--wrap", f"{sys.executable} -m distseg run tiny.yaml --out spread", **setting,
    )  # fmt: skip
    distseg(slurm, "run", "tiny.yaml", "--out", "local", "compute.members_per_job=2")
    slurm.wait(again, "COMPLETED")
    slurm.wait(last, "COMPLETED")
    assert weights(spread.folder) == weights(local.folder)
    assert spread.submission.read_bytes() == local.submission.read_bytes()
    scores = [read_json(run.report_json)["scores"] for run in (spread, local)]
    assert scores[0] == scores[1]
    assert not any(e["event"] == "job_started" and e["members"] for e in read_lines(spread.ledger))
    print(slurm.ask("sacct", "-c", "--format=JobID,JobName,NNodes,NodeList,State,Elapsed"))


def test_one_member_on_two_nodes_is_what_two_local_ranks_train(
    slurm: Slurm, tmp_path: Path
) -> None:
    setting = {**SETTING, "RUN": "big", "MEMBER": "a", "FOLD": "0"}
    job = slurm.submit(
        "--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1", str(FILES / "one_big_member.sbatch"),
        **setting,
    )  # fmt: skip
    slurm.ask(
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", "launch/accelerate/cpu_2ranks.yaml", "launch/train.py", "tiny.yaml"),
        *("--member", "a", "--fold", "0", "--out", "local"),
        **SETTING,
    )
    slurm.wait(job, "COMPLETED")
    assert weights(tmp_path / "big") == weights(tmp_path / "local")
    print(slurm.ask("sacct", "-c", "--format=JobID,JobName,NNodes,NodeList,State,Elapsed"))
